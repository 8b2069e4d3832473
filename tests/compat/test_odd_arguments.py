"""Odd arguments of published scripts: honored, refused with a remedy, or said to have no meaning; never passed over."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from transformers import BertForSequenceClassification

from geneformer import Classifier, InSilicoPerturber, InSilicoPerturberStats, MTLClassifier
from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    OptionError,
    OutOfRangeError,
    SequenceTooLongError,
    StateError,
)
from geneformer.files.pickles import read_pickle
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import read_dataset, write_dataset
from small_classifier_inputs import POSITIONS, cells, genes, saved_cells, tiny_model

pytestmark = pytest.mark.contract

STATES = {"state_key": "state", "states": "all"}
SHIFT = {"state_key": "state", "start_state": "T cell", "goal_state": "NK"}
QUICK = {"num_train_epochs": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-3, "seed": 1}
GENES = {"high": genes(range(10, 15)), "low": genes(range(30, 35))}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "my model.v1 ü")


def classifier(**arguments):
    kinds = {"cell_state_dict": STATES} if arguments.get("classifier", "cell") == "cell" else {}
    return Classifier(**{"classifier": "cell", "model_version": "V1", "training_args": QUICK, **kinds, **arguments})


def perturbed(model, folder, out="out", tokens=None, **arguments):
    source = write_dataset(tokens or cells(24), folder / "in put.v1", overwrite=True)
    arguments = {"genes_to_perturb": genes([10]), "emb_mode": "cell", "model_version": "V1", **arguments}
    InSilicoPerturber(**arguments).perturb_data(model, source, folder / out, "p.1")
    return {path.name: read_pickle(path) for path in (folder / out).glob("*_raw.pickle")}


def test_predictions_are_those_of_a_padded_batch_in_transformers(tmp_path, model):
    classifier().prepare_data(saved_cells(tmp_path / "in"), tmp_path, "a.b", test_size=0.25)
    learnt, held, ids = (
        tmp_path / f"a.b_{name}" for name in ("labeled_train.dataset", "labeled_test.dataset", "id_class_dict.pkl")
    )
    classifier().validate(model, learnt, ids, tmp_path, "a.b")
    [folder] = tmp_path.glob("*_cellClassifier_a.b")
    ids.write_bytes(pickle.dumps({np.int64(code): label for code, label in read_pickle(ids).items()}))
    classifier().evaluate_saved_model(folder / "ksplit1", ids, held, tmp_path, "a.b")
    told = read_pickle(tmp_path / "a.b_pred_dict.pkl")
    rows = read_dataset(held)
    padded = torch.zeros(len(rows), POSITIONS, dtype=torch.long)
    for row, length in enumerate(rows.lengths):
        padded[row, :length] = torch.tensor(rows[row])
    network = BertForSequenceClassification.from_pretrained(folder / "ksplit1").eval()
    with torch.no_grad():
        logits = network(padded, attention_mask=(padded > 0).long()).logits
    torch.testing.assert_close(torch.tensor(told["predictions"]), logits, atol=1e-5, rtol=0)
    assert told["label_ids"] == rows.column("label").tolist()


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, pd.Series], ids=str)
def test_values_may_come_in_any_container(tmp_path, kind):
    wanted, known = kind(["d0", "d1"]), {"attr_key": "donor", "train": kind(["d0"]), "test": kind(["d1"])}
    two = classifier(
        filter_data={"donor": wanted}, cell_state_dict={"state_key": "state", "states": kind(["NK", "T cell"])}
    )
    two.prepare_data(saved_cells(tmp_path / "in"), tmp_path / "out", "x", split_id_dict=known)
    for part, donor in (("train", "d0"), ("test", "d1")):
        found = read_dataset(tmp_path / "out" / f"x_labeled_{part}.dataset")
        assert set(found.column("donor")) == {donor}
        assert len(found) == 4
    assert read_pickle(tmp_path / "out" / "x_id_class_dict.pkl") == {0: "NK", 1: "T cell"}


def test_states_that_do_not_occur_are_named(tmp_path):
    source = saved_cells(tmp_path / "in")
    listed = {"state_key": "state", "states": ["NK", "B cell", "nk"]}
    with pytest.warns(GeneformerWarning, match=r"'state' among \['nk'\]"):
        classifier(cell_state_dict=listed).prepare_data(source, tmp_path / "out", "x")
    with pytest.raises(ConstantLabelError, match="'state' 'NK'"), pytest.warns(GeneformerWarning):
        classifier(cell_state_dict={"state_key": "state", "states": ["NK", "nk"]}).prepare_data(source, tmp_path, "y")
    assert not (tmp_path / "y_id_class_dict.pkl").exists()


def test_arguments_of_the_other_kind_of_classifier_are_named():
    with pytest.warns(GeneformerWarning, match='cell_state_dict, rare_threshold has no meaning for classifier="gene"'):
        other = classifier(classifier="gene", gene_class_dict=GENES, cell_state_dict=STATES, rare_threshold=0.1)
    assert other.filter_data is None
    with pytest.warns(GeneformerWarning, match="gene_class_dict has no meaning"):
        classifier(gene_class_dict=GENES)


def test_splits_of_genes_are_not_written_instead_of_training_on_cells(tmp_path, model):
    classifier().prepare_data(saved_cells(tmp_path / "in"), tmp_path, "x", test_size=0)
    prepared = tmp_path / "x_labeled.dataset", tmp_path / "x_id_class_dict.pkl"
    with pytest.warns(GeneformerWarning, match="debug_gene_split_datasets has no meaning"):
        found = classifier().validate(model, *prepared, tmp_path, "x", debug_gene_split_datasets=True)
    assert len(found["acc"]) == 1
    split, even = {"attr_key": "donor", "train": ["d0", "d1"], "eval": ["d2"]}, classifier(stratify_splits_col="state")
    with pytest.warns(GeneformerWarning, match="stratify_splits_col is about one random split"):
        even.validate(model, *prepared, tmp_path, "z", split_id_dict=split)


def test_a_search_writes_the_predictions_of_the_trainer_too(tmp_path, model):
    classifier().prepare_data(saved_cells(tmp_path / "in"), tmp_path, "x", test_size=0)
    classifier(ray_config={"learning_rate": [1e-3]}).validate(
        model, tmp_path / "x_labeled.dataset", tmp_path / "x_id_class_dict.pkl", tmp_path, "x",
        predict_trainer=True, n_hyperopt_trials=1,
    )  # fmt: skip
    assert len(list(tmp_path.glob("*_cellClassifier_x/ksplit1/predictions.pkl"))) == 1


@pytest.mark.parametrize("name", ["max_ncells", "max_ncells_per_class", "forward_batch_size", "freeze_layers"])
def test_numbers_of_cells_are_whole(name):
    assert getattr(classifier(**{name: np.int64(2)}), name) == 2
    with pytest.raises(OutOfRangeError, match=f"{name}=1.5 is no whole number"):
        classifier(**{name: 1.5})


def test_slices_and_numbers_of_numpy(tmp_path, model):
    part = {"start": np.int64(0), "end": np.int64(1)}
    [(name, content)] = perturbed(model, tmp_path, cell_inds_to_perturb=part, max_ncells=np.int64(9)).items()
    assert name == "in_silico_delete_p.1_cell_embs_dict_[10]_cells0-1_raw.pickle"
    assert len(content[10, "cell_emb"]) == 1
    for slice_, match in (
        ({"start": 0.5, "end": 2}, "start of cell_inds_to_perturb=0.5"),
        ({"start": 2, "end": 2}, "empty"),
    ):
        with pytest.raises(OutOfRangeError, match=match):
            InSilicoPerturber(cell_inds_to_perturb=slice_)


def test_genes_to_perturb_in_an_array_twice_and_by_symbol(tmp_path, model):
    expected = perturbed(model, tmp_path)
    for number, told in enumerate((np.array(genes([10])), genes([10, 10]), ["GCLC"])):
        assert perturbed(model, tmp_path, f"out{number}", genes_to_perturb=told) == expected
    for told in (set(genes([10, 11])), "ENSG00000001084", [], np.array([]), [10], None):
        with pytest.raises(OptionError, match=r'genes_to_perturb=.* is neither "all" nor a list'):
            InSilicoPerturber(genes_to_perturb=told)
        with pytest.raises(OptionError, match=r'genes_perturbed=.* is neither "all" nor a list'):
            InSilicoPerturberStats(mode="vs_null", genes_perturbed=told)


def test_embeddings_of_states_of_any_kind(tmp_path, model):
    vectors = {state: np.random.default_rng(n).normal(size=16) for n, state in enumerate(("T cell", "NK"))}
    kinds = [
        torch.tensor,
        lambda v: torch.tensor(v, dtype=torch.float32),
        np.asarray,
        list,
        lambda v: torch.tensor(v)[None],
    ]
    found = [
        perturbed(
            model, tmp_path, f"out{number}", cell_states_to_model=SHIFT,
            state_embs_dict={state: kind(vector) for state, vector in vectors.items()},
            filter_data={"state": pd.Series(["T cell"])},
        )
        for number, kind in enumerate(kinds)
    ]  # fmt: skip
    assert all(one == found[0] for one in found)
    with pytest.raises(StateError, match="state_embs_dict\\['NK'\\] is no tensor"):
        InSilicoPerturber(cell_states_to_model=SHIFT, state_embs_dict=vectors | {"NK": "vector"})
    with pytest.warns(GeneformerWarning, match="state_embs_dict has no meaning without cell_states_to_model"):
        InSilicoPerturber(state_embs_dict=vectors)


def test_refusals_name_what_the_drop_in_class_takes(tmp_path, model):
    long = TokenizedDataset(pa.table({"input_ids": [list(range(10, 110))]}))
    with pytest.raises(SequenceTooLongError, match=rf"model_input_size={POSITIONS}"):
        perturbed(model, tmp_path, tokens=long)


def test_raw_numbers_in_memory_and_arguments_without_meaning(tmp_path):
    content = {(np.int16(token), "cell_emb"): [np.float32(0.9), 0.8 + token / 1000] for token in range(10, 16)}
    (tmp_path / "a_raw.pickle").write_bytes(pickle.dumps(content))
    stats = InSilicoPerturberStats(mode="vs_null", model_version="V1")
    stats.get_stats(tmp_path, None, tmp_path, "x.1", null_dict_list=[content])
    assert (pd.read_csv(tmp_path / "x.1.csv")["Test_vs_null_avg_shift"] == 0).all()
    with pytest.warns(GeneformerWarning, match='no meaning in mode="mixture_model", and is not read'):
        InSilicoPerturberStats(model_version="V1").get_stats(tmp_path, tmp_path, tmp_path, "y")
    with pytest.warns(GeneformerWarning, match='anchor_gene has no meaning in mode="vs_null" and combos=0'):
        InSilicoPerturberStats(mode="vs_null", anchor_gene=genes([10])[0], model_version="V1")


def test_files_of_both_generations_in_one_folder(tmp_path):
    (tmp_path / "v1_raw.pickle").write_bytes(pickle.dumps({(np.int16(10), "cell_emb"): [(0.1, 0.2), (0.3, 0.4)]}))
    new = {"T cell": {(10, "cell_emb"): [0.5]}, "NK": {(10, "cell_emb"): [0.6], (11, "cell_emb"): [0.1]}}
    (tmp_path / "v2_raw.pickle").write_bytes(pickle.dumps(new))
    InSilicoPerturberStats("goal_state_shift", cell_states_to_model=SHIFT, model_version="V1").get_stats(
        tmp_path, None, tmp_path, "x"
    )
    table = pd.read_csv(tmp_path / "x.csv").set_index("Gene")
    assert table.loc[10, "Shift_to_goal_end"] == pytest.approx(0.4)
    assert table["N_Detections"].to_dict() == {10: 3, 11: 1}


def test_what_the_multi_task_classifier_does_not_take(tmp_path, model):
    one = {"task_columns": ["state"]}
    for arguments, match in (
        ({"batch_size": 1.5}, "batch_size=1.5 is no whole number"),
        ({"max_layers_to_freeze": {"min": 3, "max": 1}}, r'max_layers_to_freeze\["max"\]=1 is out of range'),
        ({"max_layers_to_freeze": 1.5}, "max_layers_to_freeze=1.5"),
    ):
        with pytest.raises(OutOfRangeError, match=match):
            MTLClassifier(**one, **arguments)
    with pytest.warns(GeneformerWarning, match="max_grad_norm has no effect without gradient_clipping=True"):
        MTLClassifier(**one, max_grad_norm=1.0)
    with pytest.warns(GeneformerWarning, match="wandb_project has no effect without use_wandb=True"):
        MTLClassifier(**one, wandb_project="mine")
    long = TokenizedDataset(pa.table({"input_ids": [list(range(10, 110))] * 2, "state": ["a", "b"]}))
    paths = dict.fromkeys(("train_path", "val_path"), write_dataset(long, tmp_path / "long"))
    folders = {"model_save_path": tmp_path / "m", "results_dir": tmp_path / "r", "tensorboard_log_dir": tmp_path / "t"}
    with pytest.raises(SequenceTooLongError, match="model_input_size"):
        MTLClassifier(**one, **paths, **folders, pretrained_path=model).run_optuna_study()


def test_manual_hyperparameters_of_none_and_too_many_frozen_layers(tmp_path, model):
    paths = dict.fromkeys(("train_path", "val_path"), saved_cells(tmp_path / "in"))
    folders = {"model_save_path": tmp_path / "m", "results_dir": tmp_path / "r", "tensorboard_log_dir": tmp_path / "t"}
    common = {
        "task_columns": ["state"],
        "pretrained_path": model,
        "use_manual_hyperparameters": True,
        "seed": np.int64(3),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", GeneformerWarning)
        MTLClassifier(
            **common, **paths, **folders, manual_hyperparameters={"max_layers_to_freeze": None}
        ).run_manual_tuning()
    with pytest.raises(OutOfRangeError, match="max_layers_to_freeze=9"):
        MTLClassifier(**common, **paths, **folders, max_layers_to_freeze=9).run_manual_tuning()
