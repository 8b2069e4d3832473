"""Training arguments whose device is the one that was chosen, not the first one a library knows by name."""

from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import TrainingArguments


@dataclass
class PlacedArguments(TrainingArguments):
    """`TrainingArguments` for one given device; processes of a launcher keep the one they were given by it.

    Attributes
    ----------
    placed_on
        PyTorch device to train on.
    """

    placed_on: str = "cpu"

    @cached_property
    def _setup_devices(self) -> torch.device:
        found: torch.device = TrainingArguments.__dict__["_setup_devices"].func(self)
        state = self.distributed_state
        if state is None or state.num_processes > 1:
            return found
        device = torch.device(self.placed_on)
        if device.type != "cpu":
            device = torch.device(device.type, device.index or 0)
            torch.accelerator.set_device_index(device)
        # One process works on one device; the Trainer would spread over all it finds.
        self._n_gpu = 0 if device.type == "cpu" else 1
        state.device = device
        return device
