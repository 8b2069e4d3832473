"""The vocabulary that the published arguments `model_version` and `*_file` mean."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from geneformer.compat.dictionary_files import bundled_table, bundled_version
from geneformer.errors import InvalidVocabularyError, UnsupportedArgumentError
from geneformer.options._check import check_choice
from geneformer.vocab.checks import CLS, SPECIAL
from geneformer.vocab.pickles import read_pickle
from geneformer.vocab.tables import MemoryTables
from geneformer.vocab.vocabulary import BUNDLED, Vocabulary


def published_vocabulary(
    model_version: str,
    token_dictionary_file: str | Path | None = None,
    *,
    gene_median_file: str | Path | None = None,
    gene_mapping_file: str | Path | None = None,
    gene_name_id_file: str | Path | None = None,
) -> Vocabulary:
    """The bundled vocabulary, or that of the files given.

    Parameters
    ----------
    model_version
        "V1" or "V2".
    token_dictionary_file, gene_median_file, gene_mapping_file, gene_name_id_file
        Pickles of the published form; None for those of the version. Without medians cells cannot be ranked, but
        everything else works.

    Raises
    ------
    UnknownChoiceError
        Another version.
    UnsupportedArgumentError
        "V1" with files that are not those of V1.
    InvalidVocabularyError
        A file is no dictionary of the published form.
    """
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
    contents = {table: _dictionary(file) for table, file in given.items()}
    base = _of_tokens(contents.get("token_dictionary")) or Vocabulary.load(model_version)
    tables = base.published_tables()
    changed = [table for table in contents if contents[table] != tables[table]]
    if model_version == "V1" and (changed or base.name != model_version):
        msg = (
            'model_version="V1" comes with its own dictionaries, but '
            f'"{given[changed[0] if changed else "token_dictionary"]}" is none of them. Leave the file out, or leave '
            'model_version at "V2" to use it.'
        )
        raise UnsupportedArgumentError(msg)
    if not changed:
        return base
    tables |= contents
    tokens, medians = tables["token_dictionary"], tables["gene_median_dictionary"]
    special = {token: number for token, number in tokens.items() if token in SPECIAL}
    genes = {gene: number for gene, number in tokens.items() if gene not in SPECIAL}
    return Vocabulary(
        name=base.name if token_dictionary_file is None else Path(token_dictionary_file).stem,
        genes=list(genes),  # type: ignore[arg-type]
        token_ids=list(genes.values()),  # type: ignore[arg-type]
        medians=[medians.get(gene, float("nan") if gene_median_file else 1.0) for gene in genes],  # type: ignore[arg-type]
        special_tokens=special,
        input_size=4096 if CLS in special else 2048,
        tables=MemoryTables(
            medians=medians, symbols=tables["gene_name_id_dict"], aliases=tables["ensembl_mapping_dict"]
        ),
    )


def ranking_vocabulary(
    model_version: str, tokens: str | Path, medians: str | Path, mapping: str | Path | None, *, collapse: bool
) -> Vocabulary:
    """The vocabulary that cells are ranked by, identifiers mapped as told and no further.

    Parameters
    ----------
    model_version
        "V1" or "V2"; dictionaries of V2, which are what the published arguments default to, give way to "V1".
    tokens, medians, mapping
        Published dictionaries. Without a mapping each identifier stands for itself.
    collapse
        Whether the mapping is used.

    Raises
    ------
    UnknownChoiceError, UnsupportedArgumentError, InvalidVocabularyError
        As `published_vocabulary`.
    """
    files = [tokens, medians, mapping]
    if model_version == "V1":
        files = [None if file is None or bundled_version(file) == "V2" else file for file in files]
    vocabulary = published_vocabulary(model_version, files[0], gene_median_file=files[1], gene_mapping_file=files[2])
    itself = {gene: gene for gene in vocabulary.genes.tolist()}
    aliases: dict[str, str] | None = itself
    if collapse and mapping is not None:
        if bundled_version(mapping) is not None:
            return vocabulary
        aliases = vocabulary.tables.aliases
    return replace(vocabulary, tables=MemoryTables(medians=vocabulary.tables.medians, symbols={}, aliases=aliases))


def _of_tokens(tokens: Mapping[str, int] | None) -> Vocabulary | None:
    """The bundled vocabulary that has exactly these tokens."""
    bundled = map(Vocabulary.load, BUNDLED)
    return next((v for v in bundled if tokens == v.published_tables()["token_dictionary"]), None)


def _dictionary(path: str | Path) -> dict[str, Any]:
    """A published dictionary, from the pickle or, where the path is one of ours, from the tables behind it."""
    content = bundled_table(path)
    if content is not None:
        return content
    content = read_pickle(path)
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}, not a dictionary. Give the published file.'
        raise InvalidVocabularyError(msg)
    return content
