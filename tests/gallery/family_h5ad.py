"""`.h5ad` files whose parts contradict each other, lie about themselves, or lead outside."""

from pathlib import Path

import h5py
import numpy as np

from gallery.inputs import N_CELLS, N_GENES, attribute, cells, edited, h5ad, put
from gallery.rows import ACCEPTED, Row


def _shape(*shape):
    return edited(attribute("X", "shape", np.array(shape)))


def _part(name, value, **kind):
    return edited(put(f"X/{name}", value, **kind))


def _set(place, number):
    def change(values):
        values = values.astype(np.int64)
        values[place] = number
        return values

    return change


def _dense(change):
    def dense(adata):
        adata.X = adata.X.toarray()

    return edited(put("X", change), h5ad(dense))


def _gone(name):
    def edit(file):
        del file[name]

    return edited(edit)


def _then(*edits):
    def edit(file):
        for one in edits:
            one(file)

    return edited(edit)


def _lying_header(file):
    del file["X"]
    file.create_dataset("X", shape=(2**40, 32738), dtype="f4", chunks=(100, 100))
    file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _null(file):
    del file["X"]
    file["X"] = h5py.Empty("f4")


def _plain_column(file):
    file["obs/score"][...] = 0


def _codes(number):
    def edit(file):
        file["obs/cell_type/codes"][3] = number

    return edit


def _external(file):
    del file["X"]
    file["X"] = h5py.ExternalLink("other.h5ad", "/X")


def _external_table(file):
    file.move("var", "here")
    file["var"] = h5py.ExternalLink("other.h5ad", "/var")


def _soft_to_external(file):
    _external(file)
    file.move("X", "there")
    file["X"] = h5py.SoftLink("/there")


def _with_other(edit):
    start = edited(edit)

    def make(folder):
        cells().write_h5ad(folder / "other.h5ad")
        return start(folder)

    return make


def _soft_loop(file):
    del file["X"]
    file["X"] = h5py.SoftLink("/X")


def _dangling(file):
    del file["X"]
    file["X"] = h5py.SoftLink("/nowhere")


def _raw_storage(file):
    del file["X/data"]
    file["X"].create_dataset("data", shape=(20,), dtype="f4", external=[("/etc/passwd", 0, 80)])


def _virtual(folder):
    path = h5ad()(folder)
    cells().write_h5ad(folder / "other.h5ad")
    with h5py.File(path, "r+") as file:
        n = len(file["X/data"])
        del file["X/data"]
        layout = h5py.VirtualLayout((n,), "f4")
        layout[:] = h5py.VirtualSource("other.h5ad", "X/data", (n,))
        file["X"].create_virtual_dataset("data", layout)
    return path


def _half_download(folder):
    path = h5ad()(folder)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    return path


