"""Every identifier under which a gene of a vocabulary is known, and one column of names looked up in it."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import (
    AbsentGeneError,
    GeneformerWarning,
    GeneIdsNotFoundError,
    TooFewGenesMatchedError,
    UnknownColumnError,
    UnknownGeneError,
    UnsupportedGeneIdsError,
    WrongSpeciesError,
    option,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options._fields import as_names, nearest, some_of

_ABSENT: Final = frozenset({"", "nan", "none", "na", "<na>", "n/a", "null"})
"""Spellings, in lower case, of an identifier that is not there."""

_ID_LENGTH: Final = len("ENSG00000000003")
_LONGEST_MISSING: Final = max(map(len, _ABSENT))

MOUSE: Final = "mouse"
MOUSE_OR_RAT: Final = "mouse (or rat)"
TRANSCRIPTS: Final = "Ensembl transcripts"
PROTEINS: Final = "Ensembl proteins or exons"
REFSEQ: Final = "RefSeq transcripts"
ENTREZ: Final = "Entrez numbers"
HGNC: Final = "HGNC numbers"
PROBES: Final = "microarray probes"
UNSPLICED: Final = "unspliced or ambiguous counts of genes (-U, -A)"

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

_RELEASE: Final = r"(?:(?:-(?!ENS)[0-9A-Z.-]+)?(?:_premrna)?_+|-+)"
_ASSEMBLY: Final = re.compile(rf"(?:GRCh3[78]|hg19|hg38){_RELEASE}", re.IGNORECASE)
_FOREIGN_ASSEMBLY: Final = {
    re.compile(rf"(?:mm9|mm10|mm39|GRCm3[89]){_RELEASE}", re.IGNORECASE): MOUSE,
    re.compile(rf"(?:rn[67]|mRatBN7\.2|Rnor_6\.0){_RELEASE}", re.IGNORECASE): "rat",
}
_VERSIONED: Final = re.compile(r"(ENS[A-Z]*[GTP]\d{11}|ENSGR\d{10})\.\d+(?:_\d+)?(?=$|_PAR_Y$)")
_JOINED: Final = re.compile(r"(?:(.*)[_|:;, (\[])?(ENSG\d{11})(?:\.\d+)?(?:[_|:;, )\]]+(.*))?")
_NOT_THE_GENE: Final = re.compile(
    r".*ENSG\d{11}.*|[UAIS]|(UN)?SPLICED|AMBIGUOUS|NASCENT|MATURE|INTRON(IC)?S?|EXON(IC)?S?.*"
)
"""What is joined to an Ensembl id where the two together are not that gene alone: a part of it, or a fusion."""
_SPECIES_ID: Final = re.compile(r"ENS([A-Z]{3})[A-Z]?[GTPE]\d{11}(?:\.\d+)?")
_KINDS: Final = {
    TRANSCRIPTS: r"ENST\d{11}(?:\.\d+)?(?:_PAR_Y)?",
    PROTEINS: r"ENS[PE]\d{11}(?:\.\d+)?",
    REFSEQ: r"[NX][MRP]_\d{5,}(?:\.\d+)?",
    ENTREZ: r"\d+(?:\.0)?",
    HGNC: r"HGNC:\d+",
    PROBES: r"(?:AFFX-.*|\d+(?:_[A-Z]+)*_AT|ILMN_\d+|A_\d{2}_P\d+|CG\d{8})",
    UNSPLICED: r"ENSG\d{11}(?:\.\d+)?[-_][UA]",
    MOUSE: r"MGI:\d+",
    "fruit fly": r"FBGN\d{7}",
    "roundworm": r"WBGENE\d{8}",
    "thale cress": r"AT[1-5MC]G\d{5}",
    "yeast": r"Y[A-P][LR]\d{3}[WC](?:-[A-Z])?",
}
_ANY_KIND: Final = re.compile("|".join(f"(?P<kind{n}>{pattern})" for n, pattern in enumerate(_KINDS.values())))
_MOUSE_SYMBOL: Final = re.compile(r"[A-Z][a-z0-9.-]*[a-z][a-z0-9.-]*|\w+Rik|mt-[A-Z][a-z0-9]+|H2-\w+")
"""Symbols of mouse and rat are spelled with one capital, then small letters."""

UNSUPPORTED: Final = {
    TRANSCRIPTS: "Sum the transcripts of each gene (tximport, or a GTF file) and give gene ids (ENSG…).",
    PROTEINS: "Give gene ids (ENSG…); BioMart translates protein to gene ids.",
    REFSEQ: "Sum the transcripts of each gene and give gene ids (ENSG…) or symbols.",
    ENTREZ: "Translate them to Ensembl ids or symbols (BioMart, mygene), or name another column with {option}.",
    HGNC: "Translate them to symbols or Ensembl ids with the HGNC table, or name another column with {option}.",
    UNSPLICED: "Add the three columns of each gene up, where all of its transcripts are meant (alevin-fry: S + U + A).",
    PROBES: "Geneformer reads counts of genes: map probes to genes with the array's annotation file first.",
}
"""Kinds of identifiers that are no genes of a vocabulary, and what to do about each."""


def text_of(entry: object) -> str:
    """An entry of a column as text without surrounding spaces; empty where it is missing."""
    if isinstance(entry, bytes):
        entry = entry.decode("utf-8", "replace")
    text = str(entry).strip()
    return "" if len(text) <= _LONGEST_MISSING and text.lower() in _ABSENT else text


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
    match = _JOINED.fullmatch(upper) if len(upper) > _ID_LENGTH else None
    if match is not None and not any(_NOT_THE_GENE.fullmatch(part or "") for part in match.group(1, 3)):
        upper = match.group(2)
        done.append("joined")
    return upper, tuple(done)


def foreign_kind(text: str) -> str | None:
    """Another species, or a kind of identifier that names no gene; None where nothing is recognized."""
    if text.startswith("ENSG0") and text[-2:-1] not in ("-", "_"):
        return None
    for pattern, species in _FOREIGN_ASSEMBLY.items():
        if pattern.match(text):
            return species
    upper = repaired(text)[0]
    if match := _SPECIES_ID.fullmatch(upper):
        return _SPECIES.get(match.group(1), f"other species' (ENS{match.group(1)}…)")
    match = _ANY_KIND.fullmatch(upper)
    return None if match is None else list(_KINDS)[int(str(match.lastgroup).removeprefix("kind"))]


UNMATCHED, ID, SYMBOL, RETIRED, ALIAS, MISSING, WITHHELD = range(7)
"""How a name was resolved."""

_ORF: Final = re.compile(r"(?<=^C)([0-9XY]+)ORF")
"""Open reading frames are the one kind of human symbol that is spelled with small letters."""


class Known(NamedTuple):
    """What an identifier stands for."""

    position: int
    how: int
    spelled: str
    borrowed: bool


@dataclass(slots=True)
class GeneMatch:
    """A column of names matched to the genes of a vocabulary."""

    vocabulary: Vocabulary
    column: str
    names: list[str]
    positions: NDArray[np.int32]
    hows: NDArray[np.int8]
    borrowed: NDArray[np.bool_]
    repairs: dict[int, tuple[str, ...]]
    foreign: dict[str, int]
    n_mouse_symbols: int
    n_from_other: int = 0

    @property
    def n_genes(self) -> int:
        """Names, those that are missing included."""
        return len(self.positions)

    @property
    def n_matched(self) -> int:
        """Names that are a gene of the vocabulary."""
        return int(np.count_nonzero(self.positions >= 0))

    @property
    def n_distinct(self) -> int:
        """Different genes matched."""
        return len(np.unique(self.positions[self.positions >= 0]))

    @property
    def n_missing(self) -> int:
        """Names that are not there."""
        return self._count(MISSING)

    @property
    def n_present(self) -> int:
        """Names that are there."""
        return self.n_genes - self.n_missing

    @property
    def kind(self) -> str:
        """Whether most matches are by Ensembl id, "ensembl", or by "symbol"."""
        hows = self.hows[self.positions >= 0]
        return "ensembl" if 2 * int(np.isin(hows, (ID, RETIRED)).sum()) > len(hows) else "symbol"

    @property
    def n_by_how(self) -> dict[str, int]:
        """Matched names by "id", "symbol", "retired" and "alias"."""
        return {
            how: self._count(code)
            for how, code in (("id", ID), ("symbol", SYMBOL), ("retired", RETIRED), ("alias", ALIAS))
        }

    @property
    def n_repaired(self) -> dict[str, int]:
        """How many matched names took each repair."""
        return dict(
            Counter(chain.from_iterable(done for row, done in self.repairs.items() if self.positions[row] >= 0))
        )

    def _count(self, how: int) -> int:
        return int(np.count_nonzero(self.hows == how))

    def report(self, counts_per_name: ArrayLike, *, examples: int = 5) -> dict[str, Any]:
        """How many genes matched, how, and which share of the counts that is, for a manifest."""
        counts = np.asarray(counts_per_name, dtype=np.float64).ravel()
        total = float(counts.sum()) or 1.0
        is_matched, is_missing = self.positions >= 0, self.hows == MISSING
        unmatched = np.flatnonzero(~is_matched & ~is_missing)
        top = unmatched[np.argsort(-counts[unmatched], kind="stable")][:examples]
        return {
            "vocabulary": self.vocabulary.name,
            "column": self.column,
            "kind": self.kind,
            "genes_read": self.n_genes,
            "genes_matched": self.n_matched,
            "genes_summed": self.n_matched - self.n_distinct,
            "genes_left_out": self.n_genes - self.n_matched,
            "genes_without_name": self.n_missing,
            "matched_by": self.n_by_how,
            "matched_by_another_column": self.n_from_other,
            "repaired": self.n_repaired,
            "other_kinds": self.foreign,
            "share_of_counts_matched": float(counts[is_matched].sum()) / total,
            "share_of_counts_left_out": float(counts[~is_matched].sum()) / total,
            "share_of_counts_without_name": float(counts[is_missing].sum()) / total,
            "left_out_most_counts": {self.names[row]: float(counts[row]) / total for row in top},
        }


class KnownNames:
    """What each upper-case identifier stands for, genes without a token left out."""

    def __init__(self, vocabulary: Vocabulary, *, borrow: bool) -> None:
        own = vocabulary.tables.has_aliases
        self.vocabulary = vocabulary
        self._place_of = vocabulary.position_of
        self.plain = {
            gene: place for gene, place in self._place_of.items() if gene.isupper() and gene.lower() not in _ABSENT
        }
        self._ids = {gene.upper(): gene for gene in self._place_of if gene not in self.plain}
        self._borrowed = not own
        self._tables = vocabulary.tables
        history = vocabulary if own else Vocabulary.load("V2") if borrow else None
        self._history = None if history is None else history.tables
        self._symbols: dict[str, tuple[str, str]] = {}
        self._aliases: dict[str, str] = {}
        self._official: dict[str, str] = {}
        self.get = cache(self._find)
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

    def _find(self, name: str) -> Known | None:
        """What a name stands for, or nothing."""
        gene = name if name in self.plain else self._ids.get(name)
        if gene is not None:
            return Known(self._place_of[gene], ID, gene, borrowed=False)
        if name not in self._learnt:
            self.learn((name,))
        if name in self._symbols:
            symbol, gene = self._symbols[name]
            return Known(self._place_of[gene], SYMBOL, symbol, borrowed=False)
        place = self._place_of.get(self._aliases.get(name, ""))
        if place is None:
            return None
        how = RETIRED if _is_ensembl(name) else SYMBOL if name in self._official else ALIAS
        spelled = self._official.get(name) or _ORF.sub(r"\1orf", name)
        return Known(place, how, spelled, borrowed=self._borrowed)


def known_names(vocabulary: Vocabulary, *, borrow: bool = True) -> KnownNames:
    """The names of a vocabulary, put together once for each: equal ones may still know different symbols."""
    if borrow not in vocabulary.name_tables:
        vocabulary.name_tables[borrow] = KnownNames(vocabulary, borrow=borrow)
    names: KnownNames = vocabulary.name_tables[borrow]
    return names


def look_up(column: str, entries: Iterable[object], known: KnownNames) -> GeneMatch:
    """One column of names looked up, each by itself: ids and symbols may be mixed."""
    raw = list(entries)
    positions = [known.plain.get(entry, -1) if type(entry) is str else -1 for entry in raw]
    texts = [str(entry) if place >= 0 else text_of(entry) for entry, place in zip(raw, positions, strict=True)]
    rest = [row for row, place in enumerate(positions) if place < 0]
    known.learn(name for row in rest for name in _spellings(texts[row]))
    hows, borrowed = [ID] * len(texts), [False] * len(texts)
    repairs_of: dict[int, tuple[str, ...]] = {}
    foreign: Counter[str] = Counter()
    n_mouse_symbols = 0
    for row in rest:
        text = texts[row]
        hows[row] = UNMATCHED if text else MISSING
        if not text:
            continue
        if text.startswith("ENSG0") and _is_proper_id(text) and known.get(text) is None:
            continue  # a gene without a token, and nothing else
        match, repairs = _find(text, known)
        if match is not None:
            positions[row], hows[row], spelled, borrowed[row] = match
        elif (kind := foreign_kind(text)) is not None:
            foreign[kind] += 1
        if (match is None or spelled != text) and _MOUSE_SYMBOL.fullmatch(text):
            n_mouse_symbols += 1
        if match is not None and isinstance(raw[row], str) and raw[row] != text:
            repairs = ("spaces", *repairs)
        if repairs:
            repairs_of[row] = repairs
    return GeneMatch(
        known.vocabulary,
        column,
        texts,
        np.array(positions, dtype=np.int32),
        np.array(hows, dtype=np.int8),
        np.array(borrowed, dtype=np.bool_),
        repairs_of,
        dict(foreign),
        n_mouse_symbols,
    )


def _is_ensembl(name: str) -> bool:
    return name.startswith("ENSG") and name[-10:].isdigit()


def _is_proper_id(text: str) -> bool:
    return len(text) == _ID_LENGTH and _is_ensembl(text)


def _spellings(text: str) -> tuple[str, ...]:
    """The names that `_find` may ask for."""
    return (text,) if _is_proper_id(text) else (text, text.upper(), repaired(text)[0])


def _find(text: str, known: KnownNames) -> tuple[Known | None, tuple[str, ...]]:
    """What a name stands for and what had to be repaired."""
    match = known.get(text) or known.get(text.upper())
    repairs: tuple[str, ...] = ()
    if match is None:
        upper, repairs = repaired(text)
        match = known.get(upper)
    if match is not None and match.spelled not in text and match.spelled.upper() not in text:
        repairs = (*repairs, "case")
    return match, repairs


MAX_UNNAMED = 0.01
"""Most of the counts that may lie in columns without any name."""


def check_matched_share(match: GeneMatch, counts_per_name: ArrayLike, min_matched: float) -> float:
    """Share of all counts in matched columns, once that is enough."""
    counts = np.asarray(counts_per_name, dtype=np.float64).ravel()
    report = match.report(counts)
    share: float = report["share_of_counts_matched"]
    if not counts.any():
        return share
    if share < min_matched:
        most = ", ".join(f'"{name}"' for name in report["left_out_most_counts"]) or "genes without a name"
        msg = (
            f'Only {share:.1%} of the counts lie in genes of vocabulary "{match.vocabulary.name}" '
            f"({match.n_matched:,} of {match.n_genes:,} genes, identifiers from {_place(match.column)}); at least "
            f"{min_matched:.0%} are needed. Most counts are left out in {most}."
            f"{suspicion(match)} Name the column of var with Ensembl ids or symbols with "
            f"{option('gene_ids', 'COLUMN')}, or ask for less with {option('min_matched', f'{share * 0.9:.2g}')}, if "
            "that is meant."
        )
        raise TooFewGenesMatchedError(msg)
    if report["share_of_counts_without_name"] > MAX_UNNAMED:
        msg = (
            f"{report['share_of_counts_without_name']:.1%} of the counts lie in {match.n_missing:,} genes without an "
            f"identifier in {_place(match.column)} (empty, None or NaN); at most {MAX_UNNAMED:.0%} may. Fill in the "
            f"identifiers, remove these genes, or name another column of var with {option('gene_ids', 'COLUMN')}."
        )
        raise GeneIdsNotFoundError(msg)
    return share


def _way_out(kind: str) -> str:
    return UNSUPPORTED[kind].format(option=option("gene_ids", "COLUMN"))


def foreign_species(match: GeneMatch) -> tuple[str, float]:
    """The commonest other species among the identifiers, and the share of these that is its."""
    species = {kind: number for kind, number in match.foreign.items() if kind not in UNSUPPORTED}
    commonest = max(species, key=lambda kind: species[kind], default="")
    return commonest, species.get(commonest, 0) / max(match.n_present, 1)


def suspicion(match: GeneMatch) -> str:
    """What the names left out look like, if they look like something else."""
    if not match.foreign:
        return ""
    kind = max(match.foreign, key=lambda name: match.foreign[name])
    share = match.foreign[kind] / max(match.n_present, 1)
    if share < 0.1:
        return ""
    if kind in UNSUPPORTED:
        return f" {share:.0%} of the identifiers are {kind}. {_way_out(kind)}"
    return f" {share:.0%} of the identifiers are {kind} genes; translate these to human orthologs first."


INDEX: Final = "index"
"""How the row names of `var` are called."""


def _place(column: str) -> str:
    return "the index of var" if column == INDEX else f'var["{column}"]'


_USUAL: Final = (
    "ensembl_id", "gene_ids", "gene_id", "ensembl", "feature_id", INDEX, "gene_symbol", "symbol", "gene_name",
    "feature_name",
)  # fmt: skip

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
    if column is None:
        _fill_in(chosen, looked_up)
    # Names known only from a borrowed history give way where their gene is there under a name of its own.
    own = np.unique(chosen.positions[(chosen.positions >= 0) & ~chosen.borrowed])
    doubled = chosen.borrowed & np.isin(chosen.positions, own)
    chosen.positions[doubled], chosen.hows[doubled] = -1, WITHHELD
    return chosen


def _candidates(columns: Mapping[str, Sequence[Any]], column: str | None, known: KnownNames) -> list[GeneMatch]:
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


def _choose(looked_up: list[GeneMatch]) -> GeneMatch:
    """The column with most genes, or one of Ensembl ids with nearly as many."""
    if not looked_up:
        msg = (
            "The genes have no identifiers: there are only row numbers. Put Ensembl ids or symbols into the index of "
            'var or into a column "ensembl_id".'
        )
        raise GeneIdsNotFoundError(msg)
    most = max(match.n_distinct for match in looked_up)
    eligible = [match for match in looked_up if match.n_distinct >= _NEARLY * most]
    # max keeps the first of equals, and the columns are in order of preference.
    return max(eligible, key=lambda match: (match.kind == "ensembl", match.n_distinct))


def _refuse_other_kinds(chosen: GeneMatch, looked_up: list[GeneMatch]) -> None:
    """Refuse identifiers of another species or kind, unless the chosen column mostly spells genes of ours."""
    n_ours = chosen.n_matched - chosen.n_mouse_symbols
    if n_ours >= 0.1 * chosen.n_present and n_ours > 0:
        return
    for match in (chosen, *looked_up):
        for kind, number in match.foreign.items():
            if number > 0.5 * match.n_present:
                raise _foreign(kind, number, match)
    for match in (chosen, *looked_up):
        if match.n_mouse_symbols > 0.5 * match.n_present:
            raise _foreign(MOUSE_OR_RAT, match.n_mouse_symbols, match)


def _foreign(kind: str, number: int, match: GeneMatch) -> Exception:
    share = f"{number / match.n_present:.0%} of the gene identifiers in {_place(match.column)}"
    first = _first(match.names)
    if kind in UNSUPPORTED:
        msg = (
            f"{share} are {kind} ({first}). The vocabulary holds genes: Ensembl gene ids or human symbols are needed. "
            f"{_way_out(kind)}"
        )
        return UnsupportedGeneIdsError(msg)
    msg = (
        f"{share} are {kind} genes ({first}). The vocabulary holds human genes. Translate the counts to human "
        "one-to-one orthologs (Ensembl BioMart lists them) and give the human Ensembl ids, or use a vocabulary "
        "and a model of that species."
    )
    return WrongSpeciesError(msg)


def _not_found(
    looked_up: list[GeneMatch], columns: Mapping[str, Sequence[Any]], vocabulary: Vocabulary
) -> GeneIdsNotFoundError:
    starts = "; ".join(f"{_place(match.column)} starts with {_first(match.names)}" for match in looked_up[:4])
    number = len(next(iter(columns.values()), ()))
    msg = (
        f'No gene of vocabulary "{vocabulary.name}" was found among {number:,} genes: {starts}. '
        "Ensembl ids (ENSG…) or human gene symbols are needed; name their column of var with "
        f"{option('gene_ids', 'COLUMN')}."
    )
    return GeneIdsNotFoundError(msg)


def _fill_in(chosen: GeneMatch, looked_up: list[GeneMatch]) -> None:
    """Look up the rows without a name by their names in other columns."""
    for other in looked_up:
        if other is chosen or other.n_distinct < 0.3 * chosen.n_distinct:
            continue
        rows = np.flatnonzero((chosen.hows == MISSING) & (other.hows != MISSING))
        chosen.positions[rows], chosen.hows[rows] = other.positions[rows], other.hows[rows]
        chosen.borrowed[rows] = other.borrowed[rows]
        for row in rows.tolist():
            chosen.names[row] = other.names[row]
        chosen.repairs |= {row: other.repairs[row] for row in rows.tolist() if row in other.repairs}
        chosen.n_from_other += int(np.count_nonzero(other.positions[rows] >= 0))


def _first(texts: list[str]) -> str:
    return ", ".join(f'"{text}"' for text in [text for text in texts if text][:5]) or "nothing"


def find_genes(names: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Place of every name among the genes of a vocabulary, ``(n,)``; -1 where it is none of them."""
    return look_up("genes", names, known_names(vocabulary)).positions


