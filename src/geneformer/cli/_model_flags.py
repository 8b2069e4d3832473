"""What every command that runs a model takes: data, a model, and where results go."""

import typer

INPUTS = typer.Argument(
    metavar="IN...", help="Raw counts in any format, or one .dataset folder of tokens.", show_default=False
)
MODEL = typer.Option("--model", "-m", help="Model name, checkpoint folder, or hub repository.")
VOCABULARY = typer.Option("--vocabulary", help="Needed only where the checkpoint does not tell.", show_default=False)
REVISION = typer.Option("--revision", help="Commit, tag or branch on the hub.", show_default=False)
COUNTS_LAYER = typer.Option(help='Layer with the raw counts, "raw" for adata.raw.', show_default=False)
OVERWRITE = typer.Option("--overwrite", help="Replace a file that is there.")
