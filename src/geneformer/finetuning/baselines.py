"""What a fine-tuned model has to beat, on the same split: the commonest class, the size of a cell, linear models."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, OptionError, OutOfRangeError
from geneformer.finetuning.metrics import checked_groups
from geneformer.options._fields import check_range

LOGISTIC = "logistic regression, variable genes"
RIDGE = "ridge regression, variable genes"
LIBRARY = "library size"
MAJORITY = "majority class"
MEAN = "mean of the training cells"
"""Names of the baselines in tables."""

Counts = Any
"""Raw counts as a SciPy CSR matrix or array, or dense, ``(n, g)``."""

SCALE = 1e4
"""Counts a cell is scaled to."""

LIMIT = 10.0
"""Standard deviations beyond which values are cut."""

FOLDS = 3
CELLS_TO_CHOOSE = 5000
"""Parts, and most cells, in which the strength of a penalty is tried."""

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty that a logistic regression chooses from, strongest first."""

SHRINKAGES = (1e5, 1e4, 1e3, 1e2, 1e1)
"""Strengths of the penalty that a ridge regression chooses from, strongest first."""

STEPS = 5000
"""Most steps of the solver; it ends when it has converged."""


def classify_by_baselines(
    train_counts: Counts,
    train_targets: NDArray[Any],
    test_counts: Counts,
    *,
    n_classes: int,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of every class, or of every label of a set, for the test cells, ``(n_test, C)``, by baseline."""
    train, test = train_and_test(train_counts, test_counts, n_top_genes)
    sizes, test_sizes = log_totals(train_counts), log_totals(test_counts)
    parts = draw_parts(len(train), groups, seed)

    def predict(codes: NDArray[np.int64], n_classes: int) -> dict[str, NDArray[np.float64]]:
        by_size = _on_size(_logistic(codes, C=1.0)).fit(sizes, codes)
        return {
            LOGISTIC: _probabilities(tuned_logistic(train, codes, parts), test, n_classes),
            LIBRARY: _probabilities(by_size, test_sizes, n_classes),
            MAJORITY: majority(codes, len(test), n_classes),
        }

    if train_targets.ndim == 1:
        return predict(train_targets, n_classes)
    labels = [predict(has_label.astype(np.int64), 2) for has_label in train_targets.T]
    return {name: np.column_stack([proba[name][:, 1] for proba in labels]) for name in labels[0]}


def regress_by_baselines(
    train_counts: Counts,
    train_values: NDArray[np.float64],
    test_counts: Counts,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> dict[str, NDArray[np.float64]]:
    """Numbers for the test cells, ``(n_test,)``, by baseline."""
    from sklearn.linear_model import LinearRegression

    train, test = train_and_test(train_counts, test_counts, n_top_genes)
    ridge = tuned_ridge(train, train_values, draw_parts(len(train), groups, seed))
    sizes = log_totals(train_counts)
    by_size = _on_size(LinearRegression()).fit(sizes, train_values)
    # A parabola runs away beyond the training cells.
    test_sizes = np.clip(log_totals(test_counts), sizes.min(), sizes.max())
    return {
        RIDGE: np.asarray(ridge.predict(test), dtype=np.float64),
        LIBRARY: by_size.predict(test_sizes),
        MEAN: np.full(len(test), train_values.mean()),  # of constant guesses the one with the least error
    }


def majority(codes: NDArray[np.int64], n_test: int, n_classes: int) -> NDArray[np.float64]:
    """Shares of the classes among the training cells as everyone's probabilities, ``(n_test, C)``."""
    labeled = codes[codes >= 0]
    return np.tile(np.bincount(labeled, minlength=n_classes) / len(labeled), (n_test, 1))


def logistic_regression_on(
    train: NDArray[Any], codes: NDArray[np.int64], test: NDArray[Any], n_classes: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Probabilities from a linear model of given features, ``(n_test, C)``."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(train, dtype=np.float64))
    model = tuned_logistic(scaler.transform(train), codes, draw_parts(len(train), None, seed))
    return _probabilities(model, scaler.transform(test) if len(test) else test, n_classes)


def _probabilities(model: Any, test: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Probabilities with a column for every class, also those without training cells."""
    proba_nc = np.zeros((len(test), n_classes))
    if len(test):
        proba_nc[:, model.classes_] = model.predict_proba(test)
    return proba_nc


def pca_embedding(
    counts: Counts, *, n_components: int = 50, n_top_genes: int = 2000, seed: int = 0
) -> NDArray[np.float32]:
    """Principal components of the log-normalized counts of the most variable genes, ``(n, n_components)``."""
    import scanpy as sc
    from threadpoolctl import threadpool_limits

    check_range("n_components", n_components, low=1)
    check_range("n_top_genes", n_top_genes, low=2)
    logged = log_normalized(counts)
    expressed = np.flatnonzero(logged.astype(bool).sum(axis=0))
    if logged.shape[0] < 3 or len(expressed) < 3:
        msg = (
            f"counts hold {logged.shape[0]} cells and {len(expressed)} genes with counts; components need three of "
            "each."
        )
        raise OutOfRangeError(msg)
    genes = variable_genes(logged, n_top_genes) if len(expressed) > n_top_genes else expressed
    with threadpool_limits():  # see `variable_genes`
        scaled = sc.pp.scale(logged[:, genes].toarray(), max_value=LIMIT)
        n_components = min(n_components, len(scaled) - 1, len(genes) - 1)
        components = sc.pp.pca(scaled, n_comps=n_components, random_state=seed)
    return np.ascontiguousarray(components, dtype=np.float32)


# Features


def log_totals(counts: Counts) -> NDArray[np.float64]:
    """Logarithm of the total counts of each cell, ``(n, 1)``."""
    return np.log1p(np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1, 1))


def log_normalized(counts: Counts) -> Any:
    """Counts scaled to 10,000 per cell, then log(1 + x), a CSR array, float32; cells without counts stay zero."""
    from scipy import sparse
    from sklearn.preprocessing import normalize

    logged = sparse.csr_array(counts, dtype=np.float32)
    logged = normalize(logged, norm="l1") if logged.shape[0] else logged.copy()
    logged.data = np.log1p(logged.data * np.float32(SCALE))
    return logged


def variable_genes(logged: Any, n_top_genes: int) -> NDArray[np.intp]:
    """Columns of the genes that vary most for their mean, in order; fewer where fewer vary."""
    from anndata import AnnData
    from scipy import sparse
    from sklearn.utils.sparsefuncs import mean_variance_axis

    mean, variance = mean_variance_axis(logged, axis=0)
    varying = np.flatnonzero(variance > 1e-9 * mean**2)
    if len(varying) <= n_top_genes:
        return varying
    import scanpy as sc
    from threadpoolctl import threadpool_limits

    # Numba's parallel loops set the number of threads of OpenMP, which PyTorch shares: sums of a later training would
    # run in another order. Leaving the block puts the number back.
    with warnings.catch_warnings(), threadpool_limits():
        warnings.simplefilter("ignore")  # of bins with one gene
        adata = AnnData(sparse.csr_matrix(logged[:, varying]))
        table = sc.pp.highly_variable_genes(adata, n_top_genes=n_top_genes, flavor="seurat", inplace=False)
    chosen: NDArray[np.intp] = varying[table["highly_variable"].to_numpy()]
    return chosen


def train_and_test(
    train_counts: Counts, test_counts: Counts, n_top_genes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Expression of the most variable genes, standardized and cut at 10, ``(n, k)`` each, as training cells say."""
    from sklearn.preprocessing import StandardScaler

    check_range("n_top_genes", n_top_genes, low=1)
    if train_counts.shape[1] != test_counts.shape[1]:
        msg = (
            f"Training counts have {train_counts.shape[1]:,} genes and test counts {test_counts.shape[1]:,}. Give the "
            "same genes in the same order."
        )
        raise OptionError(msg)
    train, test = log_normalized(train_counts), log_normalized(test_counts)
    genes = variable_genes(train, n_top_genes)
    if not len(genes):
        msg = f"No gene differs among the {train.shape[0]:,} training cells, so there is nothing to learn from."
        raise NoCellsError(msg)
    train, test = train[:, genes].toarray(), test[:, genes].toarray()
    scaler = StandardScaler(copy=False).fit(train)
    scaled = [scaler.transform(part) if len(part) else part for part in (train, test)]
    return np.clip(scaled[0], -LIMIT, LIMIT), np.clip(scaled[1], -LIMIT, LIMIT)


# The strength of a penalty


def draw_parts(n: int, groups: ArrayLike | None, seed: int) -> NDArray[np.int64]:
    """Part that each training cell belongs to while a penalty is chosen, ``(n,)``; -1 for none."""
    names = checked_groups(groups, n)
    unit = np.arange(n)
    if names is not None and len(np.unique(names)) > 1:
        unit = np.unique(names, return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    parts: NDArray[np.int64] = (rng.permutation(int(unit.max()) + 1) % FOLDS)[unit]
    parts[rng.permutation(n)[CELLS_TO_CHOOSE:]] = -1
    return parts


def _folds(parts: NDArray[np.int64]) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    folds = [((parts >= 0) & (parts != part), parts == part) for part in range(FOLDS)]
    return [(rest, held_out) for rest, held_out in folds if rest.any() and held_out.any()]


_SMALL = 2**24
"""Numbers of a matrix below which its products are small."""


def _tuned(
    model: Any,
    strengths: tuple[str, Sequence[float]],
    train: NDArray[Any],
    target: NDArray[Any],
    folds: Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]],
    loss: Callable[[Any, NDArray[np.bool_]], float],
) -> Any:
    """The model with the penalty with which it predicts held-out parts of the training cells best, fitted to all.

    LogisticRegressionCV and RidgeCV fit every strength in every fold. Here it ends with the first that is worse, before
    the weak penalties, whose fits take the longest.
    """
    from sklearn.base import clone
    from threadpoolctl import threadpool_limits

    option, values = strengths
    best, least = values[len(values) // 2], np.inf
    fitted = [clone(model) for _ in folds]  # one for each, so that a fit may start where the one before ended
    # In products this small threads wait for each other longer than they work.
    with threadpool_limits(1 if train.size < _SMALL else None):
        for strength in values if folds else ():
            total = 0.0
            for one, (rest, held_out) in zip(fitted, folds, strict=True):
                total += loss(one.set_params(**{option: strength}).fit(train[rest], target[rest]), held_out)
            if total >= least:
                break
            best, least = strength, total
        return clone(model).set_params(**{option: best}).fit(train, target)


def tuned_ridge(train: NDArray[Any], values: NDArray[np.float64], parts: NDArray[np.int64]) -> Any:
    """A ridge regression with the penalty that is best for held-out parts of the training cells."""
    from sklearn.linear_model import Ridge

    def squared_error(model: Any, held_out: NDArray[np.bool_]) -> float:
        return float(((model.predict(train[held_out]) - values[held_out]) ** 2).sum())

    return _tuned(Ridge(), ("alpha", SHRINKAGES), train, values, _folds(parts), squared_error)


def tuned_logistic(
    train: NDArray[Any], codes: NDArray[np.int64], parts: NDArray[np.int64], *, class_weight: str | None = None
) -> Any:
    """A logistic regression with the penalty that is best for held-out parts of the training cells."""

    def log_loss(model: Any, held_out: NDArray[np.bool_]) -> float:
        proba = _probabilities(model, train[held_out], int(codes.max()) + 1)
        own = proba[np.arange(len(proba)), codes[held_out]]
        return -float(np.log(np.maximum(own, 1e-6)).sum())  # scikit-learn's refuses classes that a fold lacks

    model = _logistic(codes, warm_start=True, class_weight=class_weight)
    if len(np.unique(codes)) == 1:
        return model.fit(train, codes)
    folds = [(rest, held_out) for rest, held_out in _folds(parts) if len(np.unique(codes[rest])) > 1]
    return _tuned(model, ("C", PENALTIES), train, codes, folds, log_loss)


def _logistic(codes: NDArray[np.int64], **options: Any) -> Any:
    """A logistic regression, or certainty where all cells are of one class."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(codes)) == 1:
        return DummyClassifier(strategy="prior")
    return LogisticRegression(max_iter=STEPS, **options)


def _on_size(model: Any) -> Any:
    """A model that sees a number and its square."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    return make_pipeline(StandardScaler(), PolynomialFeatures(include_bias=False), model)
