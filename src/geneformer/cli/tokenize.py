"""`geneformer tokenize`: counts in, a dataset of tokens out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._options import flag, output_option, with_options
from geneformer.cli._output import Outcome, written
from geneformer.files.progress import progress_bar
from geneformer.options import TokenizeOptions


@with_options(
    "tokenize cells.h5ad -o cells.dataset",
    "tokenize sample1/ sample2/ -o both.dataset --vocabulary V2",
)
def tokenize(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN...",
            help="Raw counts, or folders of them: .h5ad, .zarr, .loom, 10x .h5 and matrix folders, .csv, .tsv.",
            show_default=False,
        ),
    ],
    *,
    output: Annotated[Path, output_option("OUT.dataset", "Dataset folder to make.")],
    options: TokenizeOptions,
    overwrite: Annotated[bool, flag("Replace a dataset that is there.", "--overwrite")] = False,
    resume: Annotated[
        bool, flag("Continue a run for the same output that was killed.  [default: on]", show_default=False)
    ] = True,
    progress: Annotated[bool, flag("Show a progress bar.  [default: on]", show_default=False)] = True,
) -> Outcome:
    """Turn counts into tokens."""
    from geneformer.tokenization.tokenizer import tokenize_counts

    with progress_bar("Tokenizing", shown=progress, unit="cells") as update:
        _, report = tokenize_counts(inputs, options, output=output, overwrite=overwrite, resume=resume, progress=update)
    return written("Tokens", output, report.rows(), **report.to_dict())
