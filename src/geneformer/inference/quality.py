"""How well an embedding separates labels: nearest neighbors and a linear probe, on held-out cells."""

from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from geneformer.display import Summarized, Summary
from geneformer.errors import NonFiniteValuesError, OptionError, OutOfRangeError
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import load_model, save_checkpoint
from geneformer.options._fields import check_choice, check_range

METRICS = ("cosine", "euclidean")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of the held-out cells that were classified correctly."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class EmbeddingQuality(Summarized):
    """What an embedding knows about labels it was not made with."""

    knn: Accuracy
    probe: Accuracy
    commonest: float
    n_cells: int
    n_classes: int
    n_dimensions: int
    n_groups: int | None
    folds: int
    n_neighbors: int
    metric: str
    standardize: bool
    seed: int

    def summary_of(self) -> Summary:
        """Accuracy of both classifiers next to that of the commonest label."""
        rows = [
            (f"{self.n_neighbors} nearest neighbors", self.knn),
            ("linear probe", self.probe),
            ("commonest label", f"{self.commonest:.3f}"),
        ]
        groups = "" if self.n_groups is None else f" in {self.n_groups:,} groups"
        return Summary(
            title=f"EmbeddingQuality: {self.n_classes:,} classes, {self.n_dimensions:,} dimensions",
            header=("held out", "accuracy"),
            rows=rows,
            note=f"{self.n_cells:,} cells{groups}, each held out in one of {self.folds} folds. 95% intervals.",
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON can hold them."""
        return asdict(self)


def embedding_quality(
    embedding: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_neighbors: int = 15,
    metric: Literal["cosine", "euclidean"] = "cosine",
    standardize: bool = False,
    folds: int = 5,
    seed: int = 0,
    probe: Accuracy | None = None,
) -> EmbeddingQuality:
    """Accuracy of labels predicted from an embedding by neighbors and by a linear probe, on cells held out in turn.

    The probe standardizes in any case; its accuracy is taken as given where it is known from before.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    check_choice("metric", metric, METRICS)
    check_range("n_neighbors", n_neighbors, low=1)
    values_nd, names, parts = _checked(embedding, labels, groups)
    splits = _splits(values_nd, names, parts, folds, seed)
    n_neighbors = min(n_neighbors, *(len(train) for train, _ in splits))
    neighbors = KNeighborsClassifier(n_neighbors, metric=metric, algorithm="brute")

    def accuracy(classifier: Any) -> Accuracy:
        return _accuracy(cross_val_predict(classifier, values_nd, names, cv=splits) == names, parts, seed)

    with threadpool_limits(
        1
    ):  # of products this small, threads wait for each other a hundred times longer than they work
        knn = accuracy(make_pipeline(StandardScaler(), neighbors) if standardize else neighbors)
        probe = probe or accuracy(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)))
    sizes = np.unique(names, return_counts=True)[1]
    return EmbeddingQuality(
        knn=knn,
        probe=probe,
        commonest=float(sizes.max() / len(names)),
        n_cells=len(names),
        n_classes=len(sizes),
        n_dimensions=values_nd.shape[1],
        n_groups=None if parts is None else len(np.unique(parts)),
        folds=len(splits),
        n_neighbors=n_neighbors,
        metric=metric,
        standardize=standardize,
        seed=seed,
    )


def _checked(
    embedding: ArrayLike, labels: ArrayLike, groups: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[Any] | None]:
    """Values, labels and groups as arrays that fit together."""
    values_nd = np.asarray(embedding, dtype=np.float64)
    names = np.asarray(labels, dtype=object).astype(str)
    parts = None if groups is None else np.asarray(groups, dtype=object).astype(str)
    if values_nd.ndim != 2:
        msg = f"embedding has {values_nd.ndim} axes; it takes one row per cell and one column per dimension."
        raise OptionError(msg)
    if len(names) != len(values_nd) or (parts is not None and len(parts) != len(names)):
        also = "" if parts is None else f" and {len(parts):,} groups"
        msg = f"embedding has {len(values_nd):,} rows for {len(names):,} labels{also}. Give one of each per cell."
        raise OptionError(msg)
    if len(np.unique(names)) < 2:
        msg = f"All {len(names):,} labels are {names[:1].tolist()}. At least two different labels are needed."
        raise OptionError(msg)
    if not np.isfinite(values_nd).all():
        rows = np.flatnonzero(~np.isfinite(values_nd).all(axis=1))
        msg = (
            f"embedding has missing or infinite values in {len(rows):,} rows, first in row {rows[0]}. Drop those cells."
        )
        raise NonFiniteValuesError(msg)
    return values_nd, names, parts


def _splits(
    values_nd: NDArray[np.float64], names: NDArray[Any], parts: NDArray[Any] | None, folds: int, seed: int
) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows to learn from and rows held out, per fold."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    check_range("folds", folds, low=2)
    if parts is None:
        classes, sizes = np.unique(names, return_counts=True)
        rarest = int(sizes.argmin())
        if sizes[rarest] < folds:
            msg = (
                f"{folds} folds, but label {str(classes[rarest])!r} has {sizes[rarest]} cells. Use fewer folds, or "
                "drop or merge rare labels."
            )
            raise OutOfRangeError(msg)
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(values_nd, names))
    n_groups = len(np.unique(parts))
    if n_groups < 2:
        msg = f"All cells belong to the group {str(parts[0])!r}. At least two groups are needed to hold one out."
        raise OptionError(msg)
    splitter = StratifiedGroupKFold(min(folds, n_groups), shuffle=True, random_state=seed)
    splits = list(splitter.split(values_nd, names, parts))
    if any(len(np.unique(names[train])) < 2 for train, _ in splits):
        msg = "Holding out groups leaves cells of one label only to learn from. Use labels that several groups share."
        raise OptionError(msg)
    return splits


def _accuracy(correct: NDArray[np.bool_], parts: NDArray[Any] | None, seed: int) -> Accuracy:
    """Share of correct cells with Wilson's interval, or one from resampled groups."""
    from scipy import stats

    if parts is None:
        interval = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
        return Accuracy(mean=float(correct.mean()), low=float(interval.low), high=float(interval.high))
    _, place = np.unique(parts, return_inverse=True)
    hits, sizes = np.bincount(place, weights=correct), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(sizes), size=(10_000, len(sizes)))
    low, high = np.quantile(hits[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (0.025, 0.975))
    return Accuracy(mean=float(correct.mean()), low=float(low), high=float(high))


def save_random_weights(model: str | Path, folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint of the same shape and vocabulary as `model`, with random weights; returns its folder."""
    config = deepcopy(load_model(model).network.config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GeneformerForMaskedLM(config)
    save_checkpoint(network, folder)
    return folder
