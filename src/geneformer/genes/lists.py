"""Lists of genes as people write them: names with commas, files with a name a line, GMT sets, genes with classes."""

import csv
import io
import json
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from geneformer.errors import GeneformerError, GeneListError, UnreadableInputError, UnsupportedFormatError, reason_of
from geneformer.files import check_file
from geneformer.options._fields import nearest

GMT = ".gmt"
LISTS = (".txt", ".list", ".csv", ".tsv", GMT)
"""Files of genes; what ends otherwise is one only if it is there."""


def named_genes(given: Iterable[str], *, groups: bool = False) -> tuple[str, ...]:
    """Genes that were named, in files or by themselves, each once.

    Parameters
    ----------
    given
        Names, several of them with commas between; files with one name a line and comments after "#"; GMT files, or
        one set of such a file as "FILE:SET".
    groups
        Every set of a GMT file is one entry, "SET=GENE+GENE", rather than its genes.

    Raises
    ------
    InputNotFoundError, UnreadableInputError
        A file that is not there, or is no text.
    GeneListError
        A file without a name, with columns, or without the set.
    """
    entries = (entry for text in given for entry in _entries(text, groups=groups))
    return tuple(dict.fromkeys(entries))


def transcription_factors() -> tuple[str, ...]:
    """Symbols of human transcription factors and co-factors."""
    return tuple(_of_lines(Path(__file__).parent / "assets" / "transcription_factors.txt"))


def _entries(text: str, *, groups: bool) -> Iterator[str]:
    """What one word of a command line names."""
    # Names of files and sets may have commas.
    whole = any(map(_is_file, (text, text.rpartition(":")[0])))
    for piece in [text] if whole else _with_commas(text):
        name, _, chosen = piece.rpartition(":")
        if Path(name).suffix.lower() == GMT:
            yield from _of_sets({chosen: _one_set(Path(name), chosen)}, groups=groups)
        elif Path(piece).suffix.lower() == GMT:
            yield from _of_sets(read_gmt(Path(piece)), groups=groups)
        elif Path(piece).suffix.lower() in LISTS or _is_file(piece):
            yield from _of_lines(Path(piece))
        else:
            yield piece


def _is_file(name: str) -> bool:
    """Whether there is such a file; a long list of genes can be no name of one."""
    with suppress(OSError, ValueError):
        return Path(name).is_file()
    return False


def _with_commas(text: str) -> Iterator[str]:
    yield from filter(None, (entry.strip() for entry in text.split(",")))


def _of_sets(sets: dict[str, list[str]], *, groups: bool) -> Iterator[str]:
    for name, genes in sets.items():
        yield from [f"{name}={'+'.join(genes)}"] if groups else genes


def _one_set(path: Path, name: str) -> list[str]:
    sets = read_gmt(path)
    if name not in sets:
        msg = f'"{path}" has no set {name!r}; it has {len(sets):,}, such as {", ".join(list(sets)[:3])}.'
        raise GeneListError(msg + nearest(name, sets))
    return sets[name]


def _of_lines(path: Path) -> Iterator[str]:
    """Names of a file, a line each; what stands behind "#" is for readers."""
    entries = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        entry = line.partition("#")[0].strip()
        if "\t" in entry:
            msg = (
                f'Line {number} of "{path}" has several columns. Write one gene a line, or save sets of genes as {GMT}.'
            )
            raise GeneListError(msg)
        entries += list(_with_commas(entry))
    if not entries:
        msg = f'"{path}" names no gene. Write one a line.'
        raise GeneListError(msg)
    yield from entries


def read_gmt(path: Path) -> dict[str, list[str]]:
    """Sets of a GMT file: a line each, with its name, what it is, and its genes, apart by tabs."""
    sets: dict[str, list[str]] = {}
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = list(dict.fromkeys(filter(None, rest[1:])))
        if not name or not genes or name in sets:
            fault = "is there twice" if name in sets else "must be a name, a description and genes, apart by tabs"
            msg = f'Line {number} of "{path}" ({name[:40]!r}) {fault}. Correct the file.'
            raise GeneListError(msg)
        sets[name] = genes
    if not sets:
        msg = f'"{path}" has no set of genes. Each is a line: name, description and genes, apart by tabs.'
        raise GeneListError(msg)
    return sets


def _text_of(path: Path) -> str:
    check_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        msg = f'"{path}" cannot be read as a list of genes: {reason_of(error)}. Save it as UTF-8 text.'
        raise UnreadableInputError(msg) from error


def read_gene_file(path: Path) -> dict[str, list[str]]:
    """Genes by class, as the file names them and in its order."""
    suffix = path.suffix.lower()
    suffixes = (".csv", ".tsv", ".txt", GMT, ".toml", ".json")
    if suffix not in suffixes:
        msg = f'"{path}" ends in "{path.suffix}". Genes and classes are read from {", ".join(suffixes)} files.'
        raise UnsupportedFormatError(msg)
    if suffix == GMT:
        return read_gmt(path)
    try:
        text = _text_of(path)
        if suffix == ".toml":
            return _checked_lists(tomllib.loads(text), path)
        if suffix == ".json":
            return _checked_lists(json.loads(text, object_pairs_hook=_each_once), path)
        delimiter = "," if suffix == ".csv" else "\t"
        return _from_table(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), path)
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        if isinstance(error, GeneformerError):
            raise
        msg = f'"{path}" cannot be read as {path.suffix}: {reason_of(error)}. Save it as UTF-8 text of that format.'
        raise UnreadableInputError(msg) from error


def _from_table(table: "csv.DictReader[str]", path: Path) -> dict[str, list[str]]:
    header = table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
    for name in ("gene", "class"):
        if header.count(name) != 1:
            held = ", ".join(map(repr, header)) or "nothing"
            msg = f'"{path}" must have one column "{name}", named in its first line; that holds {held}.'
            raise GeneListError(msg)
    classes: dict[str, list[str]] = {}
    for line in table:
        gene, name = ((line[column] or "").strip() for column in ("gene", "class"))
        if gene and name:
            classes.setdefault(name, []).append(gene)
        elif gene or name:
            missing = f"a class ({name!r}) but no gene" if name else f"a gene ({gene!r}) but no class"
            msg = f'Line {table.line_num} of "{path}" has {missing}. Fill it in, or delete the line.'
            raise GeneListError(msg)
    return classes


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself would drop the first of two lists of one name."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{twice[0]!r} is there twice"
        raise ValueError(msg)
    return dict(pairs)


def _checked_lists(content: Any, path: Path) -> dict[str, list[str]]:
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}; it takes a list of genes for every class.'
        raise GeneListError(msg)
    for name, genes in content.items():
        if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
            msg = f'Class {name!r} of "{path}" is not a list of names. Write {name} = ["GATA4", "TBX5"], or the like.'
            raise GeneListError(msg)
    return content
