"""Pretraining on a few dozen real cells: what is learnt, from which cells, and what is left behind."""

import json

import numpy as np
import pytest
import torch
from transformers import BertForMaskedLM

from geneformer.engine.training import PackedTrainer, planned_steps
from geneformer.errors import (
    DatasetError,
    DeviceMemoryError,
    NoCellsError,
    OptionError,
    TrainingError,
    VocabularyMismatchError,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import load_model
from geneformer.options import PretrainOptions
from geneformer.pretraining.run import MaskedBatches, balanced, pretrain, split_cells
from small_runs import options_for, run, tokenized, write_cells


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tokenized(write_cells(tmp_path_factory.mktemp("cells")))


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A run of 30 steps, with its folder."""
    folder = tmp_path_factory.mktemp("run")
    told = []
    options = options_for(folder, max_steps=30, held_out=0.2, save_steps=15, eval_steps=15, seed=3)
    result = run(dataset, folder / "out", options, progress=lambda done, total: told.append((done, total)))
    return result, options, told


def test_the_loss_falls(finished):
    result, _, told = finished
    losses = [line["loss"] for line in result.history if "loss" in line]
    assert len(losses) == 30 == result.steps
    assert np.mean(losses[-5:]) < np.mean(losses[:3]) - 0.5
    assert told[-1] == (30, 30)
    assert all(
        line["masked_loss"] == pytest.approx(line["loss"], rel=1e-4) for line in result.history if "loss" in line
    )


def test_the_checkpoint_opens_here_and_in_plain_transformers(finished, dataset):
    result, _, _ = finished
    loaded = load_model(result.folder)
    assert loaded.vocabulary == Vocabulary.load("V1")
    assert loaded.network.config.geneformer_vocabulary == Vocabulary.load("V1").fingerprint
    bert = BertForMaskedLM.from_pretrained(result.folder).eval()
    ids = torch.from_numpy(dataset[0][:50].copy()).long()
    with torch.no_grad():
        ours = loaded.network.logits(loaded.network.bert(ids, torch.tensor([0, 50])))
        theirs = bert(ids[None]).logits[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_record_beside_the_weights(finished):
    result, options, _ = finished
    record = json.loads((result.folder / "pretraining.json").read_text())
    assert record["options"]["seed"] == 3
    assert record["options"]["subsample_counts"] == list(options.subsample_counts)
    assert (record["n_train"], record["n_held_out"], record["steps"]) == (38, 10, 30)
    names = {"eval_loss", "eval_top1", "eval_top10", "baseline_top1", "baseline_top10"}
    assert names <= record["metrics"].keys()
    assert all(0 <= record["metrics"][name] <= 1 for name in names - {"eval_loss"})
    assert [line["step"] for line in record["history"] if "eval_loss" in line] == [15, 30, 30]


def test_held_out_cells_are_never_trained_on(dataset, tmp_path, monkeypatch):
    read = []
    usual = MaskedBatches.masked

    def noting(self, keys):
        read.append((len(self.rows), set(self.rows[[row for _, row in keys]])))
        return usual(self, keys)

    monkeypatch.setattr(MaskedBatches, "masked", noting)
    options = options_for(tmp_path, hold_out_sources=("donor1",), held_out=0.25, max_steps=8, eval_cells=5)
    result = run(dataset, tmp_path / "out", options)
    train, held = split_cells(dataset, 0.25, ("donor1",), 0)
    assert (result.n_train, result.n_held_out) == (len(train), len(held)) == (18, 30)
    trained = set().union(*(rows for n, rows in read if n == len(train)))
    assert trained == set(train.tolist())
    assert set().union(*(rows for n, rows in read if n == len(held))) == set(held.tolist())


def test_the_split(dataset):
    sources = dataset.column("source")
    train, held = split_cells(dataset, 0.25, (), 0)
    assert sorted([*train, *held]) == list(range(48))
    assert {name: int((sources[held] == name).sum()) for name in ("donor0", "donor1")} == {"donor0": 6, "donor1": 6}
    assert np.array_equal(split_cells(dataset, 0.25, (), 0)[1], held)
    assert not np.array_equal(split_cells(dataset, 0.25, (), 1)[1], held)
    alone = split_cells(dataset.take(np.flatnonzero(sources == "donor1")), 0.25, (), 0)[1]
    assert np.array_equal(alone + 24, held[held >= 24])
    assert len(split_cells(dataset, 0.0, (), 0)[1]) == 0


def test_small_sources_come_more_often():
    sources = np.repeat(["large", "medium", "small"], [900, 90, 10])
    rows = np.arange(5, 1000)
    for balance, shares in ((0.0, [895, 90, 10]), (0.5, [697, 221, 74]), (1.0, [332, 332, 332])):
        drawn = balanced(rows, sources, balance, 0)
        counted = np.unique(sources[drawn], return_counts=True)[1]
        assert np.abs(counted - shares).max() <= 5
        times = np.bincount(drawn, minlength=1000)
        assert not times[:5].any()
        for source in ("large", "medium", "small"):  # no cell is drawn twice before all others of its source are once
            assert np.ptp(times[5:][sources[5:] == source]) <= 1
    assert np.array_equal(balanced(rows, sources, 0.5, 0), balanced(rows, sources, 0.5, 0))
    assert not np.array_equal(balanced(rows, sources, 0.5, 0), balanced(rows, sources, 0.5, 1))


def test_a_run_with_panels_and_balance_reads_repeated_cells(dataset, tmp_path, monkeypatch):
    read = []
    usual = MaskedBatches.masked
    monkeypatch.setattr(MaskedBatches, "masked", lambda self, keys: read.append(self.rows) or usual(self, keys))
    few = dataset.take(np.r_[0:24, 24:30])
    options = options_for(
        tmp_path, contrastive_weight=1.0, gene_share=(0.4, 0.8), balance_sources=1.0, held_out=0.0, max_steps=2
    )
    result = run(few, tmp_path / "out", options)
    assert result.n_train == 30
    assert np.bincount(read[0] >= 24).tolist() == [15, 15]


def test_without_held_out_cells_no_accuracy_is_claimed(dataset, tmp_path):
    result = run(dataset, tmp_path / "out", options_for(tmp_path, held_out=0.0, max_steps=2, eval_steps=1))
    assert result.metrics == {}
    assert result.n_held_out == 0


def test_contrastive_views_and_batches_of_one_source(dataset, tmp_path, monkeypatch):
    sources = dataset.column("source")
    together, views = [], []
    usual = MaskedBatches.masked

    def noting(self, keys):
        batch = usual(self, keys)
        if self.views:
            together.append(set(sources[self.rows[[row for _, row in keys]]]))
            views.append((len(batch.cu_seqlens) - 1, len(keys)))
        return batch

    monkeypatch.setattr(MaskedBatches, "masked", noting)
    options = options_for(tmp_path, contrastive_weight=0.5, batch_by_source=True, tokens_per_batch=1000)
    result = run(dataset, tmp_path / "out", options)
    assert all(len(sources_of_batch) == 1 for sources_of_batch in together)
    assert {frozenset(s) for s in together} == {frozenset({"donor0"}), frozenset({"donor1"})}
    assert all(n_views == 2 * n_cells for n_views, n_cells in views)
    for line in (line for line in result.history if "contrastive_loss" in line):
        assert line["loss"] == pytest.approx(line["masked_loss"] + 0.5 * line["contrastive_loss"], rel=1e-4)
    assert any("contrastive_loss" in line for line in result.history)
    assert "eval_contrastive_loss" not in result.metrics


def test_the_planned_steps():
    lengths = np.full(40, 50)
    options = {"tokens_per_batch": 200, "epochs": 2.0}
    assert planned_steps(lengths, PretrainOptions(**options)) == 20
    assert planned_steps(lengths, PretrainOptions(**options, accumulation=4)) == 6
    assert planned_steps(lengths, PretrainOptions(**options, max_steps=7)) == 7
    assert planned_steps(lengths, PretrainOptions(**options), processes=2) == 10


def test_epochs_are_as_long_as_planned(dataset, tmp_path):
    options = options_for(tmp_path, max_steps=-1, epochs=2.0, tokens_per_batch=600, accumulation=2)
    result = run(dataset, tmp_path / "out", options)
    lengths = np.minimum(dataset.lengths[split_cells(dataset, 0.1, (), 0)[0]], 64)
    assert result.steps == planned_steps(lengths, options)


def test_a_loss_that_is_lost_leaves_no_checkpoint(dataset, tmp_path, monkeypatch):
    usual = PackedTrainer.compute_loss
    monkeypatch.setattr(PackedTrainer, "compute_loss", lambda *given, **named: usual(*given, **named) * np.inf)
    options = options_for(tmp_path, max_steps=30, schedule="constant_with_warmup")
    with pytest.raises(TrainingError, match="Lower learning_rate"):
        run(dataset, tmp_path / "out", options)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_memory_that_runs_out_is_a_typed_error(dataset, tmp_path, monkeypatch, where):
    usual = GeneformerForMaskedLM.forward

    def forward(self, *args, **kwargs):
        if self.training == (where == "training"):
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(GeneformerForMaskedLM, "forward", forward)
    with pytest.raises(DeviceMemoryError, match=r"\(GF503\).*memory of cpu: Tried.*Lower tokens_per_batch \(now 400\)"):
        run(dataset, tmp_path / "out", options_for(tmp_path, held_out=0.2))


def test_refusals(dataset, tmp_path):
    plain = tokenized(write_cells(tmp_path, sources=1, cells=4), counts=False)
    for changes in ({"contrastive_weight": 0.1}, {"spectral_start": True}):
        with pytest.raises(DatasetError, match="need counts"):
            run(plain, tmp_path / "out", options_for(tmp_path, **changes))
    with pytest.raises(DatasetError, match=r"names \['donor7'\], but the cells come from \['donor0', 'donor1'\]"):
        run(dataset, tmp_path / "out", options_for(tmp_path, hold_out_sources=("donor7",)))
    with pytest.raises(NoCellsError, match="All 48 cells are held out"):
        run(dataset, tmp_path / "out", options_for(tmp_path, hold_out_sources=("donor0", "donor1")))
    with pytest.raises(VocabularyMismatchError, match="not V2"):
        pretrain(dataset, Vocabulary.load("V2"), tmp_path / "out", options_for(tmp_path), None)
    with pytest.raises(OptionError):
        PretrainOptions(subsample_counts=(0.9, 0.5))
    with pytest.raises(OptionError, match=r"gene_share\[1\]"):
        PretrainOptions(gene_share=(0.5, 1.5))
    assert not (tmp_path / "out").exists()
