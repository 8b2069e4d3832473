"""Temperature and calibration error against plain ones, and where they have no best value."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from geneformer.errors import CountsError, LabelError, MissingLabelError, NonFiniteValuesError, OutOfRangeError
from geneformer.finetuning.metrics import TEMPERATURES, expected_calibration_error, fit_temperature, softmax


def drawn(n=4000, n_classes=4, seed=0):
    """Logits, and labels that follow their probabilities exactly."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, n_classes))
    proba = special.softmax(logits, axis=1)
    return logits, (rng.random((n, 1)) > proba.cumsum(axis=1)[:, :-1]).sum(axis=1)


def slow_error(proba, codes, n_bins):
    """One bin and one cell at a time."""
    total = 0.0
    for b in range(n_bins):
        low, high = b / n_bins, (b + 1) / n_bins
        confidences, hits = [], []
        for row, code in zip(proba, codes, strict=True):
            top = max(row)
            if low < top <= high:
                confidences.append(top)
                hits.append(list(row).index(top) == code)
        if confidences:
            gap = abs(sum(hits) / len(hits) - sum(confidences) / len(confidences))
            total += gap * len(hits) / len(codes)
    return total


@pytest.mark.parametrize("n_bins", [1, 10, 15, 16])
def test_error_is_that_of_a_plain_loop(n_bins):
    logits, codes = drawn(500)
    for temperature in (0.3, 1.0, 3.0):
        proba = softmax(logits, temperature)
        assert expected_calibration_error(proba, codes, n_bins) == pytest.approx(slow_error(proba, codes, n_bins))


def test_error_by_hand():
    proba = [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.5, 0.5]]  # bins (0.5, 1]: 0.9 hit, 0.8 miss, 0.6 hit; (0, 0.5]: hit
    assert expected_calibration_error(proba, [0, 1, 1, 0], n_bins=2) == pytest.approx((abs(2 - 2.3) + abs(1 - 0.5)) / 4)


def test_error_at_the_ends():
    assert expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == 0
    assert expected_calibration_error([[1.0, 0.0], [0.0, 1.0]], [1, 0]) == 1
    assert expected_calibration_error([[1.0]], [0]) == 0


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_temperature_undoes_a_factor(factor):
    logits, codes = drawn()
    assert fit_temperature(logits * factor, codes) == pytest.approx(factor, rel=0.06)


def test_temperature_is_the_best_of_a_fine_grid():
    logits, codes = drawn(300)
    losses = {t: -np.mean(np.log(softmax(logits, t)[np.arange(300), codes])) for t in np.geomspace(*TEMPERATURES, 2001)}
    best = min(losses, key=losses.get)
    assert fit_temperature(logits, codes) == pytest.approx(best, rel=0.003)


def test_calibration_lowers_the_error_of_an_overconfident_model():
    logits, codes = drawn()
    logits = 5 * logits
    temperature = fit_temperature(logits[:2000], codes[:2000])
    before = expected_calibration_error(softmax(logits[2000:]), codes[2000:])
    after = expected_calibration_error(softmax(logits[2000:], temperature), codes[2000:])
    assert after < 0.05 < 0.2 < before


@settings(deadline=None)
@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(st.integers(-40, 40), min_size=3, max_size=3), min_size=n, max_size=n),
            st.lists(st.integers(0, 2), min_size=n, max_size=n),
        )
    )
)
def test_temperature_is_bounded_and_keeps_the_predicted_class(case):
    logits, codes = np.array(case[0], dtype=float), np.array(case[1])
    temperature = fit_temperature(logits, codes)
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]
    assert (softmax(logits, temperature).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_where_there_is_no_best_temperature():
    apart = np.array([[4.0, 0.0], [0.0, 4.0]])
    assert TEMPERATURES[0] <= fit_temperature(apart, [0, 1]) < 0.2  # the loss is 0 from here on
    assert TEMPERATURES[0] <= fit_temperature(apart / 1000, [0, 1]) < 0.0501
    assert fit_temperature(apart, [1, 0]) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    assert fit_temperature(apart, [0, 0]) == pytest.approx(TEMPERATURES[1], rel=1e-3)  # half wrong at equal confidence
    assert fit_temperature(np.zeros((3, 2)), [0, 1, 1]) == 1.0


def test_cells_without_a_label_do_not_count():
    logits, codes = drawn(200)
    gaps = np.where(np.arange(200) % 3 == 0, -1, codes)
    kept = gaps >= 0
    assert fit_temperature(logits, gaps) == fit_temperature(logits[kept], codes[kept])
    proba = softmax(logits)
    assert expected_calibration_error(proba, gaps) == expected_calibration_error(proba[kept], codes[kept])


def test_softmax_of_large_logits():
    assert softmax([[1e4, 0.0]], 0.05).tolist() == [[1.0, 0.0]]
    assert softmax([[math.log(3), 0.0]]).tolist() == [pytest.approx([0.75, 0.25])]
    assert softmax([[2.0, 0.0]], 2.0)[0] == pytest.approx(softmax([[1.0, 0.0]])[0])
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


def test_what_cannot_be_calibrated():
    with pytest.raises(OutOfRangeError):
        softmax([[1.0, 2.0]], 0.0)
    for call in (softmax, lambda logits: fit_temperature(logits, [0, 1])):
        with pytest.raises(NonFiniteValuesError, match="row 1") as caught:
            call([[0.0, 1.0], [np.nan, 1.0]])
        assert not isinstance(caught.value, CountsError)  # logits are no counts
    with pytest.raises(MissingLabelError, match="None of the 2 cells"):
        fit_temperature(np.zeros((2, 2)), [-1, -1])
    with pytest.raises(MissingLabelError):
        fit_temperature(np.zeros((0, 2)), [])
    for logits, codes in ((np.zeros(3), [0, 1, 2]), (np.zeros((3, 2)), [0, 1]), (np.zeros((2, 2)), [0, 2])):
        with pytest.raises(LabelError):
            fit_temperature(logits, codes)
    with pytest.raises(LabelError, match="not logits"):
        expected_calibration_error([[3.0, -1.0]], [0])
    with pytest.raises(OutOfRangeError):
        expected_calibration_error([[1.0, 0.0]], [0], n_bins=0)
