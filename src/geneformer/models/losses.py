"""What fine-tuning minimizes; targets that are missing count nothing.

Axes: ``B`` cells or genes, ``C`` classes.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MISSING = -100
"""Class number of a cell or gene without a label."""


def cross_entropy(
    logits_BC: Tensor, codes_B: Tensor, weights_C: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over labeled rows, weighted by class; 0 where no row has a label."""
    if not bool((codes_B != MISSING).any()):
        return logits_BC.sum() * 0.0
    return functional.cross_entropy(
        logits_BC.float(), codes_B, weight=weights_C, ignore_index=MISSING, label_smoothing=smoothing
    )


def binary_cross_entropy(logits_BC: Tensor, targets_BC: Tensor, weights_C: Tensor | None = None) -> Tensor:
    """Mean of one yes-or-no loss per label; targets that are NaN are passed over."""
    is_given = ~torch.isnan(targets_BC)
    if not bool(is_given.any()):
        return logits_BC.sum() * 0.0
    losses = functional.binary_cross_entropy_with_logits(
        logits_BC.float(), torch.nan_to_num(targets_BC), pos_weight=weights_C, reduction="none"
    )
    return losses[is_given].mean()


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
    """Mean loss over the rows that have a target; 0 where none has."""
    is_given = ~torch.isnan(targets_B)
    if not bool(is_given.any()):
        return outputs.sum() * 0.0
    return NUMBER_LOSSES[kind](outputs.float()[is_given], targets_B[is_given].float()).mean()


_BLOCK = 384


class VocabularyCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of ``hidden @ embedding.T + bias`` against labels."""

    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, embedding_VD: Tensor, bias_V: Tensor, labels_M: Tensor) -> Tensor:
        """Sum of the losses, with the gradients already taken."""
        grad_hidden = torch.empty_like(hidden_MD)
        grad_embedding = torch.zeros_like(embedding_VD, dtype=torch.float32)
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32)
        loss = hidden_MD.new_zeros((), dtype=torch.float32)
        embedding = embedding_VD.to(hidden_MD.dtype)
        scores = hidden_MD.new_empty((min(_BLOCK, len(hidden_MD)), len(embedding)))
        for start in range(0, len(hidden_MD), _BLOCK):
            block = slice(start, start + _BLOCK)
            hidden_CD, labels_C = hidden_MD[block], labels_M[block, None]
            logits_CV = torch.mm(hidden_CD, embedding.T, out=scores[: len(hidden_CD)]).float().add_(bias_V)
            peak_C = logits_CV.amax(1, keepdim=True)
            loss -= (logits_CV.gather(1, labels_C) - peak_C).sum()
            error_CV = logits_CV.sub_(peak_C).exp_()
            total_C = error_CV.sum(1, keepdim=True)
            loss += total_C.log().sum()
            error_CV.div_(total_C).scatter_add_(1, labels_C, error_CV.new_full(labels_C.shape, -1.0))
            grad_bias += error_CV.sum(0)
            error_CV = error_CV.to(hidden_MD.dtype)
            grad_hidden[block] = error_CV @ embedding
            if hidden_MD.dtype == torch.float32:
                grad_embedding.addmm_(error_CV.T, hidden_CD)
            else:
                grad_embedding += error_CV.T @ hidden_CD
        ctx.save_for_backward(grad_hidden, grad_embedding.to(embedding_VD.dtype), grad_bias.to(bias_V.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """The gradients of `forward`, scaled."""
        grad_hidden, grad_embedding, grad_bias = ctx.saved_tensors
        return grad_hidden * grad_loss, grad_embedding * grad_loss, grad_bias * grad_loss, None


def vocabulary_cross_entropy(hidden_MD: Tensor, embedding_VD: Tensor, bias_V: Tensor, labels_M: Tensor) -> Tensor:
    """Mean cross-entropy of ``hidden @ embedding.T + bias`` against labels."""
    if torch.is_grad_enabled():
        total: Tensor = VocabularyCrossEntropy.apply(hidden_MD, embedding_VD, bias_V, labels_M)
    else:  # without gradients it is a third of the work
        total = hidden_MD.new_zeros((), dtype=torch.float32)
        for block, logits_CV in _logits(hidden_MD, embedding_VD, bias_V):
            total += functional.cross_entropy(logits_CV, labels_M[block], reduction="sum")
    return total / max(len(labels_M), 1)


@torch.no_grad()
def count_hits(hidden_MD: Tensor, embedding_VD: Tensor, bias_V: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """How many labels are the first, and among the first ten, guesses."""
    first, among_ten = labels_M.new_zeros(()), labels_M.new_zeros(())
    for block, logits_CV in _logits(hidden_MD, embedding_VD, bias_V):
        ahead_C = (logits_CV > logits_CV.gather(1, labels_M[block, None])).sum(1)
        first += (ahead_C < 1).sum()
        among_ten += (ahead_C < 10).sum()
    return first, among_ten


def _logits(hidden_MD: Tensor, embedding_VD: Tensor, bias_V: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits of some rows at a time, in float32."""
    embedding = embedding_VD.to(hidden_MD.dtype)
    for start in range(0, len(hidden_MD), _BLOCK):
        block = slice(start, start + _BLOCK)
        yield block, torch.mm(hidden_MD[block], embedding.T).float().add_(bias_V)
