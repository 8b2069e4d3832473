"""Text tables, Matrix Market folders, loom, 10x and Zarr: odd, incomplete, or lying about themselves."""

import gzip
import json

import h5py
import numpy as np
import scipy.io

from gallery.inputs import cells, genes
from gallery.rows import ACCEPTED, Row

SOME = 400


def text(name="in.csv", change=lambda lines: lines, *, separator=",", end="\n", genes_first=False):
    """A table of six cells by some genes, its lines changed before they are written."""

    def make(folder):
        counts = cells(6, genes(SOME)).X.toarray().astype(int)
        names, columns = [f"cell{cell}" for cell in range(6)], genes(SOME)
        if genes_first:
            counts, names, columns = counts.T, columns, names
        lines = [separator.join(["", *columns])]
        lines += [separator.join([name, *map(str, row)]) for name, row in zip(names, counts, strict=True)]
        content = change(lines)
        content = content if isinstance(content, bytes) else "".join(line + end for line in content).encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return name

    return make


def field(line, place, value):
    """A change of one field."""

    def change(lines):
        fields = lines[line].split(",")
        fields[place] = value
        lines[line] = ",".join(fields)
        return lines

    return change


def mtx(matrix="matrix.mtx", rows="features.tsv", columns="barcodes.tsv", change=None, names=None):
    """A Matrix Market folder, the lines of the matrix changed; `names` is the content of the file of genes."""

    def make(folder):
        adata = cells(6, genes(SOME))
        (folder / "in").mkdir()
        plain = folder / "in" / "m.mtx"
        scipy.io.mmwrite(plain, adata.X.T.tocoo(), field="integer")
        lines = plain.read_text().splitlines()
        plain.unlink()
        lines = change(lines) if change else lines
        (folder / "in" / matrix).write_text("\n".join(lines) + "\n")
        (folder / "in" / rows).write_text(names or "\n".join(genes(SOME)) + "\n")
        (folder / "in" / columns).write_text("\n".join(adata.obs_names) + "\n")
        return "in"

    return make


def _line(number, text):
    """A change of one line; the first one after the comments is the one with the dimensions."""

    def change(lines):
        first = next(place for place, line in enumerate(lines) if not line.startswith("%"))
        lines[first + number] = text(lines[first + number]) if callable(text) else text
        return lines

    return change


def loom(edit=lambda file: None):
    """A loom file, edited."""

    def make(folder):
        adata = cells(6, genes(SOME))
        texts = h5py.string_dtype()
        with h5py.File(folder / "in.loom", "w") as file:
            file["matrix"] = adata.X.toarray().T
            for group in ("row_attrs", "col_attrs", "layers"):
                file.create_group(group)
            file["row_attrs"].create_dataset("Accession", data=genes(SOME), dtype=texts)
            file["col_attrs"].create_dataset("CellID", data=list(adata.obs_names), dtype=texts)
            edit(file)
        return "in.loom"

    return make


def tenx(edit=lambda group: None):
    """A 10x file, its group edited."""

    def make(folder):
        x = cells(6, genes(SOME)).X
        with h5py.File(folder / "in.h5", "w") as file:
            group = file.create_group("matrix")
            group["data"], group["indices"], group["indptr"] = x.data.astype("i4"), x.indices, x.indptr
            group["shape"] = np.array([SOME, 6])
            group["barcodes"] = np.array([f"cell{cell}" for cell in range(6)], dtype="S")
            group["features/id"] = np.array(genes(SOME), dtype="S")
            group["features/name"] = np.array(genes(SOME), dtype="S")
            group["features/feature_type"] = np.array(["Gene Expression"] * SOME, dtype="S")
            edit(group)
        return "in.h5"

    return make


def replaced(name, value):
    """An edit that puts another value in the place of one."""

    def edit(group):
        new = value(group[name][...]) if callable(value) else value
        del group[name]
        group[name] = new

    return edit


def gone(name):
    """An edit that takes a member away."""
    return lambda group: group.__delitem__(name)


