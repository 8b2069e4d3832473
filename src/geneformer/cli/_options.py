"""Options classes as command line flags: one flag per field, its help the docstring under the field."""

import functools
import inspect
import json
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from geneformer.cli._checks import check_given
from geneformer.cli._help import heading_of, headings_of
from geneformer.cli._output import FAILED, Outcome, show
from geneformer.files.progress import progress_bar
from geneformer.options import PerturbOptions, RuntimeOptions
from geneformer.options._fields import field_docs, plain_type, read_options

if TYPE_CHECKING:
    from geneformer.files.manifest import InputFile
    from geneformer.inference.cells import PairedModel
    from geneformer.tokens.dataset import TokenizedDataset

Parameter = inspect.Parameter
Hidden = Mapping[type, tuple[str, ...]]


def flag(text: str, *names: str, **settings: Any) -> Any:
    """A flag of a command with its help; it is called as its parameter if no names are given."""
    return typer.Option(*names, help=text, **settings)


def output_option(metavar: str, text: str) -> Any:
    """The flag `--output` of a command."""
    return flag(text, "--output", "-o", metavar=metavar)


CONFIG = flag(
    "TOML file with options, in tables or at its top, or a manifest. Flags go first.", exists=True, dir_okay=False
)
JSON = flag("Print the closing report as one line of JSON on stdout.", "--json")


class Flags:
    """Base of dataclasses of flags and options that commands share: one parameter of a command, spread into flags."""


def with_options(*examples: str, hide: Hidden | None = None) -> Callable[..., Callable[..., None]]:
    """Decorator of a command: spreads its `Flags` and options objects into flags and shows its `Outcome`.

    Its help ends with the examples: what stands after "geneformer" in a command line.
    """
    hidden = dict(hide or {})

    def decorate(command: Callable[..., Outcome]) -> Callable[..., None]:
        own = inspect.signature(command).parameters.values()
        members = list(_members((one.name, one.annotation, one.default) for one in own))
        options: list[Any] = [kind for _, kind, _ in members if is_dataclass(kind)]
        flags = [_own_flag(name, default, kind) for name, kind, default in members if not is_dataclass(kind)]
        flags += [flag for kind in options for flag in _flags(kind, hidden.get(kind, ()))]
        if options:
            flags.append(_own_flag("config", None, Annotated[Path | None, CONFIG]))
        flags.append(_own_flag("json", False, Annotated[bool, JSON]))
        repeated = sorted(name for name, times in Counter(flag.name for flag in flags).items() if times > 1)
        if repeated:
            msg = f"{command.__name__} would have two flags each for {repeated}. Hide one of them."
            raise TypeError(msg)

        @functools.wraps(command)
        def run(*, config: Path | None = None, json: bool = False, **given: Any) -> None:
            from_file = {} if config is None else read_options(config, *options, hidden=hidden)
            check_given({**given, "config": config})
            for one in own:
                if is_dataclass(one.annotation):
                    given[one.name] = _build(one.annotation, given, from_file, hidden)
            from geneformer.files.left_out import counting_left_out

            with counting_left_out() as left_out:
                outcome = command(**given)
            show(outcome if not left_out else outcome.without_cells(left_out), as_json=json)
            if outcome.failed:
                raise typer.Exit(FAILED)

        del vars(run)["__wrapped__"]  # or Typer reads the signature beneath
        vars(run).update(__signature__=inspect.Signature(flags), options=tuple(options), hidden=hidden)
        vars(run)["examples"] = [f"geneformer {example}" for example in examples]
        run.__annotations__ = {flag.name: flag.annotation for flag in flags}
        return run

    return decorate


