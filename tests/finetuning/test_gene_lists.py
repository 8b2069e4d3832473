"""Lists of genes under any name, and what is wrong with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geneformer.errors import GeneformerWarning, GeneListError, UnknownClassError
from geneformer.finetuning.labels import occurring, read_gene_classes
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.losses import MISSING
from small_genes import V1, common_genes, dealt, labels_of

V2 = Vocabulary.load("V2")
GENES = V1.genes[::500].tolist()


def ids(labels):
    return labels.by_class(V1)


@pytest.mark.parametrize(
    "name", ["GAPDH", "gapdh", " Gapdh ", "ENSG00000111640", "ensg00000111640", "ENSG00000111640.15", b"GAPDH"]
)
@pytest.mark.parametrize("vocabulary", [V1, V2])
def test_a_gene_goes_by_many_names(name, vocabulary):
    labels = read_gene_classes({"a": [name], "b": ["CD3E", "TP53", "ENSG00000156508"]}, vocabulary)
    assert labels.by_class(vocabulary)["a"] == ["ENSG00000111640"]


def test_earlier_symbols_and_retired_ids_are_known():
    retired = next(
        alias for alias, gene in V2.aliases.items()
        if alias.startswith("ENSG") and gene in V2.token_of and alias not in V2.token_of
    )  # fmt: skip
    earlier = next(
        alias for alias, gene in V2.aliases.items()
        if not alias.startswith("ENSG") and gene in V2.token_of and V2.symbol_of(gene).upper() != alias
        and gene != V2.aliases[retired]
    )  # fmt: skip
    found = read_gene_classes({"a": [retired], "b": [earlier]}, V2).by_class(V2)
    assert found == {"a": [V2.aliases[retired]], "b": [V2.aliases[earlier]]}


@given(st.permutations(GENES), st.integers(1, len(GENES) - 1))
def test_neither_order_nor_repetition_matters(genes, cut):
    given_, straight = {"x": genes[:cut], "y": genes[cut:] * 2}, {"x": sorted(genes[:cut]), "y": sorted(genes[cut:])}
    first, second = (read_gene_classes(lists, V1) for lists in (given_, straight))
    np.testing.assert_array_equal(first.tokens, second.tokens)
    np.testing.assert_array_equal(first.codes, second.codes)
    assert (np.diff(first.tokens) > 0).all()
    assert {name: sorted(found) for name, found in ids(first).items()} == straight


def test_the_lookup_is_the_list():
    labels = read_gene_classes(dealt(GENES, 3), V1)
    class_of = labels.class_of(V1.size)
    assert {t: class_of[t] for t in np.flatnonzero(class_of != MISSING)} == {
        V1.token_of[gene]: code for code, genes in enumerate(dealt(GENES, 3).values()) for gene in genes
    }
    some = np.array([2, 5])
    assert np.flatnonzero(labels.class_of(V1.size, some) != MISSING).tolist() == labels.tokens[some].tolist()
    assert labels.counts.sum() == len(labels) == len(GENES)


def test_empty_entries_are_passed_over():
    labels = read_gene_classes({"a": ["GAPDH", "", None, "nan"], "b": ["CD3E", "  "]}, V1)
    assert labels.counts.tolist() == [1, 1]
    assert not labels.unknown


def test_unknown_genes_are_listed():
    lists = {"a": ["GAPDH", "GAPDX"], "b": ["CD3E", "nonsense", "ENSG99999999999"]}
    with pytest.raises(GeneListError, match=r"3 genes .* V1. 'a': GAPDX; 'b': nonsense, ENSG99999999999.*GAPDH"):
        read_gene_classes(lists, V1)
    with pytest.warns(GeneformerWarning, match=r"3 genes are not in vocabulary V1 and left out. 'a': GAPDX"):
        labels = read_gene_classes(lists, V1, unknown="drop")
    assert labels.unknown == {"a": ("GAPDX",), "b": ("nonsense", "ENSG99999999999")}
    assert labels.counts.tolist() == [1, 1]


def test_long_lists_of_unknown_genes_are_cut():
    with pytest.raises(GeneListError, match=r"30 genes .* zz19 and 10 more"):
        read_gene_classes({"a": [f"zz{i}" for i in range(30)], "b": ["CD3E"]}, V1)


def test_other_kinds_of_identifiers_are_named():
    with pytest.raises(GeneListError, match=r"2 of them are mouse"):
        read_gene_classes({"a": ["ENSMUSG00000057666", "ENSMUSG00000032093"], "b": ["CD3E"]}, V1)


def test_mouse_spelling_is_noticed():
    with pytest.warns(GeneformerWarning, match="3 of 4 genes are spelled the way of mouse genes"):
        labels = read_gene_classes({"a": ["Gapdh", "Actb"], "b": ["Cd3e", "TP53"]}, V1)
    assert len(labels) == 4


def test_a_gene_in_two_classes_is_refused_under_any_name():
    with pytest.raises(GeneListError, match=r"1 genes are in two classes: GAPDH \(a, b\)"):
        read_gene_classes({"a": ["gapdh"], "b": ["ENSG00000111640.2", "CD3E"]}, V1)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"a": ["GAPDH"]}, "two or more"),
        ({}, "two or more"),
        ({"a": ["GAPDH"], "b": []}, "Class 'b' has no gene: its list is empty"),
        ({"a": ["GAPDH"], "b": [""]}, "Class 'b' has no gene: its list is empty"),
        ({"a": "GAPDH", "b": ["CD3E"]}, "Class 'a' holds 'GAPDH'; it takes a list"),
        ({"a": 3, "b": ["CD3E"]}, "Class 'a' holds 3"),
        ([["GAPDH"], ["CD3E"]], "gene_classes is a list"),
        ({"a": ["GAPDH"], " a": ["CD3E"]}, "a name of its own"),
    ],
)
def test_what_is_no_table_of_lists_is_refused(lists, message):
    with pytest.raises(GeneListError, match=message):
        read_gene_classes(lists, V1)


def test_a_class_of_unknown_genes_only_is_refused():
    with pytest.raises(GeneListError, match="Class 'b' has no gene: none of its 2 genes is in vocabulary V1"):
        read_gene_classes({"a": ["GAPDH"], "b": ["no", "none at all"]}, V1, unknown="drop")


def test_known_classes_keep_their_codes():
    labels = read_gene_classes({"c": ["GAPDH"]}, V1, classes=("a", "b", "c"))
    assert labels.codes.tolist() == [2]
    assert labels.classes == ("a", "b", "c")
    with pytest.raises(UnknownClassError, match="Class 'd' was not learnt; known are 'a', 'b', 'c'"):
        read_gene_classes({"d": ["GAPDH"]}, V1, classes=("a", "b", "c"))


def test_genes_that_occur_nowhere_are_left_out_with_a_warning(cells):
    labels = labels_of(dealt([*common_genes(cells, 4), *V1.genes[-2:]]))
    n_cells = np.zeros(V1.size, dtype=int)
    n_cells[labels.tokens] = [V1.gene_of[token] not in V1.genes[-2:] for token in labels.tokens]
    with pytest.warns(GeneformerWarning, match="2 of 6 labeled genes occur in no cell"):
        kept = occurring(labels, n_cells, V1)
    assert sorted(kept.tokens) == sorted(V1.token_of[gene] for gene in common_genes(cells, 4))
    assert sorted(gene for genes in kept.absent.values() for gene in genes) == sorted(V1.genes[-2:])


def test_a_class_that_occurs_nowhere_is_refused():
    labels = labels_of({"a": [V1.genes[3]], "b": [V1.genes[4]]})
    n_cells = np.zeros(V1.size, dtype=int)
    n_cells[V1.token_of[V1.genes[3]]] = 1
    with pytest.raises(GeneListError, match="None of the 1 genes of class 'b' occurs in the cells"):
        occurring(labels, n_cells, V1)


@pytest.fixture(scope="module")
def cells():
    from small_genes import cells

    return cells()
