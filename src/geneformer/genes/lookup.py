"""Every identifier under which a gene of a vocabulary is known, and one column of names looked up in it."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    GeneIdsNotFoundError,
    TooFewGenesMatchedError,
    UnknownColumnError,
    UnknownGeneError,
    UnsupportedGeneIdsError,
    WrongSpeciesError,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options._fields import nearest

MISSING: Final = frozenset({"", "nan", "none", "na", "<na>", "n/a", "null"})
"""Spellings, in lower case, of an identifier that is not there."""

_LONGEST_MISSING: Final = max(map(len, MISSING))

MOUSE: Final = "mouse"
MOUSE_OR_RAT: Final = "mouse (or rat)"
TRANSCRIPTS: Final = "Ensembl transcripts"
PROTEINS: Final = "Ensembl proteins or exons"
REFSEQ: Final = "RefSeq transcripts"
ENTREZ: Final = "Entrez numbers"
HGNC: Final = "HGNC numbers"
PROBES: Final = "microarray probes"

_SPECIES: Final = {
    "MUS": MOUSE,
    "RNO": "rat",
    "DAR": "zebrafish",
    "SSC": "pig",
    "BTA": "cow",
    "MMU": "macaque",
    "MFA": "macaque",
    "PTR": "chimpanzee",
    "GAL": "chicken",
    "CAF": "dog",
    "FCA": "cat",
    "OCU": "rabbit",
    "ECA": "horse",
    "OAR": "sheep",
    "XET": "frog",
}

_ASSEMBLY: Final = re.compile(r"(?:GRCh3[78]|hg19|hg38)(?:-[0-9A-Z.-]+)?(?:_premrna)?_+", re.IGNORECASE)
_FOREIGN_ASSEMBLY: Final = {
    re.compile(r"(?:mm9|mm10|mm39|GRCm3[89])(?:-[0-9A-Z.-]+)?_+", re.IGNORECASE): MOUSE,
    re.compile(r"(?:rn[67]|mRatBN7\.2|Rnor_6\.0)_+", re.IGNORECASE): "rat",
}
_VERSIONED: Final = re.compile(r"(ENS[A-Z]*[GTP]\d{11}|ENSGR\d{10})\.\d+(?=$|_PAR_Y$)")
_SPECIES_ID: Final = re.compile(r"ENS([A-Z]{3})[A-Z]?[GTPE]\d{11}(?:\.\d+)?")
_KINDS: Final = {
    TRANSCRIPTS: r"ENST\d{11}(?:\.\d+)?(?:_PAR_Y)?",
    PROTEINS: r"ENS[PE]\d{11}(?:\.\d+)?",
    REFSEQ: r"[NX][MRP]_\d{5,}(?:\.\d+)?",
    ENTREZ: r"\d+(?:\.0)?",
    HGNC: r"HGNC:\d+",
    PROBES: r"(?:AFFX-.*|\d+(?:_[A-Z]+)*_AT|ILMN_\d+|A_\d{2}_P\d+|CG\d{8})",
    MOUSE: r"MGI:\d+",
    "fruit fly": r"FBGN\d{7}",
    "roundworm": r"WBGENE\d{8}",
    "thale cress": r"AT[1-5MC]G\d{5}",
    "yeast": r"Y[A-P][LR]\d{3}[WC](?:-[A-Z])?",
}
_ANY_KIND: Final = re.compile("|".join(f"(?P<kind{n}>{pattern})" for n, pattern in enumerate(_KINDS.values())))
_MOUSE_SYMBOL: Final = re.compile(r"[A-Z][a-z0-9.-]*[a-z][a-z0-9.-]*|\w+Rik|mt-[A-Z][a-z0-9]+|H2-\w+")

UNSUPPORTED: Final = {
    TRANSCRIPTS: "Sum the transcripts of each gene (tximport, or a GTF file) and give gene ids (ENSG…).",
    PROTEINS: "Give gene ids (ENSG…); BioMart translates protein to gene ids.",
    REFSEQ: "Sum the transcripts of each gene and give gene ids (ENSG…) or symbols.",
    ENTREZ: "Translate them to Ensembl ids or symbols (BioMart, mygene), or name another column with gene_ids=.",
    HGNC: "Translate them to symbols or Ensembl ids with the HGNC table, or name another column with gene_ids=.",
    PROBES: "Geneformer reads counts of genes: map probes to genes with the array's annotation file first.",
}
"""Kinds of identifiers that are no genes of a vocabulary, and what to do about each."""


def text_of(entry: object) -> str:
    """An entry of a column as text without surrounding spaces; empty where it is missing."""
    if isinstance(entry, bytes):
        entry = entry.decode("utf-8", "replace")
    text = entry.strip() if isinstance(entry, str) else str(entry).strip()
    return "" if len(text) <= _LONGEST_MISSING and text.lower() in MISSING else text


def repaired(text: str) -> tuple[str, tuple[str, ...]]:
    """An identifier in upper case, without prefix and version, and the names of the repairs that took."""
    done = []
    if match := _ASSEMBLY.match(text):
        text = text[match.end() :]
        done.append("prefix")
    upper = text.upper()
    if match := _VERSIONED.match(upper):
        upper = match.group(1) + upper[match.end() :]
        done.append("version")
    if upper.startswith("ENSG") and upper.endswith("_PAR_Y"):
        upper = upper.removesuffix("_PAR_Y")
        done.append("par_y")
    return upper, tuple(done)


def foreign_kind(text: str) -> str | None:
    """Another species, or a kind of identifier that names no gene; None where nothing is recognized."""
    if text.startswith("ENSG0"):
        return None
    for pattern, species in _FOREIGN_ASSEMBLY.items():
        if pattern.match(text):
            return species
    upper = repaired(text)[0]
    if match := _SPECIES_ID.fullmatch(upper):
        return _SPECIES.get(match.group(1), f"other species' (ENS{match.group(1)}…)")
    match = _ANY_KIND.fullmatch(upper)
    return None if match is None else list(_KINDS)[int(str(match.lastgroup).removeprefix("kind"))]


def looks_like_mouse_symbol(text: str) -> bool:
    """Whether a symbol is spelled the way of mouse and rat: one capital, then small letters."""
    return _MOUSE_SYMBOL.fullmatch(text) is not None


ID, RETIRED, SYMBOL, ALIAS = "id", "retired", "symbol", "alias"
HOW: Final = ("unmatched", ID, SYMBOL, RETIRED, ALIAS, "missing", "withheld")
"""How a name was resolved; columns hold indices into this."""

UNMATCHED_CODE, MISSING_CODE, WITHHELD_CODE = HOW.index("unmatched"), HOW.index("missing"), HOW.index("withheld")

_ORF: Final = re.compile(r"(?<=^C)([0-9XY]+)ORF")
"""Open reading frames are the one kind of human symbol that is spelled with small letters."""


class Known(NamedTuple):
    """What an identifier stands for."""

    position: int
    how: int
    spelled: str
    borrowed: bool


@dataclass(slots=True)
class LookedUp:
    """One column of names, looked up."""

    column: str
    texts: list[str]
    positions: NDArray[np.int32]
    hows: NDArray[np.int8]
    borrowed: NDArray[np.bool_]
    repairs: dict[int, tuple[str, ...]]
    foreign: dict[str, int]
    n_mouse_symbols: int

    @property
    def n_present(self) -> int:
        """Names that are there."""
        return int(np.count_nonzero(self.hows != MISSING_CODE))

    @property
    def n_distinct(self) -> int:
        """Different genes matched."""
        return len(np.unique(self.positions[self.positions >= 0]))

    @property
    def is_ids(self) -> bool:
        """Whether most matches are by Ensembl id rather than by symbol."""
        hows = self.hows[self.positions >= 0]
        return 2 * int(np.isin(hows, (HOW.index(ID), HOW.index(RETIRED))).sum()) > len(hows)


class KnownNames:
    """What each upper-case identifier stands for, genes without a token left out."""

    def __init__(self, vocabulary: Vocabulary, *, borrow: bool) -> None:
        own = vocabulary.tables.has_aliases
        self._place_of = vocabulary.position_of
        self.plain = {
            gene: place for gene, place in self._place_of.items() if gene.isupper() and gene.lower() not in MISSING
        }
        self._ids = {gene.upper(): gene for gene in self._place_of if gene not in self.plain}
        self._borrowed = not own
        self._tables = vocabulary.tables
        history = vocabulary if own else Vocabulary.load("V2") if borrow else None
        self._history = None if history is None else history.tables
        self._symbols: dict[str, tuple[str, str]] = {}
        self._aliases: dict[str, str] = {}
        self._official: dict[str, str] = {}
        self._found: dict[str, Known | None] = {}
        self._learnt: set[str] = set()

    def learn(self, names: Iterable[str]) -> None:
        """Look names up in the tables, all at once: each time they are read to their end."""
        new = set(names) - self._learnt
        if not new:
            return
        self._learnt |= new
        symbols = self._tables.symbols_spelling(new)
        self._symbols |= {s.upper(): (s, gene) for s, gene in symbols.items() if gene in self._place_of}
        if self._history is not None:
            official = symbols if self._history is self._tables else self._history.symbols_spelling(new)
            self._official |= {symbol.upper(): symbol for symbol in official}
            self._aliases |= self._history.aliases_among(new)

    def get(self, name: str) -> Known | None:
        """What a name stands for, or nothing."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Known | None:
        gene = name if name in self.plain else self._ids.get(name)
        if gene is not None:
            return Known(self._place_of[gene], HOW.index(ID), gene, borrowed=False)
        if name not in self._learnt:
            self.learn((name,))
        if name in self._symbols:
            symbol, gene = self._symbols[name]
            return Known(self._place_of[gene], HOW.index(SYMBOL), symbol, borrowed=False)
        place = self._place_of.get(self._aliases.get(name, ""))
        if place is None:
            return None
        how = RETIRED if _is_ensembl(name) else SYMBOL if name in self._official else ALIAS
        spelled = self._official.get(name) or _ORF.sub(r"\1orf", name)
        return Known(place, HOW.index(how), spelled, borrowed=self._borrowed)


