"""`Vocabulary`: which genes a model knows, their token ids and nonzero medians, and the special tokens."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geneformer.errors import InvalidVocabularyError, UnknownVocabularyError
from geneformer.options._check import nearest
from geneformer.runs.files import atomic_folder
from geneformer.vocab.checks import CLS, EOS, MASK, PAD, check_entries
from geneformer.vocab.storage import FORMAT, META, read_stored
from geneformer.vocab.tables import MemoryTables, Tables, write_tables

BUNDLED = ("V1", "V2")
"""Vocabularies that ship with the package: gc30M and gc104M of the published one."""

_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Vocabulary:
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
    >>> from geneformer.vocab.vocabulary import Vocabulary
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
    tables: Tables = field(default_factory=lambda: MemoryTables(medians={}, symbols={}, aliases=None))

    def __post_init__(self) -> None:
        genes = np.array(list(self.genes), dtype=object)
        medians = np.array(self.medians, dtype=np.float64)
        ids = np.asarray(self.token_ids)
        check_entries(self.name, genes.tolist(), ids.tolist(), medians.tolist(), self.special_tokens, self.input_size)
        order = np.argsort(ids, kind="stable")
        for name, values in (
            ("genes", genes[order]),
            ("token_ids", ids[order].astype(np.int32)),
            ("medians", medians[order]),
        ):
            values.flags.writeable = False
            object.__setattr__(self, name, values)
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
        if name_or_folder in BUNDLED:
            return _load_bundled(str(name_or_folder))
        path = Path(name_or_folder)
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

    def _complete_tables(self) -> MemoryTables:
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

    def symbol_of(self, gene: str) -> str:
        """Symbol of a gene, or the gene's id where none is known.

        Symbols of the corpus come first, then those that ship with V2.
        """
        return self._symbol_of.get(gene) or _bundled_symbols().get(gene, gene)

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
            "gene_median_dictionary": self._complete_tables().medians,
            "gene_name_id_dict": dict(self.tables.symbols),
            "ensembl_mapping_dict": dict(mapping) if mapping is not None else {g: g for g in self.genes.tolist()},
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Vocabulary({self.name!r}, {len(self.genes):,} genes, {len(self.special_tokens)} special tokens, "
            f"input size {self.input_size:,}, fingerprint {self.fingerprint[:12]})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get vocabularies; what was derived is derived again there.
        fields = {
            "name": self.name,
            "genes": self.genes,
            "token_ids": self.token_ids,
            "medians": self.medians,
            "special_tokens": dict(self.special_tokens),
            "input_size": self.input_size,
            "tables": self.tables,
        }
        return _rebuild, (fields,)


def _rebuild(fields: dict[str, Any]) -> Vocabulary:
    return Vocabulary(**fields)


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    values.flags.writeable = False
    return values


@cache
def _load_bundled(name: str) -> Vocabulary:
    return _load_folder(_ASSETS / name)


@cache
def _bundled_symbols() -> dict[str, str]:
    """Symbol of each gene in the newest table that ships with the package."""
    return {gene: symbol for symbol, gene in _load_bundled("V2").symbols.items()}


def _load_folder(path: Path) -> Vocabulary:
    stored = read_stored(path)
    vocabulary = Vocabulary(
        name=stored.name,
        genes=np.array(list(stored.token_of), dtype=object),
        token_ids=np.array(list(stored.token_of.values()), dtype=np.int64),
        medians=np.array(stored.medians, dtype=np.float64),
        special_tokens=stored.special_tokens,
        input_size=stored.input_size,
        tables=stored.tables,
    )
    if stored.fingerprint not in (None, vocabulary.fingerprint):
        msg = (
            f'Vocabulary "{path}" does not match its own fingerprint: {META} says {stored.fingerprint}, the entries '
            f"give {vocabulary.fingerprint}. Copy the folder again, or remove the fingerprint from {META} if "
            "the entries were edited on purpose."
        )
        raise InvalidVocabularyError(msg)
    return vocabulary