def zarr(edit=lambda store: None, *, version=3, dense=False):
    """A Zarr store of AnnData whose files are edited."""

    def make(folder):
        import anndata as ad

        ad.settings.zarr_write_format = version
        adata = cells()
        if dense:
            adata.X = adata.X.toarray() + 1
        adata.write_zarr(folder / "in.zarr")
        edit(folder / "in.zarr")
        return "in.zarr"

    return make


def _pieces(store, name):
    """Files with the values of an array."""
    files = sorted(path for path in (store / name).rglob("*") if path.is_file())
    return [path for path in files if path.name not in ("zarr.json", ".zarray", ".zattrs")]


def lost(name):
    """An edit that loses a piece of an array."""
    return lambda store: _pieces(store, name)[0].unlink()


def _cut(store):
    piece = _pieces(store, "X/data")[0]
    piece.write_bytes(piece.read_bytes()[:40])


def _linked(store):
    piece = _pieces(store, "X/data")[0]
    piece.rename(store.parent / "elsewhere")
    piece.symlink_to(store.parent / "elsewhere")


def _linked_folder(store):
    (store / "var").rename(store.parent / "elsewhere")
    (store / "var").symlink_to(store.parent / "elsewhere")


def _metadata(name, **changes):
    def edit(store):
        path = store / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def _pickled(name):
    return _metadata(f"{name}/.zarray", filters=[{"id": "pickle", "protocol": 5}])


def _deep(store):
    (store / "X" / "zarr.json").write_text("[" * 200_000)


