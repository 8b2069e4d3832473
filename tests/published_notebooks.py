"""Notebooks as users of the published package have them, cell by cell; `DATA` is the folder of `make_inputs.py`.

`EARLIER` is of its first releases: there was one vocabulary, which no argument named, and training was left to the
Trainer of `transformers`. `LATER` is of the releases with two vocabularies and a class for each job.
"""

EARLIER = [
    # Annotation of cells with a plain Trainer
    """
import pickle
from collections import Counter

from datasets import load_from_disk
from sklearn.metrics import accuracy_score, f1_score
from transformers import BertForSequenceClassification, BertForTokenClassification, Trainer
from transformers.training_args import TrainingArguments

from geneformer import DataCollatorForCellClassification, DataCollatorForGeneClassification
""",
    """
cells = load_from_disk(f"{DATA}/V1.dataset").shuffle(seed=42).rename_column("cell_type", "label")
cells = cells.remove_columns([name for name in cells.column_names if name not in ("input_ids", "label", "length")])
ids = {name: number for number, name in enumerate(Counter(cells["label"]))}

def to_id(example):
    example["label"] = ids[example["label"]]
    return example

cells = cells.map(to_id)
train, held_out = cells.select(range(48)), cells.select(range(48, 60))
""",
    """
def compute_metrics(pred):
    labels, predicted = pred.label_ids, pred.predictions.argmax(-1)
    return {"accuracy": accuracy_score(labels, predicted), "macro_f1": f1_score(labels, predicted, average="macro")}

model = BertForSequenceClassification.from_pretrained(
    f"{DATA}/V1", num_labels=len(ids), output_attentions=False, output_hidden_states=False
)
training_args = {
    "learning_rate": 5e-5,
    "do_train": True,
    "do_eval": True,
    "evaluation_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_steps": 2,
    "group_by_length": True,
    "length_column_name": "length",
    "disable_tqdm": False,
    "lr_scheduler_type": "linear",
    "warmup_steps": 2,
    "weight_decay": 0.001,
    "per_device_train_batch_size": 12,
    "per_device_eval_batch_size": 12,
    "num_train_epochs": 1,
    "load_best_model_at_end": True,
    "output_dir": f"{OUT}/annotation",
}
trainer = Trainer(
    model=model,
    args=TrainingArguments(**training_args),
    data_collator=DataCollatorForCellClassification(),
    train_dataset=train,
    eval_dataset=held_out,
    compute_metrics=compute_metrics,
)
trainer.train()
predictions = trainer.predict(held_out)
trainer.save_metrics("eval", predictions.metrics)
trainer.save_model(f"{OUT}/annotation")
""",
    # Classes of genes with a plain Trainer
    """
from geneformer.pretrainer import token_dictionary

classes = {"ENSG00000231389": 0, "ENSG00000223865": 0, "ENSG00000166710": 1, "ENSG00000075624": 1}
class_of = {token_dictionary[gene]: label for gene, label in classes.items()}

def label_genes(example):
    example["labels"] = [class_of.get(token, -100) for token in example["input_ids"]]
    return example

genes = load_from_disk(f"{DATA}/V1.dataset").map(label_genes).select_columns(["input_ids", "labels", "length"])
model = BertForTokenClassification.from_pretrained(f"{DATA}/V1", num_labels=2)
gene_trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=f"{OUT}/genes", max_steps=2, evaluation_strategy="no", save_strategy="no", group_by_length=True,
        length_column_name="length", per_device_train_batch_size=4, logging_steps=1, no_cuda=True,
        warmup_ratio=0.1, overwrite_output_dir=True,
    ),
    data_collator=DataCollatorForGeneClassification(),
    train_dataset=genes,
)
gene_trainer.train()
""",
    # Embeddings, without a word about the version of the model
    """
from geneformer import EmbExtractor

embex = EmbExtractor(
    model_type="CellClassifier", num_classes=3, filter_data={"cell_type": ["B cells", "NK cells"]}, max_ncells=40,
    emb_layer=0, emb_label=["depth", "cell_type"], labels_to_plot=["cell_type"], forward_batch_size=200, nproc=2,
)
embs = embex.extract_embs(f"{OUT}/annotation", f"{DATA}/V1.dataset", f"{OUT}/embs", "blood")
""",
    """
embex.plot_embs(embs=embs, plot_style="umap", output_directory=f"{OUT}/embs", output_prefix="map")
""",
    """
embex.plot_embs(
    embs=embs, plot_style="heatmap", output_directory=f"{OUT}/embs", output_prefix="map"
)
""",
    # Perturbation, whose states are embedded as it goes
    """
from geneformer import InSilicoPerturber, InSilicoPerturberStats

states = {"cell_type": (["CD14+ Monocytes"], ["B cells"], ["NK cells"])}
isp = InSilicoPerturber(
    perturb_type="delete", perturb_rank_shift=None, genes_to_perturb="all", combos=0, anchor_gene=None,
    model_type="CellClassifier", num_classes=3, emb_mode="cell", cell_emb_style="mean_pool",
    filter_data={"depth": ["shallow"]}, cell_states_to_model=states, max_ncells=2, emb_layer=0,
    forward_batch_size=400, nproc=2,
)
isp.perturb_data(f"{OUT}/annotation", f"{DATA}/V1.dataset", f"{OUT}/perturbed/", "blood")
""",
    """
stats = InSilicoPerturberStats(
    mode="goal_state_shift", genes_perturbed="all", combos=0, anchor_gene=None, cell_states_to_model=states
)
stats.get_stats(f"{OUT}/perturbed/", None, f"{OUT}/stats/", "blood")
""",
]

