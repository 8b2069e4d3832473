"""Commands of the fine-tuning estimators: what they write is what the estimators say, and refusals write nothing."""

import dataclasses
import inspect
import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from geneformer import cli, keys
from geneformer.cli import app
from geneformer.errors import GeneListError, InputNotFoundError, UnreadableInputError, UnsupportedFormatError
from geneformer.finetuning.estimators import load_classifier
from geneformer.finetuning.predictions import RANK
from geneformer.finetuning.reports import CrossValidation, GeneReport, load_report
from geneformer.genes.lists import read_gene_file
from geneformer.options import RuntimeOptions
from small_finetuning import labeled_blood, tiny_model
from small_genes import common_genes, dealt

pytestmark = pytest.mark.contract

GROUPED = [(family, member) for family, members in cli.GROUPS.items() for member in members]
RUNTIME = ["--device", "cpu", "--dtype", "float32", "--no-progress", "--json"]
TRAINING = ["--max-steps", "1", "--tokens-per-batch", "600", "--baselines", "none", *RUNTIME]
SPLIT = ["--valid", "0.25", "--test", "0.25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli_estimators")
    tiny_model(folder / "model", dropout=0.0)
    adata = labeled_blood(24, classes=2, donors=4)
    adata.obs["site"] = adata.obs["donor"].to_numpy()
    adata.write_h5ad(folder / "cells.h5ad")
    fitted = call(folder, "classify", "fit", "--label", "kind", "-o", folder / "classify", *TRAINING, *SPLIT)
    assert fitted["test"]["macro_f1"]["mean"] is not None
    assert not list(folder.glob(".*"))  # checkpoints of a finished run
    classes = dealt(common_genes(load_classifier(folder / "classify").open(adata).tokens, 12))
    (folder / "genes.json").write_text(json.dumps(classes))
    return folder


def invoke(folder, family, member, *flags):
    started = ["--model", folder / "model"] if member in ("fit", "cross-validate") else []
    common = [family, member, folder / "cells.h5ad", *started, *flags]
    return CliRunner().invoke(app, [str(argument) for argument in common])


def call(folder, *arguments):
    found = invoke(folder, *arguments)
    assert found.exit_code == 0, found.stderr
    return json.loads(found.stdout)


def loaded(folder, family):
    return load_classifier(folder / family, runtime=RuntimeOptions(device="cpu", dtype="float32", progress=False))


@pytest.fixture(scope="module")
def cells(folder):
    return ad.read_h5ad(folder / "cells.h5ad")


def test_cells_are_classified_and_scored(folder, cells, tmp_path):
    common = ["-m", folder / "classify", *RUNTIME]
    told = call(folder, "classify", "predict", "-o", tmp_path / "out.csv", *common)
    said = pd.read_csv(tmp_path / "out.csv")["geneformer_kind"]
    assert list(said) == list(loaded(folder, "classify").predict(cells))
    assert told["counts"] == said.value_counts().to_dict()
    scored = call(folder, "classify", "evaluate", "-o", tmp_path / "report", *common)
    assert scored["metrics"]["accuracy"]["mean"] == pytest.approx((said == cells.obs["kind"].to_numpy()).mean())
    assert load_report(tmp_path / "report").evaluation.to_dict()["metrics"] == scored["metrics"]
    assert call(folder, "classify", "evaluate", "-o", tmp_path / "report", "--overwrite", *common) == scored


def test_classifiers_of_cells_are_cross_validated(folder, tmp_path):
    flags = ["--label", "kind", "--groups", "donor", "--folds", "2", "-o", tmp_path / "report", *TRAINING]
    told = call(folder, "classify", "cross-validate", *flags)
    report = CrossValidation.load(tmp_path / "report")
    assert told["folds"] == len(report.folds) == 2
    assert sorted(name for fold in report.folds for name in fold.cell_ids) == sorted(report.report.cell_ids)
    assert report.report.evaluation.n == 24
    assert told["metrics"] == report.report.evaluation.to_dict()["metrics"]


