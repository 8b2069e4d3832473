"""The vocabulary that the published arguments `model_version` and `*_file` mean."""

from pathlib import Path
from typing import Any

from geneformer.compat.dictionary_files import bundled_version
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
    files = [token_dictionary_file, gene_median_file, gene_mapping_file, gene_name_id_file]
    versions = {model_version if file is None else bundled_version(file) for file in files}
    if versions == {model_version}:
        return Vocabulary.load(model_version)
    if len(versions) == 1 and None not in versions and model_version != "V1":
        return Vocabulary.load(str(versions.pop()))
    base = Vocabulary.load(model_version)
    tables = base.published_tables()
    tokens, medians, mapping, names = (
        tables[table] if file is None else _dictionary(file)
        for table, file in zip(
            ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict", "gene_name_id_dict"),
            files,
            strict=True,
        )
    )
    if model_version == "V1" and (tokens, medians, mapping) != tuple(
        tables[table] for table in ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict")
    ):
        msg = (
            'model_version="V1" comes with its own dictionaries, but other files were given as well. Leave the files '
            'out, or leave model_version at "V2" to use them.'
        )
        raise UnsupportedArgumentError(msg)
    special = {token: number for token, number in tokens.items() if token in SPECIAL}
    genes = {gene: number for gene, number in tokens.items() if gene not in SPECIAL}
    return Vocabulary(
        name=base.name if token_dictionary_file is None else Path(token_dictionary_file).stem,
        genes=list(genes),  # type: ignore[arg-type]
        token_ids=list(genes.values()),  # type: ignore[arg-type]
        medians=[medians.get(gene, float("nan") if gene_median_file else 1.0) for gene in genes],  # type: ignore[arg-type]
        special_tokens=special,
        input_size=4096 if CLS in special else 2048,
        tables=MemoryTables(medians=medians, symbols=names, aliases=mapping),
    )


def _dictionary(path: str | Path) -> dict[str, Any]:
    """A published dictionary, from the pickle or, where the path is one of ours, from the tables behind it."""
    content = read_pickle(path)
    if not isinstance(content, dict):
        msg = f'"{path}" holds a {type(content).__name__}, not a dictionary. Give the published file.'
        raise InvalidVocabularyError(msg)
    return content
