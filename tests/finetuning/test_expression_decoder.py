"""Expression of genes from the rest of the cell: learning, predicting, reports, the folder."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

from geneformer.errors import DatasetError, GeneformerWarning, NotFittedError, OptionError, UnknownGeneError
from geneformer.finetuning.estimators import ExpressionDecoder, load_classifier
from geneformer.finetuning.expression_decoder import (
    ADDITIVE,
    BEYOND,
    MEAN,
    AdditiveModel,
    UsualValues,
    expression_batches,
    hide_genes,
    take_genes_out,
)
from geneformer.finetuning.predictions import RANK
from geneformer.finetuning.reports import ExpressionReport, ReportSet
from geneformer.models.loading import load_model
from geneformer.options import ExpressionOptions
from geneformer.tokens.dataset import TokenizedDataset
from small_finetuning import QUICK, labeled_blood, tiny_model

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"), seed=5, dropout=0.0)


@pytest.fixture(scope="module")
def adata():
    return labeled_blood()


@pytest.fixture(scope="module")
def fitted(model, adata):
    options = {**QUICK, "baselines": "all", "decoder_size": 16, "valid": 0.15, "test": 0.25}
    return ExpressionDecoder(model, **options).fit(adata)


def made(model, **changes):
    return ExpressionDecoder(model, **{**QUICK, "baselines": "none", "decoder_size": 16, **changes})


def test_it_starts_from_the_pretrained_weights_and_the_usual_values(model, adata):
    start = made(model, strategy="head", max_steps=1, learning_rate=1e-9).fit(adata)
    pretrained = load_model(model).network.bert.state_dict()
    found = start.network_.bert.state_dict()
    assert all((found[name] == pretrained[name]).all() for name in pretrained)
    usual = start._usual
    np.testing.assert_allclose(start.network_.usual.numpy(), usual.by_token, rtol=1e-6)
    genes = start.base().vocabulary.genes[:5].tolist()
    predicted = start.predict(adata, genes)
    tokens = start.base().vocabulary.token_ids[:5]
    np.testing.assert_allclose(predicted.X.mean(axis=0), usual.by_token[tokens, 0], atol=0.2)


def test_learning_brings_the_loss_down(model, adata):
    decoder = made(model, max_steps=40, valid=0.0, tokens_per_batch=1500).fit(adata)
    losses = [line["removed_loss"] for line in decoder.result_.history if "removed_loss" in line]
    assert np.mean(losses[-8:]) < 0.85 * np.mean(losses[:8])


def test_the_batch_hides_what_it_asks_for(model, adata):
    decoder = made(model)
    tokens = decoder.open(adata).tokens
    batches = expression_batches(tokens, np.arange(10), decoder.base().vocabulary.special_ids, 64, share=0.2, seed=1)
    batch = batches([(0, 3), (0, 4)])
    gone = batch["genes"][batch["removed"] & (batch["cells"] == 0)]
    seen = batch["input_ids"][: batch["cu_seqlens"][1]]
    assert len(gone) > 0
    assert not set(gone.tolist()) & set(seen.tolist())
    assert sorted([*gone.tolist(), *seen.tolist()]) == sorted(tokens[3][:64].tolist())
    other = batches([(1, 3)])
    assert other["genes"][other["removed"]].tolist() != gone.tolist()
    again = batches([(0, 5), (0, 3)])
    assert again["genes"][again["removed"] & (again["cells"] == 1)].tolist() == gone.tolist()


def test_given_genes_are_predicted_in_every_cell(fitted, adata):
    predicted = fitted.predict(adata, ["LYZ", "ENSG00000198851"])
    assert predicted.shape == (48, 2)
    assert list(predicted.var["symbol"]) == ["LYZ", "CD3E"]
    assert list(predicted.obs_names) == list(adata.obs_names)
    assert (predicted.X >= 0).all()
    assert ((predicted.layers[RANK] >= 0) & (predicted.layers[RANK] <= 1)).all()
    assert predicted.uns["geneformer"]["vocabulary"] == "V1"
    with pytest.raises(UnknownGeneError, match="LYS9"):
        fitted.predict(adata, ["LYS9"])
    with pytest.raises(UnknownGeneError, match="LYS9"):
        fitted.predict(adata, ["LYZ", "LYS9"], unknown="error")
    with pytest.warns(GeneformerWarning, match="1 of 2 genes are used. Left out: 1 without a token .*'LYS9'"):
        one = fitted.predict(adata, ["LYZ", "LYS9"])
    np.testing.assert_allclose(one.X, predicted.X[:, :1], atol=1e-6)
    assert one.uns["geneformer"]["panel"]["left_out"] == ["LYS9"]


def test_by_default_the_genes_read_of_every_cell_are_predicted(fitted, adata):
    predicted = fitted.predict(adata)
    opened = fitted.open(adata)
    assert sparse.issparse(predicted.X)
    lengths = np.minimum(opened.tokens.lengths, 64)
    np.testing.assert_array_equal(np.diff(predicted.X.indptr), lengths)
    tokens = opened.tokens[7][:64]
    expected = set(fitted._pairing.vocabulary.gene_of[tokens])
    assert set(predicted.var_names[predicted.X[7].indices]) == expected
    gene = fitted._pairing.vocabulary.gene_of[tokens[3]]
    alone = fitted.predict(adata[[7]].copy(), [gene])
    assert alone.X[0, 0] == pytest.approx(predicted[7, gene].X.toarray()[0, 0], rel=1e-4)
    assert alone.layers[RANK][0, 0] == pytest.approx(predicted[7, gene].layers[RANK].toarray()[0, 0], rel=1e-4)


@pytest.mark.parametrize("genes", [None, ["LYZ", "CD3E"]])
def test_blocks_are_the_whole_in_pieces(fitted, adata, genes):
    whole = fitted.predict(adata, genes)
    blocks = list(fitted.predict_blocks(adata, genes, cells_per_block=13))
    assert [block.n_obs for block in blocks] == [13, 13, 13, 9]
    for side in ("X", RANK):
        pieces = [block.X if side == "X" else block.layers[side] for block in blocks]
        joined = sparse.vstack(pieces).toarray() if genes is None else np.concatenate(pieces)
        expected = whole.X if side == "X" else whole.layers[side]
        np.testing.assert_allclose(joined, expected.toarray() if genes is None else expected, rtol=1e-4, atol=1e-5)


def test_cells_without_a_known_gene_stay_empty(fitted, adata):
    cells = adata[:6].copy()
    counts = cells.X.toarray()
    counts[2] = 0
    cells.X = sparse.csr_matrix(counts)
    with pytest.warns(GeneformerWarning):
        predicted = fitted.predict(cells, ["LYZ"])
    assert np.isnan(predicted.X[:, 0]).tolist() == [False, False, True, False, False, False]
    with pytest.warns(GeneformerWarning):
        assert fitted.predict(cells).X[2].nnz == 0


def test_reports_are_of_removed_genes_of_held_out_cells(fitted, adata):
    split, pairing = fitted._training.split, fitted._pairing
    assert list(fitted.report_) == ["value", "rank", BEYOND]
    opened = fitted.open(adata)
    for name, side in (("value", 0), ("rank", 1)):
        report = fitted.report_[name]
        assert set(report.cell_ids) == set(adata.obs_names[split.test])
        assert report.evaluation.n_groups == len(split.test)
        row = split.test[0]
        packed = opened.tokens.gather([row], max_length=64, counts=True)
        _, found = hide_genes(packed, pairing.vocabulary.special_ids, 0.15, [(0, int(row))])
        mine = report.cell_ids == adata.obs_names[row]
        assert list(report.genes[mine]) == pairing.vocabulary.gene_of[found.genes[found.removed]].tolist()
        np.testing.assert_allclose(report.truth[mine], found.values[found.removed, side])


def test_values_are_log_counts_per_ten_thousand(fitted, adata):
    report = fitted.report_["value"]
    row = list(adata.obs_names).index(report.cell_ids[0])
    column = list(adata.var.get("ensembl_id", adata.var_names)).index(report.genes[0])
    expected = np.log1p(adata.X[row, column] / adata.obs["n_counts"].iloc[row] * 1e4)
    assert report.truth[0] == pytest.approx(expected, rel=1e-5)


def test_baselines_see_the_same_genes(fitted, adata):
    split, pairing = fitted._training.split, fitted._pairing
    tokens, special = fitted.open(adata).tokens, pairing.vocabulary.special_ids
    shared = {"special": special, "max_length": 64}
    usual = UsualValues.fit(tokens, split.train, size=pairing.vocabulary.size, **shared)
    additive = AdditiveModel.fit(tokens, split.train, usual=usual, **shared)
    tested = take_genes_out(tokens, split.test, special, share=0.15, max_length=64, seed=0, additive=additive)
    report = fitted.report_["value"]
    np.testing.assert_allclose(report.truth, tested.truth[:, 0])
    for name, predicted in ((MEAN, usual.by_token[tested.genes]), (ADDITIVE, tested.additive)):
        expected = ((predicted[:, 0] - tested.truth[:, 0]) ** 2).mean()
        assert report.baselines[name].metrics["mse"].mean == pytest.approx(expected, rel=1e-5)
    assert set(report.baselines) == {MEAN, ADDITIVE, "random initialisation"}
    beyond = fitted.report_[BEYOND]
    assert beyond.baselines[MEAN].metrics["r2"].mean <= 1e-9
    assert beyond.evaluation.metrics["mse"].mean == pytest.approx(report.evaluation.metrics["mse"].mean)


def test_what_is_left_of_a_cell_is_all_the_model_sees(fitted, adata):
    """Whatever the removed genes were, the predictions for a cell without them are the same."""
    tokens, special = fitted.open(adata).tokens, fitted._pairing.vocabulary.special_ids
    tested = take_genes_out(tokens, np.arange(5), special, share=0.3, max_length=64, seed=0)
    for cell in range(5):
        gone = set(tested.genes[tested.starts[cell] : tested.starts[cell + 1]].tolist())
        assert gone
        assert tested.visible[cell].tolist() == [t for t in tokens[cell][:64].tolist() if t not in gone]


def test_saved_and_loaded_it_predicts_the_same(fitted, adata, tmp_path):
    fitted.save(tmp_path / "decoder")
    loaded = load_classifier(tmp_path / "decoder", runtime=fitted.runtime)
    assert isinstance(loaded, ExpressionDecoder)
    np.testing.assert_array_equal(loaded.predict(adata, ["LYZ"]).X, fitted.predict(adata, ["LYZ"]).X)
    assert ReportSet.load(tmp_path / "decoder" / "report") == fitted.report_
    assert isinstance(fitted.report_["rank"], ExpressionReport)
    with pytest.warns(GeneformerWarning, match="cells were learnt from"):
        reports = loaded.evaluate(adata, groups="donor")
    assert set(reports["value"].baselines) == {MEAN}
    assert reports["value"].evaluation.n_groups == 4
    np.testing.assert_array_equal(loaded.embed(adata), fitted.embed(adata))


def test_tokens_need_counts_to_learn_and_none_to_predict(model, fitted, adata):
    tokens = fitted.open(adata).tokens
    bare = TokenizedDataset(tokens.table.drop_columns(["counts"]), vocabulary=tokens.vocabulary)
    with pytest.raises(DatasetError, match="counts"):
        made(model).fit(bare)
    with pytest.raises(DatasetError, match="counts"):
        fitted.evaluate(bare)
    np.testing.assert_allclose(fitted.predict(bare, ["LYZ"]).X, fitted.predict(adata, ["LYZ"]).X, rtol=1e-5)
    assert made(model).fit(tokens, groups=None).report_ is not None


def test_no_donor_is_on_two_sides_and_few_cells_are_enough(model, adata):
    decoder = made(model, test=0.25, valid=0.25, report_cells=3).fit(adata, groups="donor")
    assert decoder.split_["shared_groups"] == {}
    assert len(set(decoder.report_["value"].cell_ids)) == 3
    small = made(model, max_cells=20, test=0.2, valid=0.2).fit(adata)
    assert sum(small.split_[name] for name in ("train", "valid", "test")) == 20


def test_options_that_make_no_sense(model, adata):
    with pytest.raises(OptionError, match="contrastive_weight"):
        made(model, contrastive_weight=0.1).fit(adata)
    with pytest.raises(OptionError, match="both 0"):
        ExpressionOptions(removed_weight=0.0, visible_weight=0.0)
    with pytest.raises(OptionError, match="both 0"):
        dataclasses.replace(ExpressionOptions(), value_weight=0.0, rank_weight=0.0)


def test_an_unfitted_one_says_so(model, adata):
    with pytest.raises(NotFittedError):
        made(model).predict(adata)