def _members(parameters: Iterator[tuple[str, Any, Any]]) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of each flag and options class, with those inside `Flags` in the place of these."""
    for name, kind, default in parameters:
        if isinstance(kind, type) and issubclass(kind, Flags):
            yield from _members((field.name, field.type, field.default) for field in fields(kind))  # type: ignore[arg-type]
        else:
            yield name, kind, Parameter.empty if default is MISSING else default


def _build(kind: Any, given: dict[str, Any], from_file: Mapping[type, dict[str, Any]], hidden: Hidden) -> Any:
    """A `Flags` or options object from its flags, which are taken out of `given`."""
    if issubclass(kind, Flags):
        values = {
            field.name: _build(field.type, given, from_file, hidden)
            if is_dataclass(field.type)
            else given.pop(field.name)
            for field in fields(kind)
        }
        return kind(**values)
    flags = {
        field.name: _value(given.pop(field.name)) for field in fields(kind) if field.name not in hidden.get(kind, ())
    }
    if flags.get("genes"):
        from geneformer.genes.lists import named_genes

        flags["genes"] = named_genes(flags["genes"], groups=kind is PerturbOptions)
    return kind(**from_file.get(kind, {}) | {name: value for name, value in flags.items() if value is not None})


def _flags(cls: type, hidden: tuple[str, ...]) -> Iterator[Parameter]:
    """A keyword parameter for every field, None unless the flag is given."""
    docs, hints = field_docs(cls), get_type_hints(cls)
    headings = headings_of(cls, docs)
    for field in fields(cls):
        if field.name not in hidden:
            kind: Any = _flag_type(field.name, hints[field.name])
            several = _SEVERAL.get(field.name, _REPEATED) if get_origin(kind) is list else ("", None)
            text = f"{docs[field.name]}{several[0]}{_shown(field.default)}"
            option = flag(text, rich_help_panel=headings[field.name], metavar=several[1])
            yield _keyword(field.name, None, Annotated[kind | None, option])


_REPEATED = (" May be repeated.", "NAME")
_GENES = (" Names apart by commas, a file with one a line, a .gmt file, or FILE.gmt:SET.", "GENES")
_SEVERAL = {"genes": _GENES, "regulators": _GENES, "targets": _GENES}
"""What the help of a flag adds that takes several values, and what it calls them."""


def _own_flag(name: str, default: object, annotation: Any) -> Parameter:
    """A flag or an argument that a command declares itself, under its heading."""
    annotation = annotation if get_origin(annotation) is Annotated else Annotated[annotation, typer.Option()]
    [*_, declared] = annotation.__metadata__
    declared.rich_help_panel = heading_of(name)
    return _keyword(name, default, annotation)


def _flag_type(name: str, hint: Any) -> Any:
    """The type of a field in words Typer has: choices as an Enum, tuples of any length as lists."""
    kind = plain_type(hint)
    origin, inner = get_origin(kind), get_args(kind)
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


def _keyword(name: str, default: object, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="IN...", help="Raw counts in any format, or one .dataset folder of tokens.", show_default=False
    ),
]
Model = Annotated[str, flag("Model name, checkpoint folder, or hub repository.", "--model", "-m")]
VocabularyName = Annotated[str | None, flag("Needed only where the checkpoint does not name its own.", "--vocabulary")]
CountsLayer = Annotated[str | None, flag('Layer with the raw counts, "raw" for adata.raw.')]
GeneIds = Annotated[str | None, flag('Column of var with gene identifiers, "index" for the row names.')]
AcceptNormalized = Annotated[
    bool, flag("Rank values that are no raw counts, such as counts corrected for ambient RNA.", "--accept-normalized")
]
Overwrite = Annotated[bool, flag("Replace a file that is there.", "--overwrite")]


CellsFile = Annotated[Path, output_option("OUT", "File to make: .h5ad, .parquet or .csv.")]
TableFile = Annotated[Path, output_option("OUT", "Table to make: .parquet or .csv.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellsAndModel(Flags):
    """Cells, and the model that reads them."""

    inputs: Inputs
    model: Model = "mini"
    vocabulary: VocabularyName = None
    revision: Annotated[str | None, flag("Commit, tag or branch on the hub.")] = None
    counts_layer: CountsLayer = None
    gene_ids: GeneIds = None
    accept_normalized: AcceptNormalized = False

    def tokens_for(self, loaded: "PairedModel", runtime: RuntimeOptions, *, counts: bool = False) -> "TokenizedDataset":
        """The cells as tokens for the model."""
        from geneformer.inference.cells import open_tokens

        with progress_bar("Tokenizing", shown=runtime.progress, unit="cells") as update:
            return open_tokens(
                self.inputs,
                loaded,
                counts_layer=self.counts_layer,
                gene_ids=self.gene_ids,
                accept_normalized=self.accept_normalized,
                counts=counts,
                progress=update,
            )

    def sources(self) -> "tuple[InputFile, ...]":
        """The cells and the model, such that `geneformer verify` recognizes them."""
        from geneformer.files.manifest import describe_inputs
        from geneformer.models.hub import find_folder

        return describe_inputs([*self.inputs, find_folder(self.model, revision=self.revision)])

    def recorded(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """Provenance with these inputs, a line of JSON each, and the versions at work."""
        from geneformer.files.manifest import installed_versions

        inputs = [json.dumps(asdict(source)) for source in self.sources()]
        return {**provenance, "inputs": inputs, "versions": installed_versions()}
