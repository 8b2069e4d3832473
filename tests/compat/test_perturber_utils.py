"""Parts of the perturbation under their published names: cells, networks, padded tensors, cosines, files."""

import inspect
import sys
from collections import defaultdict

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertForMaskedLM, BertForSequenceClassification, BertForTokenClassification

from geneformer import errors, perturber_utils
from geneformer.compat import networks as plain_models
from geneformer.files.pickles import read_pickle
from golden import golden_tokens, save_tiny_checkpoint, tiny_config, tiny_model

pytestmark = pytest.mark.contract

NOTHING = inspect.Parameter.empty
ROW = [("example", NOTHING)]
SIGNATURES = {
    "calc_n_overflow": [
        ("max_len", NOTHING),
        ("example_len", NOTHING),
        ("tokens_to_perturb", NOTHING),
        ("indices_to_perturb", NOTHING),
    ],
    "delete_indices": ROW,
    "overexpress_indices": ROW,
    "overexpress_indices_special": ROW,
    "overexpress_tokens": [*ROW, ("max_len", NOTHING), ("special_token", NOTHING)],
    "truncate_by_n_overflow": ROW,
    "truncate_by_n_overflow_special": ROW,
    "load_and_filter": [("filter_data", NOTHING), ("nproc", NOTHING), ("input_data_file", NOTHING)],
    "filter_by_dict": [("data", NOTHING), ("filter_data", NOTHING), ("nproc", NOTHING)],
    "filter_data_by_tokens": [("filtered_input_data", NOTHING), ("tokens", NOTHING), ("nproc", NOTHING)],
    "filter_data_by_start_state": [
        ("filtered_input_data", NOTHING),
        ("cell_states_to_model", NOTHING),
        ("nproc", NOTHING),
    ],
    "slice_by_inds_to_perturb": [("filtered_input_data", NOTHING), ("cell_inds_to_perturb", NOTHING)],
    "downsample_and_sort": [("data", NOTHING), ("max_ncells", NOTHING)],
    "load_model": [
        ("model_type", NOTHING),
        ("num_classes", NOTHING),
        ("model_directory", NOTHING),
        ("mode", NOTHING),
        ("quantize", False),
    ],
    "quant_layers": [("model", NOTHING)],
    "get_model_emb_dims": [("model", NOTHING)],
    "get_model_input_size": [("model", NOTHING)],
    "get_possible_states": [("cell_states_to_model", NOTHING)],
    "gen_attention_mask": [("minibatch_encoding", NOTHING), ("max_len", None)],
    "pad_tensor": [("tensor", NOTHING), ("pad_token_id", NOTHING), ("max_len", NOTHING)],
    "pad_2d_tensor": [("tensor", NOTHING), ("pad_token_id", NOTHING), ("max_len", NOTHING), ("dim", NOTHING)],
    "pad_3d_tensor": [("tensor", NOTHING), ("pad_token_id", NOTHING), ("max_len", NOTHING), ("dim", NOTHING)],
    "pad_tensor_list": [
        ("tensor_list", NOTHING),
        ("dynamic_or_constant", NOTHING),
        ("pad_token_id", NOTHING),
        ("model_input_size", NOTHING),
        ("dim", None),
        ("padding_func", None),
    ],
    "mean_nonpadding_embs": [("embs", NOTHING), ("original_lens", NOTHING), ("dim", 1)],
    "quant_cos_sims": [
        ("perturbation_emb", NOTHING),
        ("original_emb", NOTHING),
        ("cell_states_to_model", NOTHING),
        ("state_embs_dict", NOTHING),
        ("emb_mode", "gene"),
    ],
    "cos_sim_shift": [("original_emb", NOTHING), ("perturbed_emb", NOTHING), ("end_emb", NOTHING), ("cos", NOTHING)],
    "write_perturbation_dictionary": [("cos_sims_dict", NOTHING), ("output_path_prefix", NOTHING)],
}


@pytest.mark.parametrize("name", perturber_utils.__all__)
def test_arguments_have_the_published_names_order_and_defaults(name):
    parameters = inspect.signature(getattr(perturber_utils, name)).parameters.values()
    assert [(p.name, p.default) for p in parameters] == SIGNATURES[name]
    assert {p.kind for p in parameters} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def cells(lengths=(3, 5, 5, 2, 4), kinds=("T", "T cell", "B", "T", "B")):
    rows = [list(range(2, 2 + length)) for length in lengths]
    return datasets.Dataset.from_dict(
        {"input_ids": rows, "kind": list(kinds), "length": list(lengths), "row": range(len(rows))}
    )


