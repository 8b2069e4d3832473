"""What fine-tuning minimizes; targets that are missing count nothing.

Axes: ``B`` cells or genes, ``C`` classes.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

MISSING = -100
"""Class number of a cell or gene without a label."""


def cross_entropy(
    logits_BC: Tensor, codes_B: Tensor, weights_C: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over labeled rows, weighted by class; 0 where no row has a label.

    Parameters
    ----------
    logits_BC
        Scores, ``(B, C)``.
    codes_B
        Class of each row, `MISSING` for none, ``(B,)``.
    weights_C
        Weight of each class, ``(C,)``.
    smoothing
        Share of the target given to the other classes.
    """
    if not bool((codes_B != MISSING).any()):
        return logits_BC.sum() * 0.0
    return functional.cross_entropy(
        logits_BC.float(), codes_B, weight=weights_C, ignore_index=MISSING, label_smoothing=smoothing
    )


def binary_cross_entropy(logits_BC: Tensor, targets_BC: Tensor, weights_C: Tensor | None = None) -> Tensor:
    """Mean of one yes-or-no loss per label; targets that are not a number are passed over.

    Parameters
    ----------
    logits_BC
        Scores, ``(B, C)``.
    targets_BC
        0 or 1, ``(B, C)``.
    weights_C
        Weight of the positive cells of each label, ``(C,)``.
    """
    known = ~torch.isnan(targets_BC)
    if not bool(known.any()):
        return logits_BC.sum() * 0.0
    losses = functional.binary_cross_entropy_with_logits(
        logits_BC.float(), torch.nan_to_num(targets_BC), pos_weight=weights_C, reduction="none"
    )
    return losses[known].mean()


def squared_error(outputs_B1: Tensor, targets_B: Tensor) -> Tensor:
    """Squared error of each row, ``(B,)``."""
    return (outputs_B1[:, 0] - targets_B) ** 2


def gaussian_nll(outputs_B2: Tensor, targets_B: Tensor) -> Tensor:
    """Negative log-likelihood of a normal distribution with predicted mean and log variance, ``(B,)``."""
    mean, log_variance = outputs_B2[:, 0], outputs_B2[:, 1].clamp(-10.0, 10.0)
    return 0.5 * (log_variance + (targets_B - mean) ** 2 / log_variance.exp() + math.log(2 * math.pi))


def poisson_nll(outputs_B1: Tensor, targets_B: Tensor) -> Tensor:
    """Negative log-likelihood of counts whose mean is predicted, ``(B,)``."""
    mean = outputs_B1[:, 0].clamp(min=1e-6)
    return mean - targets_B * mean.log() + torch.lgamma(targets_B + 1)


def negative_binomial_nll(outputs_B2: Tensor, targets_B: Tensor) -> Tensor:
    """Negative log-likelihood of counts with predicted mean and log inverse dispersion, ``(B,)``."""
    mean, size = outputs_B2[:, 0].clamp(min=1e-6), outputs_B2[:, 1].clamp(-10.0, 10.0).exp()
    log_total = torch.log(size + mean)
    likelihood = (
        torch.lgamma(targets_B + size)
        - torch.lgamma(size)
        - torch.lgamma(targets_B + 1)
        + size * (size.log() - log_total)
        + targets_B * (mean.log() - log_total)
    )
    return -likelihood


NUMBER_LOSSES = {
    "squared_error": squared_error,
    "gaussian": gaussian_nll,
    "poisson": poisson_nll,
    "negative_binomial": negative_binomial_nll,
}
"""Losses of a predicted number, by name."""

OUTPUTS = {"squared_error": 1, "gaussian": 2, "poisson": 1, "negative_binomial": 2}
"""Numbers each of them predicts: the mean, and where there are two, its spread."""


def number_loss(kind: str, outputs: Tensor, targets_B: Tensor) -> Tensor:
    """Mean loss over the rows that have a target; 0 where none has.

    Parameters
    ----------
    kind
        Key of `NUMBER_LOSSES`.
    outputs
        Predicted mean and, where the loss needs it, spread, ``(B, 1)`` or ``(B, 2)``.
    targets_B
        Numbers, not a number where missing, ``(B,)``.
    """
    known = ~torch.isnan(targets_B)
    if not bool(known.any()):
        return outputs.sum() * 0.0
    return NUMBER_LOSSES[kind](outputs.float()[known], targets_B[known].float()).mean()
