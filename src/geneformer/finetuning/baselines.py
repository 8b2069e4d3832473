"""What a fine-tuned model has to beat, on the same split: the commonest class, the size of a cell, linear models."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geneformer.errors import NoCellsError, OptionError, OutOfRangeError
from geneformer.finetuning.metrics import checked_groups
from geneformer.options._fields import check_range

SCALE = 1e4
"""Counts a cell is scaled to."""

BINS = 20
"""Bins of the mean in which dispersions are compared."""

LIMIT = 10.0
"""Standard deviations beyond which values are cut."""

FOLDS = 3
CELLS_TO_CHOOSE = 5000
"""Parts, and most cells, in which the strength of a penalty is tried."""

Counts = Any
"""Raw counts as a SciPy CSR matrix or array, or dense, ``(n, g)``."""

Logged = Any
"""Log-normalized counts as a SciPy CSR array, ``(n, g)``."""


def log_normalized(counts: Counts) -> Logged:
    """Counts scaled to 10,000 per cell, then log(1 + x), ``(n, g)``, float32; cells without counts stay zero."""
    from scipy import sparse

    logged: Logged = sparse.csr_array(counts, dtype=np.float32, copy=True)
    totals = np.asarray(logged.sum(axis=1, dtype=np.float64)).reshape(-1)
    factors = SCALE / np.where(totals > 0, totals, 1)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr))).astype(np.float32)
    return logged


def variable_genes(logged: Logged, n_top_genes: int) -> NDArray[np.intp]:
    """Columns of the genes that vary most for their mean, in order; fewer where fewer vary."""
    n = logged.shape[0]
    plain = logged.copy()
    plain.data = np.expm1(plain.data.astype(np.float64))
    mean = np.asarray(plain.sum(axis=0)).reshape(-1) / n
    plain.data **= 2
    variance = (np.asarray(plain.sum(axis=0)).reshape(-1) / n - mean**2) * n / max(n - 1, 1)
    varies = np.flatnonzero((mean > 0) & (variance > 1e-9 * mean**2))
    if len(varies) <= n_top_genes:
        return varies
    dispersion, level = np.log(variance[varies] / mean[varies]), np.log1p(mean[varies])
    edges = np.linspace(level.min(), level.max(), BINS + 1)
    place = np.clip(np.searchsorted(edges, level) - 1, 0, BINS - 1)
    size = np.bincount(place, minlength=BINS)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.bincount(place, dispersion, BINS) / size
        spread = np.sqrt(np.bincount(place, (dispersion - middle[place]) ** 2, BINS) / (size - 1))
        deviations = (dispersion - middle[place]) / spread[place]
    deviations[size[place] == 1] = 1.0  # nothing to compare with
    best = np.argsort(-np.nan_to_num(deviations), kind="stable")[:n_top_genes]
    return np.sort(varies[best])


@dataclass(frozen=True, slots=True)
class ExpressionFeatures:
    """Standardized log-normalized counts of the genes that vary most among the cells they were chosen in."""

    genes: NDArray[np.intp]
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @classmethod
    def fit(cls, logged: Logged, *, n_top_genes: int = 2000) -> Self:
        """Choose the genes and measure their scale in training cells."""
        check_range("n_top_genes", n_top_genes, low=1)
        genes = variable_genes(logged, n_top_genes)
        if not len(genes):
            msg = f"No gene differs among the {logged.shape[0]:,} training cells, so there is nothing to learn from."
            raise NoCellsError(msg)
        dense = logged[:, genes].toarray()
        mean, deviation = dense.mean(axis=0, dtype=np.float64), dense.std(axis=0, dtype=np.float64)
        return cls(genes, mean.astype(np.float32), deviation.astype(np.float32))

    def transform(self, logged: Logged) -> NDArray[np.float32]:
        """The genes chosen, each centered, divided by its standard deviation and cut at 10, ``(n, k)``."""
        dense: NDArray[np.float32] = logged[:, self.genes].toarray()
        dense -= self.mean
        dense /= self.deviation
        return np.clip(dense, -LIMIT, LIMIT, out=dense)


def train_and_test(
    train_counts: Counts, test_counts: Counts, n_top_genes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of training and test cells, chosen and scaled by the training cells, ``(n, k)`` each."""
    if train_counts.shape[1] != test_counts.shape[1]:
        msg = (
            f"Training counts have {train_counts.shape[1]:,} genes and test counts {test_counts.shape[1]:,}. Give the "
            "same genes in the same order."
        )
        raise OptionError(msg)
    train = log_normalized(train_counts)
    features = ExpressionFeatures.fit(train, n_top_genes=n_top_genes)
    return features.transform(train), features.transform(log_normalized(test_counts))


