"""What every fine-tuning command takes beside its options."""

import dataclasses
from typing import Any

import typer

from geneformer.options import FinetuneOptions, RuntimeOptions, SplitOptions

FOLDER = typer.Option("--output", "-o", metavar="DIR", help="Folder of the fitted model.", show_default=False)
FITTED = typer.Option("--model", "-m", help="Folder of a fitted model.", show_default=False)
LABEL = typer.Option("--label", "-l", help="Column of obs with the classes.", show_default=False)
GROUPS = typer.Option(help="Column of donors or batches; none is on two sides of the split.", show_default=False)
NUMBER = typer.Option("--label", "-l", help="Column of obs with the numbers.", show_default=False)
LABELS = typer.Option("--label", "-l", help="Column of obs with the classes of one task; once per task.")
GENES = typer.Option(
    "--genes",
    metavar="FILE",
    help='CSV or TSV with the columns "gene" and "class", or TOML or JSON with a list of genes for every class.',
    show_default=False,
)
FOLDS = typer.Option(help="Parts, each of which is tested once by a model that learnt from the others.")
IDS = typer.Option(help="Column of the ids that the split lists or draws; that of the groups by default.")
RESAMPLED = typer.Option(help="Column of donors or the like, resampled whole for the intervals.", show_default=False)
GENE_IDS = typer.Option(help='Column of var with gene identifiers, "index" for the row names.', show_default=False)
RESUME = typer.Option("--resume", help="Go on with a run that was interrupted, from its last checkpoint.")

REPORT = typer.Option("--output", "-o", metavar="DIR", help="Folder of the report.", show_default=False)
CELLS_FILE = typer.Option(
    "--output", "-o", metavar="OUT", help="File to make: .h5ad, .parquet or .csv.", show_default=False
)
TABLE_FILE = typer.Option("--output", "-o", metavar="OUT", help="Table to make: .parquet or .csv.", show_default=False)
UNKNOWN = typer.Option(help='Cells whose best probability is lower are called "unknown".', show_default=False)

HIDDEN: dict[type, tuple[str, ...]] = {RuntimeOptions: ("tokens_per_batch",), SplitOptions: ("seed",)}
"""Fields another options class has already; one seed and one size of batch serve all."""

OF_CLASSES = ("class_weights", "label_smoothing")
OF_SECOND_VIEWS = ("contrastive_weight", "contrastive_temperature", "contrastive_delete", "supervised_weight")
"""Fields of the training that have no effect where there are no classes, or no second views of cells."""

OF_CELLS = ("pooling", *OF_SECOND_VIEWS)
"""Fields that have no effect where genes are told rather than cells."""

OF_SPLITS = tuple(field.name for field in dataclasses.fields(SplitOptions) if field.name != "valid")
"""Fields that have no effect where folds take the place of a split."""


def one_seed(finetuning: FinetuneOptions, split: SplitOptions | None, runtime: RuntimeOptions) -> dict[str, Any]:
    """The options objects, with the seed and the size of a batch of the first in all."""
    made: dict[str, Any] = {
        "finetuning": finetuning,
        "runtime": dataclasses.replace(runtime, tokens_per_batch=finetuning.tokens_per_batch),
    }
    return made if split is None else made | {"split": dataclasses.replace(split, seed=finetuning.seed)}
