"""Fine-tuning: targets, the estimator that learns them, and its report."""