def draw_parts(rows: NDArray[np.intp], groups: ArrayLike | None, n: int, seed: int) -> NDArray[np.int64]:
    """Part that each of some training cells belongs to while a penalty is chosen, ``(len(rows),)``; -1 for none."""
    names = checked_groups(groups, n)
    unit = np.arange(len(rows))
    if names is not None and len(np.unique(names[rows])) > 1:
        unit = np.unique(names[rows], return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    parts: NDArray[np.int64] = (rng.permutation(int(unit.max()) + 1) % FOLDS)[unit]
    parts[rng.permutation(len(rows))[CELLS_TO_CHOOSE:]] = -1
    return parts


SHRINKAGES = (1e5, 1e4, 1e3, 1e2, 1e1)
"""Strengths of the penalty that a ridge regression chooses from, strongest first."""


def mean_value(train_values: ArrayLike, n_test: int) -> NDArray[np.float64]:
    """The mean of the training cells for everyone, ``(n_test,)``: of constant guesses the one with the least error."""
    values, rows = _known(train_values)
    return np.full(n_test, values[rows].mean())


def ridge_regression(
    train_counts: Counts,
    train_values: ArrayLike,
    test_counts: Counts,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Numbers from a linear model of expression, ``(n_test,)``."""
    values, rows = _known(train_values)
    if train_counts.shape[0] != len(values):
        msg = f"train_counts has {train_counts.shape[0]:,} rows for {len(values):,} numbers. Give one number per cell."
        raise OptionError(msg)
    parts = draw_parts(rows, groups, len(values), seed)
    values = values[rows]
    train, test = train_and_test(train_counts[rows], test_counts, n_top_genes)
    model = _ridge(_best_shrinkage(train, values, parts)).fit(train, values)
    return np.asarray(model.predict(test), dtype=np.float64) if len(test) else np.empty(0)


def _known(values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Numbers, and rows of the cells whose number is known."""
    numbers = np.asarray(values, dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(numbers))
    if numbers.ndim != 1 or np.isinf(numbers).any():
        msg = f"train_values has the shape {numbers.shape} or infinite values. Give one finite number per cell, or NaN."
        raise OptionError(msg)
    if not len(rows):
        msg = f"None of the {len(numbers):,} training cells has a number, so there is nothing to learn from."
        raise NoCellsError(msg)
    return numbers, rows


def _best_shrinkage(train: NDArray[np.float32], values: NDArray[np.float64], parts: NDArray[np.int64]) -> float:
    """The strength of the penalty that predicts held-out parts of the training cells best."""
    masks = [((parts >= 0) & (parts != part), parts == part) for part in range(FOLDS)]
    masks = [(rest, held_out) for rest, held_out in masks if rest.any() and held_out.any()]
    best, least = SHRINKAGES[len(SHRINKAGES) // 2], np.inf
    for strength in SHRINKAGES if masks else ():
        models = [_ridge(strength).fit(train[rest], values[rest]) for rest, _ in masks]
        errors = [model.predict(train[out]) - values[out] for model, (_, out) in zip(models, masks, strict=True)]
        loss = float(np.sum(np.concatenate(errors) ** 2))
        if loss >= least:
            break
        best, least = strength, loss
    return best


def _ridge(strength: float) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=strength)


PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of the penalty that a logistic regression chooses from, strongest first."""

STEPS = 5000
"""Most steps of the solver; it ends when it has converged."""


def majority(train_codes: ArrayLike, n_test: int, n_classes: int) -> NDArray[np.float64]:
    """Shares of the classes among the training cells as everyone's probabilities, ``(n_test, C)``."""
    codes, rows = _labeled(train_codes, n_classes)
    counts = np.bincount(codes[rows], minlength=n_classes)
    return np.tile(counts / counts.sum(), (n_test, 1))


def library_size(
    train_totals: ArrayLike, train_codes: ArrayLike, test_totals: ArrayLike, n_classes: int
) -> NDArray[np.float64]:
    """Probabilities from nothing but the total counts of a cell, ``(n_test, C)``."""
    codes, rows = _labeled(train_codes, n_classes)
    sizes = [np.log1p(np.asarray(totals, dtype=np.float64).reshape(-1)) for totals in (train_totals, test_totals)]
    if len(sizes[0]) != len(codes) or not all(np.isfinite(size).all() for size in sizes):
        msg = f"{len(sizes[0]):,} totals for {len(codes):,} codes. Give one total of 0 or more for every cell."
        raise OptionError(msg)
    scale = sizes[0][rows].std() or 1.0
    centered = [(size - sizes[0][rows].mean()) / scale for size in sizes]
    train, test = (np.column_stack([size, size**2]) for size in centered)
    return _fitted(train[rows], codes[rows], test, n_classes, strength=1.0)


def logistic_regression(
    train_counts: Counts,
    train_codes: ArrayLike,
    test_counts: Counts,
    n_classes: int,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Probabilities from a linear model of expression, ``(n_test, C)``."""
    codes, rows = _labeled(train_codes, n_classes)
    if train_counts.shape[0] != len(codes):
        msg = f"train_counts has {train_counts.shape[0]:,} rows for {len(codes):,} codes. Give one code per cell."
        raise OptionError(msg)
    parts = draw_parts(rows, groups, len(codes), seed)
    codes = codes[rows]
    train, test = train_and_test(train_counts[rows], test_counts, n_top_genes)
    return _fitted(train, codes, test, n_classes, strength=_best_strength(train, codes, parts, n_classes))


def logistic_regression_on(
    train: NDArray[Any], train_codes: ArrayLike, test: NDArray[Any], n_classes: int, *, seed: int = 0
) -> NDArray[np.float64]:
    """Probabilities from a linear model of given features, ``(n_test, C)``."""
    codes, rows = _labeled(train_codes, n_classes)
    if len(train) != len(codes):
        msg = f"train has {len(train):,} rows for {len(codes):,} codes. Give one code per row."
        raise OptionError(msg)
    seen = np.asarray(train, dtype=np.float64)[rows]
    deviation = seen.std(axis=0)
    scaled = [(part - seen.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0) for part in (seen, test)]
    parts = draw_parts(rows, None, len(codes), seed)
    strength = _best_strength(scaled[0], codes[rows], parts, n_classes)
    return _fitted(scaled[0], codes[rows], scaled[1], n_classes, strength=strength)


def label_shares(train_truth: ArrayLike, n_test: int) -> NDArray[np.float64]:
    """Share of each label among the training cells as everyone's probabilities, ``(n_test, C)``."""
    truth_nc, rows = _baselines_known(train_truth)
    return np.tile(truth_nc[rows].mean(axis=0), (n_test, 1))


def logistic_label_sets(
    train_counts: Counts,
    train_truth: ArrayLike,
    test_counts: Counts,
    *,
    groups: ArrayLike | None = None,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Probability of each label from a linear model of expression, ``(n_test, C)``; see `logistic_regression`."""
    truth_nc, rows = _baselines_known(train_truth)
    if train_counts.shape[0] != len(truth_nc):
        msg = (
            f"train_counts has {train_counts.shape[0]:,} rows for {len(truth_nc):,} rows of labels. Give one per cell."
        )
        raise OptionError(msg)
    parts = draw_parts(rows, groups, len(truth_nc), seed)
    train, test = train_and_test(train_counts[rows], test_counts, n_top_genes)
    columns = []
    for codes in truth_nc[rows].T.astype(np.int64):
        strength = _best_strength(train, codes, parts, 2)
        columns.append(_fitted(train, codes, test, 2, strength=strength)[:, 1])
    return np.column_stack(columns)


def _labeled(codes: ArrayLike, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Codes, and rows of the cells that have a label."""
    check_range("n_classes", n_classes, low=1)
    values = np.asarray(codes)
    whole = np.issubdtype(values.dtype, np.integer)
    if values.ndim != 1 or not whole or values.max(initial=-1) >= n_classes:
        largest = f", largest {values.max()}" if whole and values.size else ""
        msg = (
            f"train_codes holds {values.dtype} of shape {values.shape}{largest}. It takes one whole number per cell, "
            f"below n_classes={n_classes}, or -1 for no label."
        )
        raise OptionError(msg)
    rows = np.flatnonzero(values >= 0)
    if not len(rows):
        msg = f"None of the {len(values):,} training cells has a label, so there is nothing to learn from."
        raise NoCellsError(msg)
    return values.astype(np.int64), rows


def _baselines_known(truth: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Labels, and rows of the cells whose labels are known."""
    values_nc = np.asarray(truth, dtype=np.float64)
    rows = np.flatnonzero(~np.isnan(values_nc).any(axis=1))
    if not len(rows):
        msg = (
            f"None of the {len(values_nc):,} training cells has labels that are known; there is nothing to learn from."
        )
        raise NoCellsError(msg)
    return values_nc, rows


def _best_strength(
    train: NDArray[np.float32], codes: NDArray[np.int64], parts: NDArray[np.int64], n_classes: int
) -> float:
    """The inverse strength of the penalty that predicts held-out parts of the training cells best, in log loss."""
    masks = [((parts >= 0) & (parts != part), parts == part) for part in range(FOLDS)]
    folds = [(train[rest], codes[rest], out) for rest, out in masks if out.any() and len(np.unique(codes[rest])) > 1]
    if not folds:
        return PENALTIES[len(PENALTIES) // 2]
    models = [_logistic(PENALTIES[0], warm_start=True) for _ in folds]
    best, least = PENALTIES[0], np.inf
    for strength in PENALTIES:
        loss = 0.0
        for model, (seen, answers, held_out) in zip(models, folds, strict=True):
            proba = _columns(model.set_params(C=strength).fit(seen, answers), train[held_out], n_classes)
            given = proba[np.arange(len(proba)), codes[held_out]]
            loss -= float(np.log(np.maximum(given, 1e-6)).sum())
        if loss >= least:
            break
        best, least = strength, loss
    return best


def _fitted(
    train: NDArray[Any], codes: NDArray[np.int64], test: NDArray[Any], n_classes: int, *, strength: float
) -> NDArray[np.float64]:
    """Probabilities of the test cells, ``(n_test, C)``; certainty where the training cells are of one class."""
    if len(np.unique(codes)) == 1:
        certain: NDArray[np.float64] = np.eye(n_classes)[np.full(len(test), codes[0])]
        return certain
    return _columns(_logistic(strength).fit(train, codes), test, n_classes)


def _columns(model: Any, test: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Probabilities with a column for every class, also those without training cells."""
    proba_nc = np.zeros((len(test), n_classes))
    if len(test):
        proba_nc[:, model.classes_] = model.predict_proba(test)
    return proba_nc


def _logistic(strength: float, *, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=STEPS, warm_start=warm_start)


LOGISTIC = "logistic regression, variable genes"
LIBRARY = "library size"
MAJORITY = "majority class"
"""Names of the baselines in tables."""


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
    """Probabilities of every class for the test cells, ``(n_test, C)``, by baseline."""
    if train_targets.ndim == 2:
        columns = [
            classify_by_baselines(
                train_counts, _codes(train_targets[:, label]), test_counts,
                n_classes=2, groups=groups, n_top_genes=n_top_genes, seed=seed,
            )
            for label in range(n_classes)
        ]  # fmt: skip
        return {name: np.column_stack([column[name][:, 1] for column in columns]) for name in columns[0]}
    codes = np.where(train_targets < 0, -1, train_targets)
    totals = [np.asarray(counts.sum(axis=1)).ravel() for counts in (train_counts, test_counts)]
    linear = logistic_regression(
        train_counts, codes, test_counts, n_classes, groups=groups, n_top_genes=n_top_genes, seed=seed
    )
    return {
        LOGISTIC: linear,
        LIBRARY: library_size(totals[0], codes, totals[1], n_classes),
        MAJORITY: majority(codes, test_counts.shape[0], n_classes),
    }


def _codes(has_label: NDArray[Any]) -> NDArray[np.int64]:
    """Yes and no as classes; -1 where it is not known."""
    return np.where(np.isnan(has_label), -1, np.nan_to_num(has_label)).astype(np.int64)


RIDGE = "ridge regression, variable genes"
MEAN = "mean of the training cells"
"""Names of the baselines in tables."""


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
    totals = [np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() for counts in (train_counts, test_counts)]
    linear = ridge_regression(
        train_counts, train_values, test_counts, groups=groups, n_top_genes=n_top_genes, seed=seed
    )
    return {
        RIDGE: linear,
        LIBRARY: by_library_size(totals[0], train_values, totals[1]),
        MEAN: mean_value(train_values, len(totals[1])),
    }


def by_library_size(
    train_totals: NDArray[np.float64], train_values: NDArray[np.float64], test_totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Numbers from nothing but the total counts of a cell, ``(n_test,)``."""
    train, test = np.log1p(train_totals), np.log1p(test_totals)
    test = np.clip(test, train.min(), train.max())
    middle, scale = train.mean(), train.std() or 1.0
    fits = np.polynomial.polynomial.polyvander((train - middle) / scale, 2)
    weights, *_ = np.linalg.lstsq(fits, train_values, rcond=None)
    predicted: NDArray[np.float64] = np.polynomial.polynomial.polyvander((test - middle) / scale, 2) @ weights
    return predicted


def pca_embedding(
    counts: Counts,
    *,
    n_components: int = 50,
    n_top_genes: int = 2000,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Principal components of the log-normalized counts of the most variable genes, ``(n, n_components)``."""
    check_range("n_components", n_components, low=1)
    check_range("n_top_genes", n_top_genes, low=2)
    import scanpy as sc

    logged = log_normalized(counts)
    seen = np.flatnonzero(logged.astype(bool).sum(axis=0))
    if logged.shape[0] < 3 or len(seen) < 3:
        msg = f"counts hold {logged.shape[0]} cells and {len(seen)} genes with counts; components need three of each."
        raise OutOfRangeError(msg)
    genes = variable_genes(logged, n_top_genes) if len(seen) > n_top_genes else seen
    scaled = sc.pp.scale(logged[:, genes].toarray(), max_value=10)
    n_components = min(n_components, len(scaled) - 1, len(genes) - 1)
    return np.ascontiguousarray(sc.pp.pca(scaled, n_comps=n_components, random_state=seed), dtype=np.float32)
