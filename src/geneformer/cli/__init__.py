"""The `geneformer` command. Each subcommand has its own module, which is loaded when it is used."""

import importlib
import os
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from geneformer._version import __version__
from geneformer.cli._help import WIDTH, Command, write_commands, write_examples
from geneformer.cli._output import FAILED, show_error, warnings_shown
from geneformer.errors import GeneformerError

_HELP = {"help_option_names": ["-h", "--help"], **WIDTH}

COMMANDS = {
    "annotate": "Label cells from a labeled reference, and draw them.",
    "attention": "Tabulate attention between genes over all cells, or to the genes of each cell.",
    "doctor": "Check versions, devices, extras, caches and the bundled model of this installation.",
    "demo": "Take 2,700 real blood cells from counts to a map.",
    "embed": "Embed cells or genes with a pretrained or fine-tuned encoder, and draw them.",
    "explain": "Tell what a code of an error means, and what mends it.",
    "models": "List models, describe one, or convert old weights.",
    "predict-masked": "Tabulate the genes a model expects where one is masked.",
    "pretrain": "Train an encoder on masked genes.",
    "tokenize": "Turn counts into tokens.",
    "verify": "Check that inputs, model and files of a result are those it was made from.",
    "vocabulary": "Show a vocabulary, look up genes in it, or write it to a folder.",
}
"""Subcommands with the line `geneformer --help` shows; see `command_function` for where they are."""


GROUPS = {
    "classify": {
        "fit": "Fine-tune a pretrained model to tell classes of cells apart.",
        "predict": "Predict the classes of cells.",
        "evaluate": "Score a fitted classifier on labeled cells it has not seen.",
        "cross-validate": "Fit once per fold, and score every cell by a classifier that has not seen it.",
        "search": "Search for the best training options, and fit with them.",
    },
    "classify-genes": {
        "fit": "Fine-tune a pretrained model to tell classes of genes apart.",
        "predict": "Predict the classes of all genes.",
        "cross-validate": "Fit once per fold, and score every gene by a classifier that has not seen it.",
    },
    "decode-expression": {
        "fit": "Fine-tune a pretrained model to predict how much of each gene a cell expresses.",
        "predict": "Predict values and ranks of genes in cells.",
        "evaluate": "Score a fitted decoder on genes taken out of cells it has not seen.",
    },
    "multi-task": {
        "fit": "Fine-tune a pretrained model to predict several columns of classes at once.",
        "predict": "Predict the classes of cells in every task.",
        "evaluate": "Score a fitted classifier in every task, on labeled cells it has not seen.",
    },
    "network": {
        "plan": "Check the inference of a network, and say what it will take.",
        "infer": "Infer directed edges from regulators to genes, each against matched genes.",
        "evaluate": "Compare a network with known pairs, beside baselines and a null that keeps all degrees.",
        "show": "Show the strongest edges of a network, draw it, or write it for other programs.",
    },
    "perturb": {
        "plan": "Check a perturbation run, and say what it will take.",
        "run": "Perturb genes of cells, and write what that changes.",
        "merge": "Put the parts of a run together.",
        "rank": "Test and rank the perturbations of a finished run.",
    },
    "regress": {
        "fit": "Fine-tune a pretrained model to predict a number of cells.",
        "predict": "Predict the numbers of cells.",
        "evaluate": "Score a fitted model on cells with numbers it has not seen.",
    },
}
"""Subcommands that have subcommands of their own."""

_HOMES = {
    "attention": "inference",
    "classify": "finetune",
    "classify-genes": "finetune",
    "decode-expression": "finetune",
    "embed": "inference",
    "explain": "models",
    "multi-task": "finetune",
    "predict-masked": "inference",
    "regress": "finetune",
    "verify": "models",
    "vocabulary": "models",
}
"""Modules of commands and groups whose module has another name."""

