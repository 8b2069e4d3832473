"""Every published class has its arguments: names, order, defaults and kinds, written down as published.

What was added comes last.
"""

import inspect

import pytest

import geneformer as gf
from geneformer.compat.dictionaries import dictionary_path

pytestmark = pytest.mark.contract

TOKENS, MEDIANS, MAPPING, NAMES = (
    dictionary_path(name)
    for name in ("TOKEN_DICTIONARY_FILE", "GENE_MEDIAN_FILE", "ENSEMBL_MAPPING_FILE", "ENSEMBL_DICTIONARY_FILE")
)

_LOADED = (gf.TranscriptomeTokenizer, gf.InSilicoPerturberStats)
"""Their defaults are paths of the cache that is told when they are loaded, as those above are."""


class TranscriptomeTokenizer:
    def __init__(
        self, custom_attr_name_dict=None, nproc=1, chunk_size=512, model_input_size=4096, special_token=True,
        collapse_gene_ids=True, use_h5ad_index=False, keep_counts=False, model_version="V2", gene_median_file=MEDIANS,
        token_dictionary_file=TOKENS, gene_mapping_file=MAPPING,
    ): ...  # fmt: skip
    def tokenize_data(
        self, data_directory, output_directory, output_prefix, file_format="loom", input_identifier="",
        use_generator=False,
    ): ...  # fmt: skip


class EmbExtractor:
    def __init__(
        self, model_type="Pretrained", num_classes=0, emb_mode="cls", cell_emb_style="mean_pool",
        gene_emb_style="mean_pool", filter_data=None, max_ncells=1000, emb_layer=-1, emb_label=None,
        labels_to_plot=None, forward_batch_size=100, nproc=4, summary_stat=None, save_tdigest=False,
        model_version="V2", token_dictionary_file=None, filter_data_dict=None,
    ): ...  # fmt: skip
    def extract_embs(
        self, model_directory, input_data_file, output_directory, output_prefix, output_torch_embs=False,
        cell_state=None,
    ): ...  # fmt: skip
    def get_state_embs(
        self, cell_states_to_model, model_directory, input_data_file, output_directory, output_prefix,
        output_torch_embs=True,
    ): ...  # fmt: skip
    def plot_embs(
        self, embs, plot_style, output_directory, output_prefix, max_ncells_to_plot=1000, kwargs_dict=None
    ): ...


class Classifier:
    def __init__(
        self, classifier=None, quantize=False, cell_state_dict=None, gene_class_dict=None, filter_data=None,
        rare_threshold=0, max_ncells=None, max_ncells_per_class=None, training_args=None, ray_config=None,
        freeze_layers=0, num_crossval_splits=1, split_sizes={"train": 0.8, "valid": 0.1, "test": 0.1},  # noqa: B006
        stratify_splits_col=None, no_eval=False, forward_batch_size=100, model_version="V2",
        token_dictionary_file=None, nproc=4, ngpu=1, filter_data_dict=None,
    ): ...  # fmt: skip
    def prepare_data(
        self, input_data_file, output_directory, output_prefix, split_id_dict=None, test_size=None,
        attr_to_split=None, attr_to_balance=None, max_trials=100, pval_threshold=0.1, id_class_dict_path=None,
    ): ...  # fmt: skip
    def validate(
        self, model_directory, prepared_input_data_file, id_class_dict_file, output_directory, output_prefix,
        split_id_dict=None, attr_to_split=None, attr_to_balance=None, gene_balance=False, max_trials=100,
        pval_threshold=0.1, save_eval_output=True, predict_eval=True, predict_trainer=False, n_hyperopt_trials=0,
        save_gene_split_datasets=True, debug_gene_split_datasets=False,
    ): ...  # fmt: skip
    def train_all_data(
        self, model_directory, prepared_input_data_file, id_class_dict_file, output_directory, output_prefix,
        save_eval_output=True, gene_balance=False,
    ): ...  # fmt: skip
    def train_classifier(
        self, model_directory, num_classes, train_data, eval_data, output_directory, predict=False
    ): ...
    def evaluate_model(
        self, model, num_classes, id_class_dict, eval_data, predict=False, output_directory=None, output_prefix=None,
        predict_metadata=None,
    ): ...  # fmt: skip
    def evaluate_saved_model(
        self, model_directory, id_class_dict_file, test_data_file, output_directory, output_prefix, predict=True,
        predict_metadata=None,
    ): ...  # fmt: skip
    def plot_conf_mat(self, conf_mat_dict, output_directory, output_prefix, custom_class_order=None): ...
    def plot_roc(self, roc_metric_dict, model_style_dict, title, output_directory, output_prefix): ...
    def plot_predictions(
        self, predictions_file, id_class_dict_file, title, output_directory, output_prefix, custom_class_order=None,
        kwargs_dict=None,
    ): ...  # fmt: skip


