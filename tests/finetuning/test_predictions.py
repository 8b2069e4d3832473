"""Files of predictions: every cell with its class and all probabilities, whatever classes and columns are called."""

import json

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from geneformer.errors import OutputExistsError, UnsupportedFormatError
from geneformer.finetuning.predictions import class_slots, save_cells

NAMES = ["c3", "c1", "c2", "c9"]
CLASSES = ("T/NK", "B cell", "probability B cell")
PROBA = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [np.nan] * 3, [0.3, 0.3, 0.4]])
PREDICTED = np.array(["T/NK", "B cell", "unknown", "probability B cell"], dtype=object)
PROVENANCE = {"model": "tiny", "vocabulary": "V1"}


def save(path, label="cell_type", *, overwrite=False, **columns):
    table = pa.table({"cell_id": NAMES, "donor": ["a", "a", "b", "b"], **columns})
    predictions = {"label": label, "classes": CLASSES, "predicted": PREDICTED, "proba": PROBA}
    save_cells(table, class_slots(**predictions, provenance=PROVENANCE), path, PROVENANCE, overwrite=overwrite)


def check_frame(frame):
    assert list(frame["cell_id"]) == NAMES
    assert list(frame["geneformer_cell_type"]) == PREDICTED.tolist()
    assert np.allclose(frame["geneformer_cell_type_probability"], [0.7, 0.8, np.nan, 0.4], equal_nan=True)
    assert np.allclose(frame[[f"probability {name}" for name in CLASSES]], PROBA, equal_nan=True)
    assert list(frame["donor"]) == ["a", "a", "b", "b"]


def test_csv(tmp_path):
    save(tmp_path / "out.csv")
    check_frame(pd.read_csv(tmp_path / "out.csv"))


def test_parquet(tmp_path):
    save(tmp_path / "out.parquet")
    check_frame(pd.read_parquet(tmp_path / "out.parquet"))
    noted = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"geneformer"])
    assert noted["model"] == "tiny"


def test_h5ad(tmp_path):
    save(tmp_path / "out.h5ad")
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(found.obs_names) == NAMES
    assert list(found.obs["geneformer_cell_type"]) == PREDICTED.tolist()
    assert np.allclose(found.obs["geneformer_cell_type_probability"], [0.7, 0.8, np.nan, 0.4], equal_nan=True)
    proba = found.obsm["geneformer_cell_type_proba"]
    assert list(proba.columns) == ["T|NK", *CLASSES[1:]]
    assert np.allclose(proba, PROBA, equal_nan=True)
    provenance = found.uns["geneformer"]["geneformer_cell_type"]
    assert (list(provenance["classes"]), provenance["vocabulary"]) == (list(CLASSES), "V1")


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet", ".csv"])
def test_predictions_take_the_place_of_older_ones(tmp_path, suffix):
    older = {
        "geneformer_cell_type": ["x"] * 4,
        "geneformer_cell_type_probability": [0.5] * 4,
        "probability T/NK": [0.0] * 4,
    }
    path = tmp_path / f"out{suffix}"
    save(path, **older)
    if suffix == ".h5ad":
        frame = anndata.read_h5ad(path).obs
    else:
        frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
        check_frame(frame)
        assert sum(name.startswith("probability T/NK") for name in frame.columns) == 1
    assert sum(name.startswith("geneformer_cell_type") for name in frame.columns) == 2
    assert list(frame["geneformer_cell_type"]) == PREDICTED.tolist()


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("suffix", [".h5ad", ".parquet", ".csv"])
def test_any_name_of_a_column_can_be_predicted(tmp_path, suffix):
    save(tmp_path / f"out{suffix}", "cell/type")
    assert (tmp_path / f"out{suffix}").stat().st_size > 0


def test_slots_of_adata():
    adata = anndata.AnnData(obs=pd.DataFrame(index=NAMES))
    adata.uns["geneformer"] = {"X_geneformer": {"model": "mini"}}
    arguments = {"label": "cell_type", "classes": CLASSES, "predicted": PREDICTED, "proba": PROBA}
    class_slots(provenance=PROVENANCE, **arguments).into(adata)
    class_slots(provenance=PROVENANCE, key_added="mine", **arguments).into(adata)
    for key in ("geneformer_cell_type", "mine"):
        assert list(adata.obs[key]) == PREDICTED.tolist()
        assert list(adata.obs[key].cat.categories) == [*CLASSES, "unknown"]
        assert adata.obsm[f"{key}_proba"].index.tolist() == NAMES
        assert adata.uns["geneformer"][key]["classes"] == list(CLASSES)
    assert adata.uns["geneformer"]["X_geneformer"] == {"model": "mini"}


def test_nothing_is_overwritten_unasked_or_written_elsewhere(tmp_path):
    save(tmp_path / "out.csv")
    with pytest.raises(OutputExistsError):
        save(tmp_path / "out.csv")
    save(tmp_path / "out.csv", overwrite=True)
    with pytest.raises(UnsupportedFormatError, match=r"\.h5ad, \.parquet, \.csv"):
        save(tmp_path / "out.xlsx")
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
