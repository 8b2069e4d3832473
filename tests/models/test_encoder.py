"""The encoder gives the numbers of `transformers`' BERT, whatever the cells are packed with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from geneformer.models.attention import attention_weights, eager
from geneformer.models.encoder import mean_pool
from models.reference_bert import ours, random_bert, random_cells, shape_config, small_config

CLOSE = {"atol": 1e-5, "rtol": 0}
SMALL_MODEL = ours(random_bert(small_config()))
LENGTHS = (1, 23, 23, 60, 2)
SHAPES = {
    "V1-10M": (2, 25_426),
    "V2-104M": (2, 20_275),
    "V2-316M": (1, 20_275),
}


@pytest.fixture(scope="module", params=SHAPES)
def pair(request):
    """BERT of a published shape, our network with its weights, and what each is fed."""
    layers, vocab_size = SHAPES[request.param]
    bert = random_bert(shape_config(request.param, layers, vocab_size))
    return bert, ours(bert), random_cells(LENGTHS, vocab_size)


@pytest.fixture(scope="module")
def expected(pair):
    """Everything BERT says about the cells."""
    bert, _, cells = pair
    with torch.no_grad():
        return bert(cells.padded, cells.attention_mask, output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_states_of_every_layer_are_those_of_bert(pair, expected, kernel):
    _, model, cells = pair
    depth = len(expected.hidden_states) - 1
    with torch.no_grad():
        for layer, states in zip(range(-depth, 1), expected.hidden_states, strict=True):
            found = model.bert(cells.input_ids, cells.cu_seqlens, layer=layer, attention=kernel)
            assert_close(found, cells.pack(states), **CLOSE)


def test_attention_weights_are_those_of_bert(pair, expected):
    _, model, cells = pair
    recorded = []

    def recording(query, key, value, lengths, dropout):
        recorded.append(list(attention_weights(query, key, lengths)))
        return eager(query, key, value, lengths, dropout)

    with torch.no_grad():
        model.bert(cells.input_ids, cells.cu_seqlens, attention=recording)
    assert len(recorded) == len(expected.attentions)
    for ours_of_layer, theirs_BHLL in zip(recorded, expected.attentions, strict=True):
        for length, weights_HLL, padded_HLL in zip(LENGTHS, ours_of_layer, theirs_BHLL, strict=True):
            assert_close(weights_HLL, padded_HLL[:, :length, :length], **CLOSE)


def test_logits_are_those_of_bert(pair, expected):
    _, model, cells = pair
    with torch.no_grad():
        logits_TV = model.logits(model.bert(cells.input_ids, cells.cu_seqlens))
    assert_close(logits_TV, cells.pack(expected.logits), **CLOSE)


@pytest.mark.parametrize("positions", [2_048, 4_096])
def test_the_longest_cells_have_the_states_of_bert(positions):
    bert = random_bert(small_config(max_position_embeddings=positions), attention="sdpa")
    cells = random_cells([positions], 60)
    with torch.no_grad():
        expected = bert.bert(cells.padded).last_hidden_state[0]
        assert_close(ours(bert).bert(cells.input_ids, cells.cu_seqlens), expected, **CLOSE)


@settings(max_examples=25)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 100), data=st.data())
def test_neither_the_order_nor_the_company_of_a_cell_matters(lengths, seed, data):
    order = data.draw(st.permutations(range(len(lengths))))
    cells = random_cells(lengths, 60, seed)
    rows = cells.input_ids.split(lengths)
    with torch.no_grad():
        together = SMALL_MODEL.bert(cells.input_ids, cells.cu_seqlens).split(lengths)
        shuffled_ids = torch.cat([rows[i] for i in order])
        shuffled_lengths = [lengths[i] for i in order]
        shuffled = SMALL_MODEL.bert(shuffled_ids, torch.tensor([0, *shuffled_lengths]).cumsum(0)).split(
            shuffled_lengths
        )
        for place, i in enumerate(order):
            assert_close(shuffled[place], together[i], atol=1e-6, rtol=0)
            alone = SMALL_MODEL.bert(rows[i], torch.tensor([0, lengths[i]]))
            assert_close(alone, together[i], atol=1e-6, rtol=0)


def test_layers_above_the_one_read_are_not_computed():
    model = ours(random_bert(small_config(num_hidden_layers=3)))
    cells = random_cells([5], 60)
    reached = []
    for number, layer in enumerate(model.bert.encoder.layer):
        layer.register_forward_hook(lambda *_, number=number: reached.append(number))
    model.bert(cells.input_ids, cells.cu_seqlens, layer=-2)
    assert reached == [0]


@pytest.mark.parametrize("layer", [1, -3])
def test_a_layer_that_is_not_there_is_refused(layer):
    model = ours(random_bert(small_config()))
    cells = random_cells([5], 60)
    with pytest.raises(ValueError, match=f"layer={layer}"):
        model.bert(cells.input_ids, cells.cu_seqlens, layer=layer)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    model = ours(random_bert(small_config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)))
    cells = random_cells([5, 5, 7], 60)

    def states():
        return model.bert(cells.input_ids, cells.cu_seqlens)

    assert torch.equal(states(), states())
    model.train()
    assert not torch.equal(states(), states())


def test_mean_pooling_is_the_mean_of_each_cell_in_float32():
    lengths = [3, 0, 1, 600]
    hidden = torch.randn(sum(lengths), 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    pooled = mean_pool(hidden, torch.tensor([0, *lengths]).cumsum(0))
    naive = torch.stack([part.float().sum(0) / max(len(part), 1) for part in hidden.split(lengths)])
    assert pooled.dtype == torch.float32
    assert_close(pooled, naive, **CLOSE)
