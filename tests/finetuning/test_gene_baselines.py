"""Linear models of what is known about genes without fine-tuning: they learn from the training genes only."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geneformer.finetuning.baselines import MAJORITY, PENALTIES, logistic_regression_on
from geneformer.finetuning.gene_classifier import CONTEXTUAL, STATIC, STATISTICS, GeneClasses, gene_features
from geneformer.finetuning.training import count_cells
from geneformer.models.loading import load_model
from geneformer.options import RuntimeOptions
from small_finetuning import tiny_model
from small_genes import V1, cells, common_genes, dealt, labels_of

RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)


def features(n=80, d=6, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 2
    values = rng.normal(size=(n, d))
    values[:, 0] += 2.0 * codes
    return values * np.array([1, 100, 1e-3, 1, 1, 1])[:d] + 5, codes


def test_it_is_scikit_learn_at_one_of_the_penalties():
    train, codes = features()
    test, _ = features(seed=1)
    found = logistic_regression_on(train, codes, test, 2)
    choices = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000)).fit(train, codes)
        for strength in PENALTIES
    ]
    assert any(np.allclose(found, choice.predict_proba(test), atol=1e-6) for choice in choices)
    assert (found.argmax(axis=1) == codes).mean() > 0.7


def test_scale_does_not_matter_and_constants_do_no_harm():
    train, codes = features()
    test, _ = features(seed=1)
    plain = logistic_regression_on(train, codes, test, 2)
    wide = np.column_stack([train * 7 - 3, np.ones(80)]), np.column_stack([test * 7 - 3, np.ones(80)])
    np.testing.assert_allclose(logistic_regression_on(wide[0], codes, wide[1], 2), plain, atol=1e-6)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    base = load_model(tiny_model(tmp_path_factory.mktemp("model") / "tiny"))
    tokens = cells()
    counts = np.zeros((len(tokens), len(V1.genes)), dtype=np.float32)
    column_of = {token: place for place, token in enumerate(V1.token_ids.tolist())}
    for row in range(len(tokens)):
        for rank, token in enumerate(tokens[row]):
            counts[row, column_of[token]] = 100 - rank
    return base, tokens, counts, labels_of(dealt(common_genes(tokens, 24), 3))


def test_features_are_those_of_the_genes(known):
    base, tokens, counts, _ = known
    found = gene_features(base, tokens, RUNTIME, counts=counts)
    assert set(found) == {STATISTICS, STATIC, CONTEXTUAL}
    n_cells = count_cells(tokens, V1.size, base.max_length)
    seen = np.flatnonzero(n_cells)
    for table in found.values():
        assert len(table) == V1.size
        assert np.isfinite(table[seen]).all()
    embedding = base.network.bert.embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(found[STATIC], embedding)
    level = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)
    ours = found[STATISTICS][V1.token_ids, 2]
    assert np.corrcoef(level, ours)[0, 1] == pytest.approx(1.0)
    detection = found[STATISTICS][seen, 1]
    order = np.argsort(n_cells[seen], kind="stable")
    assert (np.diff(detection[order]) >= -1e-12).all()
    assert gene_features(base, tokens, RUNTIME)[STATISTICS].shape[1] == 4


def test_baselines_learn_from_training_genes_only(known):
    base, tokens, counts, labels = known
    found = gene_features(base, tokens, RUNTIME, counts=counts)
    learnt, tested = (
        {name: table[labels.tokens[rows]] for name, table in found.items()}
        for rows in (np.arange(18), np.arange(18, 24))
    )
    predictions = GeneClasses(labels.classes).baselines(learnt, labels.codes[:18], tested)
    assert set(predictions) == {STATISTICS, STATIC, CONTEXTUAL, MAJORITY}
    for proba in predictions.values():
        assert proba.shape == (6, 3)
        np.testing.assert_allclose(proba.sum(axis=1), 1.0)
