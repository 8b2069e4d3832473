"""`transformers.Trainer` over packed cells: batches under a token budget, a loss normalized over the whole step."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from geneformer.engine.device import can_pin_memory, resolve_device, resolve_dtype
from geneformer.errors import TrainingError
from geneformer.options import RuntimeOptions
from geneformer.tokens.batches import plan_batches, plan_epoch

_logger = logging.getLogger(__name__)

Key = tuple[int, int]
"""Epoch and row; a batch depends on nothing else, so a resumed run repeats it exactly."""

Collate = Callable[[Sequence[Key]], dict[str, Any]]
"""Makes a batch of keys: tensors, or tables of tensors, by the names the network takes them by."""

Scored = Iterable[tuple[dict[str, Any], Any]]
"""Batches with what the network made of them, in evaluation mode."""


class EpochSampler(Sampler[list[Key]]):
    """Batches of one epoch after another, each shuffled anew from the seed and the epoch's number."""

    def __init__(
        self,
        lengths: NDArray[np.int64],
        tokens_per_batch: int,
        seed: int,
        multiple: int = 1,
        groups: NDArray[Any] | None = None,
    ) -> None:
        self.lengths = lengths
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.multiple = multiple
        self.groups = groups
        self.epoch = 0
        self.batch_size = None
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch the next pass belongs to."""
        self.epoch = epoch

    def _plan(self) -> list[NDArray[np.int64]]:
        seed = (self.seed, self.epoch)
        return plan_epoch(self.lengths, self.tokens_per_batch, seed, multiple=self.multiple, groups=self.groups)

    def __len__(self) -> int:
        return len(self._plan())

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        for rows in self._plan():
            yield [(epoch, int(row)) for row in rows]


class Keys(Dataset[Key]):
    """A data set that hands its keys through; the collator does the reading."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, key: Any) -> Any:
        """The key itself."""
        return key


@contextmanager
def quiet_library() -> Iterator[None]:
    """Without the progress bars `transformers` shows on its own; as before afterwards."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


class Reporting(TrainerCallback):
    """Tells how far a run has come, and hands its log lines to `logging`."""

    def __init__(self, progress: Callable[[int, int], None] | None = None) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One more optimizer step."""
        if self.progress is not None and state.is_world_process_zero:
            self.progress(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """One more line."""
        if state.is_world_process_zero:
            _logger.info("step %d: %s", state.global_step, logs)


class PackedTrainer(Trainer):
    """Trainer whose batches are packed cells."""

    def __init__(
        self,
        *,
        lengths: NDArray[np.int64],
        collate: Collate,
        eval_lengths: NDArray[np.int64],
        eval_collate: Collate,
        tokens_per_batch: int,
        score: "Callable[[Scored], dict[str, float]] | None" = None,
        groups: NDArray[Any] | None = None,
        forward_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._lengths, self._collate = lengths, collate
        self.set_held_out(eval_lengths, eval_collate)
        self._tokens_per_batch = tokens_per_batch
        self._score = score or score_masked
        self._groups = groups
        self._forward_options = dict(forward_options or {})
        self._sums: dict[str, Any] = {}
        super().__init__(train_dataset=Keys(len(lengths)), eval_dataset=Keys(len(eval_lengths)), **kwargs)
        for printer in (PrinterCallback, ProgressCallback):  # they write to stdout, which is for results
            self.remove_callback(printer)

    def set_held_out(self, lengths: NDArray[np.int64], collate: Collate) -> None:
        """Choose the held-out cells of the next evaluations."""
        self._eval_lengths, self._eval_collate = lengths, collate

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches of the coming epoch."""
        sampler = EpochSampler(
            self._lengths, self._tokens_per_batch, self.args.seed, self.args.world_size, self._groups
        )
        loader: DataLoader[Any] = DataLoader(
            Keys(len(self._lengths)),
            batch_sampler=sampler,
            collate_fn=self._collate,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of one batch; its parts are kept for the next log line."""
        loss, outputs = super().compute_loss(
            model, {**inputs, **self._forward_options}, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        self._count(outputs)
        return (loss, outputs) if return_outputs else loss

    def _count(self, outputs: Any) -> None:
        """Add up on the device; nothing is read back before the next log line."""
        for name, value in outputs.items():
            if name.endswith("loss") and value is not None:
                self._sums[name] = self._sums.get(name, 0) + value.detach()
        self._sums["n_batches"] = self._sums.get("n_batches", 0) + 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss and the accuracies since the last line; refuse to go on without a finite loss."""
        if "loss" in logs and self._sums:
            sums = {name: float(value) for name, value in self._sums.items()}
            self._sums = {}
            if not math.isfinite(sums["loss"]):
                msg = (
                    f"The loss became {sums['loss']} before step {self.state.global_step}. Lower learning_rate "
                    f"(now {self.args.learning_rate:.2g}) or raise warmup_ratio, and resume from the last checkpoint."
                )
                raise TrainingError(msg)
            n_batches = sums.pop("n_batches")
            logs |= {name: value / n_batches for name, value in sums.items() if name != "loss"}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Metrics on the held-out cells; batches and views are the same every time."""
        if not len(self._eval_lengths):
            return {}
        model: torch.nn.Module = self.model  # type: ignore[assignment]
        was_training = model.training
        model.eval()
        with torch.no_grad():
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self._score(self._held_out()).items()}
        model.train(was_training)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _held_out(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Held-out batches with the network's outputs."""
        for rows in plan_batches(self._eval_lengths, self._tokens_per_batch):
            batch = self._prepare_inputs(self._eval_collate([(0, int(row)) for row in rows]))
            with self.compute_loss_context_manager():
                yield batch, self.model(**batch)  # type: ignore[misc]


def score_masked(scored: Scored) -> dict[str, float]:
    """Loss and accuracy at masked genes."""
    sums: dict[str, float] = defaultdict(float)
    for _, outputs in scored:
        n_masked = float(outputs.n_masked)
        sums["loss"] += float(outputs.masked_loss) * n_masked
        for name in ("n_masked", "n_top1", "n_top10"):
            sums[name] += float(outputs[name])
    n = max(sums["n_masked"], 1)
    return {"loss": sums["loss"] / n, "top1": sums["n_top1"] / n, "top10": sums["n_top10"] / n}


@dataclass
class PlacedArguments(TrainingArguments):
    """`TrainingArguments` for one given device; processes of a launcher keep the one they were given by it."""

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


def training_arguments(folder: Path, runtime: RuntimeOptions, **chosen: Any) -> PlacedArguments:
    """`TrainingArguments` for packed cells on the chosen device."""
    device = resolve_device(runtime.device)
    dtype = resolve_dtype(runtime.dtype, device, training=True)
    shared: dict[str, Any] = {
        "use_cpu": device.type == "cpu",
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "accelerator_config": {"even_batches": False},
        "report_to": ["tensorboard"] if find_spec("tensorboard") is not None else [],
        "dataloader_pin_memory": can_pin_memory(device),
    }
    return PlacedArguments(placed_on=str(device), output_dir=str(folder), **(shared | chosen))
