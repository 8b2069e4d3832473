"""What `perturb plan` and `perturb run` share: from files to a plan, and what it will cost in words."""

from pathlib import Path
from typing import Any

from geneformer.cli._output import progress_bar
from geneformer.options import PerturbOptions, RuntimeOptions


def open_plan(
    inputs: list[Path],
    model: str,
    options: PerturbOptions,
    runtime: RuntimeOptions,
    *,
    vocabulary: str | None,
    revision: str | None,
    counts_layer: str | None,
) -> Any:
    """Cells, model and options, checked."""
    from geneformer.estimators.perturbed import open_perturbed_model
    from geneformer.tasks.inputs import open_tokens
    from geneformer.tasks.perturbation.plan import plan_perturbation

    loaded = open_perturbed_model(model, vocabulary=vocabulary, revision=revision)
    with progress_bar("Tokenizing", shown=runtime.progress) as update:
        tokens = open_tokens(inputs, loaded, layer=counts_layer, counts=True, progress=update)
    return plan_perturbation(tokens, loaded, options, runtime)


def cost_rows(cost: Any) -> list[tuple[str, object]]:
    """A cost as lines of a closing table."""
    rows: list[tuple[str, object]] = [
        ("Cells", cost.cells),
        ("Perturbations", cost.perturbations),
        ("Forward passes", cost.passes),
        ("Tokens", cost.tokens),
    ]
    if cost.seconds is not None:
        rows.append(("Time on this machine", duration(cost.seconds)))
    rows += [
        ("Memory, about", size(cost.peak_bytes)),
        ("Result, about", f"{cost.rows:,} rows, {size(cost.bytes_on_disk)}"),
    ]
    return rows


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """A size for people."""
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes < 2**30 else f"{n_bytes / 2**30:.1f} GiB"
