"""Cross-entropy over the vocabulary without ever holding the logits.

A batch of masked genes times 25,000 vocabulary entries is the largest tensor of pretraining by far. Here logits live
for one block of masked genes at a time, and their gradient is taken on the spot, while they are in the cache.

Axes: ``M`` masked tokens, ``D`` hidden, ``V`` vocabulary, ``C`` masked tokens of one block.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """Mean cross-entropy of ``hidden @ embedding.T + bias`` against labels.

    Parameters
    ----------
    hidden_MD
        Transformed states of the masked tokens, ``(M, D)``.
    embedding_VD
        Token embeddings, ``(V, D)``.
    bias_V
        One number per vocabulary entry, ``(V,)``.
    labels_M
        Token ids that were masked, ``(M,)``.

    Returns
    -------
    Tensor
        Scalar; differentiable once.
    """
    if not torch.is_grad_enabled():
        return _loss_alone(hidden_MD, embedding_VD, bias_V, labels_M) / max(len(labels_M), 1)
    total: Tensor = VocabularyCrossEntropy.apply(hidden_MD, embedding_VD, bias_V, labels_M)
    return total / max(len(labels_M), 1)


def _loss_alone(hidden_MD: Tensor, embedding_VD: Tensor, bias_V: Tensor, labels_M: Tensor) -> Tensor:
    """The summed loss without its gradients: a third of the work."""
    loss = hidden_MD.new_zeros((), dtype=torch.float32)
    embedding = embedding_VD.to(hidden_MD.dtype)
    for start in range(0, len(hidden_MD), _BLOCK):
        block = slice(start, start + _BLOCK)
        logits_CV = (hidden_MD[block] @ embedding.T).float().add_(bias_V)
        loss += torch.nn.functional.cross_entropy(logits_CV, labels_M[block], reduction="sum")
    return loss


@torch.no_grad()
def count_hits(hidden_MD: Tensor, embedding_VD: Tensor, bias_V: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """How many labels are the first, and among the first ten, guesses."""
    first = labels_M.new_zeros(())
    among_ten = labels_M.new_zeros(())
    embedding = embedding_VD.to(hidden_MD.dtype)
    for start in range(0, len(hidden_MD), _BLOCK):
        block = slice(start, start + _BLOCK)
        logits_CV = torch.mm(hidden_MD[block], embedding.T).float().add_(bias_V)
        ahead_C = (logits_CV > logits_CV.gather(1, labels_M[block, None])).sum(1)
        first += (ahead_C < 1).sum()
        among_ten += (ahead_C < 10).sum()
    return first, among_ten
