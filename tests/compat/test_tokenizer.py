"""`TranscriptomeTokenizer`: published calls, published columns, and right tokens where they were wrong."""

import hashlib
import inspect
import logging
from pathlib import Path

import anndata
import datasets
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

import geneformer as gf
from geneformer import errors
from geneformer.compat.dictionaries import dictionary_path
from geneformer.files.pickles import write_pickle
from geneformer.tokens.storage import read_dataset
from golden import GOLDEN

pytestmark = pytest.mark.contract

ATTRIBUTES = {"cell_type": "cell_type", "individual": "organ"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def few_genes():
    """Twelve genes of both vocabularies."""
    shared = sorted(set(gf.Vocabulary.load("V1").genes) & set(gf.Vocabulary.load("V2").genes))
    return shared[100:1300:100]


def make_adata(genes, counts=None, names=None, **columns):
    """A few cells over the genes given, with what the published tokenizer asks for."""
    rng = np.random.default_rng(3)
    counts = rng.poisson(3.0, size=(4, len(genes))) + 1 if counts is None else np.asarray(counts)
    cells = names or [f"cell{row}" for row in range(len(counts))]
    obs = pd.DataFrame({"n_counts": counts.sum(axis=1).astype(np.float64), **columns}, index=cells)
    var = pd.DataFrame({"ensembl_id": list(genes)}, index=[f"row{row}" for row in range(len(genes))])
    return anndata.AnnData(sp.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def write(adata, folder, name="a"):
    folder.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(folder / f"{name}.h5ad")
    return folder


def tokens_of(folder, tmp_path, file_format="h5ad", **arguments):
    """What `tokenize_data` writes, with the warnings about few genes passed over."""
    tokenizer = gf.TranscriptomeTokenizer(**arguments)
    with pytest.warns(errors.GeneformerWarning):
        tokenizer.tokenize_data(folder, tmp_path / "out", "tokens", file_format=file_format)
    return read_dataset(tmp_path / "out" / "tokens.dataset")


def rows(dataset):
    return [dataset[row].tolist() for row in range(len(dataset))]


SIGNATURES = {
    "__init__": [
        ("custom_attr_name_dict", None),
        ("nproc", 1),
        ("chunk_size", 512),
        ("model_input_size", 4096),
        ("special_token", True),
        ("collapse_gene_ids", True),
        ("use_h5ad_index", False),
        ("keep_counts", False),
        ("model_version", "V2"),
        ("gene_median_file", "gene_median_dictionary_gc104M.pkl"),
        ("token_dictionary_file", "token_dictionary_gc104M.pkl"),
        ("gene_mapping_file", "ensembl_mapping_dict_gc104M.pkl"),
    ],
    "tokenize_data": [
        ("data_directory", inspect.Parameter.empty),
        ("output_directory", inspect.Parameter.empty),
        ("output_prefix", inspect.Parameter.empty),
        ("file_format", "loom"),
        ("input_identifier", ""),
        ("use_generator", False),
    ],
    "tokenize_files": [
        ("data_directory", inspect.Parameter.empty),
        ("file_format", "loom"),
        ("input_identifier", ""),
    ],
    "tokenize_anndata": [
        ("adata_file_path", inspect.Parameter.empty),
        ("target_sum", 10_000),
        ("file_format", "h5ad"),
    ],
    "tokenize_loom": [
        ("loom_file_path", inspect.Parameter.empty),
        ("target_sum", 10_000),
        ("file_format", "loom"),
    ],
    "create_dataset": [
        ("tokenized_cells", inspect.Parameter.empty),
        ("cell_metadata", inspect.Parameter.empty),
        ("counts_cells", inspect.Parameter.empty),
        ("use_generator", False),
        ("keep_uncropped_input_ids", False),
    ],
}


@pytest.mark.parametrize("method", SIGNATURES)
def test_arguments_have_the_published_names_order_and_defaults(method):
    parameters = list(inspect.signature(getattr(gf.TranscriptomeTokenizer, method)).parameters.values())[1:]
    found = [(p.name, p.default.name if isinstance(p.default, Path) else p.default) for p in parameters]
    assert found == SIGNATURES[method]
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_tokens_of_real_cells_are_the_published_ones(version, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "blood.h5ad").symlink_to(GOLDEN / "pbmc_120_cells.h5ad")
    tokenizer = gf.TranscriptomeTokenizer(model_version=version, keep_counts=True, use_h5ad_index=True)
    tokenizer.tokenize_data(folder, tmp_path, "blood", file_format="h5ad")
    ours = read_dataset(tmp_path / "blood.dataset")
    published = pq.read_table(GOLDEN / f"tokens_{version}.parquet").to_pydict()
    assert ours.cell_ids.tolist() == published["cell_id"]
    vocabulary = gf.Vocabulary.load(version)
    medians = np.ones(vocabulary.size)
    medians[vocabulary.token_ids] = vocabulary.medians
    packed = ours.gather(range(len(ours)), counts=True)
    for cell, theirs in enumerate(map(np.array, published["input_ids"])):
        span = slice(*packed.cu_seqlens[cell : cell + 2])
        mine, counts = packed.input_ids[span], packed.counts[span]
        assert sorted(mine) == sorted(theirs)
        scaled = dict(zip(mine.tolist(), counts, strict=True))
        in_their_order = np.array([scaled[token] for token in theirs.tolist()])
        # Genes of one value have no order in the published package: the values, not the genes, stand in one order.
        for order, values in ((mine, counts), (theirs, in_their_order)):
            inner = np.isin(order, vocabulary.token_ids)
            assert np.all(np.diff(values[inner] / medians[order[inner]]) < 1e-9)
        if version == "V2":
            np.testing.assert_allclose(in_their_order, published["counts"][cell], rtol=1e-6)


@pytest.mark.parametrize("file_format", ["loom", "h5ad"])
def test_columns_come_in_the_published_order_with_the_names_of_cells_last(published_inputs, tmp_path, file_format):
    tokenizer = gf.TranscriptomeTokenizer(ATTRIBUTES, nproc=16)
    tokenizer.tokenize_data(published_inputs / file_format, tmp_path / "made" / "for it", "p", file_format=file_format)
    data = datasets.load_from_disk(str(tmp_path / "made" / "for it" / "p.dataset"))
    assert data.column_names == ["input_ids", "cell_type", "organ", "length", "cell_id"]
    schema = data.data.table.schema
    assert schema.field("input_ids").type == pa.list_(pa.int32())
    assert schema.field("length").type == pa.int64()
    assert data[0]["input_ids"][0] == 2
    assert data[0]["input_ids"][-1] == 3
    assert data[0]["length"] == len(data[0]["input_ids"])


def test_v1_brings_its_own_size_ids_and_no_special_tokens(published_inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("geneformer.files.progress.SECONDS_BETWEEN_LINES", 0.0)
    tokenizer = gf.TranscriptomeTokenizer(keep_counts=True, model_version="V1")
    assert (tokenizer.model_input_size, tokenizer.special_token) == (2048, False)
    assert len(tokenizer.gene_token_dict) == 25_426
    tokenizer.tokenize_data(published_inputs / "loom", tmp_path, "p")
    assert "Tokenizing: 60 of 60 cells" in capsys.readouterr().err
    data = datasets.load_from_disk(str(tmp_path / "p.dataset"))
    assert data.column_names == ["input_ids", "counts", "length", "cell_id"]
    schema = data.data.table.schema
    assert schema.field("input_ids").type == pa.list_(pa.int16())
    assert schema.field("counts").type == pa.list_(pa.float64())
    assert min(data[0]["input_ids"]) > 1
    assert read_dataset(tmp_path / "p.dataset").vocabulary == gf.Vocabulary.load("V1").fingerprint


def test_v1_says_when_it_overrides_an_input_size(caplog):
    assert gf.TranscriptomeTokenizer(model_input_size=1024, model_version="V1").model_input_size == 2048
    assert "1024 is not used" in caplog.text


def test_an_unknown_version_is_refused():
    with pytest.raises(errors.UnknownChoiceError, match="V1"):
        gf.TranscriptomeTokenizer(model_version="V3")


def test_v1_with_dictionaries_of_something_else_is_refused(tmp_path):
    own = write_pickle({"<pad>": 0, "<mask>": 1, "ENSG00000000003": 2}, tmp_path / "own.pkl")
    with pytest.raises(errors.UnsupportedArgumentError, match=r"own\.pkl"):
        gf.TranscriptomeTokenizer(model_version="V1", token_dictionary_file=own)
    gf.TranscriptomeTokenizer(model_version="V1", token_dictionary_file=gf.TOKEN_DICTIONARY_FILE_30M)


def test_dictionaries_are_there_under_their_published_names():
    tokenizer = gf.TranscriptomeTokenizer()
    assert len(tokenizer.gene_token_dict) == 20_275
    assert set(tokenizer.gene_token_dict) - {"<pad>", "<mask>", "<cls>", "<eos>"} <= set(tokenizer.gene_median_dict)
    assert tokenizer.gene_mapping_dict["TP53"] == "ENSG00000141510"
    assert set(tokenizer.gene_mapping_dict.values()) <= set(tokenizer.gene_token_dict)
    assert tokenizer.gene_keys == list(tokenizer.gene_token_dict)
    assert tokenizer.genelist_dict["ENSG00000141510"] is True


def test_identifiers_can_be_taken_as_they_are(few_genes, tmp_path):
    """`collapse_gene_ids=False` works, maps no symbols, and still sums one and the same gene."""
    genes = [*few_genes, "TP53", few_genes[0]]
    counts = [[1] * 12 + [50, 40], [2] * 12 + [50, 40]]
    folder = write(make_adata(genes, counts), tmp_path / "in")
    token = gf.Vocabulary.load("V2").token_of
    mapped = tokens_of(folder, tmp_path)
    plain = tokens_of(folder, tmp_path, collapse_gene_ids=False)
    without = tokens_of(folder, tmp_path, gene_mapping_file=None)
    assert token["ENSG00000141510"] in rows(mapped)[0]
    assert sorted(rows(plain)[0]) == sorted([2, 3, *(token[gene] for gene in few_genes)])
    assert rows(plain)[0][1] == token[few_genes[0]]
    assert rows(without) == rows(plain)


@pytest.mark.parametrize("twin", ["same", "lower case", "version", "symbol"])
def test_genes_that_are_there_twice_are_summed(few_genes, tmp_path, twin):
    vocabulary = gf.Vocabulary.load("V2")
    gene = next(gene for gene in few_genes if vocabulary.symbol_of(gene) != gene)
    spelled = {
        "same": gene,
        "lower case": gene.lower(),
        "version": f"{gene}.7",
        "symbol": vocabulary.symbol_of(gene).lower(),
    }
    others = [other for other in few_genes if other != gene]
    twice = make_adata([gene, *others, spelled[twin]], [[3, *range(1, 12), 4]])
    once = make_adata([gene, *others], [[7, *range(1, 12)]])
    found = tokens_of(write(twice, tmp_path / "twice"), tmp_path, keep_counts=True)
    wanted = tokens_of(write(once, tmp_path / "once"), tmp_path, keep_counts=True)
    assert rows(found) == rows(wanted)
    np.testing.assert_allclose(found.gather([0], counts=True).counts, wanted.gather([0], counts=True).counts)


def test_a_prefix_keeps_its_dots(published_inputs, tmp_path):
    tokenizer = gf.TranscriptomeTokenizer()
    for prefix in ("run.1", "run.2", "named.dataset"):
        tokenizer.tokenize_data(published_inputs / "loom", tmp_path, prefix)
    assert sorted(path.name for path in tmp_path.glob("*.dataset")) == [
        "named.dataset",
        "run.1.dataset",
        "run.2.dataset",
    ]


def test_a_dataset_that_is_there_is_replaced(published_inputs, tmp_path):
    for attributes in (None, ATTRIBUTES):
        gf.TranscriptomeTokenizer(attributes).tokenize_data(published_inputs / "loom", tmp_path, "p")
    assert "organ" in read_dataset(tmp_path / "p.dataset").columns


def test_stored_zeros_are_no_tokens(few_genes, tmp_path):
    adata = make_adata(few_genes, np.arange(24).reshape(2, 12) + 1)
    adata.X.data[::3] = 0
    assert adata.X.nnz == 24
    adata.obs["n_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    dataset = tokens_of(write(adata, tmp_path / "in"), tmp_path, special_token=False)
    assert dataset.lengths.tolist() == [8, 8]


def test_a_file_without_a_known_gene_is_refused_and_nothing_is_written(tmp_path):
    folder = write(make_adata([f"gene_of_no_name_{n}" for n in range(12)]), tmp_path / "in")
    with pytest.raises(errors.GeneIdsNotFoundError, match="No gene of vocabulary"):
        gf.TranscriptomeTokenizer().tokenize_data(folder, tmp_path / "out", "p", file_format="h5ad")
    assert list((tmp_path / "out").iterdir()) == []


def test_identifiers_with_a_version_are_mapped(few_genes, tmp_path):
    plain = tokens_of(write(make_adata(few_genes), tmp_path / "plain"), tmp_path)
    versioned = tokens_of(write(make_adata([f"{gene}.3" for gene in few_genes]), tmp_path / "versioned"), tmp_path)
    assert rows(versioned) == rows(plain)


def test_cells_without_genes_get_no_row_with_and_without_attributes(few_genes, tmp_path, caplog):
    counts = np.ones((3, 12), dtype=int)
    counts[1] = 0
    folder = write(make_adata(few_genes, counts, kind=["a", "b", "c"]), tmp_path / "in")
    for attributes in (None, {"kind": "kind"}):
        with caplog.at_level(logging.WARNING):
            dataset = tokens_of(folder, tmp_path, custom_attr_name_dict=attributes)
        assert dataset.cell_ids.tolist() == ["cell0", "cell2"]
        assert "1 cells have no gene" in caplog.text
    assert dataset.column("kind").tolist() == ["a", "c"]


def test_only_cells_that_pass_the_filter_are_taken_and_none_is_an_error(few_genes, tmp_path):
    some = write(make_adata(few_genes, filter_pass=[1, 0, 1, 0]), tmp_path / "some")
    assert tokens_of(some, tmp_path).cell_ids.tolist() == ["cell0", "cell2"]
    none = write(make_adata(few_genes, filter_pass=[0, 0, 0, 0]), tmp_path / "none")
    for attributes in (None, {"n_counts": "n"}):
        with pytest.raises(errors.NoCellsError, match="filter_pass"):
            gf.TranscriptomeTokenizer(attributes).tokenize_data(none, tmp_path / "new", "p", file_format="h5ad")


def test_a_loom_file_stays_as_it_is_and_copies_of_it_are_left_out(published_inputs, tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("pbmc", "pbmc__dedup"):
        (folder / f"{name}.loom").write_bytes((published_inputs / "loom" / "pbmc.loom").read_bytes())
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    (folder / "pbmc.loom").chmod(0o400)
    with caplog.at_level(logging.WARNING):
        gf.TranscriptomeTokenizer().tokenize_data(folder, tmp_path / "out", "p")
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} == before
    assert len(read_dataset(tmp_path / "out" / "p.dataset")) == 60
    assert "pbmc__dedup.loom" in caplog.text


def test_dense_files_and_repeated_barcodes_are_read_while_genes_are_summed(few_genes, tmp_path):
    genes, counts = [*few_genes, few_genes[0]], np.arange(26).reshape(2, 13) + 1
    sparse = make_adata(genes, counts)
    dense = make_adata(genes, counts, names=["AAAC", "AAAC"])
    dense.X = dense.X.toarray()
    wanted = tokens_of(write(sparse, tmp_path / "sparse"), tmp_path)
    found = tokens_of(write(dense, tmp_path / "dense"), tmp_path)
    assert rows(found) == rows(wanted)
    assert found.cell_ids.tolist() == ["AAAC", "AAAC"]


def test_files_come_in_the_order_of_their_names(few_genes, tmp_path):
    for name in ("b", "c", "a"):
        write(make_adata(few_genes, names=[f"{name}{row}" for row in range(4)]), tmp_path / "in", name)
    dataset = tokens_of(tmp_path / "in", tmp_path)
    assert [name[0] for name in dataset.cell_ids] == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    tokenizer = gf.TranscriptomeTokenizer()
    with pytest.warns(errors.GeneformerWarning):
        tokenizer.tokenize_data(tmp_path / "in", tmp_path / "out", "one", file_format="h5ad", input_identifier="b")
    assert len(read_dataset(tmp_path / "out" / "one.dataset")) == 4


def test_missing_folders_files_and_formats_are_named(published_inputs, tmp_path):
    tokenizer = gf.TranscriptomeTokenizer()
    with pytest.raises(errors.InputNotFoundError, match="no folder"):
        tokenizer.tokenize_data(tmp_path / "nowhere", tmp_path, "p")
    with pytest.raises(errors.InputNotFoundError, match=r"\*\.zarr; it holds pbmc\.loom"):
        tokenizer.tokenize_data(published_inputs / "loom", tmp_path, "p", file_format="zarr")
    with pytest.raises(errors.UnknownChoiceError, match="loom"):
        tokenizer.tokenize_data(published_inputs / "loom", tmp_path, "p", file_format="h5")
    with pytest.raises(errors.UnknownColumnError, match="organ_major"):
        gf.TranscriptomeTokenizer({"organ_major": "organ"}).tokenize_data(published_inputs / "loom", tmp_path, "p")


@pytest.mark.parametrize("names", [{"a": "length"}, {"a": "x", "b": "x"}, ["a"], {"a": 1}])
def test_attributes_that_cannot_be_columns_are_refused(names):
    with pytest.raises(errors.OptionError, match="custom_attr_name_dict"):
        gf.TranscriptomeTokenizer(names)


def test_an_attribute_called_cell_id_takes_that_column(few_genes, tmp_path):
    folder = write(make_adata(few_genes, barcode=["w", "x", "y", "z"]), tmp_path / "in")
    dataset = tokens_of(folder, tmp_path, custom_attr_name_dict={"barcode": "cell_id"})
    assert dataset.table.column_names == ["input_ids", "cell_id", "length"]
    assert dataset.cell_ids.tolist() == ["w", "x", "y", "z"]


def test_names_of_cells_in_a_loom_file_are_an_attribute_like_any_other(published_inputs, tmp_path):
    path = tmp_path / "in" / "a.loom"
    path.parent.mkdir()
    path.write_bytes((published_inputs / "loom" / "pbmc.loom").read_bytes())
    with h5py.File(path, "a") as file:
        file.create_dataset("col_attrs/CellID", data=[f"n{row}".encode() for row in range(60)])
    gf.TranscriptomeTokenizer({"CellID": "barcode"}).tokenize_data(path.parent, tmp_path, "p")
    dataset = read_dataset(tmp_path / "p.dataset")
    assert dataset.table.column_names == ["input_ids", "barcode", "length", "cell_id"]
    assert dataset.column("barcode").tolist() == dataset.cell_ids.tolist() == [f"n{row}" for row in range(60)]


def test_all_formats_give_the_same_cells(published_inputs, tmp_path):
    pytest.importorskip("zarr")
    adata = anndata.read_h5ad(published_inputs / "h5ad" / "pbmc.h5ad")
    adata.write_zarr(tmp_path / "in" / "pbmc.zarr")
    tokenizer = gf.TranscriptomeTokenizer(ATTRIBUTES, keep_counts=True)
    folders = {"zarr": tmp_path / "in", "loom": published_inputs / "loom", "h5ad": published_inputs / "h5ad"}
    found = {}
    for file_format, folder in folders.items():
        tokenizer.tokenize_data(folder, tmp_path, file_format, file_format)
        found[file_format] = read_dataset(tmp_path / f"{file_format}.dataset").table.drop_columns(["cell_id"])
    assert found["zarr"].equals(found["h5ad"])
    assert found["loom"].equals(found["h5ad"])


def test_identifiers_may_be_in_the_index(few_genes, tmp_path):
    adata = make_adata(few_genes)
    wanted = tokens_of(write(adata, tmp_path / "column"), tmp_path)
    adata.var = adata.var.set_index("ensembl_id").rename_axis(None)
    adata.var["ensembl_id"] = "nothing"
    assert rows(tokens_of(write(adata, tmp_path / "index"), tmp_path, use_h5ad_index=True)) == rows(wanted)


def test_cells_in_memory_become_the_same_dataset(published_inputs, tmp_path):
    folder = published_inputs / "h5ad"
    for arguments in ({}, {"model_version": "V1"}, {"keep_counts": True, "model_input_size": 100}):
        tokenizer = gf.TranscriptomeTokenizer(ATTRIBUTES, **arguments)
        cells, metadata, counts = tokenizer.tokenize_files(folder, "h5ad")
        assert len(cells) == 60
        assert set(metadata) == {"cell_type", "organ"}
        assert min(cells[0]) > 1
        assert len(counts) == (60 if tokenizer.keep_counts else 0)
        made = tokenizer.create_dataset(cells, metadata, counts, use_generator=True)
        tokenizer.tokenize_data(folder, tmp_path, "p", file_format="h5ad", use_generator=True)
        written = datasets.load_from_disk(str(tmp_path / "p.dataset")).remove_columns("cell_id")
        assert made.features == written.features
        assert made.to_dict() == written.to_dict()
    assert max(made["length"]) == 100
    assert made[0]["counts"][0] == made[0]["counts"][-1] == 0
    whole = tokenizer.create_dataset(cells, metadata, counts, keep_uncropped_input_ids=True)
    assert whole[0]["input_ids_uncropped"] == cells[0].tolist()
    assert whole["length_uncropped"][:] == [len(cell) for cell in cells]


def test_cells_in_memory_are_sent_elsewhere():
    with pytest.raises(errors.OptionError, match=r"AnnData.*geneformer\.pp\.tokenize"):
        gf.TranscriptomeTokenizer().tokenize_anndata(anndata.AnnData())


def test_single_files_are_tokenized_in_memory(published_inputs):
    tokenizer = gf.TranscriptomeTokenizer(keep_counts=True)
    cells, metadata, counts = tokenizer.tokenize_anndata(published_inputs / "h5ad" / "pbmc.h5ad")
    others, _, scaled = tokenizer.tokenize_loom(str(published_inputs / "loom" / "pbmc.loom"), target_sum=1_000)
    assert metadata is None
    assert [cell.tolist() for cell in cells] == [cell.tolist() for cell in others]
    np.testing.assert_allclose(counts[0], scaled[0] * 10)


def test_special_tokens_can_be_left_out_and_must_be_known(few_genes, tmp_path, caplog):
    folder = write(make_adata(few_genes), tmp_path / "in")
    framed = tokens_of(folder, tmp_path)
    bare = tokens_of(folder, tmp_path, special_token=False)
    assert "no special tokens" in caplog.text
    assert [[2, *row, 3] for row in rows(bare)] == rows(framed)
    with pytest.raises(errors.UnsupportedArgumentError, match="special_token"):
        gf.TranscriptomeTokenizer(
            token_dictionary_file=dictionary_path("TOKEN_DICTIONARY_FILE_30M"),
            gene_median_file=gf.GENE_MEDIAN_FILE_30M,
        )
    with pytest.raises(errors.InvalidVocabularyError, match="median"):
        gf.TranscriptomeTokenizer(token_dictionary_file=dictionary_path("TOKEN_DICTIONARY_FILE_30M"))


def test_own_dictionaries_are_read_and_longer_rows_allowed(few_genes, tmp_path):
    tokens = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, **{gene: 4 + n for n, gene in enumerate(few_genes)}}
    files = {
        "token_dictionary_file": write_pickle(tokens, tmp_path / "tokens.pkl"),
        "gene_median_file": write_pickle({gene: 1.0 + n for n, gene in enumerate(few_genes)}, tmp_path / "medians.pkl"),
        "gene_mapping_file": write_pickle(
            {f"MOUSE{n}": gene for n, gene in enumerate(few_genes)}, tmp_path / "map.pkl"
        ),
    }
    adata = make_adata([f"mouse{n}" for n in range(12)], [[13 * (n + 1) - n * (n + 1) for n in range(12)]])
    write(adata, tmp_path / "in")
    tokenizer = gf.TranscriptomeTokenizer(**files, model_input_size=8192)
    tokenizer.tokenize_data(tmp_path / "in", tmp_path / "out", "p", file_format="h5ad")
    dataset = read_dataset(tmp_path / "out" / "p.dataset")
    assert rows(dataset) == [[2, *range(4, 16), 3]]
    assert dataset.vocabulary is None


def test_values_that_are_no_counts_are_ranked_but_not_in_silence(few_genes, tmp_path):
    adata = make_adata(few_genes)
    raw = tokens_of(write(adata, tmp_path / "raw"), tmp_path)
    adata.X = adata.X * 0.37
    write(adata, tmp_path / "scaled")
    with pytest.warns(errors.GeneformerWarning) as told:
        gf.TranscriptomeTokenizer().tokenize_data(tmp_path / "scaled", tmp_path / "out", "p", file_format="h5ad")
    assert any("no counts were ranked" in str(warning.message) for warning in told)
    assert [set(row) for row in rows(read_dataset(tmp_path / "out" / "p.dataset"))] == [set(row) for row in rows(raw)]


def test_vectors_are_ranked_by_the_published_functions():
    from geneformer.tokenizer import rank_genes, tokenize_cell

    assert rank_genes(np.array([1.0, 3.0, 2.0]), np.array([7, 8, 9])).tolist() == [8, 9, 7]
    assert tokenize_cell(np.array([1.0, 0.0, 2.0, 1.0]), np.array([6, 7, 8, 9])).tolist() == [8, 6, 9]


def test_the_example_of_tokenizing_runs(published_inputs, tmp_path):
    import tokenizing

    tokenizing.main(published_inputs, tmp_path)
    data = datasets.load_from_disk(str(tmp_path / "pbmc.dataset"))
    assert data.column_names == ["input_ids", "cell_type", "organ", "length", "cell_id"]
    assert len(data) == 60
    assert set(data["cell_type"]) == {"B cells", "CD14+ Monocytes", "NK cells"}
    assert list(data["length"]) == [len(row) for row in data["input_ids"]]


def test_all_examples_are_found_and_run_in_turn(published_inputs, tmp_path, monkeypatch, capsys):
    import make_inputs
    import run_all

    assert "tokenizing" in run_all.examples()
    assert not {"make_inputs", "run_all"} & set(run_all.examples())
    monkeypatch.setattr(make_inputs, "make_inputs", lambda data: published_inputs)
    monkeypatch.setattr(run_all, "examples", lambda: ["tokenizing"])
    seconds = run_all.main(tmp_path)
    assert list(seconds) == ["make_inputs", "tokenizing"]
    assert (tmp_path / "tokenizing" / "pbmc.dataset").is_dir()
    assert "tokenizing: " in capsys.readouterr().out
