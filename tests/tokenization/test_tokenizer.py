"""The whole run: what is in the dataset, and that chunks, workers and interruptions do not show in it."""

import os
import signal
import subprocess
import sys
import textwrap

import anndata
import datasets
import numpy as np
import pytest

from geneformer import errors
from geneformer.files.manifest import Manifest
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.tokens.storage import read_dataset
from tokenization.conftest import make_adata, make_vocabulary, slow_tokens

TOY = make_vocabulary()


@pytest.fixture
def file(tmp_path):
    adata = make_adata(n_cells=90)
    adata.X[5] = 0
    adata.obs["filter_pass"] = np.arange(90) % 10 != 0
    adata.write_h5ad(tmp_path / "blood.h5ad")
    return tmp_path / "blood.h5ad"


def arrow_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.arrow"))}


def run(file, output, shard_bytes=64 * 2**20, **options):
    options = TokenizeOptions(**{"chunk_size": 8, **options})
    return tokenize_counts(file, options, output=output, vocabulary=TOY, shard_bytes=shard_bytes)


def test_tokens_are_the_definition(framed, adata):
    tokens, _ = tokenize_counts(adata, TokenizeOptions(max_length=12), vocabulary=framed)
    for row, (ids, _) in enumerate(slow_tokens(adata.X.toarray(), adata.var_names, framed, 10)):
        assert tokens[row].tolist() == [2, *ids, 3]
    assert tokens.vocabulary == framed.fingerprint


def test_the_dataset_says_everything_about_its_cells(file, tmp_path):
    tokens, report = run(file, tmp_path / "out.dataset", counts=True)
    assert (report.n_cells, report.n_filtered, report.n_empty, report.n_written) == (90, 9, 1, 80)
    loaded = datasets.load_from_disk(str(tmp_path / "out.dataset"))
    obs = anndata.read_h5ad(file).obs.loc[loaded["cell_id"]]
    assert loaded.column_names == [
        "input_ids", "counts", "cell_id", "source", "cell_type", "donor", "age", "score", "healthy", "filter_pass",
        "length",
    ]  # fmt: skip
    kinds = {"cell_type": "string", "donor": "string", "age": "int64", "score": "float64", "healthy": "bool"}
    assert {name: loaded.features[name].dtype for name in kinds} == kinds
    for name in kinds:
        assert [None if value is None else value for value in loaded[name]] == [
            None if value != value or value is None else value for value in obs[name].tolist()
        ]
    assert loaded["length"] == [len(ids) for ids in loaded["input_ids"]] == tokens.lengths.tolist()
    assert set(loaded["source"]) == {"blood"}
    assert loaded["cell_id"] == [f"cell{cell}" for cell in range(90) if cell % 10 and cell != 5]


def test_the_manifest_says_what_it_was_made_from(file, tmp_path):
    tokens, report = run(file, tmp_path / "out.dataset")
    manifest = Manifest.read(tmp_path / "out.dataset")
    assert manifest.vocabulary == TOY.fingerprint == tokens.vocabulary
    assert manifest.inputs[0].size == file.stat().st_size
    assert manifest.options["tokenize"]["chunk_size"] == 8
    assert manifest.results["sources"][0]["empty_cells"] == ["cell5"]
    assert manifest.results["n_filtered"] == report.n_filtered == 9


def test_columns_are_chosen_and_reserved_names_kept_apart(adata):
    adata.obs["length"] = 7
    adata.obs["source"] = "somewhere"
    tokens, _ = tokenize_counts(adata, TokenizeOptions(keep=("length", "source", "donor")), vocabulary=TOY)
    assert tokens.columns == ["cell_id", "source", "obs_length", "obs_source", "donor", "length"]
    assert set(tokens.column("obs_length")) == {7}
    assert set(tokens.column("source")) == {"adata"}


