"""Options classes as command line flags: one flag per field, its help the docstring under the field."""

import functools
import inspect
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from geneformer.cli._output import Outcome, progress_bar, show
from geneformer.options import FinetuneOptions, RuntimeOptions, SplitOptions
from geneformer.options._fields import field_docs, read_options

if TYPE_CHECKING:
    from geneformer.inference.cells import PairedModel
    from geneformer.tokens.dataset import TokenizedDataset

CONFIG_HELP = "TOML file with options, in tables or at its top, or a manifest. Flags go first."
JSON_HELP = "Print the closing report as one line of JSON on stdout."


class Flags:
    """Base of dataclasses of flags that commands share: one parameter of a command, spread where it stands."""


def with_options(*, hide: Mapping[type, tuple[str, ...]] | None = None) -> Callable[..., Callable[..., None]]:
    """Decorator of a command: spreads its `Flags` and options objects into flags and shows its `Outcome`."""
    hidden = dict(hide or {})

    def decorate(command: Callable[..., Outcome]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        del hints["return"]
        kinds = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
        shared = {name: kind for name, kind in kinds.items() if issubclass(kind, Flags)}
        options = {name: kind for name, kind in kinds.items() if name not in shared}
        flags = {name: _flags(cls, hidden.get(cls, ())) for name, cls in options.items()}

        parameters = _parameters(command, hints, shared, flags)

        @functools.wraps(command)
        def run(*, config: Path | None = None, json: bool = False, **arguments: Any) -> None:
            from_file = {} if config is None else read_options(config, *options.values(), hidden=hidden)
            for parameter, cls in shared.items():
                arguments[parameter] = cls(**{field.name: arguments.pop(field.name) for field in fields(cls)})
            for parameter, kind in options.items():
                given = {name: _value(arguments.pop(name)) for name in flags[parameter]}
                chosen = {name: value for name, value in given.items() if value is not None}
                arguments[parameter] = kind(**{**from_file.get(kind, {}), **chosen})
            show(command(**arguments), as_json=json)

        del vars(run)["__wrapped__"]  # or Typer reads the signature beneath
        vars(run).update(__signature__=inspect.Signature(parameters), options=tuple(options.values()), hidden=hidden)
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameters(
    command: Callable[..., Any],
    hints: Mapping[str, Any],
    shared: Mapping[str, type],
    flags: Mapping[str, Mapping[str, inspect.Parameter]],
) -> list[inspect.Parameter]:
    """The command's own parameters, shared flags where they stand, options after them, all by keyword."""
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in shared:
            kinds = get_type_hints(shared[name], include_extras=True)
            for field in fields(shared[name]):
                default = inspect.Parameter.empty if field.default is MISSING else field.default
                parameters.append(_keyword(field.name, default, kinds[field.name]))
        elif name not in flags:
            parameters.append(_keyword(name, parameter.default, hints[name]))
    for of_class in flags.values():
        parameters.extend(of_class.values())
    if flags:
        config = typer.Option(help=CONFIG_HELP, exists=True, dir_okay=False, show_default=False)
        parameters.append(_keyword("config", None, Annotated[Path | None, config]))
    parameters.append(_keyword("json", False, Annotated[bool, typer.Option("--json", help=JSON_HELP)]))
    repeated = sorted(name for name, times in Counter(p.name for p in parameters).items() if times > 1)
    if repeated:
        msg = f"{command.__name__} would have two flags each for {repeated}. Hide one of them."
        raise TypeError(msg)
    return parameters


def _flags(cls: type, hidden: tuple[str, ...]) -> dict[str, inspect.Parameter]:
    """A keyword parameter for every field, None unless the flag is given."""
    docs, hints = field_docs(cls), get_type_hints(cls)
    parameters = {}
    for field in fields(cls):
        if field.name not in hidden:
            option = typer.Option(help=f"{docs[field.name]}{_shown(field.default)}", show_default=False)
            kind: Any = _flag_type(field.name, hints[field.name])
            parameters[field.name] = _keyword(field.name, None, Annotated[kind | None, option])
    return parameters


def _flag_type(name: str, kind: Any) -> Any:
    """The type of a field in words Typer has: choices as an Enum, tuples of any length as lists."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _flag_type(name, next(one for one in inner if one is not type(None)))
    if origin is Literal:
        return Enum(name, {choice: choice for choice in inner}, type=str)
    if origin is tuple and inner[-1] is ...:
        return types.GenericAlias(list, (inner[0],))
    return kind


def _shown(default: Any) -> str:
    """The default as the help shows it; the flag itself defaults to None, for not given."""
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


@dataclass(frozen=True, slots=True)
class CellsAndModel(Flags):
    """Cells, and the model that reads them."""

    inputs: Annotated[list[Path], INPUTS]
    model: Annotated[str, MODEL] = "mini"
    vocabulary: Annotated[str | None, VOCABULARY] = None
    revision: Annotated[str | None, REVISION] = None
    counts_layer: Annotated[str | None, COUNTS_LAYER] = None

    def tokens_for(self, loaded: "PairedModel", runtime: RuntimeOptions, *, counts: bool = False) -> "TokenizedDataset":
        """The cells as tokens for the model."""
        from geneformer.inference.cells import open_tokens

        with progress_bar("Tokenizing", shown=runtime.progress) as update:
            return open_tokens(self.inputs, loaded, layer=self.counts_layer, counts=counts, progress=update)


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

OF_SPLITS = tuple(field.name for field in fields(SplitOptions) if field.name != "valid")
"""Fields that have no effect where folds take the place of a split."""


def one_seed(finetuning: FinetuneOptions, split: SplitOptions | None, runtime: RuntimeOptions) -> dict[str, Any]:
    """The options objects, with the seed and the size of a batch of the first in all."""
    made: dict[str, Any] = {
        "finetuning": finetuning,
        "runtime": replace(runtime, tokens_per_batch=finetuning.tokens_per_batch),
    }
    return made if split is None else made | {"split": replace(split, seed=finetuning.seed)}
