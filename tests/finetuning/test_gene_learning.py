"""What is learnt about genes: from labeled tokens only, never from the class of a held-out gene; all as in a loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from geneformer.errors import OptionError
from geneformer.finetuning.gene_classifier import gene_batches, learn_genes, predict_genes, score_genes
from geneformer.finetuning.splits import Split, split_genes
from geneformer.finetuning.training import cells_with_labeled_genes
from geneformer.models.loading import load_model
from geneformer.models.losses import MISSING
from geneformer.options import FinetuneOptions, RuntimeOptions
from small_finetuning import QUICK, tiny_model
from small_genes import V1, cells, common_genes, dealt, labels_of

RUNTIME = RuntimeOptions(device="cpu", dtype="float32", progress=False)
OPTIONS = {name: value for name, value in QUICK.items() if name not in ("device", "dtype", "progress")}
OPTIONS["head_start"] = "random"  # so that every step counts
LENGTH = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_model(tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def tokens():
    return cells()


@pytest.fixture(scope="module")
def labels(tokens):
    return labels_of(dealt(common_genes(tokens, 30)))


def learn(base, tokens, labels, parts, **changes):
    arguments = {name: changes.pop(name) for name in ("output", "resume", "callbacks") if name in changes}
    return learn_genes(base, tokens, labels, parts, FinetuneOptions(**OPTIONS | changes), RUNTIME, **arguments)


def same_weights(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def learnt(base, tokens, labels):
    parts = split_genes(labels.codes, valid=0.2, test=0.3)
    return parts, *learn(base, tokens, labels, parts)


def test_the_same_seed_learns_the_same(base, tokens, labels, learnt):
    parts, network, result = learnt
    again, repeated = learn(base, tokens, labels, parts)
    assert same_weights(network, again)
    assert repeated.metrics == result.metrics
    assert not same_weights(network, learn(base, tokens, labels, parts, seed=1)[0])


def test_the_class_of_a_held_out_gene_is_never_seen(base, tokens, labels, learnt):
    parts, network, _ = learnt
    codes = labels.codes.copy()
    codes[parts.test] = 1 - codes[parts.test]
    assert same_weights(network, learn(base, tokens, replace(labels, codes=codes), parts)[0])
    codes = labels.codes.copy()
    codes[parts.train[0]] = 1 - codes[parts.train[0]]
    assert not same_weights(network, learn(base, tokens, replace(labels, codes=codes), parts)[0])


def test_validation_genes_choose_but_are_not_learnt(base, tokens, labels, learnt):
    parts, _, result = learnt
    assert {"loss", "log_likelihood", "accuracy", "macro_f1"} <= set(result.metrics)
    codes = labels.codes.copy()
    codes[parts.valid] = 1 - codes[parts.valid]
    # One evaluation only, at the end: there is nothing to choose, so their classes cannot matter.
    one = {"eval_steps": 3}
    first, second = (
        learn(base, tokens, replace(labels, codes=given), parts, **one)[0] for given in (labels.codes, codes)
    )
    assert same_weights(first, second)


def test_the_loss_is_the_mean_over_labeled_tokens(tokens, labels, learnt):
    parts, network, _ = learnt
    class_of = labels.class_of(V1.size, parts.train)
    batch = gene_batches(tokens, np.arange(5), class_of, LENGTH)([(0, row) for row in range(5)])
    with torch.no_grad():
        found = network(**batch)
        losses = []
        for row in range(5):
            ids = torch.from_numpy(tokens[row][:LENGTH].astype(np.int64))
            logits = network(ids, torch.tensor([0, len(ids)])).logits
            for place, token in enumerate(ids.tolist()):
                if class_of[token] != MISSING:
                    losses.append(-float(logits[place].log_softmax(-1)[class_of[token]]))
    assert float(found.loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(found.logits) == len(losses)


def test_it_learns_its_genes(base, tokens, labels):
    parts = Split(np.arange(len(labels)), *np.empty((2, 0), dtype=np.int64), method="all")
    network, result = learn(base, tokens, labels, parts, max_steps=60, dropout=0.0)
    proba, _, _ = predict_genes(network, tokens, RUNTIME, size=V1.size, max_length=LENGTH)
    assert (proba[labels.tokens].argmax(axis=1) == labels.codes).mean() > 0.9
    assert result.metrics == {}


@pytest.mark.parametrize("tokens_per_batch", [None, 61, 400])
def test_probabilities_are_means_over_cells(tokens, labels, learnt, tokens_per_batch):
    network, truth_of = learnt[1], labels.class_of(V1.size)
    runtime = replace(RUNTIME, tokens_per_batch=tokens_per_batch)
    averaged, n_cells, tally = predict_genes(
        network, tokens, runtime, size=V1.size, max_length=LENGTH, truth_of=truth_of
    )
    found, right = {}, []
    for row in range(len(tokens)):
        ids = torch.from_numpy(tokens[row][:LENGTH].astype(np.int64))
        with torch.no_grad():
            proba = network(ids, torch.tensor([0, len(ids)])).logits.softmax(-1).numpy()
        for token, values in zip(ids.tolist(), proba, strict=True):
            found.setdefault(token, []).append(values)
            if truth_of[token] != MISSING:
                right.append(values.argmax() == truth_of[token])
    assert np.flatnonzero(n_cells).tolist() == sorted(found)
    assert np.isnan(averaged[n_cells == 0]).all()
    for token, values in found.items():
        assert n_cells[token] == len(values)
        np.testing.assert_allclose(averaged[token], np.mean(values, axis=0), atol=1e-6)
    figures = tally.evaluation(labels.classes)
    assert figures.n == len(right)
    assert figures.metrics["accuracy"].mean == pytest.approx(np.mean(right))


def test_scores_count_every_gene_once(tokens, labels, learnt):
    network, rows = learnt[1], np.arange(len(labels))
    class_of = labels.class_of(V1.size, rows)
    batches = gene_batches(tokens, cells_with_labeled_genes(tokens, class_of, LENGTH), class_of, LENGTH)
    with torch.no_grad():
        batch = [batches([(0, row) for row in part]) for part in np.array_split(np.arange(len(batches.rows)), 5)]
        found = score_genes(2, V1.size, ((one, network(**one)) for one in batch))
        whole = batches([(0, row) for row in range(len(batches.rows))])
        loss = float(network(**whole).loss)
    proba = predict_genes(network, tokens, RUNTIME, size=V1.size, max_length=LENGTH)[0][labels.tokens]
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["accuracy"] == pytest.approx((proba.argmax(axis=1) == labels.codes).mean())
    given = proba[np.arange(len(labels)), labels.codes]
    assert found["log_likelihood"] == pytest.approx(np.log(given).mean(), abs=1e-5)


def test_balanced_classes_weigh_the_same(base, tokens, labels, learnt, monkeypatch):
    parts, seen = learnt[0], []
    monkeypatch.setattr(
        "geneformer.finetuning.gene_classifier.finetune",
        lambda network, train, *_, **__: seen.append((network.class_weights.numpy(), train)),
    )
    learn(base, tokens, labels, parts, class_weights="balanced")
    (weights, train), *_ = seen
    every = train([(0, row) for row in range(len(train.rows))])["labels"].numpy()
    counts = np.bincount(every[every != MISSING])
    np.testing.assert_allclose(weights * counts, counts.sum() / 2)


class Interruption(RuntimeError):
    """The power went off."""


def test_a_killed_fit_goes_on_to_the_same_network(base, tokens, labels, learnt, tmp_path):
    from transformers import TrainerCallback

    class Breaking(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise Interruption

    parts = learnt[0]
    changes = {"max_steps": 8, "eval_steps": 2}
    whole, result = learn(base, tokens, labels, parts, output=tmp_path / "whole", **changes)
    with pytest.raises(Interruption):
        learn(base, tokens, labels, parts, output=tmp_path / "broken", callbacks=[Breaking()], **changes)
    resumed, again = learn(base, tokens, labels, parts, output=tmp_path / "broken", resume=True, **changes)
    assert same_weights(whole, resumed)
    assert again.metrics == result.metrics
    assert again.steps == result.steps == 8


def test_a_contrastive_term_is_refused(base, tokens, labels, learnt):
    with pytest.raises(OptionError, match=r"contrastive term, and its weight is 0\.5"):
        learn(base, tokens, labels, learnt[0], contrastive_weight=0.5)