def test_columns_of_several_inputs_get_one_type(tmp_path):
    first, second = make_adata(seed=1), make_adata(seed=2)
    first.obs = first.obs[["age", "donor"]].assign(batch=1)
    second.obs = second.obs[["age", "score"]].astype({"age": float}).assign(batch="two")
    tokens, _ = tokenize_counts([first, second], vocabulary=TOY)
    schema = tokens.table.schema
    assert [str(schema.field(name).type) for name in ("age", "donor", "score", "batch")] == [
        "double", "string", "double", "string",
    ]  # fmt: skip
    assert tokens.table.column("batch").to_pylist() == ["1"] * 30 + ["two"] * 30
    assert tokens.table.column("donor").to_pylist()[30:] == [None] * 30
    with pytest.warns(errors.GeneformerWarning, match='"donor" is missing in adata'):
        tokenize_counts([first, second], TokenizeOptions(keep=("donor",)), vocabulary=TOY)


@pytest.mark.parametrize("size", [1, 7, 64, 2048])
def test_the_chunk_size_does_not_show(file, size):
    reference, expected = tokenize_counts(file, TokenizeOptions(counts=True), vocabulary=TOY)
    tokens, report = tokenize_counts(file, TokenizeOptions(counts=True, chunk_size=size), vocabulary=TOY)
    assert tokens.table.equals(reference.table)
    assert report == expected


def test_workers_change_no_byte(file, tmp_path):
    alone, report = run(file, tmp_path / "one.dataset", counts=True)
    shared, same = run(file, tmp_path / "two.dataset", counts=True, workers=2)
    assert arrow_bytes(tmp_path / "one.dataset") == arrow_bytes(tmp_path / "two.dataset")
    assert report == same
    adata = anndata.read_h5ad(file)
    threaded, _ = tokenize_counts(adata, TokenizeOptions(counts=True, workers=3, chunk_size=8), vocabulary=TOY)
    assert all(np.array_equal(threaded[row], alone[row]) for row in range(len(alone)))
    assert len(shared) == len(alone) == len(threaded)


def test_an_error_in_a_worker_keeps_its_kind_and_leaves_nothing(file, tmp_path):
    adata = anndata.read_h5ad(file)
    repeated = anndata.concat([adata] * 12, index_unique="-", merge="same")
    repeated.X[301, 2] = 0.5
    repeated.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(errors.NotRawCountsError, match="does not hold raw counts") as caught:
        run(tmp_path / "bad.h5ad", tmp_path / "out.dataset", workers=2, chunk_size=64)
    assert str(caught.value).count("GF203") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.h5ad", "blood.h5ad"]


def test_a_view_of_an_anndata_and_the_object_stay_as_they_are(adata):
    before = adata.copy()
    tokenize_counts(adata, TokenizeOptions(missing="zero"), vocabulary=TOY)
    tokenize_counts(adata[:10], vocabulary=TOY)
    assert (before.X != adata.X).nnz == 0
    assert before.obs.equals(adata.obs)
    assert list(adata.uns) == list(adata.obsm) == []
    assert list(adata.var.columns) == []


class Stopped(Exception):
    """Stands for a machine that goes down."""


@pytest.mark.parametrize("stop_after", range(1, 12))
def test_a_run_stopped_anywhere_resumes_to_the_same_bytes(file, tmp_path, stop_after):
    run(file, tmp_path / "whole.dataset", shard_bytes=2000)

    def progress(done, _):
        seen.append(done)
        if len(seen) > stop_after and not resumed:
            raise Stopped

    seen, resumed = [], []
    options, output = TokenizeOptions(chunk_size=8), tmp_path / "out.dataset"
    with pytest.raises(Stopped):
        tokenize_counts(file, options, output=output, vocabulary=TOY, shard_bytes=2000, progress=progress)
    assert not output.exists()
    resumed.append(True)
    seen.clear()
    _, report = tokenize_counts(file, options, output=output, vocabulary=TOY, shard_bytes=2000, progress=progress)
    assert arrow_bytes(output) == arrow_bytes(tmp_path / "whole.dataset")
    assert report.to_dict() == run(file, tmp_path / "again.dataset", shard_bytes=2000)[1].to_dict()
    if stop_after > 3:
        assert seen[0] > 0


