"""Linear probes: heads fitted to embeddings of the frozen encoder, where fine-tuning starts (Kumar et al., 2022)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from geneformer.finetuning.baselines import draw_parts, tuned_logistic, tuned_ridge
from geneformer.models.heads import GeneformerForCells, HeadSpec

Floats = NDArray[np.float64]

NEVER = -20.0
"""Logit of a class that no cell has."""


def fit_heads(
    network: GeneformerForCells,
    embedding: NDArray[np.float32],
    targets: Mapping[str, NDArray[Any]],
    *,
    groups: ArrayLike | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> None:
    """Set each head to the linear probe of its target; heads whose outputs no linear model gives stay as they are."""
    for spec, head in zip(network.specs, network.heads, strict=True):
        values = targets[spec.name]
        known = values >= 0 if spec.kind == "one_of" else ~np.isnan(values.reshape(len(values), -1)).any(axis=1)
        if spec.activation != "linear" or known.sum() < 2:
            continue
        kept = None if groups is None else np.asarray(groups)[known]
        fit_head(head, spec, embedding[known], values[known], groups=kept, balanced=balanced, seed=seed)


def fit_head(head: torch.nn.Module, spec: HeadSpec, *data: Any, **how: Any) -> None:
    """Set a linear layer to what `probe` gives."""
    weight, bias = (torch.from_numpy(values).float() for values in probe(spec, *data, **how))
    head.load_state_dict({"weight": weight, "bias": bias})


def probe(
    spec: HeadSpec,
    embedding_ND: NDArray[np.float32],
    values: NDArray[Any],
    *,
    groups: ArrayLike | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Weights ``(S, D)`` and biases ``(S,)`` of a penalized linear model of the standardized embeddings."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(embedding_ND.astype(np.float64))
    scaled_ND, parts = scaler.transform(embedding_ND), draw_parts(len(embedding_ND), groups, seed)
    class_weight = "balanced" if balanced else None
    weight_SD, bias_S = np.zeros((spec.size, scaled_ND.shape[1])), np.zeros(spec.size)
    if spec.kind == "number":
        model = tuned_ridge(scaled_ND, values, parts)
        weight_SD[0], bias_S[0] = model.coef_, model.intercept_
        if spec.size > 1:  # the logarithm of a variance, at first the same for all cells
            bias_S[1] = np.log(np.mean((model.predict(scaled_ND) - values) ** 2) + 1e-6)
    elif spec.kind == "one_of":
        model = tuned_logistic(scaled_ND, values, parts, class_weight=class_weight)
        bias_S[:] = NEVER
        if len(model.classes_) == 2:  # scikit-learn has one logit for two classes
            weight_SD[model.classes_] = np.stack([-model.coef_[0], model.coef_[0]]) / 2
            bias_S[model.classes_] = np.array([-1, 1]) * model.intercept_[0] / 2
        else:
            weight_SD[model.classes_], bias_S[model.classes_] = model.coef_, model.intercept_
    else:
        for label, has_label in enumerate(values.T.astype(np.int64)):
            if has_label.min() == has_label.max():
                bias_S[label] = NEVER if has_label[0] == 0 else -NEVER
                continue
            model = tuned_logistic(scaled_ND, has_label, parts, class_weight=class_weight)
            weight_SD[label], bias_S[label] = model.coef_[0], model.intercept_[0]
    weight_SD = weight_SD / scaler.scale_
    return weight_SD, bias_S - weight_SD @ scaler.mean_
