"""Models by name or folder, and the vocabulary each belongs to."""

from dataclasses import replace

import pytest

from geneformer.errors import CheckpointError, UnknownModelError, UnknownVocabularyError, VocabularyMismatchError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.hub import HUB, find_folder, list_models
from geneformer.models.loading import load_model, save_checkpoint
from models.reference_bert import ours, random_bert, small_config

SIZES = {"V1": 25_426, "V2": 20_275}


def save(folder, vocab_size, fingerprint=None):
    config = small_config(vocab_size=vocab_size)
    if fingerprint is not None:
        config.geneformer_vocabulary = fingerprint
    save_checkpoint(ours(random_bert(config)), folder)
    return folder


@pytest.fixture(scope="module")
def vocabularies():
    return {name: Vocabulary.load(name) for name in SIZES}


def other_vocabulary(vocabulary):
    """A vocabulary of the same size with other medians."""
    return replace(vocabulary, name="own", medians=vocabulary.medians * 2)


@pytest.mark.parametrize("name", SIZES)
def test_a_published_folder_is_recognized_by_its_size(name, tmp_path):
    loaded = load_model(save(tmp_path, SIZES[name]))
    assert loaded.vocabulary.name == name
    assert (loaded.max_length, loaded.n_layers, loaded.has_head) == (32, 2, True)
    assert not loaded.network.training
    assert ["vocabulary", name] in [line.split() for line in repr(loaded).splitlines()]


@pytest.mark.parametrize("name", SIZES)
def test_a_fingerprint_is_recognized(name, vocabularies, tmp_path):
    folder = save(tmp_path, SIZES[name], vocabularies[name].fingerprint)
    assert load_model(folder).vocabulary.fingerprint == vocabularies[name].fingerprint
    assert load_model(str(folder), vocabulary=name).vocabulary.name == name


def test_a_vocabulary_that_contradicts_the_checkpoint_is_refused(vocabularies, tmp_path):
    folder = save(tmp_path / "model", SIZES["V1"], vocabularies["V1"].fingerprint)
    with pytest.raises(VocabularyMismatchError, match="25,426 tokens, not to V2"):
        load_model(folder, vocabulary="V2")
    with pytest.raises(VocabularyMismatchError, match="not to own"):
        load_model(folder, vocabulary=other_vocabulary(vocabularies["V1"]))


def test_an_own_vocabulary_is_passed_by_its_folder_or_as_it_is(vocabularies, tmp_path):
    own = other_vocabulary(vocabularies["V1"])
    own.save(tmp_path / "own")
    folder = save(tmp_path / "model", SIZES["V1"], own.fingerprint)
    with pytest.raises(UnknownVocabularyError, match="none of those bundled"):
        load_model(folder)
    assert load_model(folder, vocabulary=tmp_path / "own").vocabulary.fingerprint == own.fingerprint
    assert load_model(folder, vocabulary=own).vocabulary is own


def test_a_size_of_no_vocabulary_is_not_guessed(tmp_path):
    with pytest.raises(UnknownVocabularyError, match="60 tokens"):
        load_model(save(tmp_path, 60))
    with pytest.raises(VocabularyMismatchError, match="of 60 tokens"):
        load_model(tmp_path, vocabulary="V1")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("V1-10m", "V1-10M"),
        ("minni", "mini"),
        ("V2-104M_CLcancr", "V2-104M_CLcancer"),
        ("./no/such/folder", ""),
        ("/no/such/folder", ""),
        ("~/no-such-folder", ""),
        ("a//b", ""),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(UnknownModelError, match="neither a known name") as refusal:
        load_model(name)
    assert (f'Did you mean "{hint}"' in str(refusal.value)) == bool(hint)
    assert "V2-316M" in str(refusal.value)


def test_a_file_is_not_a_folder(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(UnknownModelError, match="Pass the folder"):
        load_model(path)


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_model(tmp_path)


def test_a_folder_below_the_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert find_folder("~/model") == tmp_path / "model"


def test_names_are_listed_by_pattern():
    assert list_models()[0] == "mini"
    assert set(list_models()) == {"mini", *HUB}
    assert list_models("V2-104M*") == ["V2-104M", "V2-104M_CLcancer"]
    assert list_models("none*") == []


def test_published_names_are_pinned_to_commits():
    for model in HUB.values():
        assert len(bytes.fromhex(model.revision)) == 20
