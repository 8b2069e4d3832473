"""Losses against torch's own and SciPy's distributions; missing targets count nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from geneformer.models.losses import (
    MISSING,
    NUMBER_LOSSES,
    OUTPUTS,
    binary_cross_entropy,
    cross_entropy,
    gaussian_nll,
    negative_binomial_nll,
    number_loss,
    poisson_nll,
    squared_error,
)

B = 17


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


def test_squared_error(rng):
    said, truth = tensor(rng.normal(size=(B, 1))), tensor(rng.normal(size=B))
    expected = nn.MSELoss(reduction="none")(said[:, 0], truth)
    torch.testing.assert_close(squared_error(said, truth), expected)


def test_gaussian_is_torchs_and_scipys(rng):
    said, truth = rng.normal(size=(B, 2)), rng.normal(size=B)
    found = gaussian_nll(tensor(said), tensor(truth))
    expected = nn.GaussianNLLLoss(full=True, reduction="none")(
        tensor(said[:, 0]), tensor(truth), tensor(np.exp(said[:, 1]))
    )
    torch.testing.assert_close(found, expected)
    np.testing.assert_allclose(found, -stats.norm.logpdf(truth, said[:, 0], np.exp(said[:, 1] / 2)))


def test_poisson_is_torchs_and_scipys(rng):
    mean, truth = rng.gamma(2, 3, size=B), rng.poisson(5, size=B).astype(float)
    found = poisson_nll(tensor(mean[:, None]), tensor(truth))
    np.testing.assert_allclose(found, -stats.poisson.logpmf(truth, mean))
    without_constant = found - torch.lgamma(tensor(truth) + 1)
    expected = nn.PoissonNLLLoss(log_input=False, eps=0.0, reduction="none")(tensor(mean), tensor(truth))
    torch.testing.assert_close(without_constant, expected)


def test_negative_binomial_is_scipys(rng):
    mean, log_size = rng.gamma(2, 30, size=B), rng.normal(size=B)
    truth = rng.poisson(40, size=B).astype(float)
    size = np.exp(log_size)
    found = negative_binomial_nll(tensor(np.column_stack([mean, log_size])), tensor(truth))
    np.testing.assert_allclose(found, -stats.nbinom.logpmf(truth, size, size / (size + mean)))


@settings(max_examples=30)
@given(mean=st.floats(0.01, 1e4), truth=st.integers(0, 10_000))
def test_a_negative_binomial_of_little_dispersion_is_nearly_poisson(mean, truth):
    values = tensor([float(truth)])
    narrow = negative_binomial_nll(tensor([[mean, 10.0]]), values).item()
    expected = -stats.nbinom.logpmf(truth, np.exp(10.0), np.exp(10.0) / (np.exp(10.0) + mean))
    assert narrow == pytest.approx(expected, rel=1e-6, abs=1e-6)
    if max(mean, truth) < 20:
        assert narrow == pytest.approx(poisson_nll(tensor([[mean]]), values).item(), rel=0.02, abs=0.02)


@pytest.mark.parametrize("kind", sorted(NUMBER_LOSSES))
def test_the_truth_costs_least_and_gradients_point_to_it(kind):
    truth = torch.full((4,), 3.0)
    at = torch.tensor([[3.0, 0.0]] * 4)[:, : OUTPUTS[kind]]
    for shift in (-1.0, 1.0):
        away = at.clone()
        away[:, 0] += shift
        away.requires_grad_()
        loss = number_loss(kind, away, truth)
        loss.backward()
        assert loss > number_loss(kind, at, truth)
        assert (torch.sign(away.grad[:, 0]) == shift).all()


@pytest.mark.parametrize("kind", sorted(NUMBER_LOSSES))
def test_numbers_that_are_missing_count_nothing(kind, rng):
    said = torch.tensor(rng.gamma(2, 2, size=(B, OUTPUTS[kind])), dtype=torch.float32, requires_grad=True)
    truth = torch.tensor(rng.poisson(4, size=B), dtype=torch.float32)
    truth[::3] = float("nan")
    loss = number_loss(kind, said, truth)
    loss.backward()
    known = ~torch.isnan(truth)
    torch.testing.assert_close(loss, number_loss(kind, said[known], truth[known]))
    assert (said.grad[~known] == 0).all()
    assert (said.grad[known, 0] != 0).all()


@pytest.mark.parametrize("kind", sorted(NUMBER_LOSSES))
def test_extreme_outputs_stay_finite(kind):
    said = torch.tensor([[0.0, -80.0], [1e6, 80.0], [1e-9, 0.0]])[:, : OUTPUTS[kind]].requires_grad_()
    loss = number_loss(kind, said, torch.tensor([0.0, 5.0, 1e4]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(said.grad).all()


def test_cross_entropy_is_torchs_over_labeled_rows(rng):
    logits = torch.tensor(rng.normal(size=(B, 4)), dtype=torch.float32, requires_grad=True)
    codes = torch.tensor(rng.integers(0, 4, size=B))
    codes[2:6] = MISSING
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    loss = cross_entropy(logits, codes, weights, 0.1)
    known = codes != MISSING
    expected = nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)(logits[known], codes[known])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[~known] == 0).all()


def test_binary_cross_entropy_is_torchs_over_known_labels(rng):
    logits = torch.tensor(rng.normal(size=(B, 3)), dtype=torch.float32, requires_grad=True)
    truth = torch.tensor(rng.integers(0, 2, size=(B, 3)), dtype=torch.float32)
    truth[4] = float("nan")
    weights = torch.tensor([1.0, 2.0, 3.0])
    loss = binary_cross_entropy(logits, truth, weights)
    known = ~torch.isnan(truth[:, 0])
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits[known], truth[known])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[4] == 0).all()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: cross_entropy(x, torch.full((B,), MISSING)),
        lambda x: binary_cross_entropy(x, torch.full((B, 2), float("nan"))),
        *(lambda x, k=kind: number_loss(k, x, torch.full((B,), float("nan"))) for kind in sorted(NUMBER_LOSSES)),
    ],
)
def test_without_any_target_the_loss_is_zero_and_so_is_its_gradient(loss):
    said = torch.ones(B, 2, requires_grad=True)
    value = loss(said)
    value.backward()
    assert value.item() == 0
    assert (said.grad == 0).all()
