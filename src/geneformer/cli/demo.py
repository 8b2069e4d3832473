"""`geneformer demo`: the whole way on the blood cells that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, console
from geneformer.options import RuntimeOptions

OUTPUT = typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")
MODEL = typer.Option("--model", "-m", help="Model name, checkpoint folder, or hub repository.")
SEED = typer.Option("--seed", help="Fixes splits, map and random weights.")
OVERWRITE = typer.Option("--overwrite", help="Replace a demo that is there.")


@with_options()
def demo(
    *,
    output: Annotated[Path, OUTPUT] = Path("demo_output"),
    model: Annotated[str, MODEL] = "mini",
    seed: Annotated[int, SEED] = 0,
    overwrite: Annotated[bool, OVERWRITE] = False,
    runtime: RuntimeOptions,
) -> Outcome:
    """Take 2,700 real blood cells from counts to a map."""
    from geneformer.cli._demo import Step, run_demo

    target = console()

    def tell(step: Step) -> None:
        target.print(f"{step.name}: {step}", markup=False)

    report = run_demo(output, model=model, runtime=runtime, seed=seed, overwrite=overwrite, tell=tell)
    return Outcome(f"Demo in {output}", report.rows(), {"output": str(output), **report.to_dict()})