def test_cells_are_filtered_by_whole_values():
    data = cells()
    assert perturber_utils.filter_by_dict(data, {"kind": ["T"]}, 4)["row"][:] == [0, 3]
    assert perturber_utils.filter_by_dict(data, {"kind": "T cell"}, 1)["row"][:] == [1]
    assert perturber_utils.filter_by_dict(data, {"kind": ["T", "B"], "length": [4, 3]}, 1)["row"][:] == [0, 4]
    assert perturber_utils.filter_by_dict(data, {}, 1) is data
    with pytest.raises(errors.NoCellsError, match=r"kind.*The column holds B, T, T cell"):
        perturber_utils.filter_by_dict(data, {"kind": ["NK"]}, 1)
    with pytest.raises(errors.DatasetError, match="kinds"):
        perturber_utils.filter_by_dict(data, {"kinds": ["T"]}, 1)
    with pytest.raises(errors.OutOfRangeError, match="nproc"):
        perturber_utils.filter_by_dict(data, {"kind": ["T"]}, 0)


def test_cells_are_selected_by_tokens_state_and_place():
    data = cells()
    assert perturber_utils.filter_data_by_tokens(data, [5, 6, 6], 1)["row"][:] == [1, 2]
    with pytest.raises(errors.NoCellsError, match="99"):
        perturber_utils.filter_data_by_tokens(data, [5, 99], 1)
    states = {"state_key": "kind", "start_state": "B", "goal_state": "T", "alt_states": []}
    assert perturber_utils.filter_data_by_start_state(data, states, 1)["row"][:] == [2, 4]
    with pytest.raises(errors.StateError, match="start_state"):
        perturber_utils.filter_data_by_start_state(data, {"state_key": "kind"}, 1)
    place = {"start": 3, "end": 99}
    assert perturber_utils.slice_by_inds_to_perturb(data, place)["row"][:] == [3, 4]
    assert place == {"start": 3, "end": 99}
    with pytest.raises(errors.OptionError, match="no cell of 5"):
        perturber_utils.slice_by_inds_to_perturb(data, {"start": 5, "end": 6})


def test_cells_are_drawn_and_put_longest_first():
    data = cells(lengths=[n % 7 + 1 for n in range(50)], kinds=["T"] * 50)
    drawn = data.shuffle(seed=42).select(range(20)).sort("length", reverse=True)
    assert perturber_utils.downsample_and_sort(data, 20)["row"][:] == drawn["row"][:]
    whole = perturber_utils.downsample_and_sort(data, None)
    assert whole["length"][:] == sorted(data["length"], reverse=True)
    assert [row for row in whole["row"] if row % 7 == 6] == list(range(6, 50, 7))  # equal lengths keep their order


def test_folders_are_read_and_filtered_and_nothing_is_left_beside_them(published_inputs):
    folder = published_inputs / "V1.dataset"
    before = sorted(path.name for path in folder.iterdir())
    data = perturber_utils.load_and_filter({"cell_type": ["B cells"]}, 16, folder)
    assert len(data) == 20
    assert len(perturber_utils.load_and_filter(None, 1, str(folder))) == 60
    perturber_utils.downsample_and_sort(perturber_utils.load_and_filter(None, 1, folder), 30)
    assert sorted(path.name for path in folder.iterdir()) == before
    with pytest.raises(errors.InputNotFoundError, match="nowhere"):
        perturber_utils.load_and_filter(None, 1, folder.parent / "nowhere.dataset")


