"""One small input of every format the package reads, and the door it is read by."""

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
from safetensors.numpy import save_file

import geneformer as gf
from gallery.model_folders import config, shapes
from geneformer.files.pickles import read_pickle
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.loading import load_model
from geneformer.options import TokenizeOptions
from geneformer.perturbation.effects import PerturbationEffects
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.tokens.storage import read_dataset, write_dataset
from tokenization.conftest import IDS, make_vocabulary

WRITTEN = Path(__file__).parents[1] / "data" / "written_before"
TOY = make_vocabulary()
GENES = IDS.astype(str)


@dataclass(frozen=True)
class Format:
    """How an input is written into an empty folder, and read from it."""

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    is_hdf5: bool = False


def cells() -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (6, len(GENES))).astype(np.float32)
    kinds = {"kind": pd.Categorical(list("ababab")), "score": np.arange(6.0)}
    obs = pd.DataFrame(kinds, index=[f"c{number}" for number in range(6)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame({"ensembl_id": GENES}, index=GENES))


def write_tenx(folder: Path) -> None:
    adata = cells()
    matrix = sp.csc_matrix(adata.X.T)
    with h5py.File(folder / "in.h5", "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        group["data"], group["indices"] = matrix.data.astype(int), matrix.indices
        group["indptr"], group["shape"] = matrix.indptr, matrix.shape
        features = group.create_group("features")
        features["id"] = features["name"] = GENES.astype("S")
        features["feature_type"] = np.full(len(GENES), b"Gene Expression")
        features["genome"] = np.full(len(GENES), b"GRCh38")


def write_loom(folder: Path) -> None:
    adata = cells()
    with h5py.File(folder / "in.loom", "w") as file:
        file["matrix"] = adata.X.T.toarray()
        file["row_attrs/ensembl_id"] = GENES.astype("S")
        file["col_attrs/CellID"] = adata.obs_names.to_numpy().astype("S")
        file.create_group("layers")


def write_mtx(folder: Path) -> None:
    adata, place = cells(), folder / "in"
    place.mkdir()
    scipy.io.mmwrite(str(place / "matrix.mtx"), sp.csc_matrix(adata.X.T).astype(int))
    (place / "barcodes.tsv").write_text("".join(f"{name}\n" for name in adata.obs_names))
    with gzip.open(place / "features.tsv.gz", "wt") as file:
        file.write("".join(f"{gene}\t{gene}\tGene Expression\n" for gene in GENES))


def write_tokens(folder: Path) -> None:
    write_dataset(tokenize_counts(cells(), TokenizeOptions(), vocabulary=TOY)[0], folder / "in.dataset")


def write_model(folder: Path) -> None:
    place = folder / "in"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(config()))
    weights = {name: np.zeros(shape, np.float16) for name, shape in shapes().items()}
    save_file(weights, place / "model.safetensors")


def write_pickle(folder: Path) -> None:
    content = {"a": 1, "b": [1.5, "x"], "c": np.arange(4), "d": {2, 3}}
    (folder / "in.pkl").write_bytes(pickle.dumps(content, protocol=4))


def copied(name: str) -> Callable[[Path], Any]:
    return lambda folder: shutil.copytree(WRITTEN / name, folder / "in")


def counts(name: str) -> Callable[[Path], Any]:
    return lambda folder: tokenize_counts([folder / name], TokenizeOptions(), vocabulary=TOY)


def read_run(folder: Path) -> Any:
    return PerturbationEffects.read(folder / "in").to_frame()


FORMATS = {
    "h5ad": Format(lambda folder: cells().write_h5ad(folder / "in.h5ad"), counts("in.h5ad"), is_hdf5=True),
    "10x h5": Format(write_tenx, counts("in.h5"), is_hdf5=True),
    "loom": Format(write_loom, counts("in.loom"), is_hdf5=True),
    "zarr": Format(lambda folder: cells().write_zarr(folder / "in.zarr"), counts("in.zarr")),
    "mtx": Format(write_mtx, counts("in")),
    "csv": Format(lambda folder: cells().to_df().to_csv(folder / "in.csv"), counts("in.csv")),
    "tsv.gz": Format(lambda folder: cells().to_df().to_csv(folder / "in.tsv.gz", sep="\t"), counts("in.tsv.gz")),
    "dataset": Format(write_tokens, lambda folder: list(read_dataset(folder / "in.dataset"))),
    "vocabulary": Format(lambda folder: TOY.save(folder / "in"), lambda folder: Vocabulary.load(folder / "in").symbols),
    "pickle": Format(write_pickle, lambda folder: read_pickle(folder / "in.pkl")),
    "model": Format(write_model, lambda folder: load_model(folder / "in", vocabulary="V1")),
    "classifier": Format(copied("cell_classifier"), lambda folder: repr(gf.load_classifier(folder / "in"))),
    "perturbation": Format(copied("perturbation"), read_run),
}
