"""The dictionaries behind a vocabulary, in memory or read from its folder when first asked for."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from geneformer.errors import InvalidVocabularyError

GENES = "genes.parquet"
"""Gene, token id (null for genes that only have a median), nonzero median."""

SYMBOLS = "symbols.parquet"
"""Symbol as written, gene. Absent where a vocabulary has no symbols."""

ALIASES = "aliases.parquet"
"""Upper-case symbol, retired or current id; gene. Absent where every id stands for itself."""


_ROWS = 16_384
"""Rows of a table that are in memory at a time."""


class Tables(Protocol):
    """What a vocabulary reads only when it is asked for."""

    @property
    def medians(self) -> dict[str, float]:
        """Nonzero median of every gene that has one, token genes and others."""

    @property
    def symbols(self) -> dict[str, str]:
        """Symbol as written to gene."""

    @property
    def aliases(self) -> dict[str, str] | None:
        """Upper-case symbol, retired or current id to gene; None where every id stands for itself."""

    @property
    def has_aliases(self) -> bool:
        """Whether there is a table of aliases."""

    def symbols_spelling(self, names: Set[str]) -> dict[str, str]:
        """Those of `symbols` that are one of the names in upper case."""

    def aliases_among(self, names: Set[str]) -> dict[str, str]:
        """Those of `aliases` that are among the names."""


@dataclass(frozen=True, kw_only=True)
class MemoryTables:
    """Tables held in memory."""

    medians: dict[str, float]
    symbols: dict[str, str]
    aliases: dict[str, str] | None

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
    """Tables of a vocabulary folder, each read once."""

    folder: Path

    @cached_property
    def medians(self) -> dict[str, float]:
        """Nonzero median of every gene that has one, token genes and others."""
        genes, _, medians = read_genes(self.folder)
        return {gene: median for gene, median in zip(genes, medians, strict=True) if median is not None}

    @cached_property
    def symbols(self) -> dict[str, str]:
        """Symbol as written to gene."""
        return _read_pairs(self.folder / SYMBOLS, "symbol") or {}

    @cached_property
    def aliases(self) -> dict[str, str] | None:
        """Upper-case symbol, retired or current id to gene; None where every id stands for itself."""
        return _read_pairs(self.folder / ALIASES, "identifier")

    @property
    def has_aliases(self) -> bool:
        """Whether there is a table of aliases."""
        return (self.folder / ALIASES).exists()

    def symbols_spelling(self, names: Set[str]) -> dict[str, str]:
        """Those of `symbols` that are one of the names in upper case; only these are ever in memory."""

        def wanted(symbols: list[str]) -> list[int]:
            return [row for row, symbol in enumerate(symbols) if symbol.upper() in names]

        return _read_pairs(self.folder / SYMBOLS, "symbol", wanted) or {}

    def aliases_among(self, names: Set[str]) -> dict[str, str]:
        """Those of `aliases` that are among the names; only these are ever in memory."""

        def wanted(aliases: list[str]) -> list[int]:
            return [row for row, alias in enumerate(aliases) if alias in names]

        return _read_pairs(self.folder / ALIASES, "identifier", wanted) or {}


def read_genes(folder: Path) -> tuple[list[str], list[int | None], list[float | None]]:
    """Genes, token ids and medians of a vocabulary folder, row by row.

    Raises
    ------
    InvalidVocabularyError
        The file is missing, damaged, or has other columns.
    """
    genes, token_ids, medians = _read_columns(
        folder / GENES, {"gene": "string", "token_id": "int32", "median": "double"}
    )
    return genes, token_ids, medians


def write_tables(tables: Tables, token_of: dict[str, int], folder: Path) -> None:
    """Write the tables of a vocabulary into a folder that exists.

    Parameters
    ----------
    tables
        What to write.
    token_of
        Token id of each token gene.
    folder
        Where to; three files at most.
    """
    import pyarrow as pa

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
    import pyarrow as pa
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


def _every(keys: list[str]) -> Iterable[int]:
    return range(len(keys))


def _read_pairs(
    path: Path, column: str, wanted: Callable[[list[str]], Iterable[int]] = _every
) -> dict[str, str] | None:
    """Text and gene of the wanted ones among some rows; nothing without the file."""
    if not path.exists():
        return None
    pairs: dict[str, str] = {}
    for keys, genes in _read_batches(path, {column: "string", "gene": "string"}):
        texts = keys.to_pylist()
        for row in wanted(texts):
            key = texts[row]
            if key in pairs:
                msg = f'"{path}" lists {column} "{key}" twice. Keep one line for each {column}.'
                raise InvalidVocabularyError(msg)
            pairs[key] = genes[row].as_py()
    return pairs


def _read_columns(path: Path, columns: Mapping[str, str]) -> list[list[Any]]:
    """The columns of a Parquet file as lists of the kinds wanted."""
    read: list[list[Any]] = [[] for _ in columns]
    for batch in _read_batches(path, columns):
        for values, array in zip(read, batch, strict=True):
            values.extend(array.to_pylist())
    return read


def _read_batches(path: Path, columns: Mapping[str, str]) -> Iterator[list[Any]]:
    """The columns of a Parquet file as arrays of the kinds wanted, some thousand rows at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Unlike `read_table`, this does not load pandas.
        with _returned_memory(), parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS, columns=list(columns), use_threads=False):
                arrays = [(batch.column(name), kind) for name, kind in columns.items()]
                yield [array if str(array.type) == kind else array.cast(kind) for array, kind in arrays]
    except (OSError, KeyError, pa.ArrowException) as error:
        msg = f'"{path}" cannot be read as a vocabulary table with the columns {", ".join(columns)}: {error}'
        raise InvalidVocabularyError(msg) from error


@contextmanager
def _returned_memory() -> Iterator[None]:
    """Let Arrow give memory back when it is done: a table leaves ten times its size in the pool it uses else."""
    import pyarrow as pa

    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)