def test_without_datasets_its_extra_is_named(published_inputs, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(errors.MissingExtraError, match=r"geneformer\[published\]"):
        perturber_utils.load_and_filter(None, 1, published_inputs / "V1.dataset")


@pytest.mark.parametrize(
    ("model_type", "network"),
    [
        ("Pretrained", BertForMaskedLM),
        ("GeneClassifier", BertForTokenClassification),
        ("CellClassifier", BertForSequenceClassification),
        ("MTLCellClassifier", BertForMaskedLM),
    ],
)
def test_networks_are_plain_ones_with_the_encoder_of_the_folder(published_inputs, model_type, network):
    model = perturber_utils.load_model(model_type, 3, published_inputs / "V1", "eval")
    assert type(model) is network
    assert not model.training
    assert model.config.output_hidden_states
    assert not model.config.output_attentions
    if network is not BertForMaskedLM:
        assert model.classifier.out_features == 3
    assert perturber_utils.quant_layers(model) == model.config.num_hidden_layers
    assert perturber_utils.get_model_emb_dims(model) == model.bert.embeddings.word_embeddings.embedding_dim
    assert perturber_utils.get_model_input_size(model) == model.bert.embeddings.position_embeddings.num_embeddings
    assert perturber_utils.load_model(model_type, 3, str(published_inputs / "V1"), "train").training


def test_a_network_computes_what_the_rest_of_the_package_does(tmp_path):
    folder = save_tiny_checkpoint("V1", tmp_path / "tiny")
    model = perturber_utils.load_model("Pretrained", 0, folder, "eval")
    ids = torch.from_numpy(golden_tokens("V1")[0][:200].astype(np.int64))
    with torch.no_grad():
        theirs = model(input_ids=ids[None], attention_mask=torch.ones(1, 200)).hidden_states[-1][0]
        ours = tiny_model("V1").bert(ids, torch.tensor([0, 200]))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_pickled_weights_are_read_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "old"
    BertForMaskedLM(tiny_config("V1")).config.save_pretrained(folder)
    torch.save(tiny_model("V1").state_dict(), folder / "pytorch_model.bin")
    model = perturber_utils.load_model("Pretrained", 0, folder, "eval")
    wanted = tiny_model("V1").state_dict()["bert.encoder.layer.0.output.dense.weight"]
    assert torch.equal(model.state_dict()["bert.encoder.layer.0.output.dense.weight"], wanted)


def test_fine_tuned_heads_are_kept_and_must_have_the_classes(tmp_path):
    config = tiny_config("V1")
    config.num_labels = 4
    torch.manual_seed(0)
    fine_tuned = BertForSequenceClassification(config)
    fine_tuned.save_pretrained(tmp_path / "cells")
    model = perturber_utils.load_model("CellClassifier", 4, tmp_path / "cells", "eval")
    assert torch.equal(model.classifier.weight, fine_tuned.classifier.weight)
    with pytest.raises(errors.CheckpointError, match="3 classes"):
        perturber_utils.load_model("CellClassifier", 3, tmp_path / "cells", "eval")


def test_an_encoder_that_is_not_plain_is_refused(tmp_path):
    config = tiny_config("V1")
    config.num_hidden_layers = 4
    config.save_pretrained(tmp_path / "cut")
    folder = save_tiny_checkpoint("V1", tmp_path / "tiny")
    (tmp_path / "cut" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(errors.CheckpointError, match=r"missing \['bert.encoder.layer.3"):
        perturber_utils.load_model("Pretrained", 0, tmp_path / "cut", "eval")


def test_low_rank_updates_are_added_saved_and_read_back(tmp_path):
    peft = pytest.importorskip("peft")
    folder = save_tiny_checkpoint("V1", tmp_path / "tiny")
    settings_of = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False
    )
    model = perturber_utils.load_model("CellClassifier", 3, folder, "train", quantize={"peft_config": settings_of})
    assert isinstance(model, peft.PeftModel)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("lora_" in name or "classifier" in name or "pooler" in name for name in trained)
    assert perturber_utils.quant_layers(model) == 3
    model.save_pretrained(tmp_path / "adapters")
    again = perturber_utils.load_model("CellClassifier", 3, tmp_path / "adapters", "eval")
    ids = torch.from_numpy(golden_tokens("V1")[0][:50].astype(np.int64))[None]
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_weights_of_few_bits_keep_32_on_a_cpu(published_inputs, monkeypatch):
    monkeypatch.setattr(plain_models, "resolve_device", lambda: torch.device("cpu"))
    with pytest.warns(errors.GeneformerWarning, match='model_type="Pretrained-Quantized" saves memory') as caught:
        model = perturber_utils.load_model("Pretrained-Quantized", 0, published_inputs / "V1", "eval")
    assert caught[0].filename == __file__
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    pytest.importorskip("peft")
    with pytest.warns(errors.GeneformerWarning, match="quantize saves memory"):
        model = perturber_utils.load_model("GeneClassifier", 2, published_inputs / "V1", "train", quantize=True)
    assert any("lora" in name and weight.requires_grad for name, weight in model.named_parameters())


def test_types_modes_and_folders_that_are_not_there_are_named(tmp_path):
    with pytest.raises(errors.UnknownChoiceError, match="CellClassifier"):
        perturber_utils.load_model("CellClasifier", 2, tmp_path, "eval")
    with pytest.raises(errors.UnknownChoiceError, match="train"):
        perturber_utils.load_model("Pretrained", 0, tmp_path, "test")
    with pytest.raises(errors.UnknownModelError, match="nowhere"):
        perturber_utils.load_model("Pretrained", 0, str(tmp_path / "nowhere"), "eval")


def test_masks_are_made_where_the_network_is():
    assert perturber_utils.gen_attention_mask({"length": [1, 3]}).tolist() == [[1, 0, 0], [1, 1, 1]]
    assert perturber_utils.gen_attention_mask(cells((2, 1), "ab"), 4).tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert perturber_utils.gen_attention_mask({"length": [5]}, 2).tolist() == [[1, 1]]
    with pytest.raises(errors.OptionError, match="no cells"):
        perturber_utils.gen_attention_mask({"length": []})


def test_tensors_are_padded_on_the_right():
    pad = perturber_utils
    assert pad.pad_tensor(torch.tensor([5, 6]), 0, 4).tolist() == [5, 6, 0, 0]
    square = torch.ones(2, 2)
    assert pad.pad_2d_tensor(square, 0, 3, 1).tolist() == [[1, 1, 0], [1, 1, 0]]
    assert pad.pad_2d_tensor(square, 7, 3, 0).tolist() == [[1, 1], [1, 1], [7, 7]]
    block = pad.pad_3d_tensor(torch.ones(1, 2, 2), 0, 3, 1)
    assert block.shape == (1, 3, 2)
    assert block[0, 2].tolist() == [0, 0]
    with pytest.raises(errors.OptionError, match="3 dimensions"):
        pad.pad_3d_tensor(square, 0, 3, 1)


def test_lists_of_tensors_become_one(caplog):
    vectors = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    stack = perturber_utils.pad_tensor_list
    assert stack(vectors, "dynamic", 0, 9).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert stack(vectors, 4, 0, 9).shape == (2, 4)
    assert stack(vectors, None, 0, 9).shape == (2, 9)
    assert "input size" in caplog.text
    blocks = [torch.ones(1, 2, 3), torch.ones(2, 4, 3)]
    assert stack(blocks, "dynamic", 0, 9, 1, perturber_utils.pad_3d_tensor).shape == (3, 4, 3)
    rows = [torch.ones(2, 3), torch.ones(4, 3)]
    assert stack(rows, "dynamic", 0, 9, 0, perturber_utils.pad_2d_tensor).shape == (2, 4, 3)
    with pytest.raises(errors.OptionError, match="no tensor"):
        stack([], "dynamic", 0, 9)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.booleans())
