"""Embeddings under the published names: the published numbers, tables, files and figures, and what was wrong there."""

import inspect
import logging
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

import geneformer
from geneformer import EmbExtractor, Vocabulary, get_embs
from geneformer.compat import embedding_plots
from geneformer.compat.emb_extractor import label_cell_embs, label_gene_embs
from geneformer.errors import (
    CheckpointError,
    DatasetError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    PairingError,
    UnknownChoiceError,
    UnknownModelError,
    UnknownVocabularyError,
    UnsafeFileError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.models.finetuned import build_network, save_network
from geneformer.models.heads import GeneformerForCells
from geneformer.models.loading import load_model
from geneformer.options import FinetuneOptions
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import write_dataset
from golden import GOLDEN, golden_table, save_tiny_checkpoint, tiny_config, tiny_model

pytestmark = pytest.mark.contract

CLOSE = {"atol": 1e-5, "rtol": 0}
N = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Checkpoints and cells of both versions."""
    folder = tmp_path_factory.mktemp("published")
    for version in ("V1", "V2"):
        save_tiny_checkpoint(version, folder / version)
        all_cells = TokenizedDataset(pq.read_table(GOLDEN / f"perturbed_tokens_{version}.parquet"))
        write_dataset(all_cells, folder / f"{version}.dataset")
        write_dataset(short(version), folder / f"{version}_short.dataset")
    return folder


def short(version, special=True):
    """Twelve cells of few genes: of different lengths, with labels."""
    rng = np.random.default_rng(1)
    genes = [rng.choice(np.arange(4, 600), 10 + row % 5, replace=False).tolist() for row in range(N)]
    rows = [[2, *row, 3] for row in genes] if version == "V2" and special else genes
    columns = {
        "input_ids": pa.array(rows, pa.list_(pa.int32())),
        "length": [len(row) for row in rows],
        "kind": ["a", "b", "c"] * 4,
        "group": [1, 2] * 6,
        "age": np.linspace(20, 75, N),
        "cell_id": [f"cell {row}" for row in range(N)],
    }
    return TokenizedDataset(pa.table(columns))


def extract(home, version="V1", cells=None, to=None, **options):
    """What `extract_embs` returns, of the short cells."""
    call = {name: options.pop(name) for name in ("output_torch_embs", "cell_state") if name in options}
    options = {"model_version": version, "emb_mode": "cell", **options}
    cells = home / f"{version}_short.dataset" if cells is None else cells
    return EmbExtractor(**options).extract_embs(home / version, cells, to or home / "out", "embs", **call)


def numbers(frame):
    return frame[[column for column in frame.columns if str(column).isdecimal()]].to_numpy()


CONSTRUCTOR = [
    ("model_type", "Pretrained"),
    ("num_classes", 0),
    ("emb_mode", "cls"),
    ("cell_emb_style", "mean_pool"),
    ("gene_emb_style", "mean_pool"),
    ("filter_data", None),
    ("max_ncells", 1000),
    ("emb_layer", -1),
    ("emb_label", None),
    ("labels_to_plot", None),
    ("forward_batch_size", 100),
    ("nproc", 4),
    ("summary_stat", None),
    ("save_tdigest", False),
    ("model_version", "V2"),
    ("token_dictionary_file", None),
    ("filter_data_dict", None),
]
NEEDED = inspect.Parameter.empty
PLACES = [(name, NEEDED) for name in ("model_directory", "input_data_file", "output_directory", "output_prefix")]
SIGNATURES = {
    EmbExtractor: CONSTRUCTOR,
    EmbExtractor.extract_embs: [("self", NEEDED), *PLACES, ("output_torch_embs", False), ("cell_state", None)],
    EmbExtractor.get_state_embs: [
        ("self", NEEDED),
        ("cell_states_to_model", NEEDED),
        *PLACES,
        ("output_torch_embs", True),
    ],
    EmbExtractor.plot_embs: [
        ("self", NEEDED),
        *[(name, NEEDED) for name in ("embs", "plot_style", "output_directory", "output_prefix")],
        ("max_ncells_to_plot", 1000),
        ("kwargs_dict", None),
    ],
    label_cell_embs: [("embs", NEEDED), ("downsampled_data", NEEDED), ("emb_labels", NEEDED)],
    label_gene_embs: [
        ("embs", NEEDED),
        ("downsampled_data", NEEDED),
        ("token_gene_dict", NEEDED),
        ("gene_emb_style", "mean_pool"),
    ],
    get_embs: [
        ("model", NEEDED),
        ("filtered_input_data", NEEDED),
        ("emb_mode", NEEDED),
        ("layer_to_quant", NEEDED),
        ("pad_token_id", NEEDED),
        ("forward_batch_size", NEEDED),
        ("token_gene_dict", NEEDED),
        ("special_token", False),
        ("summary_stat", None),
        ("silent", False),
        ("save_tdigest", False),
        ("tdigest_path", None),
    ],
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_arguments_are_the_published_ones(function):
    parameters = inspect.signature(function).parameters.values()
    assert [(parameter.name, parameter.default) for parameter in parameters] == SIGNATURES[function]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_the_published_paths():
    from geneformer.emb_extractor import EmbExtractor as by_path

    assert by_path is geneformer.EmbExtractor is geneformer.emb_extractor.EmbExtractor
    assert geneformer.emb_extractor.get_embs is geneformer.get_embs
    assert geneformer.emb_extractor.label_cell_embs is label_cell_embs


@pytest.mark.parametrize(
    ("version", "mode", "layer"),
    [("V1", "cell", 0), ("V1", "cell", -1), ("V2", "cell", -1), ("V2", "cls", 0), ("V2", "cls", -1)],
)
def test_cells_are_those_of_the_published_package_in_its_order(home, version, mode, layer, tmp_path):
    own = EmbExtractor(emb_mode=mode, emb_layer=layer, max_ncells=60, emb_label=["cell_type"], model_version=version)
    found = own.extract_embs(home / version, home / f"{version}.dataset", tmp_path / "new" / "folder", "embs")
    golden = golden_table(f"embs_{version}_{mode}_{layer}")
    np.testing.assert_allclose(numbers(found), numbers(golden), **CLOSE)
    assert found["cell_id"].tolist() == golden["cell_id"].tolist()
    assert list(found.columns) == [*range(32), "cell_type", "cell_id"]
    stored = pd.read_csv(tmp_path / "new" / "folder" / "embs.csv", index_col=0)
    pd.testing.assert_frame_equal(stored.set_axis(found.columns, axis=1), found, check_dtype=False, rtol=1e-6)


@pytest.mark.parametrize(("version", "layer"), [("V1", 0), ("V1", -1), ("V2", -1)])
def test_genes_are_those_of_the_published_package(home, version, layer, tmp_path):
    own = EmbExtractor(emb_mode="gene", emb_layer=layer, max_ncells=60, model_version=version)
    found = own.extract_embs(home / version, home / f"{version}.dataset", tmp_path, "genes")
    golden = golden_table(f"embs_{version}_gene_{layer}")
    np.testing.assert_allclose(found.loc[golden.index], golden, **CLOSE)
    tokens = [own.gene_token_dict[gene] for gene in found.index]
    assert tokens == sorted(tokens)
    assert list(found.index[:2]) == ["<cls>", "<eos>"] or version == "V1"
    stored = pd.read_csv(tmp_path / "genes.csv", index_col=0)
    assert stored.shape == found.shape
    assert list(stored.index) == list(found.index)


def test_a_prefix_is_not_cut_at_a_dot(home, tmp_path):
    own = EmbExtractor(emb_mode="cell", model_version="V1")
    for prefix in ("run.1", "run.2"):
        own.extract_embs(home / "V1", home / "V1_short.dataset", tmp_path, prefix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.1.csv", "run.2.csv"]


def test_paths_may_be_text(home, tmp_path):
    own = EmbExtractor(emb_mode="cell", model_version="V1")
    found = own.extract_embs(str(home / "V1"), str(home / "V1_short.dataset"), str(tmp_path), "embs")
    assert len(found) == N


def test_cells_are_filtered_and_the_filter_is_left_as_it_is(home):
    wanted = {"kind": ["a", "b"], "group": 1}
    found = extract(home, filter_data=wanted, emb_label=["kind", "group"])
    assert set(found["kind"]) == {"a", "b"}
    assert set(found["group"]) == {1}
    assert len(found) == 4
    assert wanted == {"kind": ["a", "b"], "group": 1}


def test_cells_without_a_name_have_no_column_of_names(home, tmp_path):
    cells = TokenizedDataset(short("V1").table.drop_columns(["cell_id"]))
    folder = write_dataset(cells, tmp_path / "c.dataset")
    assert list(extract(home, cells=folder, to=tmp_path).columns) == list(range(32))


def test_the_batch_changes_nothing(home):
    one = extract(home, forward_batch_size=1)
    np.testing.assert_allclose(numbers(one), numbers(extract(home)), **CLOSE)


def test_tensors_are_those_of_the_table(home):
    frame, tensor = extract(home, output_torch_embs=True)
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(numbers(frame), tensor)


def test_a_state_gives_a_tensor_and_no_file(home, tmp_path):
    found = extract(home, to=tmp_path / "none", cell_state={"kind": "b"})
    assert found.shape == (4, 32)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("mode", ["cell", "cls"])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_one_row_for_all_cells_in_every_mode(home, mode, statistic, tmp_path):
    each = numbers(extract(home, "V2", emb_mode=mode))
    found, tensor = extract(
        home, "V2", emb_mode=mode, summary_stat=statistic, output_torch_embs=True, to=tmp_path, emb_label=["kind"]
    )
    expected = getattr(np, statistic)(each, axis=0)
    assert found.shape == (1, 32)
    np.testing.assert_allclose(found.to_numpy()[0], expected, atol=1e-6)
    np.testing.assert_allclose(tensor, expected, atol=1e-6)
    assert pd.read_csv(tmp_path / "embs.csv", index_col=0).shape == (1, 32)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_exact_summaries_are_returned_and_the_file_has_all_cells(home, statistic, tmp_path):
    each, values = extract(home, output_torch_embs=True)
    found, tensor = extract(
        home, summary_stat=f"exact_{statistic}", output_torch_embs=True, to=tmp_path, emb_label=["kind"]
    )
    assert list(found.index) == [f"exact_{statistic}"]
    np.testing.assert_allclose(found.to_numpy()[0], getattr(np, statistic)(numbers(each), axis=0), atol=1e-6)
    expected = values.mean(dim=0) if statistic == "mean" else values.median(dim=0).values
    np.testing.assert_allclose(tensor, expected, atol=1e-6)
    stored = pd.read_csv(tmp_path / "embs.csv", index_col=0)
    assert list(stored.columns[-2:]) == ["kind", "cell_id"]
    assert len(stored) == N


def test_every_gene_in_every_cell_is_a_row_of_numbers(home, tmp_path):
    found, tensor = extract(home, emb_mode="gene", gene_emb_style="all", output_torch_embs=True, to=tmp_path)
    cells = short("V1")
    order = np.argsort(-cells.lengths, kind="stable")
    assert list(found.columns) == ["Identifier", *range(32), "cell_id"]
    assert len(found) == cells.lengths.sum()
    stored = pd.read_csv(tmp_path / "embs.csv", index_col=0)
    assert {stored[str(column)].dtype for column in range(32)} == {np.dtype("float64")}
    names = Vocabulary.load("V1").gene_of
    for place, row in enumerate(order):
        own = found[found["cell_id"] == f"cell {row}"]
        genes = [names[token] for token in cells[int(row)]]
        assert sorted(own.index) == sorted(genes)
        np.testing.assert_array_equal(numbers(own.loc[genes]), tensor[place, : len(genes)])
        assert not tensor[place, len(genes) :].any()
    for _, part in found.groupby(level=0):
        assert part["Identifier"].tolist() == list(range(len(part)))
    means = extract(home, emb_mode="gene")
    np.testing.assert_allclose(numbers(found.groupby(level=0).mean(numeric_only=True).loc[means.index]), means, **CLOSE)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_genes_are_summed_up_exactly(home, statistic):
    each = extract(home, emb_mode="gene", gene_emb_style="all").drop(columns=["Identifier", "cell_id"])
    found, by_token = extract(home, emb_mode="gene", summary_stat=statistic, output_torch_embs=True)
    expected = getattr(each.groupby(level=0), statistic)()
    np.testing.assert_allclose(found, expected.loc[found.index], **CLOSE)
    tokens = Vocabulary.load("V1").token_of
    assert list(by_token) == [tokens[gene] for gene in found.index]
    np.testing.assert_allclose(list(by_token.values()), found, **CLOSE)


def test_labels_of_cells_are_named_as_left_out_of_tables_of_genes(home, caplog):
    with caplog.at_level(logging.WARNING):
        found = extract(home, emb_mode="gene", emb_label=["kind"])
    assert "kind" in caplog.text
    assert found.shape[1] == 32


def test_special_tokens_are_seen_from_the_cells(home, tmp_path):
    """Cells of V2 without `<cls>` and `<eos>` keep their first and last gene."""
    plain = short("V2", special=False)
    folder = write_dataset(plain, tmp_path / "plain.dataset")
    found = extract(home, "V2", cells=folder, to=tmp_path)
    states = extract(home, "V2", cells=folder, to=tmp_path, emb_mode="gene", cell_state={"kind": ["a", "b", "c"]})
    lengths = np.sort(plain.lengths)[::-1]
    means = [states[row, :length].mean(dim=0).numpy() for row, length in enumerate(lengths)]
    np.testing.assert_allclose(numbers(found), means, **CLOSE)
    with pytest.raises(PairingError, match="<cls>"):
        extract(home, "V2", cells=folder, to=tmp_path, emb_mode="cls")


def test_a_model_of_v1_is_read_with_its_own_dictionary(home, caplog):
    named = extract(home)
    with caplog.at_level(logging.WARNING):
        found = extract(home, model_version="V2")
    pd.testing.assert_frame_equal(found, named)
    genes = extract(home, model_version="V2", emb_mode="gene")
    pd.testing.assert_frame_equal(genes, extract(home, emb_mode="gene"))
    assert "V1" in caplog.text
    caplog.clear()
    pd.testing.assert_frame_equal(extract(home, model_version="V2", emb_mode="cls"), named)
    assert 'V1 has no <cls> token: emb_mode is "cell"' in caplog.text


def test_a_model_of_v1_does_not_change_how_the_next_one_is_read(home, tmp_path):
    cells = {version: home / f"{version}_short.dataset" for version in ("V1", "V2")}
    own = EmbExtractor()
    first, second = (own.extract_embs(home / version, cells[version], tmp_path, version) for version in ("V1", "V2"))
    pd.testing.assert_frame_equal(first, extract(home, "V1", emb_mode="cell"))
    pd.testing.assert_frame_equal(second, extract(home, "V2", emb_mode="cls"))


def test_v1_takes_cls_for_cell(home):
    pd.testing.assert_frame_equal(extract(home, emb_mode="cls"), extract(home, emb_mode="cell"))


def test_what_does_not_belong_together_is_refused(home, tmp_path):
    with pytest.raises(VocabularyMismatchError):
        extract(home, "V2", model_version="V1", emb_mode="cell")
    with pytest.raises(UnknownVocabularyError, match="V2"):
        extract(home, "V1", cells=home / "V2_short.dataset")
    with pytest.raises(UnknownVocabularyError, match="id"):
        extract(home, "V2", cells=home / "V1.dataset")


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"model_type": "MTLCellClassifier"}, UnknownChoiceError, "CellClassifier"),
        ({"emb_mode": "mean"}, UnknownChoiceError, "cell"),
        ({"cell_emb_style": "all"}, UnknownChoiceError, "mean_pool"),
        ({"gene_emb_style": "each"}, UnknownChoiceError, "all"),
        ({"emb_layer": -2}, UnknownChoiceError, "-1"),
        ({"summary_stat": "max"}, UnknownChoiceError, "exact_mean"),
        ({"model_version": "V3"}, UnknownChoiceError, "V2"),
        ({"max_ncells": 0}, OutOfRangeError, "max_ncells"),
        ({"forward_batch_size": 0}, OutOfRangeError, "forward_batch_size"),
        ({"nproc": 0}, OutOfRangeError, "nproc"),
        ({"filter_data": ["a"]}, OptionError, "filter_data"),
        ({"emb_label": "kind"}, OptionError, "emb_label"),
        ({"labels_to_plot": "kind"}, OptionError, "labels_to_plot"),
        ({"save_tdigest": True}, UnsupportedArgumentError, "exact"),
        ({"emb_mode": "gene", "summary_stat": "exact_mean"}, UnsupportedArgumentError, 'summary_stat="mean"'),
    ],
)
def test_values_that_are_not_taken_are_refused_at_once(options, error, told):
    with pytest.raises(error, match=re.escape(told)):
        EmbExtractor(**options)


def test_what_is_missing_is_named(home, tmp_path):
    with pytest.raises(DatasetError, match="disease"):
        extract(home, emb_label=["disease"])
    with pytest.raises(NoCellsError, match="a, b, c"):
        extract(home, filter_data={"kind": ["d"]})
    with pytest.raises(UnknownModelError):
        EmbExtractor(model_version="V1").extract_embs(tmp_path / "no", home / "V1_short.dataset", tmp_path, "embs")


def test_an_own_dictionary_says_what_tokens_are(home, tmp_path):
    import pickle

    tokens = {"<pad>": 0, "<mask>": 1, **{f"ENSG{9:011d}{token:04d}"[-15:]: token for token in range(2, 25_426)}}
    tokens = {name if name.startswith("<") else f"ENSG{token:011d}": token for name, token in tokens.items()}
    path = tmp_path / "own.pkl"
    path.write_bytes(pickle.dumps(tokens))
    own = EmbExtractor(emb_mode="gene", token_dictionary_file=path)
    found = own.extract_embs(home / "V1", home / "V1_short.dataset", tmp_path, "embs")
    assert found.index[0] == f"ENSG{min(map(min, map(list, short('V1')))):011d}"
    cells = EmbExtractor(emb_mode="cell", token_dictionary_file=str(path))
    found = cells.extract_embs(home / "V1", home / "V1_short.dataset", tmp_path, "embs")
    pd.testing.assert_frame_equal(found, extract(home))
    with pytest.raises(VocabularyMismatchError, match="20,275"):
        cells.extract_embs(home / "V2", home / "V1_short.dataset", tmp_path, "embs")


def tiny_bert(kind, version="V1", **more):
    """A network of `transformers` whose encoder is that of `tiny_model`."""
    config = tiny_config(version)
    config.num_labels = more.get("num_labels", 2)
    torch.manual_seed(0)
    network = kind(config).eval()
    network.load_state_dict(tiny_model(version).state_dict(), strict=False)
    return network


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [(BertForSequenceClassification, "CellClassifier"), (BertForTokenClassification, "GeneClassifier")],
)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pytorch_model.bin"])
def test_fine_tuned_folders_are_read(home, kind, model_type, pickled, tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))
    network, folder = tiny_bert(kind, num_labels=3), tmp_path / "tuned"
    network.save_pretrained(folder)
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(network.state_dict(), folder / "pytorch_model.bin")
    own = EmbExtractor(model_type=model_type, num_classes=3, model_version="V1")
    found = own.extract_embs(folder, home / "V1_short.dataset", tmp_path, "embs")
    pd.testing.assert_frame_equal(found, extract(home), rtol=1e-5)
    other = EmbExtractor(model_type=model_type, num_classes=2, model_version="V1")
    with pytest.raises(CheckpointError, match="num_classes=3"):
        other.extract_embs(folder, home / "V1_short.dataset", tmp_path, "embs")


def test_weights_that_ask_for_code_are_refused(home, tmp_path, monkeypatch):
    import os
    import shutil

    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    folder = tmp_path / "evil"
    shutil.copytree(home / "V1", folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError):
        EmbExtractor(model_version="V1").extract_embs(folder, home / "V1_short.dataset", tmp_path, "embs")
    assert not (tmp_path / "executed").exists()


def test_folders_of_this_package_are_read(home, tmp_path):
    heads = [{"name": "kind", "kind": "one_of", "classes": ["a", "b"]}]
    attributes = {"geneformer_heads": heads, "geneformer_pooling": "pooler"}
    network = build_network(GeneformerForCells, load_model(home / "V1"), FinetuneOptions(), attributes)
    save_network(network, tmp_path / "tuned")
    own = EmbExtractor(model_type="CellClassifier", num_classes=2, model_version="V1")
    found = own.extract_embs(tmp_path / "tuned", home / "V1_short.dataset", tmp_path, "embs")
    pd.testing.assert_frame_equal(found, extract(home), rtol=1e-5)


@pytest.fixture
def adapted(home, tmp_path):
    """A cell classifier as PEFT saves it after training, and the same with the adapters merged."""
    peft = pytest.importorskip("peft")
    base = tmp_path / "base"
    BertForMaskedLM(tiny_config("V1")).save_pretrained(base)
    save_tiny_checkpoint("V1", base)
    network = BertForSequenceClassification.from_pretrained(base, num_labels=3)
    lora = peft.LoraConfig(
        r=4, lora_alpha=8, task_type="TOKEN_CLS", target_modules=["query", "value"], init_lora_weights=False
    )
    network = peft.get_peft_model(network, lora).eval()
    network.save_pretrained(tmp_path / "adapted")
    return network, tmp_path / "adapted"


def test_saved_adapters_are_read_again(home, adapted, tmp_path):
    network, folder = adapted
    assert not (folder / "config.json").exists()
    own = EmbExtractor(model_type="CellClassifier", num_classes=3, emb_layer=0, model_version="V1")
    found = own.extract_embs(folder, home / "V1_short.dataset", tmp_path, "embs")
    expected = reference(network.get_base_model(), short("V1"), 3)
    np.testing.assert_allclose(numbers(found), expected, **CLOSE)
    assert np.abs(numbers(found) - numbers(extract(home, emb_layer=0))).max() > 0.01
    with pytest.raises(CheckpointError, match="num_classes=3"):
        EmbExtractor(num_classes=5, model_version="V1").extract_embs(folder, home / "V1_short.dataset", tmp_path, "e")
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(str(tmp_path / "base"), "/moved/away"))
    with pytest.raises(UnknownModelError, match="base_model_name_or_path"):
        own.extract_embs(folder, home / "V1_short.dataset", tmp_path, "embs")


def reference(network, tokens, layer, special=(0, 1)):
    """Means over genes by plain `transformers`, longest cell first."""
    found = []
    for row in np.argsort(-tokens.lengths, kind="stable"):
        ids = torch.tensor(tokens[int(row)].astype(np.int64))
        with torch.no_grad():
            states = network.bert(ids[None], output_hidden_states=True).hidden_states[layer][0]
        found.append(states[~torch.isin(ids, torch.tensor(special))].mean(dim=0).numpy())
    return np.stack(found)


@pytest.fixture(scope="module")
def cells(home):
    """The short cells as a dataset of Hugging Face."""
    datasets = pytest.importorskip("datasets")
    return {version: datasets.load_from_disk(str(home / f"{version}_short.dataset")) for version in ("V1", "V2")}


@pytest.fixture(scope="module")
def names():
    """Genes by token id."""
    return {version: EmbExtractor(model_version=version).token_gene_dict for version in ("V1", "V2")}


class TestGetEmbs:
    """The function, given networks and datasets in memory."""

    @pytest.mark.parametrize("kind", [BertForMaskedLM, BertForSequenceClassification])
    @pytest.mark.parametrize("layer", [3, 2, 0, -1])
    def test_rows_keep_their_order(self, cells, names, kind, layer):
        network = tiny_bert(kind, "V2")
        found = get_embs(network, cells["V2"], "cell", layer, 0, 100, names["V2"], silent=True)
        order = np.argsort(-short("V2").lengths, kind="stable")
        np.testing.assert_allclose(found[order], reference(network, short("V2"), layer, (0, 1, 2, 3)), **CLOSE)

    def test_every_mode_is_that_of_the_class(self, home, cells, names):
        own = {"output_torch_embs": True, "emb_layer": 0}
        sorted_cells = cells["V2"].sort("length", reverse=True)
        for mode in ("cls", "cell", "gene"):
            _, expected = extract(home, "V2", emb_mode=mode, **own)
            found = get_embs(tiny_model("V2"), sorted_cells, mode, 3, 0, 100, names["V2"], True)
            np.testing.assert_allclose(found, expected, **CLOSE)
            _, expected = extract(home, "V2", emb_mode=mode, summary_stat="median", **own)
            found = get_embs(tiny_model("V2"), sorted_cells, mode, 3, 0, 100, names["V2"], summary_stat="median")
            if mode == "gene":
                assert list(found) == list(expected)
                found, expected = list(found.values()), list(expected.values())
            np.testing.assert_allclose(found, expected, **CLOSE)

    def test_tables_of_tensors_are_those_of_the_class(self, home, cells, names):
        data = cells["V2"].sort("length", reverse=True)
        embs = get_embs(tiny_model("V2"), data, "cell", 2, 0, 100, names["V2"])
        expected = extract(home, "V2", emb_label=["kind", "group"])
        pd.testing.assert_frame_equal(label_cell_embs(embs, data, ["kind", "group"]), expected, rtol=1e-4)
        embs = get_embs(tiny_model("V2"), data, "gene", 2, 0, 100, names["V2"])
        for style in ("mean_pool", "all"):
            expected = extract(home, "V2", emb_mode="gene", gene_emb_style=style)
            found = label_gene_embs(embs, data, names["V2"], style)
            pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(DatasetError, match="order"):
            label_cell_embs(embs[:3], data, [])
        with pytest.raises(DatasetError, match="tokens"):
            label_gene_embs(embs[:, :3], data, names["V2"])

    def test_cells_of_v1_keep_their_genes_with_the_other_dictionary(self, cells, names):
        right = get_embs(tiny_model("V1"), cells["V1"], "cell", 2, 0, 100, names["V1"])
        assert torch.equal(get_embs(tiny_model("V1"), cells["V1"], "cell", 2, 0, 100, names["V2"]), right)

    def test_the_network_is_left_as_it_is(self, cells, names):
        network = tiny_bert(BertForMaskedLM)
        before = {name: zlib.crc32(value.numpy().tobytes()) for name, value in network.state_dict().items()}
        get_embs(network.train(), cells["V1"], "cell", 2, 0, 100, names["V1"])
        assert network.training
        assert {n: zlib.crc32(value.numpy().tobytes()) for n, value in network.state_dict().items()} == before

    def test_networks_with_adapters(self, adapted, cells, names):
        network, _ = adapted
        found = get_embs(network, cells["V1"].sort("length", reverse=True), "cell", 3, 0, 100, names["V1"])
        np.testing.assert_allclose(found, reference(network.get_base_model(), short("V1"), 3), **CLOSE)
        assert any("lora_" in name for name, _ in network.named_parameters())

    @pytest.mark.parametrize("mode", ["cls", "cell", "gene"])
    def test_padding_is_no_token_whatever_lengths_say(self, cells, names, mode):
        data = cells["V2"].remove_columns("length").map(lambda cell: {"length": len(cell["input_ids"]) + 2})
        longest = max(data["length"])
        padded = data.map(lambda cell: {"input_ids": cell["input_ids"] + [0] * (longest - len(cell["input_ids"]))})
        right = get_embs(tiny_model("V2"), cells["V2"], mode, 2, 0, 100, names["V2"])
        for changed in (data, padded, padded.remove_columns("length")):
            assert torch.equal(get_embs(tiny_model("V2"), changed, mode, 2, 0, 100, names["V2"]), right)

    def test_what_cannot_be_done_is_refused(self, cells, names):
        model = tiny_model("V1")
        for wrong in (None, {gene: token for token, gene in names["V1"].items()}):
            with pytest.raises(OptionError, match="takes the gene of each id"):
                get_embs(model, cells["V1"], "cell", 2, 0, 100, wrong)
        with pytest.raises(UnsupportedArgumentError, match="digest"):
            get_embs(model, cells["V1"], "cell", 2, 0, 100, names["V1"], save_tdigest=True)
        with pytest.raises(UnknownChoiceError):
            get_embs(model, cells["V1"], "mean", 2, 0, 100, names["V1"])
        with pytest.raises(OutOfRangeError, match="0 to 3"):
            get_embs(model, cells["V1"], "cell", 4, 0, 100, names["V1"])
        with pytest.raises(PairingError):
            get_embs(model, cells["V1"], "cls", 2, 0, 100, names["V1"])
        with pytest.raises(OptionError, match="pad"):
            get_embs(model, cells["V1"], "cell", 2, 7, 100, names["V1"])
        with pytest.raises(CheckpointError, match="Linear"):
            get_embs(torch.nn.Linear(2, 2), cells["V1"], "cell", 2, 0, 100, names["V1"])
        with pytest.raises(DatasetError, match="list"):
            get_embs(model, [[1, 2]], "cell", 2, 0, 100, names["V1"])


@pytest.fixture(scope="module")
def table():
    """A table as `extract_embs` returns it: three groups of cells."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(3 * kind, 1, (16, 60)) for kind in range(3)]).astype(np.float32)
    frame = pd.DataFrame(values)
    return frame.assign(kind=np.repeat(["x", "y", "z"], 16), group=np.repeat([1, 2, 10], 16), age=rng.random(48))


def colors_in(path):
    """Numbers of the colors of a PDF, uncompressed."""
    streams = re.findall(rb"stream\r?\n(.*?)endstream", path.read_bytes(), re.DOTALL)
    text = b"".join(zlib.decompress(stream) for stream in streams if stream[:1] == b"x")
    return set(re.findall(rb"([\d.]+ [\d.]+ [\d.]+) rg", text))


@pytest.mark.parametrize("style", ["umap", "heatmap"])
def test_one_figure_for_each_label(style, table, tmp_path, caplog, monkeypatch):
    from matplotlib import pyplot

    def show(*_, **__):
        pyplot.close("all")

    monkeypatch.setattr(embedding_plots, "label_layout", lambda values: values[:, :2])  # quick
    monkeypatch.setattr(pyplot, "show", show)  # as interactive back-ends do, after which nothing is left to save
    before = dict(pyplot.rcParams)
    own = EmbExtractor(labels_to_plot=["kind", "group", "absent"])
    with caplog.at_level(logging.WARNING):
        assert own.plot_embs(table, style, tmp_path / "new", "run.1") is None
    assert "absent" in caplog.text
    files = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in files] == [f"run.1_{style}_group.pdf", f"run.1_{style}_kind.pdf"]
    for path in files:  # whole numbers are groups with colors of their own, as texts are
        assert len(colors_in(path) - {b"0 0 0", b"1 1 1"}) >= 3
    assert dict(pyplot.rcParams) == before
    pyplot.close("all")


