"""The decoder of values and ranks: what it sees, what it starts from, and what it is trained by."""

import itertools

import pytest
import torch
from torch import nn
from transformers import BertConfig

from geneformer.models.heads import GeneformerForExpression, mean_over

IDS = torch.tensor([4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
STARTS = torch.tensor([0, 3, 7, 11])
CELLS = torch.tensor([0, 0, 1, 2, 2])
GENES = torch.tensor([4, 19, 15, 14, 4])
REMOVED = torch.tensor([False, True, True, False, True])
VALUES = torch.tensor([[1.0, 0.1], [0.5, 0.9], [2.0, 0.3], [0.0, 0.7], [3.0, 0.2]])


def network(pooling="mean", seed=0, **weights):
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=16, hidden_act="relu",
    )  # fmt: skip
    config.geneformer_pooling = pooling
    config.geneformer_special_ids = [0, 1, 2, 3]
    config.geneformer_decoder_size = 12
    chosen = {"removed": 1.0, "visible": 0.25, "value": 1.0, "rank": 1.0} | weights
    for name, value in chosen.items():
        setattr(config, f"geneformer_{name}_weight", value)
    torch.manual_seed(seed)
    net = GeneformerForExpression(config)
    net.usual.copy_(torch.rand(20, 2))
    net.spread.copy_(torch.tensor([0.8, 0.2]))
    return net


def test_prediction_is_an_mlp_over_cell_vector_and_gene_embedding_side_by_side():
    net = network()
    found = net(IDS, STARTS, CELLS, GENES).predictions
    pooled = net.embed(IDS, STARTS)
    first = nn.Linear(32, 12)
    with torch.no_grad():
        first.weight.copy_(torch.cat([net.from_cell.weight, net.from_gene.weight], dim=1))
        first.bias.copy_(net.from_cell.bias)
    for pair, (cell, gene) in enumerate(zip(CELLS, GENES, strict=True)):
        embedding = net.bert.embeddings.word_embeddings.weight[gene]
        both = torch.cat([net.cell_norm(pooled[cell]), net.gene_norm(embedding)])
        expected = net.usual[gene] + net.spread * net.decoder(first(both))
        torch.testing.assert_close(found[pair], expected)


def test_an_untrained_last_layer_of_zeros_tells_the_usual_values():
    net = network()
    nn.init.zeros_(net.decoder[-1].weight)
    torch.testing.assert_close(net(IDS, STARTS, CELLS, GENES).predictions, net.usual[GENES])


@pytest.mark.parametrize("pooling", ["mean", "cls", "attention", "pooler"])
def test_what_is_said_about_a_cell_depends_on_no_other(pooling):
    net = network(pooling).eval()
    together = net(IDS, STARTS, CELLS, GENES).predictions
    for cell, (a, b) in enumerate(itertools.pairwise(STARTS)):
        mine = cell == CELLS
        alone = net(
            IDS[a:b], torch.tensor([0, int(b - a)]), torch.zeros(int(mine.sum()), dtype=torch.long), GENES[mine]
        )
        torch.testing.assert_close(alone.predictions, together[mine], rtol=1e-5, atol=1e-6)


def test_the_loss_by_hand():
    net = network(removed=2.0, visible=0.5, value=3.0, rank=0.25)
    out = net(IDS, STARTS, CELLS, GENES, VALUES, REMOVED)
    total = 0.0
    for weight, chosen in ((2.0, REMOVED), (0.5, ~REMOVED)):
        for side, importance in ((0, 3.0), (1, 0.25)):
            said = (out.predictions[chosen, side] - VALUES[chosen, side]) / net.spread[side]
            total += weight * importance * said.square().mean()
    torch.testing.assert_close(out.loss, total)
    torch.testing.assert_close(2.0 * out.removed_loss + 0.5 * out.visible_loss, total.detach())
    torch.testing.assert_close(3.0 * out.value_loss + 0.25 * out.rank_loss, out.removed_loss)


@pytest.mark.parametrize(("removed", "visible"), [(1.0, 0.0), (0.0, 1.0)])
def test_genes_with_weight_zero_teach_nothing(removed, visible):
    one, other = network(removed=removed, visible=visible), network(removed=removed, visible=visible)
    changed = VALUES.clone()
    changed[REMOVED if removed == 0 else ~REMOVED] += 5.0
    for net, truth in ((one, VALUES), (other, changed)):
        net(IDS, STARTS, CELLS, GENES, truth, REMOVED).loss.backward()
    torch.testing.assert_close(one.from_cell.weight.grad, other.from_cell.weight.grad)


def test_without_a_gene_removed_the_loss_is_finite():
    out = network()(IDS, STARTS, CELLS, GENES, VALUES, torch.zeros(5, dtype=torch.bool))
    assert out.removed_loss == 0
    assert torch.isfinite(out.loss)


def test_encoder_and_embeddings_learn():
    net = network()
    net(IDS, STARTS, CELLS, GENES, VALUES, REMOVED).loss.backward()
    assert net.bert.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    # Gene 19 is in no input: its embedding learns through the decoder alone.
    assert net.bert.embeddings.word_embeddings.weight.grad[19].abs().sum() > 0


def test_mean_over():
    errors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]])
    assert mean_over(errors, torch.tensor([True, True, False])).tolist() == [2.0, 3.0]
    assert mean_over(errors, torch.tensor([False] * 3)).tolist() == [0.0, 0.0]
