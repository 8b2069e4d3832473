"""What every fine-tuning command takes beside its options."""

import typer

from geneformer.options import FinetuneOptions, RuntimeOptions, SplitOptions

FOLDER = typer.Option("--output", "-o", metavar="DIR", help="Folder of the fitted model.", show_default=False)
FITTED = typer.Option("--model", "-m", help="Folder of a fitted model.", show_default=False)
LABEL = typer.Option("--label", "-l", help="Column of obs with the classes.", show_default=False)
GROUPS = typer.Option(help="Column of donors or batches; none is on two sides of the split.", show_default=False)
IDS = typer.Option(help="Column of the ids that the split lists or draws; that of the groups by default.")
GENE_IDS = typer.Option(help='Column of var with gene identifiers, "index" for the row names.', show_default=False)
RESUME = typer.Option("--resume", help="Go on with a run that was interrupted, from its last checkpoint.")

HIDDEN: dict[type, tuple[str, ...]] = {RuntimeOptions: ("tokens_per_batch",), SplitOptions: ("seed",)}
"""Fields another options class has already; one seed and one size of batch serve all."""


def one_seed(finetuning: FinetuneOptions, split: SplitOptions, runtime: RuntimeOptions) -> dict[str, object]:
    """The three options objects, with the seed and the size of a batch of the first in all."""
    import dataclasses

    return {
        "finetuning": finetuning,
        "split": dataclasses.replace(split, seed=finetuning.seed),
        "runtime": dataclasses.replace(runtime, tokens_per_batch=finetuning.tokens_per_batch),
    }
