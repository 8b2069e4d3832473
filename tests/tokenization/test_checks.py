"""Values that are no raw counts, tables of cells that cannot be read, and files that cannot be opened."""

import gzip

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from geneformer import errors
from geneformer.options import TokenizeOptions
from geneformer.tokenization.checks import open_counts
from geneformer.tokenization.tokenizer import tokenize_counts
from tokenization.conftest import make_adata, make_vocabulary

TOY = make_vocabulary()


def refused(source, kind, match, tmp_path=None, **options):
    output = None if tmp_path is None else tmp_path / "out.dataset"
    with pytest.raises(kind, match=match) as caught:
        tokenize_counts(source, TokenizeOptions(**options), vocabulary=TOY, output=output)
    if tmp_path is not None:
        assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]
    return str(caught.value)


def normalized(adata, *, logarithm=False):
    dense = adata.X.toarray()
    dense = dense / dense.sum(axis=1, keepdims=True) * 10_000
    adata.X = sp.csr_matrix(np.log1p(dense) if logarithm else dense)
    return adata


def test_normalized_counts_name_what_was_done_to_them(adata, tmp_path):
    message = refused(normalized(adata), errors.NotRawCountsError, "every cell sums up to 10,000", tmp_path)
    assert "GF203" in message
    assert "cell0" in message
    assert "accept_normalized=True" in message


def test_logarithms_are_recognized(adata):
    refused(normalized(adata, logarithm=True), errors.NotRawCountsError, "logarithms of normalized counts")


def test_the_layer_with_raw_counts_is_named(adata, tmp_path):
    adata.layers["counts"] = adata.X.copy()
    adata.layers["scaled"] = adata.X.copy() * 0.5
    normalized(adata)
    message = refused(adata, errors.NotRawCountsError, r'layers\["counts"\] holds raw counts')
    assert "--layer counts" in message
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    assert "--layer counts" in refused(path, errors.NotRawCountsError, "raw counts", tmp_path)


def test_normalized_counts_are_ranked_on_demand_and_that_is_recorded(adata):
    raw = tokenize_counts(make_adata(), vocabulary=TOY)[0]
    options = TokenizeOptions(accept_normalized=True)
    tokens, report = tokenize_counts(normalized(adata), options, vocabulary=TOY)
    assert [set(tokens[row].tolist()) for row in range(30)] == [set(raw[row].tolist()) for row in range(30)]
    assert report.accepted_normalized
    assert any("--accept-normalized" in what for _, what in report.rows())


@pytest.mark.parametrize("accept", [False, True])
def test_negative_values_have_no_rank(adata, accept):
    adata.X = adata.X.toarray() - 1.0
    refused(adata, errors.NotRawCountsError, "negative.*cell0", accept_normalized=accept)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_values_are_refused_or_taken_for_zero(adata, value):
    expected = make_adata().X.tolil()
    adata.X[4, 7] = value
    message = refused(adata, errors.NonFiniteCountsError, 'cell "cell4"')
    assert adata.var_names[7] in message
    expected[4, 7] = 0
    clean = make_adata()
    clean.X = expected.tocsr()
    tokens, report = tokenize_counts(adata, TokenizeOptions(missing="zero"), vocabulary=TOY)
    reference = tokenize_counts(clean, vocabulary=TOY)[0]
    assert all(np.array_equal(tokens[row], reference[row]) for row in range(30))
    assert report.sources[0].n_missing == 1


def test_a_fraction_far_inside_is_found_while_reading(tmp_path):
    adata = make_adata(n_cells=2000)
    adata.X[700, 3] = 1.5
    adata.write_h5ad(tmp_path / "a.h5ad")
    refused(tmp_path / "a.h5ad", errors.NotRawCountsError, 'cell "cell700"', tmp_path, chunk_size=128)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([True, False], [True, False]),
        ([1, 0], [True, False]),
        ([1.0, 0.0], [True, False]),
        (["1.0", "0"], [True, False]),
        (["True", "false"], [True, False]),
        (["yes", "No "], [True, False]),
        (["pass", "fail"], [True, False]),
        (pd.Categorical(["T", "F"]), [True, False]),
    ],
)
def test_filter_pass_is_understood(adata, values, kept, tmp_path):
    column = np.resize(np.asarray(values, dtype=object), adata.n_obs)
    adata.obs["filter_pass"] = pd.Series(column, index=adata.obs_names).astype(
        "category" if isinstance(values, pd.Categorical) else type(values[0])
    )
    expected = adata.obs_names[np.resize(kept, adata.n_obs)].tolist()
    adata.write_h5ad(tmp_path / "a.h5ad")
    for source in (adata, tmp_path / "a.h5ad"):
        tokens, report = tokenize_counts(source, vocabulary=TOY)
        assert tokens.cell_ids.tolist() == expected
        assert report.n_filtered == 15


