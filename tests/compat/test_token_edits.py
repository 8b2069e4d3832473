"""Changes of single rows under their published names, as scripts map them over a dataset."""

import datasets
import pytest
from geneformer.classifier_utils import label_gene_classes
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer import InSilicoPerturber, errors
from geneformer import perturber_utils as pu

pytestmark = pytest.mark.contract

CLS, EOS = 2, 3


def row(ids, **more):
    return {"input_ids": list(ids), "length": len(ids), **more}


def test_tokens_are_deleted_at_their_positions_nested_or_not():
    for places in ([1, 3], [[3], [1]]):
        assert pu.delete_indices(row([5, 6, 7, 8], perturb_index=places))["input_ids"] == [5, 7]
    untouched = pu.delete_indices(row([5, 6], perturb_index=[-100]))
    assert (untouched["input_ids"], untouched["length"]) == ([5, 6], 2)
    with pytest.raises(errors.DatasetError, match="position 4 of a row of 2"):
        pu.delete_indices(row([5, 6], perturb_index=[4]))
    with pytest.raises(errors.DatasetError, match="perturb_index"):
        pu.delete_indices(row([5, 6]))


def test_tokens_move_to_the_front_in_the_order_of_the_row():
    assert pu.overexpress_indices(row([5, 6, 7, 8], perturb_index=[3, 1]))["input_ids"] == [6, 8, 5, 7]
    assert pu.overexpress_indices_special(row([CLS, 6, 7, EOS], perturb_index=[2]))["input_ids"] == [CLS, 7, 6, EOS]


def test_tokens_are_put_in_front_whether_the_row_had_them_or_not():
    asked = {"tokens_to_perturb": [9, 7]}
    assert pu.overexpress_tokens(row([5, 7, 8], perturb_index=[1], **asked), 9, False)["input_ids"] == [9, 7, 5, 8]
    assert pu.overexpress_tokens(row([5, 8], perturb_index=[-100], **asked), 3, False)["input_ids"] == [9, 7, 5]
    framed = pu.overexpress_tokens(row([CLS, 5, 7, 8, EOS], perturb_index=[2], **asked), 5, True)
    assert (framed["input_ids"], framed["length"]) == ([CLS, 9, 7, 5, EOS], 5)


def test_what_exceeds_the_longest_row_is_cut_off():
    assert pu.calc_n_overflow(5, 5, [9, 7], [2]) == 1
    assert pu.calc_n_overflow(9, 5, [9, 7], []) == -2
    assert pu.truncate_by_n_overflow(row([5, 6, 7], n_overflow=1))["input_ids"] == [5, 6]
    assert pu.truncate_by_n_overflow(row([5, 6, 7], n_overflow=-4))["input_ids"] == [5, 6, 7]
    assert pu.truncate_by_n_overflow_special(row([CLS, 6, 7, EOS], n_overflow=1))["input_ids"] == [CLS, 6, EOS]
    assert pu.truncate_by_n_overflow_special(row([CLS, 6, EOS], n_overflow=0))["input_ids"] == [CLS, 6, EOS]


@settings(max_examples=40)
@given(st.lists(st.integers(10, 40), unique=True, max_size=8), st.lists(st.integers(10, 40), unique=True, max_size=3))
def test_a_row_cut_by_its_overflow_is_as_long_as_its_perturbed_one(genes, tokens):
    ids, longest = [CLS, *genes, EOS], 10
    places = [ids.index(token) for token in tokens if token in ids]
    made = pu.overexpress_tokens(row(ids, perturb_index=places or [-100], tokens_to_perturb=tokens), longest, True)
    overflow = pu.calc_n_overflow(longest, len(ids), tokens, places)
    added = [token for token in tokens if token not in ids]
    cut = pu.truncate_by_n_overflow_special(row(ids, n_overflow=overflow))
    assert made["length"] == len(made["input_ids"]) == min(len(ids) + len(added), longest)
    assert cut["length"] == made["length"] - len(added)
    assert made["input_ids"][1 : 1 + len(tokens)] == tokens
    assert (made["input_ids"][0], made["input_ids"][-1]) == (CLS, EOS)


def test_scripts_map_them_over_datasets_with_what_the_perturber_tells():
    isp = InSilicoPerturber(perturb_type="overexpress", genes_to_perturb=["ENSG00000166710"], emb_mode="cls", nproc=1)
    [token] = isp.tokens_to_perturb
    assert (isp.special_token, isp.pad_token_id, isp.token_gene_dict[token]) == (True, 0, "ENSG00000166710")
    assert isp.gene_token_dict["<cls>"] == CLS
    assert not InSilicoPerturber(perturb_type="delete", genes_to_perturb="all", model_version="V1").special_token
    data = datasets.Dataset.from_list([row([CLS, 9, token, EOS]), row([CLS, 8, EOS])])

    def overexpress(example):
        ids = example["input_ids"]
        example["tokens_to_perturb"] = isp.tokens_to_perturb
        example["perturb_index"] = [ids.index(t) for t in isp.tokens_to_perturb if t in ids] or [-100]
        return pu.overexpress_tokens(example, 10, isp.special_token)

    made = data.map(overexpress, num_proc=2)
    assert made["input_ids"][:] == [[CLS, token, 9, EOS], [CLS, token, 8, EOS]]
    assert made["length"][:] == [4, 4]


def test_tokens_are_labeled_by_the_class_of_their_gene():
    assert label_gene_classes(row([5, 6, 7]), {"a": 0, "b": 1}, {5: "b", 7: "a"}) == [1, -100, 0]
