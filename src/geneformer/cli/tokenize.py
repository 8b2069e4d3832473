"""`geneformer tokenize`: counts in, a dataset of tokens out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, progress_bar
from geneformer.options import TokenizeOptions

INPUTS = typer.Argument(
    metavar="IN...",
    help="Raw counts, or folders of them: .h5ad, .zarr, .loom, 10x .h5 and matrix folders, .csv, .tsv.",
    show_default=False,
)
OUTPUT = typer.Option("--output", "-o", metavar="OUT.dataset", help="Dataset folder to make.", show_default=False)
OVERWRITE = typer.Option("--overwrite", help="Replace a dataset that is there.")
RESUME = typer.Option(help="Continue a run for the same output that was killed.  [default: on]", show_default=False)
PROGRESS = typer.Option(help="Show a progress bar.  [default: on]", show_default=False)


@with_options()
def tokenize(
    inputs: Annotated[list[Path], INPUTS],
    *,
    output: Annotated[Path, OUTPUT],
    options: TokenizeOptions,
    overwrite: Annotated[bool, OVERWRITE] = False,
    resume: Annotated[bool, RESUME] = True,
    progress: Annotated[bool, PROGRESS] = True,
) -> Outcome:
    """Turn counts into tokens."""
    from geneformer.tokenization.tokenizer import tokenize_counts

    with progress_bar("Tokenizing", shown=progress) as update:
        _, report = tokenize_counts(inputs, options, output=output, overwrite=overwrite, resume=resume, progress=update)
    return Outcome(f"Tokens in {output}", report.rows(), {"output": str(output), **report.to_dict()})