@pytest.mark.parametrize("values", [["maybe", "yes"], [2, 1], [0.5, 1.0], [None, "yes"]])
def test_filter_pass_that_is_neither_yes_nor_no_is_refused(adata, values):
    adata.obs["filter_pass"] = np.resize(np.asarray(values, dtype=object), adata.n_obs)
    refused(adata, errors.FilterPassError, f"{values[0]!r} in 15 cells")


def test_no_cell_left_says_what_was_there(adata, tmp_path):
    adata.obs["filter_pass"] = "no"
    refused(adata, errors.NoCellsError, r"0 of 30 cells have `filter_pass` true.*'no' in 30 cells", tmp_path)
    refused(adata[:0].copy(), errors.NoCellsError, "no cells")


@pytest.mark.parametrize("total", [np.nan, -3.0, np.inf, 0.0])
def test_totals_that_cannot_be_are_refused(adata, total):
    adata.obs["n_counts"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obs.loc["cell5", "n_counts"] = total
    refused(adata, errors.InvalidTotalsError, 'cell "cell5"')
    adata.obs["filter_pass"] = adata.obs_names != "cell5"
    assert len(tokenize_counts(adata, vocabulary=TOY)[0]) == 29


def test_totals_that_disagree_are_remarked_on_and_used(adata):
    sums = np.asarray(adata.X.sum(axis=1)).ravel()
    plain = tokenize_counts(adata, TokenizeOptions(counts=True), vocabulary=TOY)[0].gather(range(30), counts=True)
    adata.obs["n_counts"] = sums * 2
    with pytest.warns(errors.GeneformerWarning, match="50% of it: genes were probably removed"):
        tokens, report = tokenize_counts(adata, TokenizeOptions(counts=True), vocabulary=TOY)
    packed = tokens.gather(range(30), counts=True)
    assert np.array_equal(packed.input_ids, plain.input_ids)
    np.testing.assert_allclose(packed.counts * 2, plain.counts)
    assert len(report.warnings) == 1


def test_empty_cells_are_dropped_and_listed(adata):
    adata.X[[0, 4]] = 0
    adata.X[9, np.isin(adata.var_names, TOY.genes)] = 0
    adata.X.eliminate_zeros()
    tokens, report = tokenize_counts(adata, vocabulary=TOY)
    assert report.sources[0].empty_cells == ("cell0", "cell4", "cell9")
    assert len(tokens) == 27
    assert "cell4" not in tokens.cell_ids


def test_repeated_names_of_cells_are_remarked_on(adata):
    adata.obs_names = ["same"] * 3 + adata.obs_names[3:].tolist()
    with pytest.warns(errors.GeneformerWarning, match="2 cells share their name"):
        tokens, _ = tokenize_counts(adata, vocabulary=TOY)
    assert len(tokens) == 30


def test_few_genes_are_remarked_on(adata):
    with pytest.warns(errors.GeneformerWarning, match="looks reduced to chosen genes"):
        tokenize_counts(adata[:, np.isin(adata.var_names, TOY.genes[:5])].copy(), vocabulary=TOY)


def test_unknown_columns_name_the_nearest(adata):
    refused(adata, errors.UnknownColumnError, 'Did you mean "donor"', keep=("doner",))


def test_genes_that_are_mostly_unknown_are_refused(adata, tmp_path):
    adata.X[:, ~np.isin(adata.var_names, TOY.genes)] = 5000
    refused(adata, errors.TooFewGenesMatchedError, "GF223", tmp_path)


@pytest.fixture
def broken(tmp_path):
    make_adata().write_h5ad(tmp_path / "good.h5ad")
    content = (tmp_path / "good.h5ad").read_bytes()
    files = {
        "cut.h5ad": content[: len(content) // 2],
        "empty.h5ad": b"",
        "text.h5ad": b"hello, this is no HDF5 file at all",
        "pointer.h5ad": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
        "words.csv": b"cell,ENSG00000000001,ENSG00000000002\na,1,two\n",
        "prose.txt": b"just a line\nand another\n",
        "people.csv": b"name,height,weight\nann,1,2\nbob,3,4\n",
        "cut.csv.gz": gzip.compress(b"cell,ENSG00000000001\n" + b"a,1\n" * 5000)[:-20],
        "counts.rds": b"RDX3",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["X"], file["Y"] = np.ones((3, 4)), np.ones(3)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "match"),
    [
        ("cut.h5ad", errors.UnreadableInputError, r"incomplete: [\d,]+ of [\d,]+ bytes"),
        ("empty.h5ad", errors.UnreadableInputError, "0 bytes"),
        ("text.h5ad", errors.UnreadableInputError, "not an HDF5 file"),
        ("pointer.h5ad", errors.PlaceholderFileError, "git-lfs pointer of 68 bytes"),
        ("other.h5", errors.UnsupportedFormatError, r"neither AnnData, loom nor 10x: it holds X \(3, 4\), Y \(3,\)"),
        ("words.csv", errors.UnreadableInputError, "no number near line 2"),
        ("prose.txt", errors.UnreadableInputError, "neither commas nor tabs"),
        ("people.csv", errors.UnsupportedFormatError, "names human genes"),
        ("cut.csv.gz", errors.UnreadableInputError, "incomplete"),
        ("counts.rds", errors.UnsupportedFormatError, r'ends in "\.rds".*Accepted'),
        ("nothing.h5ad", errors.InputNotFoundError, "does not exist"),
    ],
)
def test_files_that_cannot_be_read_say_why(broken, name, kind, match):
    refused(broken / name, kind, match)


def test_a_bad_second_file_is_found_before_the_first_is_tokenized(broken):
    seen = []
    with pytest.raises(errors.UnreadableInputError, match="incomplete"):
        tokenize_counts(
            [broken / "good.h5ad", broken / "cut.h5ad"],
            vocabulary=TOY,
            output=broken / "out.dataset",
            progress=lambda done, total: seen.append(done),
        )
    assert seen == []
    assert not (broken / "out.dataset").exists()


def test_a_locked_file_is_named_as_locked(tmp_path, monkeypatch):
    make_adata().write_h5ad(tmp_path / "a.h5ad")

    def locked(*_, **__):
        raise BlockingIOError(11, "unable to lock file")

    monkeypatch.setattr(h5py, "File", locked)
    with pytest.raises(errors.UnreadableInputError, match="locked: another program"):
        open_counts(tmp_path / "a.h5ad")


def test_a_matrix_folder_must_be_whole(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n2 2 3\n1 1 5\n2 2 1\n")
    with pytest.raises(errors.UnreadableInputError, match=r"no barcodes\.tsv"):
        open_counts(folder)
    (folder / "barcodes.tsv").write_text("c1\nc2\n")
    (folder / "genes.tsv").write_text("ENSG00000000001\tA\nENSG00000000002\tB\n")
    with pytest.raises(errors.UnreadableInputError, match="announces 3 entries but has 2"):
        tokenize_counts(folder, vocabulary=TOY)
    (folder / "barcodes.tsv").write_text("c1\nc2\nc3\n")
    with pytest.raises(errors.UnreadableInputError, match="2 x 2, but there are 2 features and 3 barcodes"):
        open_counts(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("hello\n2 2 1\n", "does not begin as a sparse Matrix Market file"),
        ("%%MatrixMarket matrix coordinate integer general\n% made by hand\n", "does not begin as a sparse"),
        ("%%MatrixMarket matrix array integer general\n2 2\n1\n2\n3\n4\n", "of the kind array general"),
        ("%%MatrixMarket matrix coordinate integer symmetric\n2 2 1\n1 1 5\n", "of the kind coordinate symmetric"),
        ("%%MatrixMarket matrix coordinate integer general\n2 2 2\n1 1 5\n2 2 x\n", "cannot be read as numbers"),
    ],
)
def test_a_matrix_that_is_no_sparse_matrix_market_file_is_refused(tmp_path, text, match):
    (tmp_path / "matrix.mtx").write_text(text)
    (tmp_path / "barcodes.tsv").write_text("c1\nc2\n")
    (tmp_path / "genes.tsv").write_text("ENSG00000000001\tA\nENSG00000000002\tB\n")
    with pytest.raises(errors.UnreadableInputError, match=match):
        tokenize_counts(tmp_path, vocabulary=TOY)


def test_a_matrix_folder_of_comments_and_blank_lines_is_read(tmp_path):
    (tmp_path / "matrix.mtx").write_text(
        "%%MatrixMarket matrix coordinate integer general\n% made by hand\n\n2 3 2\n1 1 5\n2 3 1\n"
    )
    (tmp_path / "barcodes.tsv").write_text("c1\nc2\nc3\n")
    (tmp_path / "genes.tsv").write_text("ENSG00000000001\tA\nENSG00000000002\tB\n")
    with pytest.warns(errors.GeneformerWarning, match="looks reduced to chosen genes"):
        tokens, report = tokenize_counts(tmp_path, vocabulary=TOY)
    assert tokens.cell_ids.tolist() == ["c1", "c3"]
    assert report.n_empty == 1


def test_an_anndata_without_a_matrix_names_its_layers():
    adata = make_adata()
    empty = anndata.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})
    refused(empty, errors.UnknownColumnError, 'has no X. It has "counts"')
