"""Knobs of a search for training options."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geneformer.errors import OptionError
from geneformer.options._check import check_choice, check_range

PRUNERS = ("median", "halving", "none")
REFITS = ("train", "train_valid", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """How many trials, what they are judged by, and where they are kept."""

    trials: int = 20
    """Trials in all, however many processes work on the study."""

    metric: str = "auto"
    """Figure of the validation cells that decides, such as "macro_f1", "accuracy" or "loss". "auto" is "macro_f1" for
    one class per cell, else "loss"."""

    storage: str | None = None
    """Where trials are kept, for going on later and for several processes at once: "sqlite:///study.db", or the path
    of a journal file. In memory by default."""

    study: str = "geneformer"
    """Name of the study; a storage may hold several."""

    timeout: float | None = None
    """Seconds after which no further trial starts."""

    pruner: Literal["median", "halving", "none"] = "median"
    """Stop a trial whose evaluation is worse than the median of the others at that point; or all but the best part at
    growing intervals; or none."""

    n_startup_trials: int = 10
    """Trials drawn at random before the others are drawn where the best ones were."""

    prune_after: int = 5
    """Trials that are finished before the median stops any."""

    refit: Literal["train", "train_valid", "none"] = "train"
    """Cells the best options are fitted on once more, before the test cells are looked at: those learnt from; the
    validation cells as well, without a best step or a temperature to choose by then; or none, for further processes."""

    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        check_range("trials", self.trials, low=1)
        check_range("timeout", self.timeout, above=0.0)
        check_choice("pruner", self.pruner, PRUNERS)
        check_choice("refit", self.refit, REFITS)
        for name in ("n_startup_trials", "prune_after", "seed"):
            check_range(name, getattr(self, name), low=0)
        for name in ("metric", "study"):
            if not getattr(self, name):
                msg = f"{name} is empty. Give it a name, or leave it out."
                raise OptionError(msg)


def read_space(path: str | Path) -> dict[str, Any]:
    """The table of options to search in a TOML file: its table `[space]`, or the whole file where there is none.

    Parameters
    ----------
    path
        A TOML file. A range is `learning_rate = {low = 1e-5, high = 1e-2, log = true}`, a choice
        `strategy = ["full", "lora"]`.

    Raises
    ------
    OptionError
        The file cannot be read.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f'The options to search in "{path}" cannot be read ({error}). It must be a TOML file.'
        raise OptionError(msg) from error
    table = content.get("space", content)
    if not isinstance(table, dict):
        msg = f'"{path}" sets space={table!r}. It takes a table of options: [space].'
        raise OptionError(msg)
    return table
