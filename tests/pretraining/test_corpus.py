"""One dataset to pretrain on, from counts and datasets in any mixture."""

import numpy as np
import pytest

from geneformer.errors import OptionError, RunMismatchError, VocabularyMismatchError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.cells import open_tokens
from geneformer.options import TokenizeOptions
from geneformer.pretraining.corpus import TOKENS, open_corpus
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.tokens.storage import write_dataset
from small_cells import blood, write_blood
from small_runs import RUNTIME, options_for, tokenized, write_cells


@pytest.fixture
def paths(tmp_path):
    return write_cells(tmp_path, cells=6)


def same_rows(one, other):
    return len(one) == len(other) and all(np.array_equal(one[row], other[row]) for row in range(len(one)))


def test_counts_are_tokenized_once(paths, tmp_path, monkeypatch):
    options = options_for(tmp_path)
    told = []
    dataset, vocabulary = open_corpus(
        paths, tmp_path / "run", options, RUNTIME, progress=lambda *done: told.append(done)
    )
    assert vocabulary == Vocabulary.load("V1")
    assert same_rows(dataset, tokenized(paths))
    assert not dataset.has_counts
    assert told[-1] == (12, 12)
    monkeypatch.setattr("geneformer.tokenization.tokenizer.tokenize_counts", None)
    again, _ = open_corpus(paths, tmp_path / "run", options, RUNTIME)
    assert same_rows(again, dataset)


@pytest.mark.parametrize("changes", [{"contrastive_weight": 0.1}, {"spectral_start": True}])
def test_counts_are_kept_where_they_are_needed(paths, tmp_path, changes):
    dataset, _ = open_corpus(paths, tmp_path / "run", options_for(tmp_path, **changes), RUNTIME)
    assert dataset.has_counts


def test_tokens_left_by_other_inputs_are_not_taken(paths, tmp_path):
    open_corpus(paths[:1], tmp_path / "run", options_for(tmp_path), RUNTIME)
    with pytest.raises(RunMismatchError, match=r"tokens of \['donor0.h5ad'\], not of \['donor1.h5ad'\]"):
        open_corpus(paths[1:], tmp_path / "run", options_for(tmp_path), RUNTIME)
    with pytest.raises(RunMismatchError, match="tokens without counts"):
        open_corpus(paths[:1], tmp_path / "run", options_for(tmp_path, spectral_start=True), RUNTIME)


def test_datasets_and_counts_together(paths, tmp_path):
    folder = write_dataset(tokenized(paths[:1]), tmp_path / "one.dataset")
    both, _ = open_corpus([paths[1], folder], tmp_path / "run", options_for(tmp_path), RUNTIME)
    assert same_rows(both, tokenized(paths))
    assert sorted(set(both.column("source"))) == ["donor0", "donor1"]
    assert both.vocabulary == Vocabulary.load("V1").fingerprint


def test_datasets_of_another_vocabulary_are_refused(paths, tmp_path):
    other, _ = tokenize_counts(paths[:1], TokenizeOptions(vocabulary="V2"))
    folder = write_dataset(other, tmp_path / "v2.dataset")
    with pytest.raises(VocabularyMismatchError, match="but this run uses V1"):
        open_corpus([folder], tmp_path / "run", options_for(tmp_path), RUNTIME)
    assert not (tmp_path / "run" / TOKENS).exists()


class Model:
    """What `open_tokens` needs of a model."""

    vocabulary = Vocabulary.load("V1")
    max_length = 50


def test_tokens_fit_the_model_and_outlive_their_folder(tmp_path):
    tokens = open_tokens([write_blood(tmp_path / "b.h5ad", 9)], Model)
    assert tokens.lengths.max() == 50
    assert list(tokens.cell_ids) == list(blood(9).obs_names)
    assert not tokens.path.exists()
    assert len(tokens.take([1, 2]).gather([0, 1]).input_ids) == 100


def test_a_dataset_comes_alone(paths, tmp_path):
    folder = write_dataset(tokenized(paths[:1]), tmp_path / "one.dataset")
    assert len(open_tokens([folder], Model)) == 6
    with pytest.raises(OptionError, match="pass it alone"):
        open_tokens([folder, paths[1]], Model)
