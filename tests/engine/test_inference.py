"""The loop under every task: each cell once, whatever the batches and however often memory runs out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.engine.inference import run_batches, tokens_that_fit
from geneformer.errors import DeviceMemoryError, DeviceUnavailableError
from geneformer.models.encoder import mean_pool
from geneformer.options import RuntimeOptions
from golden import tiny_model
from small_cells import dataset_of, short_tokens


@pytest.fixture(scope="module")
def encoder():
    return tiny_model("V1").bert


def runtime(tokens_per_batch=None, **changes):
    return RuntimeOptions(**{"device": "cpu", "dtype": "float32", "tokens_per_batch": tokens_per_batch} | changes)


class Recorder:
    """A step that notes its rows, and runs out of memory above `limit` tokens or on chosen calls."""

    def __init__(self, limit=None, error=None, failing_calls=()):
        self.limit, self.error, self.failing_calls = limit, error or MemoryError("no more"), failing_calls
        self.rows, self.calls, self.sizes = [], 0, []

    def __call__(self, batch):
        self.calls += 1
        size = len(batch.input_ids)
        if (self.limit is not None and size > self.limit) or self.calls in self.failing_calls:
            raise self.error
        assert batch.cu_seqlens[-1] == size
        self.rows.extend(batch.rows.tolist())
        self.sizes.append(size)


def rows_of_lengths(lengths):
    return dataset_of([np.arange(2, 2 + length) for length in lengths])


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=25),
    budget=st.integers(1, 200),
    limit=st.integers(30, 120),
    failing=st.sets(st.integers(1, 6)),
)
def test_every_cell_comes_once_whatever_fails(lengths, budget, limit, failing):
    step = Recorder(limit)
    done = []
    network = torch.nn.Linear(1, 1)
    progress = lambda n, total: done.append((n, total))  # noqa: E731
    run_batches(rows_of_lengths(lengths), network, step, runtime(budget), progress=progress)
    assert sorted(step.rows) == list(range(len(lengths)))
    assert max(step.sizes) <= limit
    assert [n for n, _ in done] == sorted(n for n, _ in done)
    assert done[-1] == (len(lengths), len(lengths))

    sudden = Recorder(failing_calls=failing, error=torch.OutOfMemoryError("out of memory"))
    try:
        run_batches(rows_of_lengths(lengths), network, sudden, runtime(budget))
    except DeviceMemoryError:
        return  # it failed on a single cell
    assert sorted(sudden.rows) == list(range(len(lengths)))


def test_batches_after_a_failure_are_half_as_large():
    step = Recorder(limit=60)
    run_batches(rows_of_lengths([10] * 24), torch.nn.Linear(1, 1), step, runtime(240))
    assert step.sizes == [60] * 4
    assert step.calls == 4 + 2


def test_a_cell_that_never_fits_is_named():
    step = Recorder(limit=20)
    with pytest.raises(DeviceMemoryError, match=r"A cell of 25 tokens does not fit into the memory of cpu: no more"):
        run_batches(rows_of_lengths([5, 25, 5]), torch.nn.Linear(1, 1), step, runtime(100))


def test_other_errors_are_not_retried():
    step = Recorder(limit=1, error=RuntimeError("a shape is wrong"))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        run_batches(rows_of_lengths([5, 5]), torch.nn.Linear(1, 1), step, runtime(100))
    assert step.calls == 1


def means(encoder, tokens, runtime, max_length=None):
    values = np.full((len(tokens), 32), np.nan, dtype=np.float32)

    def step(batch):
        hidden = encoder(batch.input_ids, batch.cu_seqlens, attention=batch.attention)
        values[batch.rows] = mean_pool(hidden, batch.cu_seqlens).numpy()

    run_batches(tokens, encoder, step, runtime, max_length=max_length)
    return values


@pytest.mark.parametrize("tokens_per_batch", [1, 64, 100, 5000])
def test_values_do_not_depend_on_the_batch(encoder, tokens_per_batch):
    tokens = short_tokens()
    one_by_one = np.concatenate([means(encoder, tokens.take([row]), runtime()) for row in range(len(tokens))])
    np.testing.assert_allclose(means(encoder, tokens, runtime(tokens_per_batch)), one_by_one, atol=2e-6)


def test_cells_are_cut_to_the_length_asked(encoder):
    tokens = short_tokens()
    cut = dataset_of([tokens[row][:9] for row in range(len(tokens))])
    np.testing.assert_allclose(means(encoder, tokens, runtime(), 9), means(encoder, cut, runtime()), atol=2e-6)


def test_bfloat16_is_close(encoder):
    tokens = short_tokens()
    exact, rough = (means(encoder, tokens, runtime(dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rough).max() < 0.1
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.999


def test_no_gradients_are_kept(encoder):
    def step(batch):
        assert torch.is_inference_mode_enabled()
        assert not encoder(batch.input_ids, batch.cu_seqlens).requires_grad

    run_batches(short_tokens(cells=2), encoder, step, runtime())


def test_an_absent_device_is_refused_before_any_work(encoder):
    step = Recorder()
    with pytest.raises(DeviceUnavailableError):
        run_batches(short_tokens(cells=2), encoder, step, runtime(device="warp"))
    assert not step.calls


def test_the_budget_follows_the_memory(encoder, monkeypatch):
    assert tokens_that_fit(encoder, torch.device("cpu")) == 2048 * torch.get_num_threads()
    sizes = []
    for memory in (None, 2**20, 2**27, 2**50):
        monkeypatch.setattr("geneformer.engine.inference.safe_memory", lambda _, memory=memory: memory)
        sizes.append(tokens_that_fit(encoder, torch.device("meta")))
    assert sizes[0] == sizes[1] == 8192
    assert sizes[1] < sizes[2] < sizes[3] == 262_144
