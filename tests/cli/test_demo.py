"""The bundled cells, and the whole demo on some of them with an untrained model."""

import json
from dataclasses import asdict

import anndata as ad
import numpy as np
import pytest
import torch
from transformers import BertConfig
from typer.testing import CliRunner

from geneformer import cli, keys
from geneformer.cli import _demo as measuring
from geneformer.cli._demo import FILES, measured, run_demo
from geneformer.datasets import pbmc3k, pbmc3k_path
from geneformer.errors import OutputExistsError
from geneformer.genes.vocabulary import Vocabulary
from geneformer.inference.quality import Accuracy, save_random_weights
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.loading import read_weights, save_checkpoint
from geneformer.options import RuntimeOptions
from geneformer.tokens.storage import read_dataset

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    vocabulary = Vocabulary.load("V1")
    config = BertConfig(
        vocab_size=vocabulary.size,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        hidden_act="relu",
    )
    config.geneformer_vocabulary = vocabulary.fingerprint
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(GeneformerForMaskedLM(config), folder)
    return folder


def test_the_bundled_cells_are_complete():
    assert pbmc3k_path().stat().st_size < 3_000_000
    assert "CC BY 4.0" in (pbmc3k_path().parent / "README.md").read_text()
    adata = pbmc3k()
    assert adata.shape == (2700, 32738)
    assert adata.X.nnz == 2_286_884
    assert adata.X.sum() == 6_390_631
    assert adata.var_names.is_unique
    assert adata.var[keys.ENSEMBL_ID].is_unique
    assert adata.var.loc["MS4A1", keys.ENSEMBL_ID] == "ENSG00000156738"
    assert adata.obs["cell_type"].value_counts()["CD4 T cells"] == 1144
    b_cells = (adata.obs["cell_type"] == "B cells").to_numpy()
    marker = np.asarray(adata[:, "MS4A1"].X.todense()).ravel() > 0
    assert marker[b_cells].mean() > 10 * marker[~b_cells].mean()


def test_random_weights_have_the_same_shape_and_a_seed(tiny, tmp_path):
    state = torch.get_rng_state()
    first, again, other = (
        read_weights(save_random_weights(tiny, tmp_path / name, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert torch.equal(state, torch.get_rng_state())
    assert {n: v.shape for n, v in first.items()} == {n: v.shape for n, v in read_weights(tiny).items()}
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(first[word], again[word])
    assert not torch.equal(first[word], other[word])


def test_steps_are_measured(monkeypatch, tmp_path):
    steps, reported = [], []
    with measured("fill memory", steps=steps, report=reported.append):
        held = bytearray(80 * 2**20)
    assert reported == steps
    assert steps[0].seconds > 0
    assert steps[0].peak_bytes > len(held)
    assert str(steps[0]).endswith("MiB")
    monkeypatch.setattr(measuring, "STATUS", tmp_path / "status")
    monkeypatch.setattr(measuring, "RESET", tmp_path / "nowhere" / "clear")
    with measured("where the system says less", steps=steps):
        pass
    assert steps[1].peak_bytes > len(held)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")
def test_the_demo_goes_all_the_way(tiny, tmp_path):
    runtime = RuntimeOptions(device="cpu", dtype="float32", progress=False)
    reported = []
    report = run_demo(tmp_path / "out", model=tiny, runtime=runtime, n_cells=200, report_step=reported.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FILES, "geneformer_manifest.json"}
    assert [asdict(step) for step in reported] == report["steps"]
    for picture in ("umap.png", "heatmap.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")

    adata = ad.read_h5ad(tmp_path / "out" / "pbmc3k_geneformer.h5ad")
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert adata.obs["cell_type"].dtype == "category"
    assert (adata.X.data == adata.X.data.round()).all()
    assert {name: values.shape[1] for name, values in adata.obsm.items()} == {
        "X_geneformer": 8,
        "X_umap": 2,
        "X_pca": 50,
    }
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in adata.obsm.values())
    assert len(adata.uns["cell_type_colors"]) == len(adata.obs["cell_type"].cat.categories)
    assert read_dataset(tmp_path / "out" / "pbmc3k.dataset").cell_ids.tolist() == adata.obs_names.tolist()

    content = json.loads((tmp_path / "out" / "report.json").read_text())
    names = [row["name"] for row in content["quality"]]
    assert names == ["Geneformer tiny", "random weights, same shape", "PCA(50) of variable genes"]
    components = content["quality"][2]["as_given"]
    assert components["knn"]["mean"] > components["commonest"] + 0.2
    assert content == json.loads(json.dumps(report))
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith("# 200 blood cells through Geneformer")
    assert "pretrained on" not in text
    assert all(str(Accuracy(**row["as_given"]["knn"])) in text for row in content["quality"])


def test_the_command_refuses_a_folder_that_is_there(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError):
        run_demo(tmp_path / "out", model=tiny)
    found = CliRunner().invoke(cli.app, ["demo", "-o", str(tmp_path / "out"), "--model", str(tiny)])
    assert found.exit_code == 1
    assert "GF401" in found.output