class _SameObject:
    """A vocabulary as a cache key: equal ones may still know different symbols."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameObject) and self.vocabulary is other.vocabulary

    def __hash__(self) -> int:
        return id(self.vocabulary)


def known_names(vocabulary: Vocabulary, *, borrow: bool = True) -> KnownNames:
    """The names of a vocabulary, put together once."""
    return _known_names(_SameObject(vocabulary), borrow)


@lru_cache(maxsize=8)
def _known_names(key: _SameObject, borrow: bool) -> KnownNames:
    return KnownNames(key.vocabulary, borrow=borrow)


def look_up(column: str, entries: Iterable[object], known: KnownNames) -> LookedUp:
    """One column of names looked up, each by itself: ids and symbols may be mixed."""
    raw = list(entries)
    positions = [known.plain.get(entry, -1) if type(entry) is str else -1 for entry in raw]
    texts = [str(entry) if place >= 0 else text_of(entry) for entry, place in zip(raw, positions, strict=True)]
    rest = [row for row, place in enumerate(positions) if place < 0]
    known.learn(name for row in rest for name in _spellings(texts[row]))
    hows, borrowed = [HOW.index(ID)] * len(texts), [False] * len(texts)
    repairs_of: dict[int, tuple[str, ...]] = {}
    foreign: Counter[str] = Counter()
    n_mouse_symbols = 0
    for row in rest:
        text = texts[row]
        hows[row] = UNMATCHED_CODE if text else MISSING_CODE
        if not text:
            continue
        if text.startswith("ENSG0") and _is_proper_id(text) and known.get(text) is None:
            continue  # a gene without a token, and nothing else
        match, repairs = _find(text, known)
        if match is not None:
            positions[row], hows[row], spelled, borrowed[row] = match
        elif (kind := foreign_kind(text)) is not None:
            foreign[kind] += 1
        if (match is None or spelled != text) and looks_like_mouse_symbol(text):
            n_mouse_symbols += 1
        if match is not None and isinstance(raw[row], str) and raw[row] != text:
            repairs = ("spaces", *repairs)
        if repairs:
            repairs_of[row] = repairs
    return LookedUp(
        column,
        texts,
        np.array(positions, dtype=np.int32),
        np.array(hows, dtype=np.int8),
        np.array(borrowed, dtype=np.bool_),
        repairs_of,
        dict(foreign),
        n_mouse_symbols,
    )


_ENSEMBL_LENGTH = len("ENSG00000000003")


def _is_ensembl(name: str) -> bool:
    return name.startswith("ENSG") and name[-10:].isdigit()


def _is_proper_id(text: str) -> bool:
    return len(text) == _ENSEMBL_LENGTH and _is_ensembl(text)


def _spellings(text: str) -> tuple[str, ...]:
    """The names that `_find` may ask for."""
    return (text,) if _is_proper_id(text) else (text, text.upper(), repaired(text)[0])


def _find(text: str, known: KnownNames) -> tuple[Known | None, tuple[str, ...]]:
    """What a name stands for and what had to be repaired."""
    match = known.get(text)
    if match is not None and match.spelled == text:
        return match, ()
    repairs: tuple[str, ...] = ()
    if match is None and _is_proper_id(text):
        return None, repairs  # of a gene without a token: nothing to repair
    match = known.get(text.upper())
    if match is None:
        upper, repairs = repaired(text)
        match = known.get(upper)
    if match is not None and match.spelled not in text and match.spelled.upper() not in text:
        repairs = (*repairs, "case")
    return match, repairs


MAX_UNNAMED = 0.01
"""Most of the counts that may lie in columns without any name."""

_LABELS = {
    "id": "by Ensembl id",
    "symbol": "by symbol",
    "retired": "by retired Ensembl id",
    "alias": "by earlier symbol",
}
_REPAIRS = {
    "version": "version suffix removed",
    "prefix": "assembly prefix removed",
    "par_y": "_PAR_Y removed",
    "case": "case corrected",
    "spaces": "spaces removed",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneMatch:
    """Columns of a matrix matched to the genes of a vocabulary."""

    vocabulary: Vocabulary
    positions: NDArray[np.int32]
    names: NDArray[Any]
    hows: NDArray[np.int8]
    column: str
    kind: str
    n_repaired: Mapping[str, int]
    n_from_other: int
    foreign: Mapping[str, int]

    @property
    def n_genes(self) -> int:
        """Columns of the matrix."""
        return len(self.positions)

    @property
    def n_matched(self) -> int:
        """Columns that are a gene of the vocabulary."""
        return int(np.count_nonzero(self.positions >= 0))

    @property
    def n_distinct(self) -> int:
        """Genes of the vocabulary that the matrix has."""
        return len(np.unique(self.positions[self.positions >= 0]))

    @property
    def n_summed(self) -> int:
        """Columns added to another one of the same gene."""
        return self.n_matched - self.n_distinct

    @property
    def n_missing(self) -> int:
        """Columns without any name."""
        return int(np.count_nonzero(self.hows == MISSING_CODE))

    @property
    def n_by_how(self) -> dict[str, int]:
        """Matched columns by "id", "symbol", "retired" and "alias"."""
        return {how: int(np.count_nonzero(self.hows == HOW.index(how))) for how in _LABELS}

    def merged(self) -> dict[str, list[str]]:
        """For each gene that several columns stand for, the names of these columns."""
        order = np.argsort(self.positions, kind="stable")
        order = order[self.positions[order] >= 0]
        starts = np.flatnonzero(np.diff(self.positions[order], prepend=-1))
        groups = np.split(order, starts[1:]) if len(order) else []
        return {
            str(self.vocabulary.genes[self.positions[group[0]]]): [str(self.names[row]) for row in group]
            for group in groups
            if len(group) > 1
        }

    def report(self, counts_per_column: ArrayLike, *, examples: int = 5) -> "MatchReport":
        """The account of the match."""
        counts = np.asarray(counts_per_column, dtype=np.float64).ravel()
        total = float(counts.sum()) or 1.0
        out = np.flatnonzero(self.positions < 0)
        named = out[self.hows[out] != MISSING_CODE]
        top = named[np.argsort(-counts[named], kind="stable")][:examples]
        return MatchReport(
            match=self,
            share_matched=float(counts[self.positions >= 0].sum()) / total,
            share_left_out=float(counts[out].sum()) / total,
            share_missing=float(counts[self.hows == MISSING_CODE].sum()) / total,
            unmatched={str(self.names[row]): float(counts[row]) / total for row in top},
        )


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """How many genes matched, how, and which share of the counts that is."""

    match: GeneMatch
    share_matched: float
    share_left_out: float
    share_missing: float
    unmatched: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The account as plain numbers and text, for a manifest."""
        match = self.match
        return {
            "vocabulary": match.vocabulary.name,
            "column": match.column,
            "kind": match.kind,
            "genes_read": match.n_genes,
            "genes_matched": match.n_matched,
            "genes_summed": match.n_summed,
            "genes_left_out": match.n_genes - match.n_matched,
            "genes_without_name": match.n_missing,
            "matched_by": match.n_by_how,
            "matched_by_another_column": match.n_from_other,
            "repaired": dict(match.n_repaired),
            "other_kinds": dict(match.foreign),
            "share_of_counts_matched": self.share_matched,
            "share_of_counts_left_out": self.share_left_out,
            "share_of_counts_without_name": self.share_missing,
            "left_out_most_counts": dict(self.unmatched),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The account as lines of a table: what, and how many."""
        match = self.match
        rows = [("genes read", f"{match.n_genes:,}"), ("identifiers found in", match.column)]
        rows.append(("genes matched", f"{match.n_matched:,} ({self.share_matched:.1%} of the counts)"))
        rows += [(f"  {_LABELS[how]}", f"{number:,}") for how, number in match.n_by_how.items() if number]
        if match.n_from_other:
            rows.append(("  by another column", f"{match.n_from_other:,}"))
        rows += [(f"  {_REPAIRS[repair]}", f"{number:,}") for repair, number in match.n_repaired.items()]
        rows.append(("summed into another", f"{match.n_summed:,}"))
        rows.append(("left out", f"{match.n_genes - match.n_matched:,} ({self.share_left_out:.1%} of the counts)"))
        if match.n_missing:
            rows.append(("  without a name", f"{match.n_missing:,} ({self.share_missing:.1%} of the counts)"))
        withheld = int(np.count_nonzero(match.hows == WITHHELD_CODE))
        if withheld:
            rows.append(("  retired, current one is there", f"{withheld:,}"))
        if self.unmatched:
            rows.append(("  most counts in", ", ".join(self.unmatched)))
        return rows


def check_matched_share(match: GeneMatch, counts_per_column: ArrayLike, min_matched: float) -> float:
    """Share of all counts in matched columns, once that is enough."""
    counts = np.asarray(counts_per_column, dtype=np.float64).ravel()
    report = match.report(counts)
    if not counts.any():
        return report.share_matched
    if report.share_matched < min_matched:
        msg = (
            f'Only {report.share_matched:.1%} of the counts lie in genes of vocabulary "{match.vocabulary.name}" '
            f"({match.n_matched:,} of {match.n_genes:,} genes, identifiers from {_place(match.column)}); at least "
            f"{min_matched:.0%} are needed. Most counts are left out in {_quoted(report.unmatched)}."
            f"{_suspicion(match)} Name the column of var with Ensembl ids or symbols with gene_ids=, "
            "or lower min_matched= if that is meant."
        )
        raise TooFewGenesMatchedError(msg)
    if report.share_missing > MAX_UNNAMED:
        msg = (
            f"{report.share_missing:.1%} of the counts lie in {match.n_missing:,} genes without an identifier in "
            f"{_place(match.column)} (empty, None or NaN); at most {MAX_UNNAMED:.0%} may. Fill in the "
            "identifiers, remove these genes, or name another column of var with gene_ids=."
        )
        raise GeneIdsNotFoundError(msg)
    return report.share_matched


def _suspicion(match: GeneMatch) -> str:
    """What the names left out look like, if they look like something else."""
    if not match.foreign:
        return ""
    kind = max(match.foreign, key=lambda name: match.foreign[name])
    share = match.foreign[kind] / max(match.n_genes - match.n_missing, 1)
    if share < 0.1:
        return ""
    if kind in UNSUPPORTED:
        return f" {share:.0%} of the identifiers are {kind}. {UNSUPPORTED[kind]}"
    return f" {share:.0%} of the identifiers are {kind} genes; translate these to human orthologs first."


def _place(column: str) -> str:
    return "the index of var" if column == "index" else f'var["{column}"]'


def _quoted(names: Mapping[str, float]) -> str:
    return ", ".join(f'"{name}"' for name in names) or "genes without a name"


INDEX: Final = "index"
"""How the row names of `var` are called."""

_USUAL: Final = (
    "ensembl_id",
    "gene_ids",
    "gene_id",
    "ensembl",
    "feature_id",
    INDEX,
    "gene_symbol",
    "symbol",
    "gene_name",
    "feature_name",
)

_NEARLY: Final = 0.9
"""Ensembl ids are taken over symbols that match this much better: symbols match some wrong genes too."""


def resolve_genes(
    columns: Mapping[str, Sequence[Any]],
    vocabulary: Vocabulary,
    column: str | None = None,
    *,
    borrow: bool = True,
) -> GeneMatch:
    """Which column of a matrix is which gene of the vocabulary."""
    known = known_names(vocabulary, borrow=borrow)
    looked_up = _candidates(columns, column, known)
    chosen = _choose(looked_up)
    _refuse_other_kinds(chosen, looked_up)
    if not chosen.n_distinct:
        raise _not_found(looked_up, columns, vocabulary)
    n_from_other = 0 if column is not None else _fill_in(chosen, looked_up)
    _withhold(chosen)
    return GeneMatch(
        vocabulary=vocabulary,
        positions=chosen.positions,
        names=np.array(chosen.texts, dtype=object),
        hows=chosen.hows,
        column=chosen.column,
        kind="ensembl" if chosen.is_ids else "symbol",
        n_repaired=_tally(chosen),
        n_from_other=n_from_other,
        foreign=dict(chosen.foreign),
    )


def _candidates(columns: Mapping[str, Sequence[Any]], column: str | None, known: KnownNames) -> list[LookedUp]:
    """The columns that may hold identifiers, looked up, in order of preference."""
    if column is not None:
        if _are_row_numbers(columns.get(column, ())):
            return []
        if column not in columns:
            msg = (
                f'var has no column "{column}" with gene identifiers; it has {list(columns)}.{nearest(column, columns)}'
            )
            raise UnknownColumnError(msg)
        return [look_up(column, columns[column], known)]
    lowered = {name: name.lower() for name in columns}
    order = sorted(columns, key=lambda name: _USUAL.index(lowered[name]) if lowered[name] in _USUAL else len(_USUAL))
    distinct: dict[str, list[Any]] = {}
    for name in order:
        entries = list(columns[name])
        if not _are_row_numbers(entries) and entries not in distinct.values():
            distinct[name] = entries
    return [look_up(name, entries, known) for name, entries in distinct.items()]


def _are_row_numbers(entries: Sequence[Any]) -> bool:
    """Whether a column only counts its rows."""
    texts = list(map(str, entries))
    if not texts or texts[0] not in ("0", "1"):
        return False
    first = int(texts[0])
    return texts == [str(row) for row in range(first, first + len(texts))]


def _choose(looked_up: list[LookedUp]) -> LookedUp:
    """The column with most genes, or one of Ensembl ids with nearly as many."""
    if not looked_up:
        msg = (
            "The genes have no identifiers: there are only row numbers. Put Ensembl ids or symbols into the index of "
            'var or into a column "ensembl_id".'
        )
        raise GeneIdsNotFoundError(msg)
    most = max(found.n_distinct for found in looked_up)
    eligible = [found for found in looked_up if found.n_distinct >= _NEARLY * most]
    # max keeps the first of equals, and the columns are in order of preference.
    return max(eligible, key=lambda found: (found.is_ids, found.n_distinct))


def _refuse_other_kinds(chosen: LookedUp, looked_up: list[LookedUp]) -> None:
    """Refuse identifiers of another species or kind, unless the chosen column mostly spells genes of ours."""
    n_ours = int(np.count_nonzero(chosen.positions >= 0)) - chosen.n_mouse_symbols
    if n_ours >= 0.1 * chosen.n_present and n_ours > 0:
        return
    for found in (chosen, *looked_up):
        for kind, number in found.foreign.items():
            if number > 0.5 * found.n_present:
                raise _foreign(kind, number, found)
    for found in (chosen, *looked_up):
        if found.n_mouse_symbols > 0.5 * found.n_present:
            raise _foreign(MOUSE_OR_RAT, found.n_mouse_symbols, found)


def _foreign(kind: str, number: int, found: LookedUp) -> Exception:
    share = f"{number / found.n_present:.0%} of the gene identifiers in {_gene_ids_place(found.column)}"
    first = _first(found.texts)
    if kind in UNSUPPORTED:
        where = "Ensembl gene ids or human symbols"
        msg = f"{share} are {kind} ({first}). The vocabulary holds genes: {where} are needed. {UNSUPPORTED[kind]}"
        return UnsupportedGeneIdsError(msg)
    whose = f"{kind} genes"
    msg = (
        f"{share} are {whose} ({first}). The vocabulary holds human genes. Translate the counts to human one-to-one "
        "orthologs (Ensembl BioMart lists them) and give the human Ensembl ids, or use a vocabulary and a model of "
        "that species."
    )
    return WrongSpeciesError(msg)


def _not_found(
    looked_up: list[LookedUp], columns: Mapping[str, Sequence[Any]], vocabulary: Vocabulary
) -> GeneIdsNotFoundError:
    seen = "; ".join(f"{_gene_ids_place(found.column)} starts with {_first(found.texts)}" for found in looked_up[:4])
    number = len(next(iter(columns.values()), ()))
    msg = (
        f'No gene of vocabulary "{vocabulary.name}" was found among {number:,} genes: {seen}. '
        "Ensembl ids (ENSG…) or human gene symbols are needed; name their column of var with gene_ids=."
    )
    return GeneIdsNotFoundError(msg)


def _fill_in(chosen: LookedUp, looked_up: list[LookedUp]) -> int:
    """Look up the rows without a name by their names in other columns; returns how many that matched."""
    filled = 0
    for other in looked_up:
        if other is chosen or other.n_distinct < 0.3 * chosen.n_distinct:
            continue
        for row in np.flatnonzero((chosen.hows == MISSING_CODE) & (other.hows != MISSING_CODE)).tolist():
            chosen.texts[row] = other.texts[row]
            chosen.positions[row], chosen.hows[row] = other.positions[row], other.hows[row]
            chosen.borrowed[row] = other.borrowed[row]
            filled += int(other.positions[row] >= 0)
            if row in other.repairs:
                chosen.repairs[row] = other.repairs[row]
    return filled


def _withhold(chosen: LookedUp) -> None:
    """Leave out names known only from a borrowed history whose gene is there under a name of its own."""
    own = np.unique(chosen.positions[(chosen.positions >= 0) & ~chosen.borrowed])
    doubled = chosen.borrowed & np.isin(chosen.positions, own)
    chosen.positions[doubled] = -1
    chosen.hows[doubled] = WITHHELD_CODE


def _tally(chosen: LookedUp) -> dict[str, int]:
    """How many matched names took each repair."""
    tally: dict[str, int] = {}
    for row, repairs in chosen.repairs.items():
        if chosen.positions[row] >= 0:
            for repair in repairs:
                tally[repair] = tally.get(repair, 0) + 1
    return tally


def _gene_ids_place(column: str) -> str:
    return "the index of var" if column == INDEX else f'var["{column}"]'


def _first(texts: list[str]) -> str:
    return ", ".join(f'"{text}"' for text in [text for text in texts if text][:5]) or "nothing"


def find_genes(names: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Place of every name among the genes of a vocabulary, ``(n,)``; -1 where it is none of them."""
    return look_up("genes", names, known_names(vocabulary)).positions


def tokens_of_genes(names: Sequence[str], vocabulary: Vocabulary) -> list[int]:
    """Token id of every name: an Ensembl id, with or without version, a symbol, or an earlier one of either."""
    places = find_genes(names, vocabulary)
    unknown = [str(name) for name, place in zip(names, places, strict=True) if place < 0]
    if unknown:
        hint = nearest(unknown[0], (s for s, gene in vocabulary.symbols.items() if gene in vocabulary.token_of))
        msg = (
            f"Not among the {len(vocabulary.genes):,} genes of vocabulary {vocabulary.name}: "
            f"{', '.join(map(repr, unknown[:10]))}. Pass Ensembl ids or symbols; "
            f"`geneformer vocabulary {vocabulary.name} --gene NAME` looks one up.{hint if unknown[0] else ''}"
        )
        raise UnknownGeneError(msg)
    return [int(token) for token in vocabulary.token_ids[places]]
