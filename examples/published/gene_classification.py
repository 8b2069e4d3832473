"""Published scenario: a classifier of genes, validated on genes it did not learn from, then trained on all of them.

    python examples/published/gene_classification.py DATA OUT

DATA is what `make_inputs.py` wrote. OUT gets the prepared cells, the models of five folds and of all genes, metrics as
pickles and two figures. The two classes are genes that all blood cells express strongly, and ribosomal genes.
"""

import argparse
from pathlib import Path

from geneformer import Classifier, Vocabulary

PREFIX = "ribosomal"
RIBOSOMAL = ["RPL3", "RPL5", "RPL11", "RPL13", "RPL32", "RPS3", "RPS6", "RPS12", "RPS18", "RPS27"]
OTHER = ["B2M", "ACTB", "FTL", "FTH1", "TMSB4X", "ACTG1", "EEF1A1", "TPT1", "CD74", "PTMA"]


def gene_classes() -> dict[str, list[str]]:
    """Ensembl ids by class."""
    symbols = Vocabulary.load("V1").symbols
    return {"ribosomal": [symbols[name] for name in RIBOSOMAL], "other": [symbols[name] for name in OTHER]}


def main(data: Path, out: Path, max_ncells: int = 24) -> dict[str, object]:
    """Prepare, validate in five folds, draw, and train on all genes; returns the metrics of the folds."""
    classes = gene_classes()
    settings = {"max_ncells": max_ncells, "freeze_layers": 2, "forward_batch_size": 200, "nproc": 2}
    classifier = Classifier(
        classifier="gene", gene_class_dict=classes, num_crossval_splits=5, model_version="V1", **settings
    )
    classifier.prepare_data(input_data_file=data / "V1.dataset", output_directory=out, output_prefix=PREFIX)
    prepared = {
        "model_directory": data / "V1",
        "prepared_input_data_file": out / f"{PREFIX}_labeled.dataset",
        "id_class_dict_file": out / f"{PREFIX}_id_class_dict.pkl",
        "output_directory": out,
    }
    metrics = classifier.validate(output_prefix=PREFIX, **prepared)
    classifier.plot_conf_mat({"Geneformer": metrics["conf_matrix"]}, out, PREFIX)
    classifier.plot_roc(
        {"Geneformer": metrics["all_roc_metrics"]},
        {"Geneformer": {"color": "red", "linestyle": "-"}},
        "Ribosomal genes",
        out,
        PREFIX,
    )
    whole = Classifier(
        classifier="gene", gene_class_dict=classes, num_crossval_splits=0, model_version="V1", **settings
    )
    whole.train_all_data(output_prefix=f"{PREFIX}_all", **prepared)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    main(args.data, args.out)