def test_genes_are_classified_and_cross_validated(folder, cells, tmp_path):
    genes = ["--genes", folder / "genes.json"]
    told = call(folder, "classify-genes", "fit", *genes, "-o", folder / "genes", "--valid", "0.25", *TRAINING)
    assert told["classes"] == {"class 0": 6, "class 1": 6}
    assert sum(told["parts"].values()) == 12
    flags = ["-m", folder / "genes", "-o", tmp_path / "out.parquet", *RUNTIME]
    counts = call(folder, "classify-genes", "predict", *flags)["counts"]
    table = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(table, loaded(folder, "genes").predict(cells), check_dtype=False)
    assert counts == table["predicted"].value_counts().to_dict()
    flags = [*genes, "--folds", "2", "-o", tmp_path / "report", *TRAINING]
    told = call(folder, "classify-genes", "cross-validate", *flags)
    report = GeneReport.load(tmp_path / "report")
    assert told["metrics"] == report.evaluation.to_dict()["metrics"]
    assert sorted(set(report.folds.tolist())) == [1, 2]
    assert len(report.cell_ids) == 12


def test_several_tasks(folder, cells, tmp_path):
    labels = ["--label", "kind", "--label", "donor"]
    told = call(folder, "multi-task", "fit", *labels, "-o", folder / "tasks", *TRAINING, *SPLIT)
    assert list(told["classes"]) == list(told["test"]) == ["kind", "donor"]
    common = ["-m", folder / "tasks", *RUNTIME]
    told = call(folder, "multi-task", "predict", "-o", tmp_path / "out.h5ad", *common)
    said, expected = ad.read_h5ad(tmp_path / "out.h5ad"), loaded(folder, "tasks").predict(cells)
    for task in ("kind", "donor"):
        assert list(said.obs[f"geneformer_{task}"]) == list(expected[task])
        np.testing.assert_allclose(said.obs[f"geneformer_{task}_probability"], expected[f"{task}_probability"])
        assert told["counts"][task] == expected[task].value_counts().to_dict()
    assert list(said.obs_names) == list(cells.obs_names)
    assert "vocabulary_fingerprint" in said.uns[keys.UNS]["geneformer_kind"]
    told = call(folder, "multi-task", "evaluate", "-l", "donor=site", "-o", tmp_path / "report", *common)
    right = (expected["donor"] == cells.obs["site"]).mean()
    assert list(told["metrics"]) == ["donor"]
    assert told["metrics"]["donor"]["accuracy"]["mean"] == pytest.approx(right)
    found = invoke(folder, "multi-task", "evaluate", "-l", "sex", "-o", tmp_path / "other", *common)
    assert found.exit_code == 1
    assert "GF704" in found.stderr


def test_numbers(folder, cells, tmp_path):
    flags = ["--label", "age", "--loss", "gaussian", "-o", folder / "numbers", *TRAINING, *SPLIT]
    assert call(folder, "regress", "fit", *flags)["test"]["r2"]["mean"] is not None
    common = ["-m", folder / "numbers", *RUNTIME]
    call(folder, "regress", "predict", "--with-spread", "-o", tmp_path / "out.parquet", *common)
    said = pd.read_parquet(tmp_path / "out.parquet")
    number, spread = loaded(folder, "numbers").predict(cells, return_std=True)
    np.testing.assert_allclose(said["geneformer_age"], number)
    np.testing.assert_allclose(said["geneformer_age_spread"], spread)
    assert list(said[keys.CELL_ID]) == list(cells.obs_names)
    told = call(folder, "regress", "evaluate", "-o", tmp_path / "report", *common)
    assert told["metrics"]["mae"]["mean"] == pytest.approx(np.abs(number - cells.obs["age"]).mean())