class MTLClassifier:
    def run_optuna_study(self): ...
    def run_manual_tuning(self): ...
    def load_and_evaluate_test_model(self): ...


class InSilicoPerturber:
    def __init__(
        self, perturb_type="delete", perturb_rank_shift=None, genes_to_perturb="all", combos=0, anchor_gene=None,
        model_type="Pretrained", num_classes=0, emb_mode="cls", cell_emb_style="mean_pool", filter_data=None,
        cell_states_to_model=None, state_embs_dict=None, max_ncells=None, cell_inds_to_perturb="all", emb_layer=-1,
        forward_batch_size=100, nproc=4, model_version="V2", token_dictionary_file=None, clear_mem_ncells=1000,
        filter_data_dict=None,
    ): ...  # fmt: skip
    def perturb_data(self, model_directory, input_data_file, output_directory, output_prefix): ...


class InSilicoPerturberStats:
    def __init__(
        self, mode="mixture_model", genes_perturbed="all", combos=0, anchor_gene=None, cell_states_to_model=None,
        pickle_suffix="_raw.pickle", model_version="V2", token_dictionary_file=TOKENS,
        gene_name_id_dictionary_file=NAMES,
    ): ...  # fmt: skip
    def get_stats(
        self, input_data_directory, null_dist_data_directory, output_directory, output_prefix, null_dict_list=None
    ): ...


PUBLISHED = [TranscriptomeTokenizer, EmbExtractor, Classifier, MTLClassifier, InSilicoPerturber, InSilicoPerturberStats]
METHODS = [(cls.__name__, name) for cls in PUBLISHED for name, value in vars(cls).items() if inspect.isfunction(value)]
MULTI_TASK = {
    "task_columns": None, "train_path": None, "val_path": None, "test_path": None, "pretrained_path": None,
    "model_save_path": None, "results_dir": None, "trials_result_path": None, "batch_size": 4, "n_trials": 15,
    "study_name": "mtl", "max_layers_to_freeze": None, "epochs": 1, "tensorboard_log_dir": "/results/tblogdir",
    "distributed_training": False, "master_addr": "localhost", "master_port": "12355", "use_attention_pooling": True,
    "use_task_weights": True, "hyperparameters": None, "manual_hyperparameters": None,
    "use_manual_hyperparameters": False, "use_wandb": False, "wandb_project": None, "gradient_clipping": False,
    "max_grad_norm": None, "gradient_accumulation_steps": 1, "seed": 42,
}  # fmt: skip


def arguments(function):
    return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("cls", "method"), METHODS)
def test_every_argument_is_there(cls, method):
    wanted = arguments(getattr(globals()[cls], method))
    assert arguments(getattr(getattr(gf, cls), method)) == wanted


def test_the_multi_task_classifier_takes_every_argument_by_name():
    found = {p.name: p.default for p in inspect.signature(gf.MTLClassifier).parameters.values()}
    assert found == MULTI_TASK


def test_the_pretrainer_passes_on_what_a_trainer_takes():
    kinds = [p.kind for p in inspect.signature(gf.GeneformerPretrainer).parameters.values()]
    assert {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= set(kinds)


def test_the_collators_take_a_dictionary_by_name():
    for collator in (gf.DataCollatorForCellClassification, gf.DataCollatorForGeneClassification):
        assert "token_dictionary" in inspect.signature(collator).parameters


def test_the_embedding_function_has_its_arguments():
    names = [name for name, _, _ in arguments(gf.get_embs)]
    assert names[0] == "model"
    assert names[2:] == [
        "emb_mode", "layer_to_quant", "pad_token_id", "forward_batch_size", "token_gene_dict", "special_token",
        "summary_stat", "silent", "save_tdigest", "tdigest_path",
    ]  # fmt: skip