def test_means_leave_the_padding_out(lengths, of_numbers):
    shape = (len(lengths), 6) if of_numbers else (len(lengths), 6, 3)
    embs = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    found = perturber_utils.mean_nonpadding_embs(embs, torch.tensor(lengths))
    wanted = torch.stack([embs[cell, :length].mean(0) for cell, length in enumerate(lengths)])
    torch.testing.assert_close(found, wanted)
    assert torch.equal(perturber_utils.mean_nonpadding_embs(embs, lengths), found)


def test_cosines_and_shifts_are_the_published_ones():
    torch.manual_seed(0)
    before, after, goal = torch.randn(4, 5), torch.randn(4, 5), torch.randn(1, 5)
    cos = torch.nn.functional.cosine_similarity
    sims = perturber_utils.quant_cos_sims(after, before, None, None, emb_mode="cell")
    torch.testing.assert_close(sims, cos(after, before))
    states = {"state_key": "kind", "start_state": "a", "goal_state": "b", "alt_states": []}
    shifts = perturber_utils.quant_cos_sims(after, before, states, {"b": goal, "a": goal[0]}, emb_mode="cell")
    torch.testing.assert_close(shifts["b"], cos(after, goal) - cos(before, goal))
    torch.testing.assert_close(shifts["a"], shifts["b"])
    shift = perturber_utils.cos_sim_shift(before, after, goal, torch.nn.CosineSimilarity(dim=1))
    torch.testing.assert_close(shift, shifts["b"])
    genes = perturber_utils.quant_cos_sims(after.view(2, 2, 5), before.view(2, 2, 5), None, None)
    torch.testing.assert_close(genes, cos(after, before).view(2, 2))
    with pytest.raises(errors.OptionError, match="state_embs_dict"):
        perturber_utils.quant_cos_sims(after, before, states, None, emb_mode="cell")
    with pytest.raises(errors.UnknownChoiceError, match="gene"):
        perturber_utils.quant_cos_sims(after, before, None, None, emb_mode="cls")


def test_states_come_as_start_goal_and_alternates():
    states = {"state_key": "kind", "start_state": "a", "goal_state": "b"}
    assert perturber_utils.get_possible_states(states) == ["a", "b"]
    assert perturber_utils.get_possible_states({**states, "alt_states": None}) == ["a", "b"]
    assert perturber_utils.get_possible_states({**states, "alt_states": ["d", "c"]}) == ["a", "b", "d", "c"]
    with pytest.raises(errors.StateError, match="goal_state"):
        perturber_utils.get_possible_states({"state_key": "kind", "start_state": "a"})


def test_shifts_go_to_a_file_whose_prefix_keeps_its_dots(tmp_path):
    shifts = defaultdict(list)
    shifts[7, "cell_emb"].append(0.5)
    for prefix in (tmp_path / "new" / "run.1", f"{tmp_path}/new/run.2"):
        perturber_utils.write_perturbation_dictionary(shifts, prefix)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["run.1_raw.pickle", "run.2_raw.pickle"]
    assert read_pickle(tmp_path / "new" / "run.1_raw.pickle") == {(7, "cell_emb"): [0.5]}
