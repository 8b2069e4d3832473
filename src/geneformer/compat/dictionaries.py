"""Paths of the published dictionaries: each file is written to the user's cache when its path is first asked for.

They are for scripts that open them; this package reads its own tables instead.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from geneformer import errors
from geneformer._version import __version__
from geneformer.files import cache_folder, expanded
from geneformer.files.atomic import make_folder
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.genes.vocabulary import BUNDLED, MemoryTables, Vocabulary, vocabulary_from
from geneformer.options._fields import check_choice

_logger = logging.getLogger(__name__)

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


@contextmanager
def written_cache() -> Iterator[None]:
    """Say how another cache is chosen where this one cannot be made, or not be written to."""
    folder = cache_folder()
    way_out = f'"{folder}" is the cache of this package. Set GENEFORMER_CACHE to a folder you may write to.'
    if not folder.is_absolute():
        msg = f"Your home folder is not known. {way_out}"
        raise errors.OutputError(msg)
    try:
        make_folder(folder)
        yield
    except errors.OutputExistsError:
        raise
    except errors.OutputError as error:
        msg = f"{error.args[0]} {way_out}"
        raise errors.OutputError(msg) from error


def dictionary_path(name: str) -> Path:
    """Where the dictionary of a published constant is, whether it was written yet or not."""
    return cache_folder() / _FOLDER / FILES[name][2]


def bundled_version(path: str | Path) -> str | None:
    """The vocabulary whose published dictionary a path is, in whatever cache; None for a file of the user's own."""
    path = expanded(Path(path))
    versions = {file: version for version, _, file in FILES.values()}
    return versions.get(path.name) if path.parent.name == _FOLDER else None


def __getattr__(name: str) -> Path:
    """A published path constant; its file is written first if it is missing."""
    if name not in FILES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    version, table, _ = FILES[name]
    path = dictionary_path(name)
    if not path.is_file():
        with written_cache():
            write_pickle(Vocabulary.load(version).published_tables()[table], path)
    return path


def published_vocabulary(
    model_version: str,
    token_dictionary_file: str | Path | None = None,
    *,
    gene_median_file: str | Path | None = None,
    gene_mapping_file: str | Path | None = None,
    gene_name_id_file: str | Path | None = None,
) -> Vocabulary:
    """The bundled vocabulary, or that of the files given."""
    check_choice("model_version", model_version, BUNDLED)
    files = {
        "token_dictionary": token_dictionary_file,
        "gene_median_dictionary": gene_median_file,
        "ensembl_mapping_dict": gene_mapping_file,
        "gene_name_id_dict": gene_name_id_file,
    }
    given = {table: file for table, file in files.items() if file is not None}
    if {bundled_version(file) for file in given.values()} <= {model_version}:
        return Vocabulary.load(model_version)
    contents = {table: read_dictionary(file) for table, file in given.items()}
    base = bundled_with(contents.get("token_dictionary")) or Vocabulary.load(model_version)
    tables = base.published_tables()
    changed = [table for table in contents if contents[table] != tables[table]]
    if model_version == "V1" and (changed or base.name != model_version):
        file = given[changed[0] if changed else "token_dictionary"]
        msg = (
            f'"{file}" is none of the dictionaries of model_version="V1". Leave it out, or leave model_version at "V2".'
        )
        raise errors.UnsupportedArgumentError(msg)
    if not changed:
        return base
    tables |= contents
    name = base.name if token_dictionary_file is None else Path(token_dictionary_file).stem
    medians = tables["gene_median_dictionary"]
    memory = MemoryTables(medians=medians, symbols=tables["gene_name_id_dict"], aliases=tables["ensembl_mapping_dict"])
    # Without medians of their own, genes that the bundled ones lack are ranked by their counts.
    return vocabulary_from(name, tables["token_dictionary"], medians, float("nan") if gene_median_file else 1.0, memory)


class TokenDictionary:
    """What published classes with a `model_version` show of its token dictionary, or of that of the user's file."""

    model_version: Any
    token_dictionary_file: str | Path | None
    emb_mode: Any
    gene_token_dict: dict[str, int]
    token_gene_dict: dict[int, str]
    pad_token_id: int

    def _read_dictionary(self) -> Vocabulary:
        """The vocabulary; of V1, which has no `<cls>`, cells are embedded over their genes."""
        vocabulary = published_vocabulary(self.model_version, self.token_dictionary_file)
        self.gene_token_dict = all_tokens(vocabulary)
        self.token_gene_dict = {token: gene for gene, token in self.gene_token_dict.items()}
        self.pad_token_id = vocabulary.pad_id
        self.emb_mode = mode_of_version(self.emb_mode, self.model_version)
        return vocabulary


def mode_of_version(emb_mode: Any, model_version: str) -> Any:
    """The mode of embedding cells; V1 has no `<cls>`, so that genes stand for their cell."""
    if model_version != "V1" or not emb_mode.startswith("cls"):
        return emb_mode
    mode = emb_mode.replace("cls", "cell")
    _logger.warning('V1 has no <cls> token: emb_mode is "%s".', mode)
    return mode


def only_in_v1(token: int) -> bool:
    """Whether V1 has the token and V2, the default of all arguments, does not."""
    return Vocabulary.load("V2").size <= token < Vocabulary.load("V1").size


def all_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Special tokens and genes with their ids."""
    return {**vocabulary.special_tokens, **vocabulary.token_of}


def bundled_with(tokens: Mapping[str, int] | None) -> Vocabulary | None:
    """The bundled vocabulary that has exactly these tokens."""
    return next((v for v in map(Vocabulary.load, BUNDLED) if tokens == all_tokens(v)), None)


def ranking_vocabulary(
    model_version: str, tokens: str | Path, medians: str | Path, mapping: str | Path | None, *, collapse: bool
) -> Vocabulary:
    """The vocabulary that cells are ranked by; identifiers are mapped by its mapping dictionary and no further."""
    files = files_of(model_version, tokens, medians, mapping)
    vocabulary = published_vocabulary(model_version, files[0], gene_median_file=files[1], gene_mapping_file=files[2])
    maps = collapse and mapping is not None
    if maps and bundled_version(str(mapping)) is not None:
        return vocabulary
    aliases = vocabulary.tables.aliases if maps else {gene: gene for gene in vocabulary.genes.tolist()}
    return replace(vocabulary, tables=MemoryTables(medians=vocabulary.tables.medians, symbols={}, aliases=aliases))


def files_of(model_version: str, *files: str | Path | None) -> list[str | Path | None]:
    """The files; V2's own, which arguments default to, give way to model_version="V1"."""
    return [None if model_version == "V1" and file and bundled_version(file) == "V2" else file for file in files]


def read_dictionary(path: str | Path) -> dict[str, Any]:
    """A published dictionary, from the pickle or, where the path is one of ours, from the tables behind it."""
    if (version := bundled_version(path)) is not None:
        table = next(table for _, table, file in FILES.values() if file == Path(path).name)
        return Vocabulary.load(version).published_tables()[table]
    content = read_pickle(path)
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}, not a dictionary. Give the published file.'
        raise errors.InvalidVocabularyError(msg)
    return content
