"""`geneformer demo`: the whole way on the blood cells that come with the package."""

from pathlib import Path
from typing import Annotated

from geneformer.cli._options import flag, with_options
from geneformer.cli._output import Outcome, console, written
from geneformer.options import RuntimeOptions


@with_options(
    "demo -o demo_output",
    "demo -o demo_output --overwrite --device cpu",
)
def demo(
    *,
    output: Annotated[Path, flag("Folder to make.", "--output", "-o", metavar="DIR")] = Path("demo_output"),
    model: Annotated[str, flag("Model name, checkpoint folder, or hub repository.", "--model", "-m")] = "mini",
    seed: Annotated[int, flag("Fixes splits, map and random weights.", "--seed")] = 0,
    overwrite: Annotated[bool, flag("Replace a demo that is there.", "--overwrite")] = False,
    runtime: RuntimeOptions,
) -> Outcome:
    """Take 2,700 real blood cells from counts to a map."""
    from geneformer.files.atomic import check_output

    check_output(output, overwrite=overwrite)
    from geneformer.cli._demo import closing_rows, run_demo

    target = console()
    report = run_demo(
        output,
        model=model,
        runtime=runtime,
        seed=seed,
        overwrite=overwrite,
        report_step=lambda step: target.print(f"{step.name}: {step}", markup=False),
        report_map=lambda path: target.print(f"The map is ready: {path}", style="bold", markup=False, soft_wrap=True),
    )
    return written("Demo", output, closing_rows(report, output), **report)
