"""`gf.pl.training_curve`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from geneformer.errors import DatasetError, InputNotFoundError, OptionError, UnreadableInputError
from geneformer.pl._figures import INK, check_save, figure_size, plotting_library, save_figure, spread

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

HISTORIES = ("training.json", "pretraining.json")
"""Files in a folder with the figures of its fine-tuning, or of its pretraining; the first one there is drawn."""

PRETRAINING = ("masked_loss", "eval_top1", "eval_top10", "baseline_top1", "baseline_top10")
"""Quantities that only pretraining logs."""

SHARES = {
    "eval_macro_f1": "macro F1",
    "eval_micro_f1": "micro F1",
    "eval_accuracy": "accuracy",
    "eval_subset_accuracy": "subset accuracy",
    "eval_r2": "R2",
    "eval_pearson": "Pearson r",
    "eval_spearman": "Spearman rho",
}
"""Figures of validation cells by their name in the log lines of fine-tuning; 1 is perfect."""

TRAINED, HELD_OUT, BASELINE = "#88ccee", "#332288", "#cc6677"


def training_curve(
    history: "str | Path | Mapping[str, Any] | pd.DataFrame | HasHistory",
    *,
    title: str | None = None,
    save: str | Path | None = None,
) -> "list[Axes]":
    """Loss and accuracy over the steps of a run: of pretraining, or of fine-tuning.

    Of pretraining, accuracy at masked genes is drawn with its baseline, a dashed line, which guesses the genes
    commonest at the rank of the masked one. Of fine-tuning, macro-averaged F1 and accuracy on validation cells, or
    what else was measured there.

    Parameters
    ----------
    history
        A fitted model or its `history_`; folder of a checkpoint or of a saved classifier, its `pretraining.json` or
        `training.json`, or the content of one.
    title
        Heading.
    save
        File to write: .png, .pdf, .svg, .jpg or .tif. What is there is replaced.

    Returns
    -------
    Axes of the loss and of the accuracy.

    Raises
    ------
    InputNotFoundError
        No such file.
    UnreadableInputError
        The file is not JSON.
    DatasetError
        There is no loss in it.
    MissingExtraError
        matplotlib is not installed.

    Examples
    --------
    >>> import geneformer as gf
    >>> loss, accuracy = gf.pl.training_curve(gf.load_model("mini").folder)
    >>> loss.get_xlabel()
    'optimizer steps'
    """
    check_save(save)
    content = _content(history)
    lines = [line for line in content.get("history", ()) if "step" in line]
    trained, held_out = _series(lines, "masked_loss") or _series(lines, "loss"), _series(lines, "eval_loss")
    if not trained and not held_out:
        where = f'"{history}"' if isinstance(history, str | Path) else "history"
        msg = f"{where} has no line with a step and a loss. Pass the folder or the {' or '.join(HISTORIES)} of a run."
        raise DatasetError(msg)
    logged = {*content.get("metrics", ()), *(name for line in lines for name in line)}
    pretrained = not logged.isdisjoint(PRETRAINING)
    pyplot = plotting_library("matplotlib.pyplot")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=figure_size(10, 3.8), layout="constrained")
    if trained:
        left.plot(*trained, color=TRAINED, linewidth=1.5, label="training")
    if held_out:
        label = "held-out cells" if pretrained else "validation cells"
        left.plot(*held_out, color=HELD_OUT, linewidth=2, marker="o", markersize=3, label=label)
    if pretrained:
        left.set(title="Loss at masked genes", ylabel="cross-entropy (nats)")
        _draw_accuracy(right, lines, content.get("metrics", {}))
    else:
        left.set(title="Loss", ylabel="loss")
        _draw_shares(right, lines)
    for ax in (left, right):
        ax.set_xlabel("optimizer steps", color=INK)
        ax.title.set(color=INK, fontsize=12)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#eeeeee")
        ax.set_axisbelow(True)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=9, labelcolor=INK)
    if title:
        figure.suptitle(title, fontsize=14, color=INK, x=0.01, ha="left")
    save_figure(figure, save)
    return [left, right]


class HasHistory(Protocol):
    """A fitted model."""

    @property
    def history_(self) -> "pd.DataFrame":
        """A row per step."""
        ...


def _content(history: Any) -> Mapping[str, Any]:
    """What the file of a run holds, or the same from a fitted model."""
    if isinstance(history, str | Path):
        return _read(Path(history))
    if isinstance(history, Mapping):
        return history
    if hasattr(type(history), "history_"):
        history = history.history_
    lines = history.to_dict("records") if hasattr(history, "columns") and hasattr(history, "iloc") else history
    if not isinstance(lines, list) or not all(isinstance(line, Mapping) for line in lines):
        msg = (
            f"history came as {type(history).__name__}. Pass a fitted model or its history_, the folder or the "
            f"{' or '.join(HISTORIES)} of a run, or the content of one."
        )
        raise OptionError(msg)
    # Steps differ in what was measured.
    return {"history": [{name: value for name, value in line.items() if value == value} for line in lines]}  # noqa: PLR0124


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        present = [path / name for name in HISTORIES if (path / name).is_file()]
        if not present:
            msg = f'"{path}" holds no {" or ".join(HISTORIES)}. They are written with the weights when a run ends.'
            raise InputNotFoundError(msg)
        path = present[0]
    if not path.is_file():
        msg = f'There is no "{path}". Give a folder with {" or ".join(HISTORIES)}, or such a file.'
        raise InputNotFoundError(msg)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        msg = f'"{path}" is not valid JSON ({error}).'
        raise UnreadableInputError(msg) from error
    return content if isinstance(content, dict) else {"history": content}


def _series(lines: list[Any], name: str) -> tuple[list[float], list[float]] | None:
    """Steps and values of one quantity, or None where it was not logged."""
    series = {line["step"]: line[name] for line in lines if name in line}
    return (list(series), list(series.values())) if series else None


def _draw_accuracy(ax: "Axes", lines: list[Any], metrics: Mapping[str, float]) -> None:
    """Share of masked genes guessed right among the first one and the first ten, with the baselines."""
    for among, label, shade in (("top10", "first 10 guesses", 1.0), ("top1", "first guess", 0.55)):
        if series := _series(lines, f"eval_{among}"):
            ax.plot(*series, color=HELD_OUT, alpha=shade, linewidth=2, marker="o", markersize=3, label=label)
        if f"baseline_{among}" in metrics:
            baseline = metrics[f"baseline_{among}"]
            ax.axhline(baseline, linestyle="--", color=BASELINE, alpha=shade, label=f"{label}, baseline")
    ax.set(title="Masked genes found in held-out cells", ylabel="share")
    ax.set_ylim(bottom=0)


def _draw_shares(ax: "Axes", lines: list[Any]) -> None:
    """Figures of the validation cells."""
    drawn = {label: series for name, label in SHARES.items() if (series := _series(lines, name))}
    for (label, series), color in zip(drawn.items(), spread(len(drawn)), strict=True):
        ax.plot(*series, color=color, linewidth=2, marker="o", markersize=3, label=label)
    ax.set(title="Validation cells", ylabel="share" if drawn else "")
    if not drawn:
        ax.text(0.5, 0.5, "nothing measured", transform=ax.transAxes, ha="center", color=INK, fontsize=10)
        return
    lowest = min(min(series[1]) for series in drawn.values())
    ax.set_ylim(min(0.0, lowest), 1.02)
