"""Vocabularies as folders: `vocabulary.json` beside Parquet tables, or the pickles of the published package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geneformer.errors import InvalidVocabularyError, UnknownVocabularyError
from geneformer.vocab.checks import CLS, SPECIAL
from geneformer.vocab.pickles import read_pickle
from geneformer.vocab.tables import FolderTables, MemoryTables, Tables, read_genes

META = "vocabulary.json"
FORMAT = 1

_TOKENS, _MEDIANS, _NAMES, _MAPPING = (
    "token_dictionary",
    "gene_median_dictionary",
    "gene_name_id_dict",
    "ensembl_mapping_dict",
)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What was found on disk, unchecked.

    Attributes
    ----------
    token_of
        Token id of each gene, in the order of the ids.
    medians
        Nonzero median of each of those genes; NaN where it is missing.
    fingerprint
        What the folder says its fingerprint is, if it does.
    """

    name: str
    token_of: dict[str, int]
    medians: list[float]
    special_tokens: dict[str, int]
    input_size: int
    tables: Tables
    fingerprint: str | None = None


def read_stored(path: Path) -> Stored:
    """A vocabulary folder of this package or of published pickles, or one published token dictionary.

    Raises
    ------
    UnknownVocabularyError
        The folder holds neither, or several published vocabularies.
    InvalidVocabularyError
        Files are missing, damaged or contradict each other.
    """
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


def _read_folder(folder: Path) -> Stored:
    meta = _read_meta(folder / META)
    genes, token_ids, medians = read_genes(folder)
    tokens = [(token, row) for row, token in enumerate(token_ids) if token is not None]
    tokens.sort()
    token_of = {genes[row]: token for token, row in tokens}
    if len(token_of) != len(tokens):
        repeated = next(genes[row] for token, row in tokens if token_of[genes[row]] != token)
        msg = f'Vocabulary "{folder}" lists the gene "{repeated}" twice. Keep one line for each gene.'
        raise InvalidVocabularyError(msg)
    return Stored(
        name=meta.get("name", folder.name),
        token_of=token_of,
        medians=[_number(medians[row]) for _, row in tokens],
        special_tokens=meta["special_tokens"],
        input_size=meta["input_size"],
        tables=FolderTables(folder),
        fingerprint=meta.get("fingerprint"),
    )


def _number(median: float | None) -> float:
    return float("nan") if median is None else median


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f'"{path}" cannot be read: {error}. Save the vocabulary again.'
        raise InvalidVocabularyError(msg) from error
    needed = {"format", "special_tokens", "input_size"}
    if not isinstance(meta, dict) or not needed <= meta.keys() or not isinstance(meta["special_tokens"], dict):
        msg = f'"{path}" describes no vocabulary: it needs "format", "special_tokens" and "input_size".'
        raise InvalidVocabularyError(msg)
    if meta["format"] != FORMAT:
        msg = f'"{path}" has format {meta["format"]!r}; this version reads {FORMAT}. Install a newer geneformer.'
        raise InvalidVocabularyError(msg)
    return meta


def _read_published(token_file: Path) -> Stored:
    """The vocabulary whose token dictionary is given; the other dictionaries are found beside it."""
    tag = token_file.stem.removeprefix(_TOKENS)
    if token_file.suffix != ".pkl" or tag == token_file.stem:
        msg = f'"{token_file}" is no vocabulary. Give a folder, or a published {_TOKENS}*.pkl.'
        raise UnknownVocabularyError(msg)
    folder = token_file.parent
    tokens = _read_dictionary(token_file, int)
    medians = _read_dictionary(folder / f"{_MEDIANS}{tag}.pkl", float)
    names, mapping = (folder / f"{stem}{tag}.pkl" for stem in (_NAMES, _MAPPING))
    special = {token: number for token, number in tokens.items() if token in SPECIAL}
    token_of = {gene: number for gene, number in tokens.items() if gene not in SPECIAL}
    token_of = dict(sorted(token_of.items(), key=lambda entry: entry[1]))
    aliases = _read_dictionary(mapping, str) if mapping.exists() else None
    if aliases is not None and aliases == {gene: gene for gene in token_of}:
        aliases = None
    return Stored(
        name=folder.name + tag,
        token_of=token_of,
        medians=[medians.get(gene, float("nan")) for gene in token_of],
        special_tokens=special,
        input_size=4096 if CLS in special else 2048,
        tables=MemoryTables(
            medians=medians, symbols=_read_dictionary(names, str) if names.exists() else {}, aliases=aliases
        ),
    )


def _read_dictionary(path: Path, kind: type) -> dict[str, Any]:
    """A published dictionary whose keys are text and whose values are of one kind."""
    found = read_pickle(path)
    if not isinstance(found, dict):
        msg = f'"{path}" holds a {type(found).__name__}, not a dictionary. Give the published file.'
        raise InvalidVocabularyError(msg)
    for key, value in found.items():
        if not isinstance(key, str) or (type(value) is not kind and not (kind is float and type(value) is int)):
            msg = f'"{path}" has the entry {key!r}: {value!r}. Every entry takes a text and a {kind.__name__}.'
            raise InvalidVocabularyError(msg)
    return found
