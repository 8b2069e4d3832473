"""Paths of the published dictionaries: each file is written to the user's cache when its path is first asked for.

They are for scripts that open them; this package reads its own tables instead.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geneformer._version import __version__
from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import OutputError, OutputExistsError
from geneformer.vocab.vocabulary import Vocabulary

GENE_MEDIAN_FILE: Path
TOKEN_DICTIONARY_FILE: Path
ENSEMBL_DICTIONARY_FILE: Path
ENSEMBL_MAPPING_FILE: Path
GENE_MEDIAN_FILE_30M: Path
TOKEN_DICTIONARY_FILE_30M: Path
ENSEMBL_DICTIONARY_FILE_30M: Path
ENSEMBL_MAPPING_FILE_30M: Path

_TABLES = {
    "GENE_MEDIAN_FILE": "gene_median_dictionary",
    "TOKEN_DICTIONARY_FILE": "token_dictionary",
    "ENSEMBL_DICTIONARY_FILE": "gene_name_id_dict",
    "ENSEMBL_MAPPING_FILE": "ensembl_mapping_dict",
}
_FOLDER = f"dictionaries-{__version__}"
_GENERATIONS = {"": ("V2", "gc104M"), "_30M": ("V1", "gc30M")}

FILES = {
    name + suffix: (version, table, f"{table}_{corpus}.pkl")
    for suffix, (version, corpus) in _GENERATIONS.items()
    for name, table in _TABLES.items()
}
"""Vocabulary, table and file of each published constant."""

__all__ = [
    "ENSEMBL_DICTIONARY_FILE",
    "ENSEMBL_DICTIONARY_FILE_30M",
    "ENSEMBL_MAPPING_FILE",
    "ENSEMBL_MAPPING_FILE_30M",
    "GENE_MEDIAN_FILE",
    "GENE_MEDIAN_FILE_30M",
    "TOKEN_DICTIONARY_FILE",
    "TOKEN_DICTIONARY_FILE_30M",
]


def cache_folder() -> Path:
    """Where the dictionaries go: `GENEFORMER_CACHE`, or the `geneformer` folder of the user's cache."""
    told = os.environ.get("GENEFORMER_CACHE")
    return _expanded(Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "geneformer")


@contextmanager
def written_cache() -> Iterator[None]:
    """Say how another cache is chosen where this one cannot be written to.

    Raises
    ------
    OutputError
        The folder cannot be made or written to, or the home folder it should be in is not known.
    """
    way_out = "Set GENEFORMER_CACHE to a folder you may write to."
    folder = cache_folder()
    if not folder.is_absolute():
        msg = f'The cache "{folder}" of this package lies in a home folder that is not known. {way_out}'
        raise OutputError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f'The cache "{folder}" of this package cannot be made: {error.strerror}. {way_out}'
        raise OutputError(msg) from error
    try:
        yield
    except OutputExistsError:
        raise
    except OutputError as error:
        msg = f"{error.args[0]} It is in the cache of this package. {way_out}"
        raise OutputError(msg) from error


def dictionary_path(name: str) -> Path:
    """Where the dictionary of a published constant is, whether it was written yet or not."""
    return cache_folder() / _FOLDER / FILES[name][2]


def bundled_version(path: str | Path) -> str | None:
    """The vocabulary whose published dictionary a path is, in whatever cache; None for a file of the user's own."""
    path = _expanded(Path(path))
    if path.parent.name != _FOLDER:
        return None
    return next((version for version, _, file in FILES.values() if file == path.name), None)


def bundled_table(path: str | Path) -> dict[str, Any] | None:
    """The dictionary behind a path of this package, which may not have been written; None for a user's own file."""
    version = bundled_version(path)
    if version is None:
        return None
    table = next(table for _, table, file in FILES.values() if file == Path(path).name)
    return Vocabulary.load(version).published_tables()[table]


def _expanded(path: Path) -> Path:
    """A whole path; one whose home folder is not known stays as it is."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        return path


def __getattr__(name: str) -> Any:
    if name not in FILES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    version, table, _ = FILES[name]
    path = dictionary_path(name)
    if not path.is_file():
        with written_cache():
            write_pickle(Vocabulary.load(version).published_tables()[table], path)
    return path
