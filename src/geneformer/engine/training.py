"""The training loop of the package: `transformers.Trainer` over packed cells, guarded, resumable, for many processes.

Batches fill a token budget and the loss is normalized over the whole step. A run lives in a folder: `begin_run` notes
what it is started with and finds where it stands, `PackedTrainer.fit` trains, and of several processes that a launcher
started only the first one writes.
"""

import json
import logging
import math
import shutil
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_utils import rotate_checkpoints

from geneformer.engine.device import (
    can_pin_memory,
    memory_errors,
    release_memory,
    resolve_device,
    resolve_dtype,
    verify_placement,
)
from geneformer.engine.run_folder import (
    CHECKPOINTS,
    STATE,
    check_resumable,
    complete_checkpoints,
    delete_incomplete,
    has_checkpoints,
)
from geneformer.errors import (
    DeviceMemoryError,
    GeneformerWarning,
    RunMismatchError,
    TrainingError,
)
from geneformer.files.atomic import atomic_file, output_errors, sync, sync_folder
from geneformer.files.progress import Progress
from geneformer.models.finetuned import depth
from geneformer.options import FinetuneOptions, PretrainOptions, RuntimeOptions
from geneformer.tokens.dataset import plan_batches, plan_epoch

_logger = logging.getLogger(__name__)

_HAS_TENSORBOARD = find_spec("tensorboard") is not None

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

    def __init__(self, progress: Progress | None = None) -> None:
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

    args: "PlacedArguments"

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
        remedy: str = "",
        keep_checkpoints: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._remedy, self._keep_checkpoints = remedy, keep_checkpoints
        self.times: dict[str, float] = {}
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

    def fit(self, stage: "Stage | None" = None, planned: int | None = None) -> None:
        """Train from where a run stands to its end; a run with all its planned steps is only read."""
        model: nn.Module = self.model  # type: ignore[assignment]
        verify_placement(model, self.args.device)
        if stage is not None and planned is not None and stage.steps >= planned:
            stage.load_best(model)
            self.state = TrainerState.load_from_json(str(stage.checkpoint / STATE))
            self._delete_older_checkpoints()
            self.callback_handler.on_train_begin(self.args, self.state, self.control)  # it says where trackers write
            return
        quiet = quiet_library() if self.args.disable_tqdm else nullcontext()
        with quiet, self._memory_guard(), output_errors(Path(str(self.args.output_dir))):  # trackers write as well
            self.train(resume_from_checkpoint=None if stage is None else str(stage.checkpoint))

    @contextmanager
    def _memory_guard(self) -> Iterator[None]:
        """Where memory runs out, give it back and say what helps."""
        try:
            with memory_errors():
                yield
        except MemoryError as error:
            if isinstance(error, DeviceMemoryError):
                raise
            self.model.cpu()  # type: ignore[union-attr]
            release_memory(self.args.device)
            msg = f"Training does not fit into the memory of {self.args.device}: {error}. {self._remedy}"
            raise DeviceMemoryError(msg) from error

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer; with `layer_decay`, layers further below the head learn at lower rates."""
        optimizer = super().create_optimizer(model)
        decay, network = self.args.layer_decay, cast("PreTrainedModel", self.model)
        if decay != 1:
            depths = {id(p): depth(name, network.config.num_hidden_layers) for name, p in network.named_parameters()}
            groups = []
            for group in optimizer.param_groups:
                parts: dict[int, list[nn.Parameter]] = defaultdict(list)
                for parameter in group["params"]:
                    parts[depths[id(parameter)]].append(parameter)
                rates = {below: group["lr"] * decay**below for below in parts}
                groups += [{**group, "params": parts[below], "lr": rates[below]} for below in sorted(parts)]
            optimizer.param_groups = groups
        return optimizer

    def _save_rng_state(self, output_dir: str) -> None:
        """Wait for all files of all processes: `trainer_state.json`, written next, marks a checkpoint as complete."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            sync_folder(Path(output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Older checkpoints are deleted once this one, of a finite loss, has reached the disk."""
        self._check_finite(float(self._sums.get("loss", 0.0)))
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(str(self.args.output_dir))
            sync_folder(folder / f"checkpoint-{self.state.global_step}")
            sync(folder)
            self._delete_older_checkpoints()

    def _delete_older_checkpoints(self) -> None:
        rotate_checkpoints(str(self.args.output_dir), self._keep_checkpoints, self.state.best_model_checkpoint)

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
        model: nn.Module,
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

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            msg = (
                f"The loss became {loss} before step {self.state.global_step}. Lower learning_rate "
                f"(now {self.args.learning_rate:.2g}) or raise warmup_ratio, and resume from the last checkpoint."
            )
            raise TrainingError(msg)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss and the accuracies since the last line; refuse to go on without a finite loss."""
        if "loss" in logs and self._sums:
            sums = {name: float(value) for name, value in self._sums.items()}
            self._sums = {}
            self._check_finite(sums["loss"])
            n_batches = sums.pop("n_batches")
            logs |= {name: value / n_batches for name, value in sums.items() if name != "loss"}
        if "train_runtime" in logs:  # apart from the history, which is the same however often a run was broken off
            self.times = dict(logs)
            return
        super().log(logs, start_time)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Metrics on the held-out cells; batches and views are the same every time."""
        if not len(self._eval_lengths):
            return {}
        model: nn.Module = self.model  # type: ignore[assignment]
        was_training = model.training
        model.eval()
        with torch.no_grad(), self._memory_guard():
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
    """`TrainingArguments` for one given device; processes of a launcher keep the one they were given by it.

    With `layer_decay`, rates fall from layer to layer, from the head downwards.
    """

    placed_on: str = "cpu"
    layer_decay: float = 1.0

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
        "report_to": ["tensorboard"] if _HAS_TENSORBOARD else [],  # it writes to this machine alone
        "dataloader_pin_memory": can_pin_memory(device),
    }
    return PlacedArguments(placed_on=str(device), output_dir=str(folder), **(shared | chosen))


