"""`GeneClassifier` from counts or tokens to tables, reports and folders, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest

from geneformer.errors import (
    CheckpointError,
    GeneformerWarning,
    GeneListError,
    NotFittedError,
    OptionError,
    OutOfRangeError,
    OutputExistsError,
    RunMismatchError,
    UnknownChoiceError,
    UnknownClassError,
    UnknownOptionError,
)
from geneformer.finetuning.estimators import GeneClassifier, load_classifier
from geneformer.finetuning.gene_classifier import CONTEXTUAL, STATIC, STATISTICS
from geneformer.finetuning.reports import GeneReport
from geneformer.inference.cells import tokens_for
from geneformer.options import GeneClassifyOptions
from small_cells import blood
from small_finetuning import QUICK, tiny_model
from small_genes import V1, cells, common_genes, dealt

pytestmark = pytest.mark.contract

GENES = common_genes(cells(), 30)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def classifier(model, **changes):
    return GeneClassifier(model, **QUICK | {"baselines": "none"} | changes)


@pytest.fixture(scope="module")
def fitted(model):
    return classifier(model).fit(cells(), dealt(GENES))


def test_a_table_of_all_genes(fitted):
    table = fitted.predict(cells(8))
    assert list(table["gene"]) == V1.genes.tolist()
    assert list(table["symbol"][:3]) == [V1.symbol_of(gene) for gene in V1.genes[:3]]
    seen = {V1.gene_of[token] for row in range(8) for token in cells(8)[row]}
    assert set(table["gene"][table["n_cells"] > 0]) == seen
    proba = table[["probability_class 0", "probability_class 1"]].to_numpy()
    occurs = (table["n_cells"] > 0).to_numpy()
    assert np.isnan(proba[~occurs]).all()
    np.testing.assert_allclose(proba[occurs].sum(axis=1), 1.0, atol=1e-6)
    assert table["predicted"][~occurs].isna().all()
    assert list(table["predicted"][occurs]) == [f"class {code}" for code in proba[occurs].argmax(axis=1)]
    learnt = table[table["learnt"].notna()]
    assert dict(zip(learnt["gene"], learnt["learnt"], strict=True)) == {
        gene: name for name, genes in dealt(GENES).items() for gene in genes
    }
    np.testing.assert_array_equal(fitted.predict_proba(cells(8)), proba)


def test_what_it_learnt_from_is_kept(fitted):
    assert fitted.classes_ == ("class 0", "class 1")
    assert {name: set(genes) for name, genes in fitted.gene_classes_.items()} == {
        name: set(genes) for name, genes in dealt(GENES).items()
    }
    assert sorted(gene for part in fitted.parts_.values() for gene in part) == sorted(GENES)
    assert len(fitted.parts_["valid"]) == 3
    assert fitted.parts_["test"] == []
    assert fitted.report_ is None
    assert set(fitted.metrics_) >= {"loss", "log_likelihood", "accuracy", "macro_f1"}


def test_counts_and_their_tokens_are_the_same(model):
    adata, one = blood(16), classifier(model)
    lists = dealt(common_genes(tokens_for(adata, one._pair(), counts_layer=None, gene_ids=None)[0], 20))
    symbols = {name: [V1.symbol_of(gene).lower() for gene in genes] for name, genes in lists.items()}
    counted = classifier(model).fit(adata, symbols)
    opened = counted._training.cells.tokens
    counted_again = classifier(model).fit(opened, lists)
    assert counted.predict(adata).equals(counted_again.predict(adata))


def test_a_saved_classifier_predicts_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "genes")
    for loaded in (
        GeneClassifier.load(tmp_path / "genes", runtime=fitted.runtime),
        load_classifier(tmp_path / "genes", runtime=fitted.runtime),
    ):
        assert isinstance(loaded, GeneClassifier)
        assert loaded.predict(cells(6)).equals(fitted.predict(cells(6)))
        assert loaded.parts_ == fitted.parts_
        assert loaded.metrics_ == fitted.metrics_
    task = json.loads((tmp_path / "genes" / "task.json").read_text())
    assert task["kind"] == "gene_classifier"
    assert task["options"]["classify"]["valid"] == 0.1
    loaded.save(tmp_path / "again")
    assert (
        GeneClassifier.load(tmp_path / "again", runtime=fitted.runtime)
        .predict(cells(6))
        .equals(fitted.predict(cells(6)))
    )
    with pytest.raises(OutputExistsError):
        fitted.save(tmp_path / "genes")


def test_its_network_is_a_token_classifier_of_bert(fitted, tmp_path):
    torch = pytest.importorskip("torch")
    from transformers import BertForTokenClassification

    fitted.save(tmp_path / "genes")
    bert = BertForTokenClassification.from_pretrained(tmp_path / "genes").eval()
    assert bert.config.id2label == {0: "class 0", 1: "class 1"}
    ids = torch.from_numpy(cells(1)[0].astype(np.int64))
    with torch.no_grad():
        theirs = bert(ids[None]).logits[0]
        ours = fitted.network_(ids, torch.tensor([0, len(ids)])).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_folder_of_another_kind_is_refused(fitted, tmp_path, model):
    fitted.save(tmp_path / "genes")
    task = json.loads((tmp_path / "genes" / "task.json").read_text())
    (tmp_path / "genes" / "task.json").write_text(json.dumps(task | {"kind": "cell_classifier"}))
    with pytest.raises(CheckpointError, match="holds a cell_classifier, not a gene_classifier"):
        GeneClassifier.load(tmp_path / "genes")
    with pytest.raises(CheckpointError, match="no fine-tuned model"):
        GeneClassifier.load(model)


@pytest.mark.parametrize("classes", [2, 3])
def test_every_gene_is_held_out_once(model, classes):
    lists = dealt(GENES, classes)
    one = classifier(model, baselines="all", max_steps=2)
    report = one.cross_validate(cells(), lists, n_folds=3)
    assert sorted(report.cell_ids) == sorted(GENES)
    assert np.bincount(report.folds).tolist() == [0, 10, 10, 10]
    truth = {gene: code for code, genes in enumerate(lists.values()) for gene in genes}
    assert report.truth.tolist() == [truth[gene] for gene in report.cell_ids]
    assert set(report.baselines) == {
        "random initialisation", STATISTICS, STATIC, CONTEXTUAL, "majority class"
    }  # fmt: skip
    for found in (report.evaluation, *report.baselines.values()):
        assert found.n == 30
        assert found.confusion.sum() == 30
        assert len(found.folds) == len(found.occurrences) == 3
        # Model and baselines are measured on the same genes, in the same cells.
        assert [part.n for part in found.occurrences] == [part.n for part in report.evaluation.occurrences]
        np.testing.assert_array_equal(found.confusion.sum(axis=1), report.evaluation.confusion.sum(axis=1))
    assert report.evaluation.occurrences[0].n == report.n_cells[report.folds == 1].sum()
    assert report.settings["n_folds"] == 3
    assert one.network_ is None
    assert one.cross_validate(cells(), lists, n_folds=3) == report


def test_cross_validation_leaves_the_classifier_as_it_is(model, tmp_path):
    one = classifier(model, baselines="cheap").fit(cells(), dealt(GENES))
    before = one.predict(cells(5))
    report = one.cross_validate(n_folds=2)
    assert one.predict(cells(5)).equals(before)
    assert one.report_ is report
    one.save(tmp_path / "genes")
    assert GeneReport.load(tmp_path / "genes" / "report") == report
    with pytest.raises(OptionError, match="cells and gene_classes, or neither"):
        one.cross_validate(cells())


def test_no_class_of_a_held_out_gene_reaches_its_fold(model):
    """With the labels of one fold's genes exchanged, the predictions for them stay."""
    from geneformer.finetuning.splits import draw_gene_folds

    lists = dealt(GENES)
    report = classifier(model, baselines="cheap").cross_validate(cells(), lists, n_folds=3)
    first = set(report.cell_ids[report.folds == 1])
    swapped = {
        name: [gene for gene in lists[name] if gene not in first] + [gene for gene in lists[other] if gene in first]
        for name, other in (("class 0", "class 1"), ("class 1", "class 0"))
    }
    one = classifier(model, baselines="cheap")
    prepared = one._prepare(cells(), lists, one._pair())
    parts = draw_gene_folds(prepared.encoded.codes, 3, valid=0.1)[0]
    exchanged = one._prepare(cells(), swapped, one._pair()).encoded
    assert (exchanged.codes != prepared.encoded.codes).sum() == len(first) == len(parts.test)
    features = one._make_features(prepared)
    straight, other = (
        one._fold(replace(prepared, encoded=labels, features=features), parts).predictions
        for labels in (prepared.encoded, exchanged)
    )
    assert straight.keys() == other.keys()
    for name in straight:
        np.testing.assert_array_equal(straight[name][0], other[name][0])
    np.testing.assert_array_equal(straight["model"][0], report.proba[report.folds == 1])