def test_a_killed_process_resumes_to_the_same_bytes(file, tmp_path):
    TOY.save(tmp_path / "vocabulary")
    script = textwrap.dedent(
        """
        import os, signal, sys
        from geneformer.options import TokenizeOptions
        from geneformer.tokenization.tokenizer import tokenize_counts
        file, output, vocabulary, after = sys.argv[1:]
        def progress(done, total):
            if done >= int(after):
                os.kill(os.getpid(), signal.SIGKILL)
        tokenize_counts(file, TokenizeOptions(chunk_size=8, vocabulary=vocabulary), output=output, progress=progress,
                        shard_bytes=2000)
        """
    )
    arguments = [str(file), str(tmp_path / "out.dataset"), str(tmp_path / "vocabulary")]
    options = TokenizeOptions(chunk_size=8, vocabulary=arguments[2])
    for after in ("40", "72"):
        killed = subprocess.run([sys.executable, "-c", script, *arguments, after], check=False, env=os.environ)
        assert killed.returncode == -signal.SIGKILL
    tokenize_counts(file, options, output=arguments[1], shard_bytes=2000)
    tokenize_counts(file, options, output=tmp_path / "whole.dataset", shard_bytes=2000)
    assert arrow_bytes(tmp_path / "out.dataset") == arrow_bytes(tmp_path / "whole.dataset")
    assert not (tmp_path / "out.dataset.partial").exists()


def test_a_half_finished_run_of_something_else_is_refused(file, tmp_path):
    def progress(done, _):
        if done > 30:
            raise Stopped

    output, options = tmp_path / "out.dataset", TokenizeOptions(chunk_size=8)
    with pytest.raises(Stopped):
        tokenize_counts(file, options, output=output, vocabulary=TOY, progress=progress, shard_bytes=1000)
    with pytest.raises(errors.RunMismatchError, match="GF402"):
        tokenize_counts(file, TokenizeOptions(max_length=9), output=output, vocabulary=TOY)
    tokens, _ = tokenize_counts(file, TokenizeOptions(max_length=9), output=output, vocabulary=TOY, overwrite=True)
    assert tokens.lengths.max() == 9
    with pytest.raises(errors.OutputExistsError):
        tokenize_counts(file, output=output, vocabulary=TOY)


def test_the_report_counts_and_tells(file):
    tokens, report = tokenize_counts(file, TokenizeOptions(max_length=8), vocabulary=TOY)
    lengths = tokens.lengths
    assert report.tokens_per_cell == (lengths.min(), np.median(lengths), lengths.max())
    plain = tokenize_counts(file, vocabulary=TOY)[0]
    assert report.n_truncated == int((plain.lengths > 8).sum())
    adata = anndata.read_h5ad(file)
    kept = adata[adata.obs["filter_pass"]].X.toarray()
    share = kept[:, np.isin(adata.var_names, TOY.genes)].sum() / kept.sum()
    assert report.sources[0].matched_share == pytest.approx(share)
    told = dict(report.rows())
    assert told["cells read"] == "90"
    assert told["left out: no gene of the vocabulary"] == "1 (cell5)"
    assert told["genes of blood"].startswith("40 of 50 matched, 10 left out, ")


def test_longer_than_the_vocabulary_is_made_for_is_refused(adata):
    with pytest.raises(errors.OutOfRangeError, match="at most 2048"):
        tokenize_counts(adata, TokenizeOptions(max_length=3000), vocabulary=TOY)


def test_the_dataset_is_read_back(file, tmp_path):
    tokens, _ = run(file, tmp_path / "out.dataset")
    again = read_dataset(tmp_path / "out.dataset")
    assert again.table.equals(tokens.table)
    assert again.vocabulary == TOY.fingerprint