def _cut(folder):
    path = h5ad()(folder)
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def _missing_pieces(file):
    n = len(file["X/indices"])
    values = file["X/indices"][: n // 2]
    del file["X/indices"]
    file["X"].create_dataset("indices", shape=(n,), chunks=(n // 4,), dtype="i4", compression="gzip")
    file["X/indices"][: n // 4] = values[: n // 4]


def _column_order(value):
    def edit(file):
        del file["obs"].attrs["column-order"]
        if value is not None:
            file["obs"].attrs["column-order"] = value

    return edited(edit)


def _references(file):
    file["obs"].create_dataset("score2", data=[file["X"].ref] * N_CELLS, dtype=h5py.ref_dtype)
    file["obs"].attrs["column-order"] = ["cell_type", "score", "score2"]


def _nullable_names(folder):
    import anndata as ad

    ad.settings.allow_write_nullable_strings = True
    adata = cells()
    adata.obs.index = adata.obs.index.astype("string")
    adata.var.index = adata.var.index.astype("string")
    adata.write_h5ad(folder / "in.h5ad")
    return Path("in.h5ad")


def _floats(file):
    for name in ("X/indices", "X/indptr"):
        put(name, lambda values: values.astype(float))(file)


WHOLE = "all that is needed is there: row names and columns are named, their lengths agree"

ROWS = [
    Row("X shape lies: more cells", _shape(N_CELLS + 50, N_GENES), "GF202", "indptr has 21 entries where 71"),
    Row("X shape lies: fewer cells", _shape(N_CELLS - 1, N_GENES), "GF202", "where 20 are expected"),
    Row("X shape lies: fewer genes", _shape(N_CELLS, N_GENES - 3), "GF202", "but there are 20 names of cells"),
    Row("X shape lies: more genes", _shape(N_CELLS, N_GENES + 3), "GF202", "X is 20 x 3,003"),
    Row("X shape lies: one gene", _shape(N_CELLS, 1), "GF202", "X is 20 x 1,"),
    Row("X shape lies: 2^40 cells", _shape(2**40, N_GENES), "GF202"),
    Row("X shape lies: 2^40 genes", _shape(N_CELLS, 2**40), "GF202"),
    Row("X shape swapped", _shape(N_GENES, N_CELLS), "GF202"),
    Row("X shape negative", _shape(-N_CELLS, N_GENES), "GF202", "not two whole numbers"),
    Row("X shape is text", edited(attribute("X", "shape", "a lot")), "GF202", "not two whole numbers"),
    Row("X shape of one number", _shape(N_CELLS), "GF202", "not two whole numbers"),
    Row("X shape fractional", _shape(N_CELLS + 0.5, N_GENES), "GF202", "not two whole numbers"),
    Row("X shape missing", edited(attribute("X", "shape", None)), "GF202", "not two whole numbers"),
    Row("X says csc but is csr", edited(attribute("X", "encoding-type", "csc_matrix")), "GF202", "3,001 are expected"),
    Row("X of an unknown kind", edited(attribute("X", "encoding-type", "coo_matrix")), "GF202", "coo_matrix"),
    Row("X without kind", edited(attribute("X", "encoding-type", None)), "GF202"),
    Row("data missing", _gone("X/data"), "GF202", "/X has no data"),
    Row("indices missing", _gone("X/indices"), "GF202", "/X has no indices"),
    Row("indptr missing", _gone("X/indptr"), "GF202", "/X has no indptr"),
    Row("indptr does not start at 0", _part("indptr", _set(0, 5)), "GF202", "does not rise from 0"),
    Row("indptr negative", _part("indptr", _set(3, -7)), "GF202", "does not rise from 0"),
    Row("indptr falls", _part("indptr", _set(3, 1)), "GF202", "does not rise from 0"),
    Row("indptr last too big", _part("indptr", _set(-1, 10**6)), "GF202", "ends at 1,000,000"),
    Row("indptr last too small", _part("indptr", _set(-1, 10)), "GF202", "ends at 10"),
    Row("indptr last 2^60", _part("indptr", _set(-1, 2**60)), "GF202"),
    Row("indptr one too short", _part("indptr", lambda v: v[:-1]), "GF202", "21 are expected"),
    Row("indptr one too long", _part("indptr", lambda v: np.append(v, v[-1])), "GF202", "21 are expected"),
    Row("indptr NaN", _part("indptr", lambda v: np.full(len(v), np.nan)), "GF202", "not whole"),
    Row("indptr empty", _part("indptr", np.empty(0, np.int32)), "GF202"),
    Row("indptr two-dimensional", _part("indptr", lambda v: v[:, None]), "GF202", "2 dimensions"),
    Row("indptr text", _part("indptr", lambda v: v.astype("S")), "GF202", "not numbers"),
    Row("column index -1", _part("indices", _set(4, -1)), "GF202", "names column -1"),
    Row("column index -5", _part("indices", _set(40, -5)), "GF202", "names column -5"),
    Row("column index = n_genes", _part("indices", _set(4, N_GENES)), "GF202", "names column 3,000"),
    Row("column index 2^31+5", _part("indices", _set(4, 2**31 + 5)), "GF202"),
    Row("column index 2^32+5", _part("indices", _set(4, 2**32 + 5)), "GF202"),
    Row("column index 2^64-1", _part("indices", lambda v: v.astype("u8") - np.uint64(2**40)), "GF202"),
    Row("column index 1.5", _part("indices", lambda v: v + 0.5), "GF202", "not whole"),
    Row("indices and indptr floats", edited(_floats), ACCEPTED, why="the numbers are whole, and AnnData reads them"),
    Row("indices shorter than data", _part("indices", lambda v: v[:-4]), "GF202", "indices and"),
    Row("indices longer than data", _part("indices", lambda v: np.append(v, [1, 2])), "GF202", "indices and"),
    Row("indices with pieces missing", edited(_missing_pieces), "GF202", "are missing and would be read as zeros"),
    Row("data never written", _part("data", None, shape=(5,), dtype="f4", chunks=(5,)), "GF202"),
    Row("data text", _part("data", lambda v: v.astype("S")), "GF202", "not numbers"),
    Row("data complex", _part("data", lambda v: v.astype("c8")), "GF202", "complex64, not numbers"),
    Row("data 1e30", _part("data", lambda v: v * 1e30), "GF203", "1e+30"),
    Row("data two-dimensional", _part("data", lambda v: v[:, None]), "GF202", "2 dimensions"),
    Row("data records", _part("data", lambda v: v.astype([("a", "f4")])), "GF202", "not numbers"),
    Row("X a string dataset", edited(put("X", b"x")), "GF202"),
    Row("X dense text", _dense(lambda v: v.astype("S")), "GF202", "not numbers"),
    Row("X dense complex", _dense(lambda v: v.astype("c8")), "GF202", "not numbers"),
    Row("X dense 1-dimensional", _dense(lambda v: v[0]), "GF202", "1 dimensions"),
    Row("X dense 3-dimensional", _dense(lambda v: v[:, :, None]), "GF202", "3 dimensions"),
    Row("X dense transposed", _dense(lambda v: v.T), "GF202", "X is 3,000 x 20"),
    Row("X dense one cell short", _dense(lambda v: v[1:]), "GF202", "X is 19 x 3,000"),
    Row("X dense declares 2^40 cells", edited(_lying_header), "GF202"),
    Row("X null dataspace", edited(_null), "GF202", "is no array"),
    Row("X is obs", edited(lambda file: file.move("X", "Y") or file.__setitem__("X", file["obs"])), "GF202"),
    Row("X absent", _gone("X"), "GF208", "has no X"),
    Row("obs absent", _gone("obs"), "GF209"),
    Row("var is a number", edited(put("var", 3)), "GF202"),
    Row("obs _index points nowhere", edited(attribute("obs", "_index", "nope")), "GF202", "has no nope"),
    Row("obs without _index", edited(attribute("obs", "_index", None)), "GF202", "no attribute _index"),
    Row("obs encoding-type missing", edited(attribute("obs", "encoding-type", None)), ACCEPTED, why=WHOLE),
    Row("obs encoding-version missing", edited(attribute("obs", "encoding-version", None)), ACCEPTED, why=WHOLE),
    Row("obs encoding-version of the future", edited(attribute("obs", "encoding-version", "9.9.9")), "GF202"),
    Row(
        "obs column-order names a missing column",
        _column_order(["cell_type", "score", "ghost"]),
        "GF202",
        "has no ghost",
    ),
    Row("obs column-order missing", _column_order(None), ACCEPTED, why="the order of columns decides nothing"),
    Row("obs column-order null", _column_order(h5py.Empty("f8")), ACCEPTED, why="SeuratDisk writes it so"),
    Row("obs column-order scalar", _column_order("score"), ACCEPTED, why="R writes a list of one so"),
    Row("obs index longer than X", edited(put("obs/_index", lambda v: np.append(v, [b"x"]))), "GF202"),
    Row("obs index shorter than X", edited(put("obs/_index", lambda v: v[:-1])), "GF202"),
    Row("obs index two-dimensional", edited(put("obs/_index", lambda v: v[:, None])), "GF202", "2 dimensions"),
    Row("obs column shorter than index", edited(put("obs/score", lambda v: v[:-1])), "GF202", "/obs/score has 19"),
    Row("var column shorter than index", edited(put("var/length", lambda v: v[:-9])), "GF202", "/var/length has 2,991"),
    Row("categorical without categories", _gone("obs/cell_type/categories"), "GF202", "has no categories"),
    Row("categorical without codes", _gone("obs/cell_type/codes"), "GF202", "has no codes"),
    Row("categorical code beyond categories", edited(_codes(7)), "GF202", "codes from 0 to 7 for 2 categories"),
    Row("categorical code -2", edited(_codes(-2)), "GF202", "codes from -2"),
    Row("categorical codes too few", edited(put("obs/cell_type/codes", lambda v: v[:4])), "GF202", "codes has 4"),
    Row("categorical codes fractional", edited(put("obs/cell_type/codes", lambda v: v + 0.5)), "GF202"),
    Row("obs column complex", edited(put("obs/score", lambda v: v.astype("c16"))), ACCEPTED, '"score" (it holds comp'),
    Row("obs column 2-dimensional", edited(put("obs/score", lambda v: v[:, None])), ACCEPTED, "it has 2 dimensions"),
    Row("obs column of records", edited(put("obs/score", lambda v: v.astype([("a", "f4")]))), ACCEPTED, '"score" (it'),
    Row("obs column of references", edited(_references), ACCEPTED, '"score2" (it holds object)'),
    Row(
        "obs column a group of an unknown kind",
        _then(lambda file: file.__delitem__("obs/score"), lambda file: file["obs"].create_group("score")),
        ACCEPTED,
        '"score" (it is a group',
    ),
    Row("names of cells and genes nullable strings", _nullable_names, ACCEPTED, why="new AnnData writes them so"),
    Row("X is a link to another file", _with_other(_external), "GF202", "link to another file"),
    Row("X is a link to a file that is not there", edited(_external), "GF202", "link to another file"),
    Row("X is a link to a link to another file", _with_other(_soft_to_external), "GF202", "link to another file"),
    Row("var is a link to another file", _with_other(_external_table), "GF202", "link to another file"),
    Row("X soft link loop", edited(_soft_loop), "GF202"),
    Row("X soft link to nowhere", edited(_dangling), "GF202"),
    Row("data stored in /etc/passwd", edited(_raw_storage), "GF202"),
    Row("data virtual, in another file", _virtual, "GF202", "in another file"),
    Row("half a download in a file of full size", _half_download, "GF202"),
    Row("end cut off", _cut, "GF202", "is incomplete"),
]
