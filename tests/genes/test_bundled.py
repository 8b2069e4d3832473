"""The vocabularies that ship with the package are the published ones, entry by entry."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from geneformer.files.pickles import read_pickle
from geneformer.genes.vocabulary import BUNDLED, Vocabulary

PUBLISHED = json.loads((Path(__file__).parents[1] / "data" / "published_dictionaries.json").read_text())
PICKLES = os.environ.get("GENEFORMER_PUBLISHED_DICTIONARIES")
TAGS = {"V1": "gc30M", "V2": "gc104M"}


def _digest(table):
    """The canonical form of tools/make_vocabularies.py, written again."""
    sha = hashlib.sha256()
    for key in sorted(table):
        value = table[key]
        row = json.dumps([key, value.hex() if isinstance(value, float) else value])
        sha.update(row.encode() + b"\n")
    return sha.hexdigest()


@pytest.mark.parametrize("name", BUNDLED)
def test_every_published_dictionary_is_whole(name):
    tables = Vocabulary.load(name).published_tables()
    found = {table: {"entries": len(entries), "sha256": _digest(entries)} for table, entries in tables.items()}
    assert found == PUBLISHED[name]


@pytest.mark.skipif(PICKLES is None, reason="GENEFORMER_PUBLISHED_DICTIONARIES does not say where the pickles are")
@pytest.mark.parametrize("name", BUNDLED)
def test_equal_to_the_pickles_in_order(name):
    for table, entries in Vocabulary.load(name).published_tables().items():
        assert list(entries.items()) == list(read_pickle(Path(PICKLES) / f"{table}_{TAGS[name]}.pkl").items())


@pytest.mark.parametrize(
    ("name", "genes", "special", "input_size", "fingerprint"),
    [
        ("V1", 25_424, {"<pad>": 0, "<mask>": 1}, 2048, "37abb5a46213"),
        ("V2", 20_271, {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}, 4096, "40a9960f3bcf"),
    ],
)
def test_shape_of_the_bundled_vocabularies(name, genes, special, input_size, fingerprint):
    vocabulary = Vocabulary.load(name)
    assert len(vocabulary.genes) == genes
    assert vocabulary.special_tokens == special
    assert vocabulary.input_size == input_size
    assert vocabulary.size == genes + len(special)
    assert vocabulary.fingerprint.startswith(fingerprint)


def test_known_entries():
    v1, v2 = Vocabulary.load("V1"), Vocabulary.load("V2")
    assert v1.token_of["ENSG00000000003"] == 2
    assert v2.token_of["ENSG00000000003"] == 4
    assert v1.medians[v1.position_of["ENSG00000000003"]] == 2.001186019549122
    assert v2.published_tables()["gene_median_dictionary"]["ENSG00000268895"] == 0.7785260715031078
    assert v2.aliases["5_8S_RRNA"] == "ENSG00000277739"
    assert v1.symbols["MT-TF"] == v2.symbols["MT-TF"] == "ENSG00000210049"
    assert v1.symbol_of("ENSG00000141510") == "TP53"


def test_nothing_but_tokens_and_medians_is_read_at_first(monkeypatch):
    from geneformer.genes import vocabulary
    from geneformer.genes import vocabulary as tables

    read = []
    real = tables._read_batches
    monkeypatch.setattr(tables, "_read_batches", lambda path, columns: read.append(path.name) or real(path, columns))
    loaded = vocabulary._load_folder(vocabulary._ASSETS / "V1")
    assert loaded.size == 25_426
    assert loaded.token_of["ENSG00000000003"] == 2
    assert read == ["genes.parquet"]