def test_a_spread_that_was_not_learnt_is_refused(folder, tmp_path):
    call(folder, "regress", "fit", "--label", "age", "-o", tmp_path / "model", *TRAINING, *SPLIT)
    flags = ["-m", tmp_path / "model", "-o", tmp_path / "out.csv", *RUNTIME]
    found = invoke(folder, "regress", "predict", "--with-spread", *flags)
    assert found.exit_code == 1
    assert "squared_error" in found.stderr
    assert call(folder, "regress", "predict", *flags)["cells"] == 24
    assert "geneformer_age_spread" not in pd.read_csv(tmp_path / "out.csv")


def test_expression(folder, cells, tmp_path):
    call(folder, "decode-expression", "fit", "--decoder-size", "8", "-o", folder / "decoder", *TRAINING, *SPLIT)
    common = ["-m", folder / "decoder", *RUNTIME]
    genes = ["--gene", "CD3E", "--gene", "LYZ"]
    expected = loaded(folder, "decoder").predict(cells, ["CD3E", "LYZ"])
    call(folder, "decode-expression", "predict", *genes, "-o", tmp_path / "out.h5ad", *common)
    said = ad.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(said.X, expected.X, rtol=1e-5)
    np.testing.assert_allclose(said.layers[RANK], expected.layers[RANK], rtol=1e-5)
    call(folder, "decode-expression", "predict", *genes, "-o", tmp_path / "out.csv", *common)
    table = pd.read_csv(tmp_path / "out.csv").pivot(index="cell_id", columns="symbol", values="value")
    np.testing.assert_allclose(table.loc[cells.obs_names, ["CD3E", "LYZ"]], expected.X, rtol=1e-4)
    told = call(folder, "decode-expression", "predict", "-o", tmp_path / "out.parquet", *common)
    table, every = pd.read_parquet(tmp_path / "out.parquet"), loaded(folder, "decoder").predict(cells)
    assert told == {"output": str(tmp_path / "out.parquet"), "cells": 24, "values": len(table)}
    rows, columns = every.obs_names.get_indexer(table["cell_id"]), every.var_names.get_indexer(table["gene"])
    assert len(table) == every.X.nnz
    np.testing.assert_allclose(table["value"], np.asarray(every.X[rows, columns]).ravel(), rtol=1e-5)
    np.testing.assert_allclose(table["rank"], np.asarray(every.layers[RANK][rows, columns]).ravel(), rtol=1e-4)
    told = call(folder, "decode-expression", "evaluate", "-o", tmp_path / "report", *common)
    assert {name: one.evaluation.to_dict()["metrics"] for name, one in load_report(tmp_path / "report").items()} == (
        told["metrics"]
    )
    found = invoke(folder, "decode-expression", "predict", "--gene", "CD3EE", "-o", tmp_path / "no.csv", *common)
    assert found.exit_code == 1
    assert not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize(
    ("command", "flags", "code"),
    [
        (("classify", "cross-validate"), ["--label", "kin"], "GF208"),
        (("classify", "cross-validate"), ["--label", "kind", "--folds", "1"], "GF102"),
        (("multi-task", "fit"), ["--label", "kind", "--label", "sex"], "GF208"),
        (("multi-task", "fit"), ["--label", "kind", "--task-weights", "1", "--task-weights", "2"], "GF100"),
        (("regress", "fit"), ["--label", "donor"], "GF700"),
        (("decode-expression", "fit"), ["--groups", "sex"], "GF208"),
        (("classify-genes", "fit"), ["--genes", "genes.csv"], "GF201"),
    ],
)
def test_a_refusal_writes_nothing(folder, tmp_path, command, flags, code):
    found = invoke(folder, *command, *flags, "-o", tmp_path / "out", *TRAINING)
    assert found.exit_code == 1, found.output
    assert code in found.stderr
    assert not list(tmp_path.iterdir())