def run_arguments(
    folder: Path, options: FinetuneOptions | PretrainOptions, runtime: RuntimeOptions, steps: int, **chosen: Any
) -> PlacedArguments:
    """The options of a run in the Trainer's words; checkpoints go into its folder."""
    return training_arguments(
        folder / CHECKPOINTS,
        runtime,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=options.schedule,
        warmup_steps=round(options.warmup_ratio * steps),
        weight_decay=options.weight_decay,
        logging_steps=options.logging_steps,
        seed=options.seed,
        data_seed=options.seed,
        **chosen,
    )


def planned_steps(lengths: NDArray[np.int64], options: FinetuneOptions | PretrainOptions, processes: int = 1) -> int:
    """Optimizer steps of a whole run; every process takes its share of the batches."""
    if options.max_steps > 0:
        return options.max_steps
    batches = len(EpochSampler(lengths, options.tokens_per_batch, options.seed, processes)) / processes
    return math.ceil(options.epochs * max(math.ceil(batches / options.accumulation), 1))


def length_read(asked: int | None, n_positions: int, name: str) -> int:
    """Most tokens of a cell that a network to be trained reads: no more than it has positions."""
    if asked is not None and asked > n_positions:
        msg = (
            f"max_length={asked:,} is more than {name} has positions for; of each cell {n_positions:,} tokens are read."
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=3)
    return min(asked or n_positions, n_positions)


STARTED = "run.json"
"""File among them with what the run was started with."""

_WEIGHTS = "model.safetensors"
_LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a run stood when it was saved last."""

    checkpoint: Path
    best: Path
    steps: int
    history: list[dict[str, Any]]

    def load_best(self, network: nn.Module) -> None:
        """Give a network the best weights."""
        network.load_state_dict(load_file(self.best / _WEIGHTS))


def begin_run(
    folder: Path,
    started: Mapping[str, Any],
    processes: PartialState,
    *,
    may_change: Set[str],
    resume: bool,
) -> Stage | None:
    """Note what a run is started with; one that is resumed must go on with the same, from where it stands."""
    content = json.loads(json.dumps(dict(started), default=str))
    with processes.main_process_first():
        check_resumable(folder, resume=resume)
        if resume:
            _check_same_run(folder, content, may_change)
            return last_stage(folder)
        if processes.is_main_process:
            delete_incomplete(folder)
            with output_errors(folder):
                (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            with atomic_file(folder / CHECKPOINTS / STARTED, overwrite=True) as temporary:
                temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return None


@contextmanager
def undone_on_failure(folder: Path, processes: PartialState) -> Iterator[None]:
    """Where the block fails before a first checkpoint, nothing of what it put into the folder of a run stays."""
    is_new, holds_nothing = not folder.exists(), not (folder / CHECKPOINTS).exists()

    def clear() -> None:
        if processes.is_main_process and holds_nothing and not has_checkpoints(folder):
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            with suppress(OSError):
                if is_new:
                    folder.rmdir()  # only if nothing else is in it

    with ExitStack() as undo:
        undo.callback(clear)
        yield
        undo.pop_all()  # the block went well


def last_stage(folder: Path) -> Stage:
    """Where the run in a folder stands; checkpoints that were being written when it broke off are deleted."""
    delete_incomplete(folder)
    states = complete_checkpoints(folder)
    checkpoint = max(states, key=lambda path: int(states[path]["global_step"]))
    state = states[checkpoint]
    recorded = state.get("best_model_checkpoint")
    best = checkpoint if recorded is None else checkpoint.with_name(Path(recorded).name)
    if recorded is not None and recorded != str(best):  # the folder was moved since
        state["best_model_checkpoint"] = str(best)
        with atomic_file(checkpoint / STATE, overwrite=True) as temporary:
            temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return Stage(checkpoint, best, int(state["global_step"]), state["log_history"])


def _check_same_run(folder: Path, now: Mapping[str, Any], may_change: Set[str]) -> None:
    """Compare with what the run was started with; entries that an earlier version did not write are passed over."""
    path = folder / CHECKPOINTS / STARTED
    then = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = [name for name in now if name not in may_change and name in then and then[name] != now[name]]
    if changed:
        changes = ", ".join(f"{name} was {then[name]!r} and is {now[name]!r}" for name in changed)
        msg = f"The run in {folder} was started otherwise: {changes}. Resume it as it was, or choose another folder."
        raise RunMismatchError(msg)


def join_processes(runtime: RuntimeOptions) -> PartialState:
    """The processes that a launcher such as `torchrun` started, with this one's rank; one alone without a launcher."""
    return PartialState(cpu=resolve_device(runtime.device).type == "cpu", timeout=_LONGEST_WAIT)


@contextmanager
def shared_temporary_folder(processes: PartialState) -> Iterator[Path]:
    """One temporary folder for all processes of a machine, made and deleted by the first."""
    with tempfile.TemporaryDirectory(prefix="geneformer-") if processes.is_main_process else nullcontext() as made:
        name = [made]
        if processes.num_processes > 1:
            broadcast_object_list(name)
        yield Path(str(name[0]))
        processes.wait_for_everyone()
