"""Tokens that name no vocabulary are taken for those of the one named, unless something speaks against it."""

import pytest

from geneformer.compat.cells import mark_tokens
from geneformer.errors import UnknownVocabularyError
from geneformer.genes.vocabulary import Vocabulary
from small_cells import dataset_of

pytestmark = pytest.mark.contract

V1, V2 = Vocabulary.load("V1"), Vocabulary.load("V2")
OWN = Vocabulary(
    name="own", genes=["A", "B"], token_ids=[2, 3], medians=[1.0, 1.0],
    special_tokens={"<pad>": 0, "<mask>": 1}, input_size=10,
)  # fmt: skip


def marked(rows, vocabulary, named=None):
    return mark_tokens(dataset_of(rows, vocabulary=named), vocabulary).vocabulary


@pytest.mark.parametrize("rows", [[[10, 11], [12]], [[2, 10, 3], [2, 11, 3]]])
def test_cells_with_and_without_special_tokens(rows):
    assert marked(rows, V2) == V2.fingerprint


def test_what_speaks_against_it():
    with pytest.raises(UnknownVocabularyError, match="id 25,000"):
        marked([[10, 25_000]], V2)
    with pytest.raises(UnknownVocabularyError, match="made with vocabulary V2, not V1"):
        marked([[2, 10, 3], [2, 11, 3]], V1)


def test_cells_keep_the_bundled_vocabulary_they_name():
    assert marked([[10]], V2, named=V1.fingerprint) == V1.fingerprint
    assert marked([[2, 3]], OWN, named=V1.fingerprint) == V1.fingerprint


def test_a_dictionary_of_ones_own_is_not_compared_by_its_medians():
    assert marked([[2, 3]], OWN, named="with medians") == OWN.fingerprint