def _spatial(folder):
    cells().write_zarr(folder / "in.zarr" / "tables" / "table")
    (folder / "in.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    return "in.zarr"


def _mudata(folder):
    with h5py.File(folder / "in.h5", "w") as file:
        for group in ("obs", "var", "mod/rna", "mod/prot"):
            file.create_group(group)
    return "in.h5"


def _old_anndata(codes):
    """As AnnData before 0.7 wrote: tables as records, names of categories in `uns`."""

    def make(folder):
        adata = cells()
        with h5py.File(folder / "in.h5ad", "w") as file:
            group = file.create_group("X")
            group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", np.array(adata.shape)
            group["data"], group["indices"], group["indptr"] = adata.X.data, adata.X.indices, adata.X.indptr
            obs = np.zeros(20, dtype=[("index", "S20"), ("cell_type", "i1")])
            obs["index"], obs["cell_type"] = adata.obs_names.to_numpy().astype("S20"), codes
            file["obs"] = obs
            file["var"] = np.array([(gene,) for gene in genes()], dtype=[("index", "S20")])
            file.create_group("uns")["cell_type_categories"] = np.array(["B cell", "T cell"], dtype="S10")
        return "in.h5ad"

    return make


def _compound(file):
    file["row_attrs"]["Regulons"] = np.zeros(SOME, dtype=[("PAX5(+)", "<i8")])
    file["col_attrs"]["RegulonsAUC"] = np.zeros(6, dtype=[("PAX5(+)", "<f8")])


def _group_for(name):
    def edit(file):
        if name in file:
            del file[name]
        file.create_group(name)

    return edit


def _comments(lines):
    return ["##########", "## BD Rhapsody", *lines]


def _bomb(folder):
    with gzip.open(folder / "in.csv.gz", "wb") as file:
        for _ in range(100):
            file.write(bytes(2**20).replace(b"\0", b","))
    return "in.csv.gz"


def _r_table(lines):
    return [lines[0][1:], *lines[1:]]


def _two_samples(folder):
    for sample in ("a_", "b_"):
        mtx(f"{sample}matrix.mtx", f"{sample}features.tsv", f"{sample}barcodes.tsv")(folder / sample)
    return "in"


READ = "what it means is plain"

ROWS = [
    Row("csv", text(), ACCEPTED, why="the plain case"),
    Row("csv with genes as rows", text(genes_first=True), ACCEPTED, why="which side names genes is seen"),
    Row("csv of R, without a corner", text(change=_r_table), ACCEPTED, why=READ),
    Row(
        "csv with quotes",
        text(change=lambda lines: [lines[0], *(f'"{x[:5]}"{x[5:]}' for x in lines[1:])]),
        ACCEPTED,
        why=READ,
    ),
    Row(
        "csv with a byte order mark",
        text(change=lambda x: "\ufeff".encode() + "\n".join(x).encode()),
        ACCEPTED,
        why=READ,
    ),
    Row("csv with lines of old Macs", text(end="\r"), ACCEPTED, why="such lines are read as others are"),
    Row("csv with lines of Windows", text(end="\r\n"), ACCEPTED, why="such lines are read as others are"),
    Row("csv with comments above", text(change=_comments), ACCEPTED, why="lines above that begin with # are left out"),
    Row("csv whose names begin with #", text(change=lambda x: ["#gene" + x[0], *x[1:]]), ACCEPTED, why=READ),
    Row(
        "csv with empty lines", text(change=lambda lines: [x for line in lines for x in (line, "")]), ACCEPTED, why=READ
    ),
    Row("csv with semicolons", text(separator=";"), ACCEPTED, why="the separator is seen"),
    Row("csv with a word among numbers", text(change=field(3, 7, "many")), "GF202", "no number near line"),
    Row("csv with an empty field", text(change=field(3, 7, "")), "GF204", "missing or infinite"),
    Row("csv with NA", text(change=field(3, 7, "NA")), "GF204", "missing or infinite"),
    Row("csv with a fraction", text(change=field(3, 7, "1.5")), "GF203", "fractional"),
    Row("csv with a line cut short", text(change=lambda x: [*x[:-1], x[-1][:300]]), "GF202", "there are 400 names"),
    Row("csv with a line too long", text(change=lambda x: [*x[:-1], x[-1] + ",3"]), "GF202", "has 401 numbers"),
    Row(
        "csv with more names than numbers",
        text(change=lambda x: [x[0] + ",a,b", *x[1:]]),
        "GF202",
        "names in its first",
    ),
    Row("csv of one line", text(change=lambda lines: lines[:1]), "GF202", "nothing below it"),
    Row("csv of prose", text(change=lambda _lines: ["Dear colleague", "here are the counts"]), "GF202", "is no table"),
    Row(
        "csv without genes", text(change=lambda x: [x[0].replace("ENSG", "row"), *x[1:]]), "GF209", "names human genes"
    ),
    Row("csv in UTF-16", text(change=lambda lines: "\n".join(lines).encode("utf-16")), "GF202"),
    Row("csv of zero bytes", text(change=lambda _lines: bytes(5000)), "GF202"),
    Row("csv empty", text(change=lambda _lines: b""), "GF202", "is empty"),
    Row("csv packed", text("in.csv.gz"), ACCEPTED, why="the plain case, packed"),
    Row("csv that only says it is packed", text("in.csv.gz", lambda _lines: b"x"), "GF202"),
    Row("csv of one endless line, packed", _bomb, "GF202", "a line of more than"),
    Row("tsv", text("in.tsv", separator="\t"), ACCEPTED, why="the plain case"),
    Row("mtx folder", mtx(), ACCEPTED, why="the plain case"),
    Row("mtx of cells by genes", mtx(change=lambda x: [*x[:2], "6 400 1", "2 3 5"]), ACCEPTED, why="sizes tell"),
    Row("mtx of STARsolo's EM", mtx("UniqueAndMult-EM.mtx"), ACCEPTED, why="names beside it"),
    Row("mtx of kallisto", mtx("x.mtx", "x.genes.txt", "x.barcodes.txt"), ACCEPTED, why="names beside it"),
    Row("mtx of GEO", mtx("GSM1_counts.mtx", "GSM1_genes.tsv", "GSM1_barcodes.tsv"), ACCEPTED, why="names beside it"),
    Row(
        "mtx of alevin-fry",
        mtx("quants_mat.mtx", "quants_mat_cols.txt", "quants_mat_rows.txt"),
        ACCEPTED,
        why="names beside it",
    ),
    Row("mtx of the Expression Atlas", mtx("E.mtx", "E.mtx_rows", "E.mtx_cols"), ACCEPTED, why="names beside it"),
    Row("mtx without names of cells", mtx(columns="readme.md"), "GF202", "no barcodes.tsv"),
    Row("mtx without names of genes", mtx(rows="readme.md"), "GF202", "no features.tsv"),
    Row("mtx pattern", mtx(change=lambda x: [x[0].replace("integer", "pattern"), *x[1:]]), "GF202", "pattern"),
    Row("mtx complex", mtx(change=lambda x: [x[0].replace("integer", "complex"), *x[1:]]), "GF202", "complex"),
    Row("mtx symmetric", mtx(change=lambda x: [x[0].replace("general", "symmetric"), *x[1:]]), "GF202", "symmetric"),
    Row("mtx array", mtx(change=lambda x: [x[0].replace("coordinate", "array"), *x[1:]]), "GF202"),
    Row("mtx dimensions of two numbers", mtx(change=_line(0, "400 6")), "GF202"),
    Row("mtx dimensions of words", mtx(change=_line(0, "a b c")), "GF202"),
    Row("mtx dimensions of others", mtx(change=_line(0, lambda x: x.replace("400", "401"))), "GF202", "is 401 x 6"),
    Row("mtx dimensions of 2^70", mtx(change=_line(0, f"{2**70} 6 3")), "GF202"),
    Row("mtx column beyond its size", mtx(change=_line(2, "3 7 5")), "GF202", "cell"),
    Row("mtx row beyond its size", mtx(change=_line(2, "401 2 5")), "GF202", "there are 400 genes"),
    Row("mtx row 0", mtx(change=_line(2, "0 2 5")), "GF202", "-1"),
    Row(
        "mtx of four columns",
        mtx(change=lambda x: [*x[:3], *(f"{line} 1" for line in x[3:])]),
        "GF202",
        "more than three",
    ),
    Row("mtx with a line of four", mtx(change=_line(9, "3 2 5 1")), "GF202"),
    Row("mtx with a word", mtx(change=_line(9, "3 2 x")), "GF202", "as numbers"),
    Row("mtx cut short", mtx(change=lambda lines: lines[:-5]), "GF202", "announces"),
    Row("mtx with a fraction", mtx(change=_line(9, "3 2 0.5")), "GF203", "fractional"),
    Row("mtx without a first line", mtx(change=lambda lines: lines[1:]), "GF202"),
    Row("features with empty lines between", mtx(names="\n\n".join(genes(SOME)) + "\n"), "GF202", "799 features"),
    Row("features with empty lines at the end", mtx(names="\n".join(genes(SOME)) + "\n\n\n"), ACCEPTED, why=READ),
    Row("features of one column", mtx(), ACCEPTED, why="ids are enough"),
    Row("loom", loom(), ACCEPTED, why="the plain case"),
    Row("loom of SCENIC, attributes of records", loom(_compound), ACCEPTED, '"RegulonsAUC" (it holds'),
    Row("loom matrix 1-dimensional", loom(replaced("matrix", lambda v: v[0])), "GF202", "1 dimensions"),
    Row("loom matrix text", loom(replaced("matrix", lambda v: v.astype("S"))), "GF202", "not numbers"),
    Row("loom matrix transposed", loom(replaced("matrix", lambda v: v.T)), "GF202"),
    Row("loom matrix a group", loom(_group_for("matrix")), "GF202", "no array"),
    Row("loom row_attrs an array", loom(replaced("row_attrs", np.zeros(3))), "GF202", "no group of attributes"),
    Row("loom attribute a group", loom(_group_for("col_attrs/odd")), ACCEPTED, '"odd" (it is a group'),
    Row(
        "loom attribute of two dimensions",
        loom(lambda f: f["col_attrs"].__setitem__("e", np.zeros((6, 2)))),
        ACCEPTED,
        '"e" (it has 2',
    ),
    Row(
        "loom attribute too short",
        loom(lambda f: f["col_attrs"].__setitem__("e", np.zeros(5))),
        "GF202",
        "has 5 entries",
    ),
    Row("loom layer a group", loom(_group_for("layers/odd")), ACCEPTED, why="it is not the layer that is read"),
    Row(
        "loom linked to another file",
        loom(lambda f: (f.__delitem__("matrix"), f.__setitem__("matrix", h5py.ExternalLink("x.h5", "/m")))),
        "GF202",
        "link to another file",
    ),
    Row("10x", tenx(), ACCEPTED, why="the plain case"),
    Row("10x shape lies", tenx(replaced("shape", np.array([SOME, 80]))), "GF202", "80 are expected"),
    Row("10x shape lies about genes", tenx(replaced("shape", np.array([SOME + 3, 6]))), "GF202", "403 are expected"),
    Row("10x shape scalar", tenx(replaced("shape", 3)), "GF202", "dimensions"),
    Row("10x shape negative", tenx(replaced("shape", np.array([-3, 6]))), "GF202", "not two whole numbers"),
    Row("10x shape of three", tenx(replaced("shape", np.array([SOME, 6, 1]))), "GF202", "not two whole numbers"),
    Row("10x features without ids", tenx(gone("features/id")), "GF202", "has no id"),
    Row("10x features fewer than shape", tenx(replaced("features/id", lambda v: v[:100])), "GF202", "id has 100"),
    Row("10x barcodes missing half", tenx(replaced("barcodes", lambda v: v[:3])), "GF202", "barcodes has 3"),
    Row("10x indices out of range", tenx(replaced("indices", lambda v: v + 5)), "GF202", "there are 400 columns"),
    Row("10x indptr falls", tenx(replaced("indptr", lambda v: v[::-1])), "GF202"),
    Row("10x data shorter", tenx(replaced("data", lambda v: v[:-2])), "GF202", "indices and"),
    Row("MuData", _mudata, "GF209", "mod/rna"),
    Row("HDF5 of something else", lambda folder: h5py.File(folder / "in.h5", "w").close() or "in.h5", "GF209"),
    Row(
        "AnnData of 2018", _old_anndata([0, 1] * 10), ACCEPTED, why="categories get their names, as AnnData reads them"
    ),
    Row("AnnData of 2018 with a code beyond", _old_anndata([0, 7] * 10), "GF202"),
    Row("zarr 3", zarr(), ACCEPTED, why="the plain case"),
    Row("zarr 2", zarr(version=2), ACCEPTED, why="the plain case"),
    Row("zarr: piece of data missing", zarr(lost("X/data")), "GF202", "is incomplete"),
    Row("zarr: piece of indices missing", zarr(lost("X/indices")), "GF202", "is incomplete"),
    Row("zarr: piece of indptr missing", zarr(lost("X/indptr")), "GF202", "is incomplete"),
    Row("zarr 2: piece of data missing", zarr(lost("X/data"), version=2), "GF202", "is incomplete"),
    Row("zarr: piece of names missing", zarr(lost("obs/_index")), "GF202", "is incomplete"),
    Row("zarr: piece of a dense matrix missing", zarr(lost("X"), dense=True), "GF205"),
    Row("zarr: piece cut", zarr(_cut), "GF202"),
    Row("zarr: piece linked to outside", zarr(_linked), "GF202", "link to something outside"),
    Row("zarr: table linked to outside", zarr(_linked_folder), "GF202", "link to something outside"),
    Row("zarr: shape of data lies", zarr(_metadata("X/data/zarr.json", shape=[10])), "GF202"),
    Row("zarr: shape of data 2^60", zarr(_metadata("X/data/zarr.json", shape=[2**60])), "GF202"),
    Row("zarr: metadata of X deep", zarr(_deep), "GF202"),
    Row("zarr: metadata of X text", zarr(lambda store: (store / "X" / "zarr.json").write_text("x")), "GF202"),
    Row("zarr 2: data with pickles", zarr(_pickled("X/data"), version=2), "GF601", "runs whatever code"),
    Row("zarr 2: column with pickles", zarr(_pickled("obs/score"), version=2), "GF601", "runs whatever code"),
    Row("zarr of SpatialData", _spatial, "GF209", "tables/table"),
    Row("zarr empty", lambda folder: (folder / "in.zarr").mkdir() or "in.zarr", "GF202"),
]