LATER = [
    """
from geneformer import TranscriptomeTokenizer

columns = {"cell_type": "cell_type", "individual": "individual", "depth": "depth"}
tk = TranscriptomeTokenizer(columns, model_input_size=1024, nproc=2)
tk.tokenize_data(f"{DATA}/loom", OUT, "blood", file_format="loom")
""",
    # A classifier of cells
    """
from geneformer import Classifier

cc = Classifier(
    classifier="cell",
    cell_state_dict={"state_key": "cell_type", "states": "all"},
    filter_data={"depth": ["deep", "shallow"]},
    training_args={
        "num_train_epochs": 0.9, "learning_rate": 0.000804, "lr_scheduler_type": "polynomial", "warmup_steps": 2,
        "weight_decay": 0.258828, "per_device_train_batch_size": 12, "seed": 73, "group_by_length": True,
        "evaluation_strategy": "epoch", "disable_tqdm": False,
    },
    max_ncells=None,
    freeze_layers=2,
    num_crossval_splits=1,
    forward_batch_size=200,
    nproc=2,
)
donors = [f"donor_{number}" for number in range(6)]
cc.prepare_data(
    input_data_file=f"{OUT}/blood.dataset", output_directory=OUT, output_prefix="kinds",
    split_id_dict={"attr_key": "individual", "train": donors[:5], "test": donors[5:]},
)
""",
    """
metrics = cc.validate(
    model_directory=f"{DATA}/V2",
    prepared_input_data_file=f"{OUT}/kinds_labeled_train.dataset",
    id_class_dict_file=f"{OUT}/kinds_id_class_dict.pkl",
    output_directory=OUT,
    output_prefix="kinds",
    split_id_dict={"attr_key": "individual", "train": donors[:4], "eval": donors[4:5]},
)
""",
    """
from glob import glob

[run] = glob(f"{OUT}/*_geneformer_cellClassifier_kinds")
cc = Classifier(
    classifier="cell", cell_state_dict={"state_key": "cell_type", "states": "all"}, forward_batch_size=200, nproc=2
)
metrics = cc.evaluate_saved_model(
    model_directory=f"{run}/ksplit1/",
    id_class_dict_file=f"{OUT}/kinds_id_class_dict.pkl",
    test_data_file=f"{OUT}/kinds_labeled_test.dataset",
    output_directory=OUT,
    output_prefix="kinds_test",
)
order = ["NK cells", "B cells", "CD14+ Monocytes"]
cc.plot_conf_mat(
    conf_mat_dict={"Geneformer": metrics["conf_matrix"]}, output_directory=OUT, output_prefix="kinds_test",
    custom_class_order=order,
)
""",
    """
cc.plot_predictions(
    predictions_file=f"{OUT}/kinds_test_pred_dict.pkl",
    id_class_dict_file=f"{OUT}/kinds_id_class_dict.pkl",
    title="cell type",
    output_directory=OUT,
    output_prefix="kinds_test",
    custom_class_order=order,
)
metrics["conf_matrix"]
""",
    # A quantized classifier of genes over cells and a model of V1, without a word about the version
    """
genes = {
    "presenting": ["ENSG00000231389", "ENSG00000223865", "ENSG00000206503", "ENSG00000234745", "ENSG00000204525"],
    "ribosomal": ["ENSG00000142676", "ENSG00000174444", "ENSG00000137154", "ENSG00000149273", "ENSG00000122406"],
}
gc = Classifier(
    classifier="gene", gene_class_dict=genes, max_ncells=20, freeze_layers=1, num_crossval_splits=1,
    forward_batch_size=200, quantize=True, training_args={"max_steps": 2, "no_cuda": True}, nproc=2,
)
gc.prepare_data(input_data_file=f"{DATA}/V1.dataset", output_directory=OUT, output_prefix="genes")
gene_metrics = gc.validate(
    model_directory=f"{DATA}/V1",
    prepared_input_data_file=f"{OUT}/genes_labeled.dataset",
    id_class_dict_file=f"{OUT}/genes_id_class_dict.pkl",
    output_directory=OUT,
    output_prefix="genes",
)
""",
    """
gc.plot_roc(
    roc_metric_dict={"Geneformer": gene_metrics["all_roc_metrics"]},
    model_style_dict={"Geneformer": {"color": "red", "linestyle": "-"}},
    title="Kinds of genes",
    output_directory=OUT,
    output_prefix="genes",
)
""",
    # Perturbation by a quantized model, which needs an accelerator
    """
from geneformer import EmbExtractor, InSilicoPerturber, InSilicoPerturberStats

states = {
    "state_key": "cell_type", "start_state": "CD14+ Monocytes", "goal_state": "B cells", "alt_states": ["NK cells"],
}
filter_data_dict = {"depth": ["shallow"]}
embex = EmbExtractor(
    model_type="Pretrained", num_classes=0, filter_data=filter_data_dict, max_ncells=20, emb_layer=0,
    summary_stat="exact_mean", forward_batch_size=8, model_version="V2", nproc=2,
)
state_embs_dict = embex.get_state_embs(states, f"{DATA}/V2", f"{OUT}/blood.dataset", OUT, "states")
isp = InSilicoPerturber(
    perturb_type="delete", perturb_rank_shift=None, genes_to_perturb=["ENSG00000087086", "ENSG00000167996"],
    model_type="MTLCellClassifier-Quantized", num_classes=0, emb_mode="cls", filter_data_dict=filter_data_dict,
    cell_states_to_model=states, state_embs_dict=state_embs_dict, max_ncells=4, emb_layer=0, forward_batch_size=8,
    model_version="V2", nproc=2,
)
isp.perturb_data(f"{DATA}/V2", f"{OUT}/blood.dataset", f"{OUT}/perturbed", "ferritin")
""",
    """
stats = InSilicoPerturberStats(
    mode="goal_state_shift", genes_perturbed=["ENSG00000087086", "ENSG00000167996"], combos=0, anchor_gene=None,
    cell_states_to_model=states, model_version="V2",
)
stats.get_stats(f"{OUT}/perturbed", None, f"{OUT}/stats", "ferritin")
""",
]
