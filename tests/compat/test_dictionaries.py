"""The published path constants: where the files go, what they hold, and which vocabulary they stand for."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import geneformer as gf
from geneformer import errors
from geneformer.compat import dictionaries as dictionary_files
from geneformer.compat.dictionaries import (
    FILES,
    bundled_version,
    cache_folder,
    dictionary_path,
    published_vocabulary,
    ranking_vocabulary,
    read_dictionary,
)
from geneformer.files.pickles import read_pickle, write_pickle

pytestmark = pytest.mark.contract

GENES = ["ENSG00000000003", "ENSG00000000005", "ENSG00000000419"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", FILES)
def test_files_hold_the_tables_entry_by_entry(cache, name):
    version, table, file = FILES[name]
    path = getattr(gf, name)
    assert isinstance(path, Path)
    assert path.name == file
    assert cache in path.parents
    wanted = gf.Vocabulary.load(version).published_tables()[table]
    with path.open("rb") as opened:
        written = pickle.load(opened)
    assert list(written.items()) == list(wanted.items())
    assert read_pickle(path) == wanted
    kinds = {(type(key), type(value)) for key, value in written.items()}
    assert kinds == {(str, {"token_dictionary": int, "gene_median_dictionary": float}.get(table, str))}


def test_numbers_of_entries_are_the_published_ones(cache):
    sizes = {name: len(read_pickle(getattr(gf, name))) for name in FILES}
    assert sizes == {
        "GENE_MEDIAN_FILE": 42_005,
        "TOKEN_DICTIONARY_FILE": 20_275,
        "ENSEMBL_DICTIONARY_FILE": 63_675,
        "ENSEMBL_MAPPING_FILE": 173_697,
        "GENE_MEDIAN_FILE_30M": 25_424,
        "TOKEN_DICTIONARY_FILE_30M": 25_426,
        "ENSEMBL_DICTIONARY_FILE_30M": 40_248,
        "ENSEMBL_MAPPING_FILE_30M": 25_424,
    }


def test_published_paths_lead_to_the_same_files(cache):
    from geneformer.tokenizer import TOKEN_DICTIONARY_FILE

    from geneformer import tokenizer

    assert TOKEN_DICTIONARY_FILE == gf.TOKEN_DICTIONARY_FILE == tokenizer.TOKEN_DICTIONARY_FILE
    assert set(FILES) <= set(gf.__all__)
    assert set(FILES) <= set(tokenizer.__all__)
    with pytest.raises(AttributeError, match="NO_SUCH_FILE"):
        dictionary_files.NO_SUCH_FILE  # noqa: B018


def test_importing_writes_nothing(cache):
    script = (
        "from geneformer import TranscriptomeTokenizer as T; import geneformer.tokenizer; T(); T(model_version='V1')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert not cache.exists()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("GENEFORMER_CACHE", raising=False)
    assert cache_folder() == tmp_path / "xdg" / "geneformer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "geneformer"


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for told in (tmp_path / "file", tmp_path / "file" / "within", "~nobody-of-that-name/cache"):
        monkeypatch.setenv("GENEFORMER_CACHE", str(told))
        with pytest.raises(errors.OutputError, match=f"(?s){told}.*Set GENEFORMER_CACHE"):
            dictionary_files.__getattr__("GENE_MEDIAN_FILE")


def test_a_home_that_cannot_be_told_hinders_nothing_that_needs_none(monkeypatch):
    def unknown(_):
        raise RuntimeError

    for name in ("GENEFORMER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    path = dictionary_path("TOKEN_DICTIONARY_FILE")
    assert bundled_version(path) == "V2"
    with pytest.raises(errors.OutputError, match="Set GENEFORMER_CACHE"):
        dictionary_files.__getattr__("TOKEN_DICTIONARY_FILE")
    assert not Path("~").exists()


def test_a_relative_cache_stays_where_it_is_when_the_script_moves(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    path = gf.GENE_MEDIAN_FILE_30M
    monkeypatch.chdir("/")
    assert path.is_file()


def test_a_path_of_this_package_stands_for_its_table_whether_written_or_not(cache, monkeypatch, tmp_path):
    path = dictionary_path("GENE_MEDIAN_FILE_30M")
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "another"))
    assert bundled_version(path) == "V1"
    assert len(read_dictionary(path)) == 25_424
    assert bundled_version(tmp_path / path.name) is None
    with pytest.raises(errors.InputNotFoundError):
        read_dictionary(tmp_path / path.name)
    assert not cache.exists()


def test_vocabularies_are_told_by_version_and_files(cache):
    v1, v2 = gf.Vocabulary.load("V1"), gf.Vocabulary.load("V2")
    assert published_vocabulary("V1") is v1
    assert published_vocabulary("V2") is v2
    assert published_vocabulary("V2", gf.TOKEN_DICTIONARY_FILE) is v2
    assert published_vocabulary("V2", gf.TOKEN_DICTIONARY_FILE_30M) is v1
    assert (
        published_vocabulary("V1", gf.TOKEN_DICTIONARY_FILE_30M, gene_name_id_file=gf.ENSEMBL_DICTIONARY_FILE_30M) is v1
    )
    with pytest.raises(errors.UnknownChoiceError, match="V2"):
        published_vocabulary("V3")
    with pytest.raises(errors.UnsupportedArgumentError, match="token_dictionary_gc104M"):
        published_vocabulary("V1", gf.TOKEN_DICTIONARY_FILE)


def test_copies_of_published_files_are_recognized_by_what_they_hold(cache, tmp_path):
    copy = tmp_path / "token_dictionary.pkl"
    copy.write_bytes(gf.TOKEN_DICTIONARY_FILE_30M.read_bytes())
    assert published_vocabulary("V1", copy) is gf.Vocabulary.load("V1")
    assert published_vocabulary("V2", str(copy)) is gf.Vocabulary.load("V1")


def test_own_tokens_make_a_vocabulary_of_their_own(tmp_path):
    tokens = {"<pad>": 0, "<mask>": 1, **{gene: 2 + n for n, gene in enumerate(GENES)}}
    file = write_pickle(tokens, tmp_path / "own.pkl")
    own = published_vocabulary("V2", file)
    assert (own.name, dict(own.token_of), own.input_size) == ("own", {g: 2 + n for n, g in enumerate(GENES)}, 2048)
    medians = write_pickle(dict.fromkeys(GENES, 2.5), tmp_path / "medians.pkl")
    assert published_vocabulary("V2", file, gene_median_file=medians).medians.tolist() == [2.5] * 3
    with pytest.raises(errors.InvalidVocabularyError, match="list"):
        published_vocabulary("V2", write_pickle([1], tmp_path / "list.pkl"))


def test_identifiers_are_mapped_as_told_and_no_further(tmp_path):
    defaults = [dictionary_path(name) for name in ("TOKEN_DICTIONARY_FILE", "GENE_MEDIAN_FILE", "ENSEMBL_MAPPING_FILE")]
    assert ranking_vocabulary("V2", *defaults, collapse=True) is gf.Vocabulary.load("V2")
    assert ranking_vocabulary("V1", *defaults, collapse=True) is gf.Vocabulary.load("V1")
    for plain in (
        ranking_vocabulary("V2", *defaults, collapse=False),
        ranking_vocabulary("V2", *defaults[:2], None, collapse=True),
    ):
        assert plain == gf.Vocabulary.load("V2")
        assert dict(plain.aliases) == {gene: gene for gene in plain.genes}
        assert not plain.symbols
    own = write_pickle({"MINE": GENES[0]}, tmp_path / "own.pkl")
    assert dict(ranking_vocabulary("V2", *defaults[:2], own, collapse=True).aliases) == {"MINE": GENES[0]}
