"""Running a network: device, arithmetic, batches, training."""