def test_cells_are_drawn_by_a_fixed_seed(table, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(embedding_plots, "label_heatmap", lambda values, labels, *_: seen.append((values, labels)))
    own = EmbExtractor(labels_to_plot=["kind"], max_ncells=30)
    for most in (20, 20, 1000):
        own.plot_embs(table, "heatmap", tmp_path, "run", max_ncells_to_plot=most)
    EmbExtractor(labels_to_plot=["kind"], max_ncells=None).plot_embs(table, "heatmap", tmp_path, "run")
    assert [len(values) for values, _ in seen] == [20, 20, 30, 48]
    np.testing.assert_array_equal(seen[0][0], seen[1][0])
    assert seen[0][1].index.is_monotonic_increasing
    assert len(set(seen[0][1])) == 3


def test_tables_from_files_are_plotted_and_settings_are_passed_on(table, tmp_path, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setattr(embedding_plots, "label_layout", lambda values: values[:, :2])

    table.to_csv(tmp_path / "embs.csv")
    own = EmbExtractor(labels_to_plot=["kind"])
    own.plot_embs(
        pd.read_csv(tmp_path / "embs.csv", index_col=0),
        "umap",
        tmp_path,
        "red",
        kwargs_dict={"palette": ["#ff0000", "#00ff00", "#0000ff"], "size": 50},
    )
    assert {b"1 0 0", b"0 1 0", b"0 0 1"} <= colors_in(tmp_path / "red_umap_kind.pdf")
    pyplot.close("all")


def test_figures_that_cannot_be_drawn(table, tmp_path):
    with pytest.raises(OptionError, match="labels_to_plot"):
        EmbExtractor().plot_embs(table, "umap", tmp_path, "run")
    own = EmbExtractor(labels_to_plot=["kind"])
    with pytest.raises(UnknownChoiceError):
        own.plot_embs(table, "tsne", tmp_path, "run")
    with pytest.raises(UnsupportedArgumentError, match="save"):
        own.plot_embs(table, "heatmap", tmp_path, "run", kwargs_dict={"save": "x"})
    with pytest.raises(NoCellsError):
        own.plot_embs(table[:1], "heatmap", tmp_path, "run")
    with pytest.raises(NoCellsError):
        own.plot_embs(table[:3], "umap", tmp_path, "run")
    assert not list(Path(tmp_path).glob("*.pdf"))


def test_the_example(published_inputs, tmp_path):
    import extract_and_plot_cell_embeddings as example
    from matplotlib import pyplot

    example.main(published_inputs, tmp_path)
    table = pd.read_csv(tmp_path / "embs" / "pbmc.csv", index_col=0)
    tokens = geneformer.read_dataset(published_inputs / "V1.dataset")
    order = np.argsort(-tokens.lengths, kind="stable")
    assert list(table.columns) == [*map(str, range(128)), "depth", "cell_type", "cell_id"]
    assert table["cell_id"].tolist() == tokens.cell_ids[order].tolist()
    assert table["cell_type"].tolist() == tokens.column("cell_type")[order].tolist()
    own = BertForSequenceClassification.from_pretrained(tmp_path / "classifier").eval()
    expected = reference(own, tokens.take(order[-3:]), 3)
    np.testing.assert_allclose(numbers(table)[-3:], expected, **CLOSE)
    figures = sorted(path.name for path in (tmp_path / "embs").glob("*.pdf"))
    assert figures == ["pbmc_heatmap_cell_type.pdf", "pbmc_umap_cell_type.pdf"]
    assert len(colors_in(tmp_path / "embs" / "pbmc_umap_cell_type.pdf")) >= 3
    pyplot.close("all")
