"""`Vocabulary`: which genes a model knows, their token ids and nonzero medians, and the special tokens."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from geneformer.display import Summarized, Summary, names_text
from geneformer.errors import InvalidVocabularyError, UnknownVocabularyError, reason_of
from geneformer.files import read_json
from geneformer.files.atomic import atomic_folder
from geneformer.files.pickles import read_pickle
from geneformer.options._fields import as_path, nearest

PAD, MASK, CLS, EOS = "<pad>", "<mask>", "<cls>", "<eos>"
SPECIAL = (PAD, MASK, CLS, EOS)
"""Special tokens, in the order of their published ids. The last two come together or not at all."""


BUNDLED = ("V1", "V2")
"""Vocabularies that ship with the package: gc30M and gc104M of the published one."""

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Vocabulary(Summarized):
    """Genes, token ids and nonzero medians of one corpus. Immutable; two are equal when their fingerprints are.

    Genes are listed by ascending token id, and every array is indexed alike.

    Attributes
    ----------
    name
        "V1", "V2", or the name of a folder.
    genes
        Ensembl ids, ``(g,)`` text.
    token_ids
        Token id of each gene, ``(g,)`` int32.
    medians
        Nonzero median of each gene over the corpus, in counts per 10,000, ``(g,)`` float64.
    special_tokens
        Ids of `<pad>` and `<mask>`, and of `<cls>` and `<eos>` where there are.
    input_size
        Most tokens of one cell, special tokens included.

    Examples
    --------
    >>> from geneformer.genes.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.load("V1")
    >>> vocabulary.size, vocabulary.genes[0], vocabulary.symbol_of("ENSG00000000003")
    (25426, 'ENSG00000000003', 'TSPAN6')
    """

    name: str
    genes: NDArray[Any]
    token_ids: NDArray[np.int32]
    medians: NDArray[np.float64]
    special_tokens: Mapping[str, int]
    input_size: int
    tables: "Tables" = field(default_factory=lambda: MemoryTables(medians={}, symbols={}, aliases=None))

    def __post_init__(self) -> None:
        genes = np.array(list(self.genes), dtype=object)
        medians = np.array(self.medians, dtype=np.float64)
        ids = np.asarray(self.token_ids)
        problems = _contradictions(genes.tolist(), ids.tolist(), medians, self.special_tokens, self.input_size)
        if problem := next(problems, ""):
            msg = f'Vocabulary "{self.name}" {problem}'
            raise InvalidVocabularyError(msg)
        order = np.argsort(ids, kind="stable")
        object.__setattr__(self, "genes", _frozen(genes[order]))
        object.__setattr__(self, "token_ids", _frozen(ids[order].astype(np.int32)))
        object.__setattr__(self, "medians", _frozen(medians[order]))
        object.__setattr__(self, "special_tokens", MappingProxyType(dict(self.special_tokens)))

    @classmethod
    def load(cls, name_or_folder: str | Path) -> "Vocabulary":
        """A vocabulary by its name or from a folder.

        Parameters
        ----------
        name_or_folder
            "V1", "V2", a folder written by `save`, or a folder with published pickles (`token_dictionary*.pkl`,
            `gene_median_dictionary*.pkl` and, if there, `gene_name_id_dict*.pkl`, `ensembl_mapping_dict*.pkl`).
            Where that folder holds several sets, the path of one token dictionary.

        Raises
        ------
        UnknownVocabularyError
            No vocabulary of that name and none at that path.
        InvalidVocabularyError
            It is incomplete, damaged or contradicts itself; the entry is named.
        """
        path = as_path("vocabulary", name_or_folder, f"{', '.join(BUNDLED)} or the path of a folder with a vocabulary")
        if name_or_folder in BUNDLED:
            return _load_bundled(str(name_or_folder))
        if not path.exists():
            msg = (
                f'No vocabulary is called "{name_or_folder}" and there is no such folder. '
                f"Choose {', '.join(BUNDLED)} or the path of a folder with a vocabulary."
            )
            raise UnknownVocabularyError(msg + nearest(name_or_folder, BUNDLED))
        return _load_folder(path)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the vocabulary to a folder that `load` reads: `vocabulary.json` and up to three Parquet tables.

        Raises
        ------
        OutputExistsError
            The folder exists and `overwrite` is false, or it is no vocabulary.
        OutputError
            The folder cannot be written.
        """
        meta = {
            "format": FORMAT,
            "name": self.name,
            "input_size": self.input_size,
            "special_tokens": dict(self.special_tokens),
            "genes": len(self.genes),
            "fingerprint": self.fingerprint,
        }
        with atomic_folder(folder, overwrite=overwrite, markers=(META,)) as temporary:
            write_tables(self._complete_tables(), dict(self.token_of), temporary)
            (temporary / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    def _complete_tables(self) -> "MemoryTables":
        """The tables, with the medians of this vocabulary put over those of its source."""
        own = dict(zip(self.genes.tolist(), self.medians.tolist(), strict=True))
        return MemoryTables(
            medians={**self.tables.medians, **own}, symbols=self.tables.symbols, aliases=self.tables.aliases
        )

    @property
    def size(self) -> int:
        """Number of tokens, special tokens included."""
        return len(self.genes) + len(self.special_tokens)

    @property
    def pad_id(self) -> int:
        """Id of `<pad>`, always 0."""
        return self.special_tokens[PAD]

    @property
    def mask_id(self) -> int:
        """Id of `<mask>`."""
        return self.special_tokens[MASK]

    @property
    def cls_id(self) -> int | None:
        """Id of `<cls>`, which starts a cell, where the vocabulary has it."""
        return self.special_tokens.get(CLS)

    @property
    def eos_id(self) -> int | None:
        """Id of `<eos>`, which ends a cell, where the vocabulary has it."""
        return self.special_tokens.get(EOS)

    @cached_property
    def special_ids(self) -> NDArray[np.int32]:
        """Ids of the special tokens in ascending order."""
        return _frozen(np.array(sorted(self.special_tokens.values()), dtype=np.int32))

    @cached_property
    def token_of(self) -> Mapping[str, int]:
        """Token id of each gene."""
        return MappingProxyType(dict(zip(self.genes.tolist(), self.token_ids.tolist(), strict=True)))

    @cached_property
    def position_of(self) -> Mapping[str, int]:
        """Index into `genes` of each gene."""
        return MappingProxyType({gene: place for place, gene in enumerate(self.genes.tolist())})

    @cached_property
    def gene_of(self) -> NDArray[Any]:
        """Gene or special token of each id, ``(size,)`` text."""
        names = np.empty(self.size, dtype=object)
        names[self.token_ids] = self.genes
        names[list(self.special_tokens.values())] = list(self.special_tokens)
        return _frozen(names)

    @cached_property
    def fingerprint(self) -> str:
        """What datasets and checkpoints carry to say which vocabulary their token ids belong to.

        SHA-256, in hexadecimal, of UTF-8 lines each ended by a newline: `geneformer vocabulary 1`, `input_size N`; then
        `ID TOKEN` for each special token and `ID GENE MEDIAN` for each gene, by ascending id, parts separated by a
        space, medians as `float.hex` writes them. Name, symbols and aliases do not enter.
        """
        lines = ["geneformer vocabulary 1", f"input_size {self.input_size}"]
        lines += [f"{number} {token}" for token, number in sorted(self.special_tokens.items(), key=lambda e: e[1])]
        rows = zip(self.token_ids.tolist(), self.genes.tolist(), self.medians.tolist(), strict=True)
        lines += [f"{number} {gene} {median.hex()}" for number, gene, median in rows]
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()

    @cached_property
    def symbols(self) -> Mapping[str, str]:
        """Gene of each symbol, as the corpus spells them; genes without a token are among them."""
        return MappingProxyType(self.tables.symbols)

    @cached_property
    def aliases(self) -> Mapping[str, str]:
        """Gene of each identifier that stands for one: upper-case symbols, retired ids, current ids.

        For V2 this is the published mapping dictionary, genes without a token included; for V1, where that is the
        identity, the upper-case symbols are added to it.
        """
        if self.tables.aliases is not None:
            return MappingProxyType(self.tables.aliases)
        upper = {symbol.upper(): gene for symbol, gene in self.tables.symbols.items()}
        return MappingProxyType({**upper, **{gene.upper(): gene for gene in self.genes.tolist()}})

    @cached_property
    def name_tables(self) -> dict[bool, Any]:
        """What `genes.lookup` has put together from this vocabulary, with and without a borrowed history."""
        return {}

    def symbol_of(self, gene: str) -> str:
        """Symbol of a gene, or the gene's id where none is known.

        Symbols of the corpus come first, then those that ship with V2.
        """
        return self._symbol_of.get(gene) or _load_bundled("V2")._symbol_of.get(gene, gene)

    @cached_property
    def _symbol_of(self) -> dict[str, str]:
        return {gene: symbol for symbol, gene in self.symbols.items()}

    def published_tables(self) -> dict[str, dict[str, Any]]:
        """The four dictionaries as the published package stores them, entry by entry and in its order.

        Returns
        -------
        tables
            `token_dictionary` (special tokens and genes to ids), `gene_median_dictionary` (genes with and without a
            token), `gene_name_id_dict` (symbol to gene), `ensembl_mapping_dict` (identifier to gene).
        """
        mapping = self.tables.aliases
        return {
            "token_dictionary": {str(token): number for number, token in enumerate(self.gene_of)},
            "gene_median_dictionary": dict(self._complete_tables().medians),
            "gene_name_id_dict": dict(self.tables.symbols),
            "ensembl_mapping_dict": dict(mapping) if mapping is not None else {g: g for g in self.genes.tolist()},
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __str__(self) -> str:
        return self.name

    def summary_of(self) -> Summary:
        """How many genes it has, and by what it is known."""
        return Summary(
            title=f"Vocabulary {self.name}",
            facts=[
                ("genes", f"{len(self.genes):,}"),
                ("special tokens", names_text(self.special_tokens)),
                ("longest cell", f"{self.input_size:,} tokens"),
                ("fingerprint", self.fingerprint[:12]),
            ],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get vocabularies; what was derived is derived again there.
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return partial(Vocabulary, **own | {"special_tokens": dict(self.special_tokens)}), ()


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


@cache
def _load_bundled(name: str) -> Vocabulary:
    return _load_folder(_ASSETS / name)


META = "vocabulary.json"
FORMAT = 1

_TOKENS, _MEDIANS, _NAMES, _MAPPING = (
    "token_dictionary",
    "gene_median_dictionary",
    "gene_name_id_dict",
    "ensembl_mapping_dict",
)


def _load_folder(path: Path) -> Vocabulary:
    """A vocabulary folder of this package or of published pickles, or one published token dictionary."""
    if path.is_file():
        return _read_published(path)
    if (path / META).is_file():
        return _read_folder(path)
    found = sorted(path.glob(f"{_TOKENS}*.pkl"))
    if len(found) == 1:
        return _read_published(found[0])
    if found:
        names = ", ".join(f'"{file.name}"' for file in found)
        msg = f'"{path}" holds several vocabularies: {names}. Give the path of one of these files.'
        raise UnknownVocabularyError(msg)
    msg = f'"{path}" is no vocabulary: it has neither {META} nor {_TOKENS}*.pkl. Save one with Vocabulary.save(folder).'
    raise UnknownVocabularyError(msg)


def _read_folder(folder: Path) -> Vocabulary:
    meta = _read_meta(folder / META)
    genes, token_ids, medians = read_genes(folder)
    rows = [row for row, token in enumerate(token_ids) if token is not None]
    vocabulary = Vocabulary(
        name=meta.get("name", folder.name),
        genes=np.array([genes[row] for row in rows], dtype=object),
        token_ids=np.array([token_ids[row] for row in rows], dtype=np.int64),
        medians=np.array([medians[row] for row in rows], dtype=np.float64),  # None becomes NaN
        special_tokens=meta["special_tokens"],
        input_size=meta["input_size"],
        tables=FolderTables(folder),
    )
    if meta.get("fingerprint") not in (None, vocabulary.fingerprint):
        msg = (
            f'Vocabulary "{folder}" does not match its own fingerprint: {META} says {meta["fingerprint"]}, the entries '
            f"give {vocabulary.fingerprint}. Copy the folder again, or remove the fingerprint from {META} if "
            "the entries were edited on purpose."
        )
        raise InvalidVocabularyError(msg)
    return vocabulary


def _read_meta(path: Path) -> dict[str, Any]:
    meta = read_json(path, InvalidVocabularyError, "Save the vocabulary again.")
    needed = {"format", "special_tokens", "input_size"}
    if not needed <= meta.keys() or not isinstance(meta["special_tokens"], dict):
        msg = f'"{path}" describes no vocabulary: it needs "format", "special_tokens" and "input_size".'
        raise InvalidVocabularyError(msg)
    if meta["format"] != FORMAT:
        msg = f'"{path}" has format {meta["format"]!r}; this version reads {FORMAT}. Install a newer geneformer.'
        raise InvalidVocabularyError(msg)
    return meta


def _read_published(token_file: Path) -> Vocabulary:
    """The vocabulary whose token dictionary is given; the other dictionaries are in the same folder."""
    tag = token_file.stem.removeprefix(_TOKENS)
    if token_file.suffix != ".pkl" or tag == token_file.stem:
        msg = f'"{token_file}" is no vocabulary. Give a folder, or a published {_TOKENS}*.pkl.'
        raise UnknownVocabularyError(msg)
    folder = token_file.parent
    tokens = _read_dictionary(token_file, int)
    medians = _read_dictionary(folder / f"{_MEDIANS}{tag}.pkl", float)
    names, mapping = (folder / f"{stem}{tag}.pkl" for stem in (_NAMES, _MAPPING))
    aliases = _read_dictionary(mapping, str) if mapping.exists() else None
    if aliases == {gene: gene for gene in tokens if gene not in SPECIAL}:
        aliases = None
    symbols = _read_dictionary(names, str) if names.exists() else {}
    tables = MemoryTables(medians=medians, symbols=symbols, aliases=aliases)
    return vocabulary_from(folder.name + tag, tokens, medians, math.nan, tables)


def vocabulary_from(
    name: str,
    tokens: Mapping[str, int],
    medians: Mapping[str, float] | None = None,
    other_median: float = 1.0,
    tables: "MemoryTables | None" = None,
) -> Vocabulary:
    """A vocabulary with the tokens of a published dictionary."""
    genes = {gene: number for gene, number in tokens.items() if gene not in SPECIAL}
    special = {token: number for token, number in tokens.items() if token in SPECIAL}
    tables = tables or MemoryTables(medians={}, symbols={}, aliases=None)
    return Vocabulary(
        name=name,
        genes=list(genes),  # type: ignore[arg-type]
        token_ids=list(genes.values()),  # type: ignore[arg-type]
        medians=[(medians or {}).get(gene, other_median) for gene in genes],  # type: ignore[arg-type]
        special_tokens=special,
        input_size=4096 if CLS in special else 2048,
        tables=tables,
    )


def _read_dictionary(path: Path, kind: type) -> dict[str, Any]:
    """A published dictionary whose keys are text and whose values are of one kind."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}, not a dictionary. Give the published file.'
        raise InvalidVocabularyError(msg)
    for key, value in content.items():
        if not isinstance(key, str) or (type(value) is not kind and not (kind is float and type(value) is int)):
            msg = f'"{path}" has the entry {key!r}: {value!r}. Every entry takes a text and a {kind.__name__}.'
            raise InvalidVocabularyError(msg)
    return content


GENES = "genes.parquet"
"""Gene, token id (null for genes that only have a median), nonzero median."""

SYMBOLS = "symbols.parquet"
"""Symbol as written, gene. Absent where a vocabulary has no symbols."""

ALIASES = "aliases.parquet"
"""Upper-case symbol, retired or current id; gene. Absent where every id stands for itself."""


_ROWS = 16_384
"""Rows of a table that are in memory at a time."""


@dataclass(frozen=True, kw_only=True)
class MemoryTables:
    """What a vocabulary reads only when it is asked for, held in memory."""

    medians: Mapping[str, float]
    """Nonzero median of every gene that has one, token genes and others."""

    symbols: Mapping[str, str]
    """Symbol as written to gene."""

    aliases: Mapping[str, str] | None
    """Upper-case symbol, retired or current id to gene; None where every id stands for itself."""

    @property
    def has_aliases(self) -> bool:
        """Whether there is a table of aliases."""
        return self.aliases is not None

    def symbols_spelling(self, names: Set[str]) -> dict[str, str]:
        """Those of `symbols` that are one of the names in upper case."""
        return {symbol: gene for symbol, gene in self.symbols.items() if symbol.upper() in names}

    def aliases_among(self, names: Set[str]) -> dict[str, str]:
        """Those of `aliases` that are among the names."""
        return {name: gene for name, gene in (self.aliases or {}).items() if name in names}


@dataclass(frozen=True)
class FolderTables:
    """The same in a vocabulary folder, each table read once."""

    folder: Path

    @cached_property
    def medians(self) -> Mapping[str, float]:
        """Nonzero median of every gene that has one, token genes and others."""
        genes, _, medians = read_genes(self.folder)
        return {gene: median for gene, median in zip(genes, medians, strict=True) if median is not None}

    @cached_property
    def symbols(self) -> Mapping[str, str]:
        """Symbol as written to gene."""
        return _read_pairs(self.folder / SYMBOLS, "symbol") or {}

    @cached_property
    def aliases(self) -> Mapping[str, str] | None:
        """Upper-case symbol, retired or current id to gene; None where every id stands for itself."""
        return _read_pairs(self.folder / ALIASES, "identifier")

    @property
    def has_aliases(self) -> bool:
        """Whether there is a table of aliases."""
        return (self.folder / ALIASES).exists()

    def symbols_spelling(self, names: Set[str]) -> dict[str, str]:
        """Those of `symbols` that are one of the names in upper case; only these are ever in memory."""
        return _read_pairs(self.folder / SYMBOLS, "symbol", lambda symbol: symbol.upper() in names) or {}

    def aliases_among(self, names: Set[str]) -> dict[str, str]:
        """Those of `aliases` that are among the names; only these are ever in memory."""
        return _read_pairs(self.folder / ALIASES, "identifier", names.__contains__) or {}


Tables = MemoryTables | FolderTables


def read_genes(folder: Path) -> tuple[list[str], list[int | None], list[float | None]]:
    """Genes, token ids and medians of a vocabulary folder, row by row."""
    columns: list[list[Any]] = [[], [], []]
    for batch in _read_batches(folder / GENES, {"gene": "string", "token_id": "int32", "median": "double"}):
        for column, array in zip(columns, batch, strict=True):
            column.extend(array.to_pylist())
    genes, token_ids, medians = columns
    return genes, token_ids, medians


def write_tables(tables: Tables, token_of: dict[str, int], folder: Path) -> None:
    """Write the tables of a vocabulary into a folder that exists."""
    medians = tables.medians
    genes = [*medians, *(gene for gene in token_of if gene not in medians)]
    _write(
        {
            "gene": pa.array(genes, pa.string()),
            "token_id": pa.array([token_of.get(gene) for gene in genes], pa.int32()),
            "median": pa.array([medians.get(gene) for gene in genes], pa.float64()),
        },
        folder / GENES,
    )
    for pairs, column, file in ((tables.symbols, "symbol", SYMBOLS), (tables.aliases, "identifier", ALIASES)):
        if pairs:
            texts = {column: pa.array(list(pairs), pa.string()), "gene": pa.array(list(pairs.values()), pa.string())}
            _write(texts, folder / file)


def _write(columns: dict[str, object], path: Path) -> None:
    from pyarrow import parquet

    plain = {"median": "BYTE_STREAM_SPLIT", "token_id": "DELTA_BINARY_PACKED"}
    parquet.write_table(
        pa.table(columns),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        column_encoding={name: plain.get(name, "DELTA_BYTE_ARRAY") for name in columns},
        write_statistics=False,
        store_schema=False,
    )


def _read_pairs(path: Path, column: str, accept: Callable[[str], bool] | None = None) -> dict[str, str] | None:
    """Text and gene of the accepted rows of a table; None without the file."""
    if not path.exists():
        return None
    pairs: dict[str, str] = {}
    for keys, genes in _read_batches(path, {column: "string", "gene": "string"}):
        for row, key in enumerate(keys.to_pylist()):
            if accept is not None and not accept(key):
                continue
            if key in pairs:
                msg = f'"{path}" lists {column} "{key}" twice. Keep one line for each {column}.'
                raise InvalidVocabularyError(msg)
            pairs[key] = genes[row].as_py()
    return pairs


def _read_batches(path: Path, columns: Mapping[str, str]) -> Iterator[list[Any]]:
    """The columns of a Parquet file as arrays of the given kinds, some thousand rows at a time."""
    from pyarrow import parquet

    try:
        # Unlike `read_table`, this does not load pandas.
        with _returned_memory(), parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=list(columns), use_threads=False):
                arrays = [(batch.column(name), kind) for name, kind in columns.items()]
                yield [array if str(array.type) == kind else array.cast(kind) for array, kind in arrays]
    except (OSError, KeyError, pa.ArrowException) as error:
        msg = f'"{path}" cannot be read as a vocabulary table with the columns {", ".join(columns)}: {reason_of(error)}'
        raise InvalidVocabularyError(msg) from error


@contextmanager
def _returned_memory() -> Iterator[None]:
    """Let Arrow give memory back when it is done: a table leaves ten times its size in the pool it uses else."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


def _contradictions(
    genes: Sequence[str],
    token_ids: Sequence[int],
    medians: NDArray[np.float64],
    special_tokens: Mapping[str, int],
    input_size: int,
) -> Iterator[str]:
    """Why a vocabulary cannot be used; each reason may rely on those before it not to hold."""
    if not len(genes) == len(token_ids) == len(medians):
        yield f"has {len(genes)} genes, {len(token_ids)} token ids and {len(medians)} medians. Give one of each."
    both_or_neither = (CLS in special_tokens) == (EOS in special_tokens)
    if not {PAD, MASK} <= special_tokens.keys() <= set(SPECIAL) or not both_or_neither:
        yield (
            f"has the special tokens {list(special_tokens)}. It takes {PAD} and {MASK}, "
            f"and {CLS} and {EOS} both or neither."
        )
    if special_tokens[PAD] != 0:
        yield f"gives {PAD} the id {special_tokens[PAD]}. It must be 0, which is what models pad with."
    if not len(genes):
        yield "has no genes."
    yield from _gene_contradictions(genes)
    yield from _id_contradictions([*special_tokens, *genes], [*special_tokens.values(), *token_ids])
    for row in np.flatnonzero(~(np.isfinite(medians) & (medians > 0))).tolist():
        yield f'gives the gene "{genes[row]}" the median {medians[row]}. A nonzero median is a positive number.'
    if isinstance(input_size, bool) or not isinstance(input_size, int) or input_size <= len(special_tokens):
        yield (
            f"has an input size of {input_size!r}. It takes a whole number above {len(special_tokens)}, such as 2048."
        )


def _gene_contradictions(genes: Sequence[str]) -> Iterator[str]:
    # One look at all of them joined settles most cases.
    if set(map(type, genes)) == {str} and all(genes) and len(set(map(str.upper, genes))) == len(genes):
        joined = "".join(genes)
        if joined.isprintable() and " " not in joined:
            return
    first: dict[str, str] = {}
    for gene in genes:
        if not isinstance(gene, str) or not gene.strip() or gene != gene.strip() or not gene.isprintable():
            yield f"has a gene named {gene!r}. A gene is named by a printable text without surrounding spaces."
        if gene.upper() in first:
            yield f'has the gene "{gene}" twice (first as "{first[gene.upper()]}"). Keep one.'
        first[gene.upper()] = gene


def _id_contradictions(entries: Sequence[str], ids: Sequence[int]) -> Iterator[str]:
    size = len(entries)
    if set(map(type, ids)) == {int} and set(ids) == set(range(size)):
        return
    owner: dict[int, str] = {}
    for entry, token in zip(entries, ids, strict=True):
        if isinstance(token, bool) or not isinstance(token, int):
            yield f'gives "{entry}" the id {token!r}. An id is a whole number.'
        if token in owner:
            yield f'gives the id {token} to "{owner[token]}" and to "{entry}". Give each its own.'
        owner[token] = entry
    outside = next(token for token in owner if not 0 <= token < size)
    hole = next(number for number in range(size) if number not in owner)
    yield (
        f'gives "{owner[outside]}" the id {outside} and leaves out {hole}. {size} tokens take the ids 0 to {size - 1}.'
    )