def test_held_out_genes_are_reported(model, tmp_path):
    one = classifier(model, test=0.3, baselines="all", max_steps=2).fit(cells(), dealt(GENES))
    assert sorted(one.report_.cell_ids) == sorted(one.parts_["test"])
    assert len(one.parts_["test"]) == 9
    assert len(one.report_.baselines) == 5
    assert one.evaluate() == one.report_
    one.save(tmp_path / "genes")
    loaded = GeneClassifier.load(tmp_path / "genes", runtime=one.runtime)
    there = loaded.evaluate(cells())
    assert there.evaluation == one.report_.evaluation
    assert there.baselines == {}
    with pytest.raises(NotFittedError):
        loaded.evaluate()


def test_other_cells_and_genes_are_evaluated(model):
    one = classifier(model, baselines="cheap").fit(cells(), dealt(GENES[:20]))
    new = {"class 1": GENES[20:25]}
    report = one.evaluate(cells(12), new)
    assert sorted(report.cell_ids) == sorted(GENES[20:25])
    assert set(report.truth) == {1}
    assert len(report.baselines) == 4
    with pytest.warns(GeneformerWarning, match="2 of 7 genes were learnt from and are left out"):
        mixed = one.evaluate(cells(12), {"class 0": [GENES[0], GENES[2]], **new})
    assert mixed.evaluation == report.evaluation
    kept = one.evaluate(cells(12), {"class 0": [GENES[0], GENES[2]], **new}, allow_learnt=True)
    assert kept.evaluation.n == 7
    with pytest.raises(GeneListError, match=r"All 2 genes were learnt from.*cross_validate"):
        one.evaluate(cells(12), {"class 0": [GENES[0], GENES[2]]})
    with pytest.raises(GeneListError, match=r"No gene was held out.*test=0.2"):
        one.evaluate(cells(12))
    with pytest.raises(UnknownClassError, match="'class 7' was not learnt"):
        one.evaluate(cells(12), {"class 7": [GENES[25]]})