SECTIONS = {
    "First": ("demo", "doctor", "models", "vocabulary"),
    "From counts to tokens, embeddings and maps": ("tokenize", "embed", "annotate"),
    "Learning from labels": ("classify", "regress", "multi-task", "classify-genes", "decode-expression"),
    "Asking the model": ("perturb", "network", "attention", "predict-masked"),
    "Training an encoder": ("pretrain",),
    "Trouble": ("explain", "verify"),
}
"""Commands in the order of a job, as `geneformer --help` lists them."""

EXAMPLES = (
    "geneformer demo -o demo_output",
    "geneformer embed cells.h5ad -o embedded.h5ad --umap map.png --color cell_type",
)

_SUMMARIES = {
    "classify": "Fine-tune a classifier of cells, use it, and score it.",
    "classify-genes": "Fine-tune a classifier of genes, use it, and score it.",
    "decode-expression": "Fine-tune a decoder of gene expression, use it, and score it.",
    "multi-task": "Fine-tune a classifier of several columns at once, use it, and score it.",
    "network": "Infer gene networks, test them against known pairs, and draw them.",
    "perturb": "Perturb genes in silico, and rank what comes of it.",
    "regress": "Fine-tune a model of a number of cells, use it, and score it.",
}


class _LazyCommands(TyperGroup):
    """A group that knows its commands by name and imports only the one that is called."""

    family = ""
    """What stands before the names of its commands, where they are commands of a command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, summary in (GROUPS[self.family] if self.family else COMMANDS | _SUMMARIES).items():
            self.add_command(TyperCommand(name, help=summary))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in the order of a job."""
        summaries = {name: str(command.help) for name, command in self.commands.items()}
        write_commands({"Commands": summaries} if self.family else SECTIONS, summaries, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write an example or two."""
        if not self.family:
            write_examples(EXAMPLES, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if self.family:
            return name, load_command(f"{self.family}-{name}"), rest
        if name in GROUPS:
            return name, load_group(name), rest
        return name, load_command(name) if name in COMMANDS else command, rest

    def invoke(self, ctx: Any) -> Any:
        if self.family:
            return super().invoke(ctx)
        try:
            with warnings_shown():
                return super().invoke(ctx)
        except GeneformerError as error:
            show_error(error)
            ctx.exit(FAILED)
        except KeyboardInterrupt:
            ctx.exit(130)


def command_function(name: str) -> Any:
    """What a subcommand runs: the function of its name, hyphens as underscores."""
    family = next((family for family in sorted(GROUPS, key=len, reverse=True) if name.startswith(f"{family}-")), name)
    home = importlib.import_module(f"geneformer.cli.{_HOMES.get(family, family)}")
    return getattr(home, name.replace("-", "_"))


def load_command(name: str) -> Any:
    """The subcommand of that name, imported now."""
    single = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=_HELP)
    function = command_function(name)
    single.command(_own_name(name), cls=Command, epilog="\n".join(function.examples))(function)
    return typer.main.get_command(single)


def _own_name(name: str) -> str:
    """The name of a command without that of its group, which may have hyphens as well."""
    members = {f"{family}-{member}": member for family in GROUPS for member in GROUPS[family]}
    return members.get(name, name)


def load_group(family: str) -> Any:
    """The group of that name; its own commands are imported when they are called."""
    members = type("_Members", (_LazyCommands,), {"family": family})
    group = typer.Typer(
        cls=members, no_args_is_help=True, add_completion=False, rich_markup_mode=None, context_settings=_HELP
    )
    group.callback(help=_SUMMARIES[family])(lambda: None)
    return typer.main.get_command(group)


app = typer.Typer(
    cls=_LazyCommands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts twice as fast and is wider
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"geneformer {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    """Raw single-cell counts in; tokens, embeddings and pictures out."""


def main() -> None:
    """Run the command line."""
    # Threads that spin while they wait for work take three times the processor time of a short command, and the time
    # of other work on a busy machine. PyTorch's library of threads reads this once, when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    threading.excepthook = _show_failed_thread
    app()


def _show_failed_thread(failed: threading.ExceptHookArgs) -> None:
    """Leave errors of files to the command: a thread that writes, TensorBoard's, hands them on to it as well."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)
