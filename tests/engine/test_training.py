"""The Trainer over packed cells: orders, one loss per optimizer step, metrics, refusal to go on without a loss."""

import numpy as np
import pytest
import torch
from accelerate import PartialState
from transformers import set_seed

from geneformer.engine.training import (
    EpochSampler,
    PackedTrainer,
    PlacedArguments,
    Reporting,
    begin_run,
    check_resumable,
    length_read,
    undone_on_failure,
)
from geneformer.errors import GeneformerWarning, OutputExistsError, TrainingError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.options import PretrainOptions
from geneformer.pretraining.run import MaskedBatches
from geneformer.tokens.dataset import plan_batches
from golden import tiny_config
from small_cells import short_tokens

OPTIONS = PretrainOptions()
LENGTHS = np.array([40, 30, 30, 20, 10, 40, 35, 25])


@pytest.fixture(scope="module")
def batches():
    tokens = short_tokens(cells=8)
    return MaskedBatches(tokens, np.arange(8), Vocabulary.load("V1"), 40, OPTIONS, views=False)


def network(dropout=0.0):
    set_seed(1)
    config = tiny_config("V1")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return GeneformerForMaskedLM(config)


def trainer_of(model, batches, folder, *, collate=None, tokens_per_batch=10_000, progress=None, **arguments):
    defaults = {"max_steps": 1, "learning_rate": 1e-3, "logging_steps": 1, "save_strategy": "no", "report_to": []}
    args = PlacedArguments(
        output_dir=str(folder),
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **defaults | arguments,
    )
    return PackedTrainer(
        model=model,
        args=args,
        lengths=batches.lengths,
        collate=collate or batches,
        eval_lengths=batches.lengths,
        eval_collate=batches,
        tokens_per_batch=tokens_per_batch,
        callbacks=[Reporting(progress)],
    )


def passes(sampler, epochs):
    orders = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == len(sampler)
    return orders


def test_every_epoch_has_all_cells_in_another_order():
    first, second, third = passes(EpochSampler(LENGTHS, 60, seed=0), 3)
    for number, order in enumerate((first, second, third)):
        assert sorted(row for batch in order for _, row in batch) == list(range(8))
        assert {epoch for batch in order for epoch, _ in batch} == {number}
    orders = [[[row for _, row in batch] for batch in order] for order in (first, second, third)]
    assert orders[0] != orders[1] != orders[2]
    again = passes(EpochSampler(LENGTHS, 60, seed=0), 3)
    assert again == [first, second, third]
    assert passes(EpochSampler(LENGTHS, 60, seed=1), 1)[0] != first


def test_groups_do_not_share_a_batch():
    groups = np.array(list("abababab"))
    (order,) = passes(EpochSampler(LENGTHS, 80, seed=0, groups=groups), 1)
    assert all(len({groups[row] for _, row in batch}) == 1 for batch in order)


def test_accumulated_batches_step_like_one_large_batch(batches, tmp_path):
    """Masks of a cell must not depend on its batch here, so every cell is masked on its own."""

    def collate(keys):
        parts = [batches([(0, row)]) for _, row in sorted(keys, key=lambda key: key[1])]
        shifts = np.cumsum([0] + [len(part["input_ids"]) for part in parts])[:-1]
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("input_ids", "labels")}
        joined["masked"] = torch.cat([part["masked"] + s for part, s in zip(parts, shifts, strict=True)])
        lengths = torch.cat([torch.diff(part["cu_seqlens"]) for part in parts])
        return joined | {"cu_seqlens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0))}

    results = []
    for tokens_per_batch, accumulation in ((10_000, 1), (int(batches.lengths.sum()) // 4, 4)):
        model = network()
        trainer = trainer_of(
            model,
            batches,
            tmp_path,
            collate=collate,
            tokens_per_batch=tokens_per_batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
        )
        trainer.train()
        assert trainer.state.global_step == 1
        results.append(model.state_dict())
    before = network().state_dict()
    moved = max(float((results[0][name] - before[name]).abs().max()) for name in before)
    apart = max(float((results[0][name] - results[1][name]).abs().max()) for name in before)
    assert apart < 1e-5 < 1e-3 < moved


def test_metrics_are_those_counted_by_hand(batches, tmp_path):
    model = network(dropout=0.1)
    trainer = trainer_of(model, batches, tmp_path, tokens_per_batch=90)
    found = trainer.evaluate()
    assert found == trainer.evaluate()
    assert model.training
    losses, first, among_ten = [], 0, 0
    model.eval()
    for rows in plan_batches(batches.lengths, 90):
        batch = batches([(0, int(row)) for row in rows])
        with torch.no_grad():
            hidden = model.bert(batch["input_ids"], batch["cu_seqlens"])
            logits = model.logits(hidden[batch["masked"]])
        losses += torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none").tolist()
        best = logits.topk(10).indices
        first += int((best[:, 0] == batch["labels"]).sum())
        among_ten += int((best == batch["labels"][:, None]).any(1).sum())
    assert found["eval_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["eval_top1"] == pytest.approx(first / len(losses))
    assert found["eval_top10"] == pytest.approx(among_ten / len(losses))


def test_without_held_out_cells_nothing_is_claimed(batches, tmp_path):
    trainer = trainer_of(network(), batches, tmp_path)
    trainer.set_held_out(np.empty(0, np.int64), batches)
    assert trainer.evaluate() == {}


def test_a_loss_that_is_lost_stops_the_run(batches, tmp_path):
    trainer = trainer_of(network(), batches, tmp_path, learning_rate=1e30, max_steps=20, lr_scheduler_type="constant")
    with pytest.raises(
        TrainingError, match=r"\(GF504\).*The loss became (nan|inf).*Lower learning_rate \(now 1e\+30\)"
    ):
        trainer.train()


def test_progress_is_told_and_stdout_stays_free(batches, tmp_path, capsys):
    told = []
    trainer = trainer_of(
        network(), batches, tmp_path, progress=lambda done, total: told.append((done, total)), max_steps=3
    )
    trainer.train()
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert capsys.readouterr().out == ""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert all(line["masked_loss"] == pytest.approx(line["loss"], rel=1e-5) for line in lines)


def test_arguments_go_where_they_are_sent(tmp_path):
    # No accelerator answers for `meta`; what counts is that the choice is not replaced by what there is.
    with pytest.raises(RuntimeError):
        _ = PlacedArguments(output_dir=str(tmp_path), placed_on="meta", report_to=[]).device
    arguments = PlacedArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    assert (arguments.device, arguments.n_gpu) == (torch.device("cpu"), 0)


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path):
    processes = PartialState(cpu=True)
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        folder = tmp_path / name
        with pytest.raises(TrainingError), undone_on_failure(folder, processes):  # noqa: PT012
            begin_run(folder, {"seed": 0}, processes, may_change=set(), resume=False)
            msg = "the loss became nan"
            raise TrainingError(msg)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_run_does_not_go_into_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputExistsError, match="is a file"):
        check_resumable(tmp_path / "out", resume=False)


def test_no_more_tokens_are_read_than_there_are_positions():
    assert [length_read(asked, 64, "tiny") for asked in (None, 10, 64)] == [64, 10, 64]
    with pytest.warns(GeneformerWarning, match=r"max_length=100 is more than tiny has positions for; .* 64 tokens"):
        assert length_read(100, 64, "tiny") == 64
