"""`geneformer pretrain`: cells in, a checkpoint out."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._options import flag, output_option, with_options
from geneformer.cli._output import Outcome, Rows, written
from geneformer.files.progress import progress_bar
from geneformer.options import PretrainOptions, RuntimeOptions


@with_options(
    "pretrain cells.dataset -o my-model --epochs 3",
    "pretrain new-cells.h5ad -o continued --start-from mini --learning-rate 1e-4",
    hide={RuntimeOptions: ("tokens_per_batch",)},
)
def pretrain(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...", help="Tokens (.dataset folders), or raw counts in any format.", show_default=False
        ),
    ],
    *,
    output: Annotated[Path, output_option("DIR", "Checkpoint folder to make.")],
    options: PretrainOptions,
    runtime: RuntimeOptions,
    resume: Annotated[bool, flag("Go on from the last training checkpoint in the output folder.", "--resume")] = False,
) -> Outcome:
    """Train an encoder on masked genes."""
    from geneformer.engine.run_folder import check_run_folder

    check_run_folder(output, resume=resume)  # before libraries are loaded that take seconds
    from geneformer.pretraining.corpus import open_corpus
    from geneformer.pretraining.run import pretrain as run

    with progress_bar("Tokenizing", shown=runtime.progress, unit="cells") as update:
        tokens, vocabulary = open_corpus(data, output, options, runtime, progress=update)
    with progress_bar("Training", shown=runtime.progress, unit="steps") as update:
        result = run(tokens, vocabulary, output, options, runtime, resume=resume, inputs=data, progress=update)
    rows: Rows = [
        ("Cells trained on", result.n_train),
        ("Cells held out", result.n_held_out),
        ("Optimizer steps", result.steps),
        *((name, f"{value:.4f}") for name, value in result.metrics.items()),
    ]
    return written("Checkpoint", output, rows, steps=result.steps, metrics=result.metrics)