def test_cells_without_labeled_genes_are_passed_over_and_others_drawn(model):
    rare = common_genes(cells(), 200)[120:140]
    tokens = {V1.token_of[gene] for gene in rare}
    having = [row for row in range(24) if tokens & set(cells()[row].tolist())]
    assert 5 < len(having) < 24
    whole = classifier(model)._prepare(cells(), dealt(rare), classifier(model)._pair())
    assert whole.cells.rows.tolist() == having
    everywhere = dealt(GENES[:4])
    drawn = [
        one._prepare(cells(), everywhere, one._pair()).cells.rows.tolist()
        for one in (classifier(model, max_cells=5, seed=seed) for seed in (0, 0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5


def test_genes_left_out_are_in_the_report(model):
    lists = dealt(GENES)
    lists["class 0"] = [*lists["class 0"], "nonsense", V1.genes[-1]]
    with pytest.raises(GeneListError, match=r"1 genes are not in vocabulary V1\. 'class 0': nonsense"):
        classifier(model).fit(cells(), lists)
    with (
        pytest.warns(GeneformerWarning, match="occur in no cell"),
        pytest.warns(GeneformerWarning, match="not in vocabulary V1 and left out"),
    ):
        one = classifier(model, unknown_genes="drop").fit(cells(), lists)
    assert one.left_out_ == {"unknown": {"class 0": ("nonsense",)}, "absent": {"class 0": (V1.genes[-1],)}}
    assert one.cross_validate(n_folds=2).settings["unknown"] == {"class 0": ["nonsense"]}


def test_lists_and_cells_that_do_not_meet_are_refused(model):
    absent = [gene for gene in V1.genes[-40:] if gene not in common_genes(cells(), 3000)]
    with pytest.raises(GeneListError, match="None of the 6 labeled genes occurs in any of the 24 cells"):
        classifier(model).fit(cells(), dealt(absent[:6]))
    with pytest.raises(GeneListError, match="class 'class 1' occurs in the cells"):
        classifier(model).fit(cells(), {"class 0": GENES[:4], "class 1": absent[:3]})
    with pytest.raises(GeneListError, match="Too few genes that occur in the cells for 5 folds: 'class 1' 4"):
        classifier(model).cross_validate(cells(), {"class 0": GENES[:8], "class 1": GENES[8:12]})


def test_a_killed_fit_goes_on(model, tmp_path):
    from transformers import TrainerCallback

    class Breaking(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 5:
                raise KeyboardInterrupt

    changes = {"max_steps": 6, "eval_steps": 2}
    whole = classifier(model, **changes).fit(cells(), dealt(GENES))
    with pytest.raises(KeyboardInterrupt):
        classifier(model, **changes).fit(cells(), dealt(GENES), output=tmp_path / "run", callbacks=[Breaking()])
    with pytest.raises(OutputExistsError, match="holds a training run already"):
        classifier(model, **changes).fit(cells(), dealt(GENES), output=tmp_path / "run")
    other = dealt([*GENES[1:], GENES[0]])
    with pytest.raises(RunMismatchError, match="genes was"):
        classifier(model, **changes).fit(cells(), other, output=tmp_path / "run", resume=True)
    resumed = classifier(model, **changes).fit(cells(), dealt(GENES), output=tmp_path / "run", resume=True)
    assert resumed.predict(cells(5)).equals(whole.predict(cells(5)))


@pytest.mark.parametrize("strategy", ["head", "lora", "adapters"])
def test_other_strategies_learn_genes(model, strategy):
    if strategy == "lora":
        pytest.importorskip("peft")
    one = classifier(model, strategy=strategy).fit(cells(), dealt(GENES))
    assert one.result_.share.trained < one.result_.share.total
    assert one.predict(cells(4))["n_cells"].sum() > 0


def test_nothing_is_predicted_before_it_is_learnt(model):
    for ask in (lambda one: one.predict(cells()), lambda one: one.evaluate(cells()), lambda one: one.cross_validate()):
        with pytest.raises(NotFittedError, match="Call fit first"):
            ask(classifier(model))
    with pytest.raises(NotFittedError):
        classifier(model).save("nowhere")


def test_options_are_checked():
    with pytest.raises(UnknownChoiceError, match="unknown_genes='keep'"):
        GeneClassifyOptions(unknown_genes="keep")
    with pytest.raises(UnknownChoiceError, match="baselines='some'"):
        GeneClassifyOptions(baselines="some")
    with pytest.raises(OutOfRangeError, match=r"valid=0\.3 and test=0\.7 leave no genes"):
        GeneClassifyOptions(valid=0.3, test=0.7)
    with pytest.raises(OutOfRangeError, match="max_cells=0"):
        GeneClassifyOptions(max_cells=0)
    with pytest.raises(UnknownOptionError, match="max_gene"):
        GeneClassifier("mini", max_gene=3)
