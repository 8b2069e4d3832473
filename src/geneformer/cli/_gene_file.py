"""Files that list genes by class."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geneformer.errors import GeneListError, InputNotFoundError, UnreadableInputError, UnsupportedFormatError

GENE, CLASS = "gene", "class"
"""Columns of a table of genes."""


def read_gene_file(path: Path) -> dict[str, list[str]]:
    """Genes by class, as the file names them and in its order.

    Parameters
    ----------
    path
        A table with the columns "gene" and "class", apart by commas (`.csv`) or tabs (`.tsv`, `.txt`); or one list of
        genes for every class, as `.toml` or `.json`.

    Raises
    ------
    InputNotFoundError
        No such file.
    UnsupportedFormatError
        Another kind of file.
    UnreadableInputError
        Not what its name says.
    GeneListError
        A column is missing, a gene has no class, or a class is no list of names.
    """
    if not path.is_file():
        msg = f'There is no file "{path}". Give a .csv, .tsv, .toml or .json file of genes and their classes.'
        raise InputNotFoundError(msg)
    if path.suffix.lower() not in _READERS:
        msg = f'"{path}" ends in "{path.suffix}". Genes and classes are read from {", ".join(_READERS)} files.'
        raise UnsupportedFormatError(msg)
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _READERS[path.suffix.lower()](text, path)
    except GeneListError:
        raise
    except (OSError, ValueError) as error:
        msg = f'"{path}" cannot be read as {path.suffix}: {error}. Save it as UTF-8 text of that format.'
        raise UnreadableInputError(msg) from error


def _from_table(text: str, path: Path, *, delimiter: str) -> dict[str, list[str]]:
    import csv
    import io

    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    for name in (GENE, CLASS):
        if header.count(name) != 1:
            found = ", ".join(map(repr, header)) or "nothing"
            msg = f'"{path}" must have one column "{name}", named in its first line; that holds {found}.'
            raise GeneListError(msg)
    at_gene, at_class = header.index(GENE), header.index(CLASS)
    classes: dict[str, list[str]] = {}
    for number, line in enumerate(lines[1:], start=2):
        gene, name = (line[at].strip() if at < len(line) else "" for at in (at_gene, at_class))
        if not gene and not name:
            continue
        if not gene or not name:
            missing = f"a class ({name!r}) but no gene" if name else f"a gene ({gene!r}) but no class"
            msg = f'Line {number} of "{path}" has {missing}. Fill it in, or delete the line.'
            raise GeneListError(msg)
        classes.setdefault(name, []).append(gene)
    return classes


def _from_csv(text: str, path: Path) -> dict[str, list[str]]:
    return _from_table(text, path, delimiter=",")


def _from_tsv(text: str, path: Path) -> dict[str, list[str]]:
    return _from_table(text, path, delimiter="\t")


def _from_toml(text: str, path: Path) -> dict[str, list[str]]:
    return _checked(tomllib.loads(text), path)


def _from_json(text: str, path: Path) -> dict[str, list[str]]:
    return _checked(json.loads(text, object_pairs_hook=_each_once), path)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; JSON itself would drop the first of two lists of one name."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{twice[0]!r} is there twice"
        raise ValueError(msg)
    return dict(pairs)


def _checked(content: Any, path: Path) -> dict[str, list[str]]:
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}; it takes a list of genes for every class.'
        raise GeneListError(msg)
    for name, genes in content.items():
        if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
            msg = f'Class {name!r} of "{path}" is not a list of names. Write {name} = ["GATA4", "TBX5"], or the like.'
            raise GeneListError(msg)
    return content


_READERS: dict[str, Callable[[str, Path], dict[str, list[str]]]] = {
    ".csv": _from_csv, ".tsv": _from_tsv, ".txt": _from_tsv, ".toml": _from_toml, ".json": _from_json,
}  # fmt: skip
