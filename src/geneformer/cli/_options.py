"""Options classes as command line flags: one flag per field, its help the docstring under the field."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from geneformer.cli._output import Outcome, show
from geneformer.options import FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import field_docs, read_options

CONFIG_HELP = "TOML file with options, in tables or at its top, or a manifest. Flags go first."
JSON_HELP = "Print the closing report as one line of JSON on stdout."


def with_options(*, hide: Mapping[type, tuple[str, ...]] | None = None) -> Callable[..., Callable[..., None]]:
    """Decorator of a command: spreads its options objects into flags and shows its `Outcome`."""
    hidden = dict(hide or {})

    def decorate(command: Callable[..., Outcome]) -> Callable[..., None]:
        taken = _options_parameters(command)
        flags = {parameter: _flags(cls, hidden.get(cls, ())) for parameter, cls in taken.items()}
        _refuse_twins(command, flags)

        @functools.wraps(command)
        def run(*, config: Path | None = None, json: bool = False, **arguments: Any) -> None:
            told: Mapping[type, dict[str, Any]] = {}
            if config is not None:
                told = read_options(config, *taken.values(), hidden=hidden)
            for parameter, cls in taken.items():
                given = {name: _value(arguments.pop(name)) for name in flags[parameter]}
                chosen = {name: value for name, value in given.items() if value is not None}
                arguments[parameter] = cls(**{**told.get(cls, {}), **chosen})
            show(command(**arguments), as_json=json)

        signature = _signature(command, flags)
        del vars(run)["__wrapped__"]  # or Typer reads the signature beneath
        vars(run)["__signature__"] = signature
        vars(run).update(options=tuple(taken.values()), hidden=hidden)
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        return run

    return decorate


def _options_parameters(command: Callable[..., Any]) -> dict[str, type]:
    hints: dict[str, Any] = get_type_hints(command)
    del hints["return"]
    return {name: kind for name, kind in hints.items() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _flags(cls: type, hidden: tuple[str, ...]) -> dict[str, inspect.Parameter]:
    """A keyword parameter for every field, None unless the flag is given."""
    docs, hints = field_docs(cls), get_type_hints(cls)
    parameters = {}
    for field in dataclasses.fields(cls):
        if field.name in hidden:
            continue
        option = typer.Option(help=f"{docs[field.name]}{_shown(field.default)}", show_default=False)
        kind: Any = _flag_type(field.name, hints[field.name])
        annotation = Annotated[kind | None, option]
        parameters[field.name] = _keyword(field.name, None, annotation)
    return parameters


def _flag_type(name: str, wanted: Any) -> Any:
    """The type of a field in words Typer has: choices as an Enum, tuples of any length as lists."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        return _flag_type(name, next(kind for kind in inner if kind is not type(None)))
    if origin is Literal:
        return Enum(name, {choice: choice for choice in inner}, type=str)
    if origin is tuple and inner[-1] is ...:
        return types.GenericAlias(list, (inner[0],))
    return wanted


def _shown(default: Any) -> str:
    """The default as the help shows it; the flag itself defaults to None, which tells whether it was given."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        default = "on" if default else "off"
    return f"  [default: {' '.join(map(str, default)) if isinstance(default, tuple) else default}]"


def _value(given: Any) -> Any:
    """What was given on the command line, as the options class takes it; None for nothing."""
    if isinstance(given, Enum):
        return given.value
    if isinstance(given, list):
        return tuple(given) or None
    return given


def _refuse_twins(command: Callable[..., Any], flags: Mapping[str, Mapping[str, Any]]) -> None:
    names = [name for fields in flags.values() for name in fields]
    names += [name for name in inspect.signature(command).parameters if name not in flags]
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        msg = f"{command.__name__} would have two flags each for {twins}. Hide one of them."
        raise TypeError(msg)


def _signature(command: Callable[..., Any], flags: Mapping[str, Mapping[str, inspect.Parameter]]) -> inspect.Signature:
    """The command's parameters with options objects spread into flags, all by keyword."""
    hints = get_type_hints(command, include_extras=True)
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in flags:
            parameters.append(_keyword(name, parameter.default, hints[name]))
    for fields in flags.values():
        parameters.extend(fields.values())
    if flags:
        config = typer.Option(help=CONFIG_HELP, exists=True, dir_okay=False, show_default=False)
        parameters.append(_keyword("config", None, Annotated[Path | None, config]))
    as_json = typer.Option("--json", help=JSON_HELP)
    parameters.append(_keyword("json", False, Annotated[bool, as_json]))
    return inspect.Signature(parameters)


def _keyword(name: str, default: object, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


INPUTS = typer.Argument(
    metavar="IN...", help="Raw counts in any format, or one .dataset folder of tokens.", show_default=False
)
MODEL = typer.Option("--model", "-m", help="Model name, checkpoint folder, or hub repository.")
VOCABULARY = typer.Option("--vocabulary", help="Needed only where the checkpoint does not tell.", show_default=False)
REVISION = typer.Option("--revision", help="Commit, tag or branch on the hub.", show_default=False)
COUNTS_LAYER = typer.Option(help='Layer with the raw counts, "raw" for adata.raw.', show_default=False)
OVERWRITE = typer.Option("--overwrite", help="Replace a file that is there.")


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
