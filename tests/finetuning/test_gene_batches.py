"""Classes of tokens in batches, and counts over cells, against plain loops."""

import numpy as np
import pytest

from geneformer.finetuning import training
from geneformer.finetuning.gene_classifier import gene_batches
from geneformer.finetuning.training import cells_with_labeled_genes, count_cells, mean_ranks
from geneformer.models.losses import MISSING
from small_cells import dataset_of
from small_genes import V1, cells, common_genes, dealt, labels_of

LENGTH = 37


@pytest.fixture(params=[3, 2048])
def dataset(request, monkeypatch):
    """Cells of different lengths, one of them empty, looked at few or many at a time."""
    monkeypatch.setattr(training, "_CELLS_AT_ONCE", request.param)
    known = cells(11)
    return dataset_of([*(known[row] for row in range(5)), [], *(known[row] for row in range(5, 11)), [7, 9]])


def read(dataset):
    return [dataset[row][:LENGTH].tolist() for row in range(len(dataset))]


def test_every_token_has_its_class(dataset):
    class_of = labels_of(dealt(common_genes(dataset, 9, LENGTH), 3)).class_of(V1.size)
    rows = np.array([4, 0, 7, 11])
    batches = gene_batches(dataset, rows, class_of, LENGTH)
    assert batches.lengths.tolist() == [len(read(dataset)[row]) for row in rows]
    batch = batches([(0, 2), (0, 0), (0, 3)])
    chosen = [read(dataset)[rows[place]] for place in (2, 0, 3)]
    assert batch["input_ids"].tolist() == [token for cell in chosen for token in cell]
    assert batch["cu_seqlens"].tolist() == np.cumsum([0, *map(len, chosen)]).tolist()
    assert batch["labels"].tolist() == [class_of[token] for cell in chosen for token in cell]
    assert set(batch["labels"].tolist()) == {MISSING, 0, 1, 2}


def test_cells_with_a_labeled_gene_are_found(dataset):
    rare = common_genes(dataset, 200, LENGTH)[150:156]
    class_of = labels_of(dealt(rare)).class_of(V1.size)
    tokens = {V1.token_of[gene] for gene in rare}
    expected = [row for row, cell in enumerate(read(dataset)) if tokens & set(cell)]
    assert cells_with_labeled_genes(dataset, class_of, LENGTH).tolist() == expected
    assert 0 < len(expected) < len(dataset)


def test_a_gene_behind_the_cut_does_not_count():
    class_of = labels_of({"a": [V1.gene_of[40]], "b": [V1.gene_of[41]]}).class_of(V1.size)
    dataset = dataset_of([[5, 6, 40], [40, 5, 6]])
    assert cells_with_labeled_genes(dataset, class_of, 2).tolist() == [1]
    assert cells_with_labeled_genes(dataset, class_of, 3).tolist() == [0, 1]


def test_counts_and_ranks_are_those_of_a_loop(dataset):
    counts, places = np.zeros(V1.size), {}
    for cell in read(dataset):
        for place, token in enumerate(cell):
            counts[token] += 1
            places.setdefault(token, []).append((place + 0.5) / len(cell))
    np.testing.assert_array_equal(count_cells(dataset, V1.size, LENGTH), counts)
    ranks = mean_ranks(dataset, V1.size, LENGTH)
    assert np.isnan(ranks[counts == 0]).all()
    for token, found in places.items():
        assert ranks[token] == pytest.approx(np.mean(found))
