"""The pretraining loss against `transformers`' BERT and against plain loops."""

import math

import pytest
import torch
from torch.testing import assert_close

from geneformer.models.heads import GeneformerForMaskedLM, contrastive_loss
from models.reference_bert import ours, random_bert, random_cells, small_config

LENGTHS = (4, 9, 9, 1)


@pytest.fixture
def bert():
    return random_bert(small_config())


@pytest.fixture
def cells():
    return random_cells(LENGTHS, 60)


@pytest.fixture
def masked():
    return torch.tensor([0, 3, 5, 12, 13, 22])


def labels_for_bert(cells, masked, labels):
    """Labels the way BERT takes them: padded, and -100 where nothing is to be predicted."""
    packed = torch.full_like(cells.input_ids, -100)
    packed[masked] = labels
    padded = torch.full_like(cells.padded, -100)
    padded[cells.attention_mask.bool()] = packed
    return padded


def batch(cells, masked, **kwargs):
    labels = (cells.input_ids[masked] * 7) % 60
    return {
        "input_ids": cells.input_ids,
        "cu_seqlens": cells.cu_seqlens,
        "masked": masked,
        "labels": labels,
        **kwargs,
    }


def test_loss_and_gradients_are_those_of_bert(bert, cells, masked):
    model = ours(bert)
    inputs = batch(cells, masked)
    found = model(**inputs)
    labels = labels_for_bert(cells, masked, inputs["labels"])
    expected = bert(cells.padded, cells.attention_mask, labels=labels)
    assert_close(found.loss, expected.loss, atol=1e-6, rtol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    theirs = dict(bert.named_parameters())
    for name, weight in model.named_parameters():
        assert_close(weight.grad, theirs[name].grad, atol=1e-6, rtol=1e-4, msg=name)


def test_accumulated_batches_have_the_gradients_of_one_batch(bert, cells, masked):
    whole, parts = ours(bert), ours(bert)
    whole(**batch(cells, masked)).loss.backward()
    for rows in ((0, 1), (2, 3)):
        first, last = int(cells.cu_seqlens[rows[0]]), int(cells.cu_seqlens[rows[-1] + 1])
        inside = masked[(masked >= first) & (masked < last)] - first
        part = random_cells([LENGTHS[row] for row in rows], 60)
        part.input_ids.copy_(cells.input_ids[first:last])
        parts(**batch(part, inside, num_items_in_batch=torch.tensor(len(masked)))).loss.backward()
    for one, sum_of_two in zip(whole.parameters(), parts.parameters(), strict=True):
        assert_close(sum_of_two.grad, one.grad, atol=1e-6, rtol=1e-4)


def test_hits_are_counted_in_evaluation_only(bert, cells, masked):
    model = ours(bert)
    inputs = batch(cells, masked)
    with torch.no_grad():
        guesses = model.logits(model.bert(cells.input_ids, cells.cu_seqlens)[masked]).topk(10).indices
        inputs["labels"][:2] = guesses[:2, 0]
        inputs["labels"][2] = guesses[2, 9]
        found = model(**inputs)
    right = guesses == inputs["labels"][:, None]
    assert (int(found.n_masked), int(found.n_top1)) == (6, int(right[:, 0].sum()))
    assert int(found.n_top10) == int(right.any(1).sum()) >= 3
    model.train()
    assert model(**inputs).n_top1 is None


def test_a_batch_without_masked_genes_has_no_loss(bert, cells):
    found = ours(bert)(**batch(cells, torch.tensor([], dtype=torch.long)))
    assert found.loss.item() == 0


def test_the_contrastive_term_is_weighed_and_reported(bert, masked):
    model = ours(bert)
    views = random_cells((4, 9, 4, 9), 60)
    plain = model(**batch(views, masked))
    both = model(**batch(views, masked, contrastive_weight=0.5, temperature=0.2))
    assert plain.contrastive_loss is None
    assert_close(both.masked_loss, plain.masked_loss)
    assert_close(both.loss, both.masked_loss + 0.5 * both.contrastive_loss)


@pytest.mark.parametrize("layer", [0, -1, -2])
def test_the_contrastive_term_compares_the_layer_asked_for(bert, masked, layer):
    model = ours(bert)
    views = random_cells((4, 9, 4, 9), 60)
    found = model(**batch(views, masked, contrastive_weight=1.0, temperature=0.2, contrastive_layer=layer))
    states = model.bert(views.input_ids, views.cu_seqlens, layer=layer)
    means = torch.stack([part.mean(0) for part in states.split([4, 9, 4, 9])])
    assert_close(found.contrastive_loss, contrastive_loss(means, 0.2).detach())
    assert_close(found.masked_loss, model(**batch(views, masked)).masked_loss)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("n_cells", [2, 5])
def test_the_contrastive_loss_is_a_plain_double_loop(n_cells, temperature):
    views = torch.randn(2 * n_cells, 6, generator=torch.Generator().manual_seed(n_cells))
    centred = (views - views.mean(0)).double()
    losses = []
    for i in range(2 * n_cells):
        cosine = [
            float(centred[i] @ centred[j] / (centred[i].norm() * centred[j].norm())) / temperature
            for j in range(2 * n_cells)
        ]
        partner = (i + n_cells) % (2 * n_cells)
        total = sum(math.exp(cosine[j]) for j in range(2 * n_cells) if j != i)
        losses.append(math.log(total) - cosine[partner])
    assert contrastive_loss(views, temperature).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_contrastive_loss_draws_views_together():
    one = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    other = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    assert contrastive_loss(torch.cat([one, one]), 0.1) < contrastive_loss(torch.cat([one, other]), 0.1)


def test_a_cell_without_tokens_does_not_break_the_gradient(bert):
    model = ours(bert)
    views = random_cells((4, 0, 4, 3), 60)
    loss = model(**batch(views, torch.tensor([0, 5]), contrastive_weight=1.0)).loss
    loss.backward()
    assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters() if weight.grad is not None)


def test_initial_weights_are_those_bert_draws():
    config = small_config(vocab_size=3000, hidden_size=64, num_attention_heads=2)
    torch.manual_seed(0)
    model = GeneformerForMaskedLM(config)
    assert model.bert.embeddings.word_embeddings.weight[1:].std().item() == pytest.approx(0.02, rel=0.02)
    assert not bool(model.bert.embeddings.word_embeddings.weight[0].any())
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert not bool(weight.any())
        elif "LayerNorm" in name:
            assert bool((weight == 1).all())
