"""The dictionaries behind a vocabulary, in memory or read from its folder when first asked for."""

from collections import Counter
from collections.abc import Mapping
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


@dataclass(frozen=True, kw_only=True)
class MemoryTables:
    """Tables held in memory."""

    medians: dict[str, float]
    symbols: dict[str, str]
    aliases: dict[str, str] | None


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


def read_genes(folder: Path) -> tuple[list[str], list[int | None], list[float | None]]:
    """Genes, token ids and medians of a vocabulary folder, row by row.

    Raises
    ------
    InvalidVocabularyError
        The file is missing, damaged, or has other columns.
    """
    genes, token_ids, medians = _read_columns(
        folder / GENES, {"gene": "string", "token_id": "int32", "median": "float64"}
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


def _read_pairs(path: Path, column: str) -> dict[str, str] | None:
    if not path.exists():
        return None
    keys, genes = _read_columns(path, {column: "string", "gene": "string"})
    pairs: dict[str, str] = dict(zip(keys, genes, strict=True))
    if len(pairs) != len(keys):
        repeated = Counter(keys).most_common(1)[0][0]
        msg = f'"{path}" lists {column} "{repeated}" twice. Keep one line for each {column}.'
        raise InvalidVocabularyError(msg)
    return pairs


def _read_columns(path: Path, columns: Mapping[str, str]) -> list[list[Any]]:
    """The columns of a Parquet file as lists of the kinds wanted."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Unlike `read_table`, this does not load pandas.
        with parquet.ParquetFile(path) as file:
            table = file.read(columns=list(columns))
        return [table.column(name).cast(kind).to_pylist() for name, kind in columns.items()]
    except (OSError, KeyError, pa.ArrowException) as error:
        msg = f'"{path}" cannot be read as a vocabulary table with the columns {", ".join(columns)}: {error}'
        raise InvalidVocabularyError(msg) from error
