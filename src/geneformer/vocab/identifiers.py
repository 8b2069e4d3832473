"""What one gene identifier is: missing, repairable, of another species, or of a kind that names no gene."""

import re
from typing import Final

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
    """An identifier in upper case, without prefix and version, and the names of the repairs that took.

    A version is taken off Ensembl ids only, because real symbols contain dots.
    """
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