@dataclass(slots=True)
class GenePanel:
    """Genes that were asked for: the tokens of those that can be used, and why the others cannot."""

    vocabulary: Vocabulary
    token_of: dict[str, int]
    left_out: dict[str, str]
    unit: str = "genes"
    """What is counted: genes, or perturbations of them."""

    used: int | None = None
    """How many are used, where that is not the number of tokens."""

    asked: int = 0
    """How many were asked for."""

    @property
    def tokens(self) -> list[int]:
        """Token ids, each once, in the order of the names."""
        return list(dict.fromkeys(self.token_of.values()))

    @property
    def n_used(self) -> int:
        """How many are used."""
        return len(self.token_of) if self.used is None else self.used

    def leave_out(self, name: str, reason: str) -> None:
        """Go on without a gene."""
        self.token_of.pop(name, None)
        self.left_out[name] = reason

    def record(self) -> dict[str, Any]:
        """What was asked for, used and left out, for `uns`, manifests and reports: lists of names and of reasons."""
        names, reasons = list(self.left_out), list(self.left_out.values())
        return {"asked": self.asked, "used": self.n_used, "left_out": names, "reasons": reasons}

    def listed(self, most: int = 20) -> str:
        """The names by reason."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            by_reason.setdefault(reason, []).append(name)
        groups = []
        for reason, names in by_reason.items():
            groups.append(f"{len(names):,} {reason} ({some_of(map(repr, names), most)})")
        return "; ".join(groups)

    def check(self, unknown: str, refusal: str = "") -> "GenePanel":
        """Say at once what is left out; an error where nothing is left, or where nothing may be left out."""
        if not self.left_out:
            return self
        if unknown == "error" or not self.n_used:
            msg = refusal or (
                f"{'None' if not self.n_used else 'Not all'} of the {self.asked:,} {self.unit} can be used: "
                f"{self.listed()}. Name others, or choose other cells."
            )
            raise AbsentGeneError(msg)
        msg = (
            f"{self.n_used:,} of {self.asked:,} {self.unit} are used. Left out: {self.listed()}. "
            'unknown="error" refuses instead.'
        )
        warnings.warn(msg, GeneformerWarning, stacklevel=4)
        return self


def resolve_panel(
    names: Sequence[str],
    vocabulary: Vocabulary,
    *,
    unknown: str = "drop",
    cells_with: NDArray[np.integer] | None = None,
    n_cells: int = 0,
) -> GenePanel:
    """Tokens of a panel of genes; those without a token, or that no cell has, ``(V,)``, are left out at once.

    Where none has a token, or with ``unknown="error"`` any has none, that is an error which lists them. Nothing is
    warned about before `check`.
    """
    names = as_names("genes", names)
    panel = GenePanel(vocabulary, {}, {}, asked=len(dict.fromkeys(map(str, names))))
    for name, place in zip(names, find_genes(names, vocabulary).tolist(), strict=True):
        if place < 0:
            panel.leave_out(str(name), f"without a token in vocabulary {vocabulary.name}")
        else:
            panel.token_of[str(name)] = int(vocabulary.token_ids[place])
    empty = [name for name in panel.left_out if not name.strip()]
    if panel.left_out and (unknown == "error" or empty or not panel.token_of):
        raise _unknown_genes(empty or list(panel.left_out), vocabulary)
    if cells_with is not None:
        for name in [name for name, token in panel.token_of.items() if not cells_with[token]]:
            panel.leave_out(name, f"in none of the {n_cells:,} cells")
        panel.check(unknown)
    return panel


def _unknown_genes(unknown: list[str], vocabulary: Vocabulary) -> UnknownGeneError:
    hint = nearest(unknown[0], (s for s, gene in vocabulary.symbols.items() if gene in vocabulary.token_of))
    msg = (
        f"Not among the {len(vocabulary.genes):,} genes of vocabulary {vocabulary.name}: "
        f"{some_of(map(repr, unknown))}. Pass Ensembl ids or symbols; "
        f"`geneformer vocabulary {vocabulary.name} --gene NAME` looks one up.{hint if unknown[0] else ''}"
    )
    return UnknownGeneError(msg)