def test_a_report_does_not_replace_a_foreign_folder(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    found = invoke(folder, "classify", "evaluate", "-m", folder / "classify", "-o", tmp_path, "--overwrite", *RUNTIME)
    assert found.exit_code == 1
    assert "GF401" in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("genes.csv", 'Gene,note,Class\nCD3E,,T\n\n"LYZ",x,"B, or not"\nCD3D,,T\n'),
        ("genes.tsv", "\ufeffclass\tgene\nT\tCD3E\nB, or not\tLYZ \nT\tCD3D\n"),
        ("genes.toml", 'T = ["CD3E", "CD3D"]\n"B, or not" = ["LYZ"]\n'),
        ("genes.json", '{"T": ["CD3E", "CD3D"], "B, or not": ["LYZ"]}'),
    ],
)
def test_files_of_genes(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_gene_file(tmp_path / name)
    assert found == {"T": ["CD3E", "CD3D"], "B, or not": ["LYZ"]}
    assert list(found) == ["T", "B, or not"]


@pytest.mark.parametrize(
    ("name", "text", "error", "told"),
    [
        ("a.csv", "gene;class\nCD3E;T\n", GeneListError, "'gene;class'"),
        ("a.csv", "gene,kind\nCD3E,T\n", GeneListError, '"class"'),
        ("a.csv", "", UnreadableInputError, "is empty"),
        ("a.csv", "gene,class\nCD3E\n", GeneListError, "Line 2 .* no class"),
        ("a.csv", "gene,class\nCD3E,T\n,T\n", GeneListError, "Line 3 .* no gene"),
        ("a.csv", 'gene,class\n"CD3E,T\n', UnreadableInputError, "csv"),
        ("a.toml", "T = [", UnreadableInputError, "toml"),
        ("a.toml", 'T = "CD3E"', GeneListError, "'T'"),
        ("a.json", '["CD3E"]', GeneListError, "list of genes for every class"),
        ("a.json", '{"T": [1]}', GeneListError, "'T'"),
        ("a.json", '{"T": ["CD3E"], "T": ["LYZ"]}', UnreadableInputError, "twice"),
        ("a.xlsx", "", UnsupportedFormatError, "xlsx"),
    ],
)
def test_files_of_genes_that_are_refused(tmp_path, name, text, error, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=told):
        read_gene_file(tmp_path / name)


def test_a_file_of_genes_that_is_missing_or_no_text(tmp_path):
    with pytest.raises(InputNotFoundError):
        read_gene_file(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"gene,class\n\xff\xfe,T\n")
    with pytest.raises(UnreadableInputError, match="UTF-8"):
        read_gene_file(tmp_path / "a.csv")


@pytest.mark.parametrize(("family", "member"), GROUPED)
def test_a_command_of_a_group_is_whole(family, member):
    function = cli.command_function(f"{family}-{member}")
    command = cli.load_command(f"{family}-{member}")
    flags = {parameter.name for parameter in command.params}
    assert command.name == member
    assert inspect.getdoc(function).splitlines()[0] == cli.GROUPS[family][member]
    for cls in function.options:
        assert {field.name for field in dataclasses.fields(cls)} - set(function.hidden.get(cls, ())) <= flags
    assert "json" in flags
    assert ("config" in flags) is bool(function.options)
    assert ("output" in flags) is (member != "plan")  # a plan writes nothing


def test_help_of_groups_loads_nothing_heavy():
    calls = [[family, "--help"] for family in cli.GROUPS] + [[*names, "--help"] for names in GROUPED]
    code = (
        "import sys\nfrom geneformer.cli import app\n"
        f"for call in {calls}: app(call, standalone_mode=False)\nprint('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = {name.split(".")[0] for name in done.stdout.rpartition("LOADED")[2].split()}
    assert not modules & {"numpy", "torch", "pandas", "anndata", "scipy", "pyarrow", "transformers", "matplotlib"}
    for family, member in GROUPED:
        assert f"{family} {member}" in done.stdout
