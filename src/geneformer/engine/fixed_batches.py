"""Training with a given number of cells per batch, as `transformers.TrainingArguments` counts them."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader, Sampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from geneformer.engine.training import PackedTrainer


class FixedBatchTrainer(PackedTrainer):
    """Packed cells in batches of `per_device_train_batch_size`; everything else is the Trainer's own.

    Parameters
    ----------
    longest
        Tokens of the longest cell a batch may hold; `per_device_eval_batch_size` of them are one evaluation batch.
    lengths, collate, eval_lengths, eval_collate, score, forward_options, **kwargs
        See `PackedTrainer`.
    """

    def __init__(self, *, longest: int, args: Any, collate: Any, **kwargs: Any) -> None:
        budget = max(args.eval_batch_size, 1) * longest
        super().__init__(args=args, collate=collate, tokens_per_batch=budget, data_collator=self._collated, **kwargs)

    def _collated(self, rows: Sequence[int]) -> dict[str, Any]:
        return self._collate([(0, row) for row in rows])

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of so many cells, in the order the arguments ask for."""
        loader: DataLoader[Any] = Trainer.get_train_dataloader(self)
        return loader

    def _get_train_sampler(self, *args: Any) -> Sampler[Any] | None:
        """Cells of like length together, if so wanted."""
        chosen = getattr(self.args, "train_sampling_strategy", None)
        if chosen == "group_by_length" or getattr(self.args, "group_by_length", False):
            size = self.args.train_batch_size * self.args.gradient_accumulation_steps
            return LengthGroupedSampler(size, lengths=self._lengths.tolist())
        found: Sampler[Any] | None = super()._get_train_sampler(*args)
        return found
