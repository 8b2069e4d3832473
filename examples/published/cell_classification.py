"""Published scenario: a classifier of cells, trained on some individuals, tuned on others, tested on the rest.

    python examples/published/cell_classification.py DATA OUT

DATA is what `make_inputs.py` wrote. OUT gets the prepared cells, a run folder with the trained model, metrics as
pickles and three figures.
"""

import argparse
from pathlib import Path

from geneformer import Classifier

PREFIX = "cell_types"
STATES = {"state_key": "cell_type", "states": "all"}
TRAIN, EVAL, TEST = [f"donor_{i}" for i in range(4)], ["donor_4"], ["donor_5"]


def main(data: Path, out: Path) -> dict[str, object]:
    """Prepare, train, validate, test and draw; returns the metrics of the test cells."""
    classifier = Classifier(
        classifier="cell",
        cell_state_dict=STATES,
        filter_data={"depth": ["deep", "shallow"]},
        training_args={
            "num_train_epochs": 5,
            "learning_rate": 0.000804,
            "lr_scheduler_type": "polynomial",
            "warmup_steps": 3,
            "weight_decay": 0.258828,
            "per_device_train_batch_size": 12,
            "seed": 73,
        },
        max_ncells=None,
        freeze_layers=2,
        num_crossval_splits=1,
        forward_batch_size=200,
        model_version="V1",
        nproc=2,
    )
    classifier.prepare_data(
        input_data_file=data / "V1.dataset",
        output_directory=out,
        output_prefix=PREFIX,
        split_id_dict={"attr_key": "individual", "train": TRAIN + EVAL, "test": TEST},
    )
    classes = out / f"{PREFIX}_id_class_dict.pkl"
    classifier.validate(
        model_directory=data / "V1",
        prepared_input_data_file=out / f"{PREFIX}_labeled_train.dataset",
        id_class_dict_file=classes,
        output_directory=out,
        output_prefix=PREFIX,
        split_id_dict={"attr_key": "individual", "train": TRAIN, "eval": EVAL},
    )
    model = max(out.glob(f"*_geneformer_cellClassifier_{PREFIX}")) / "ksplit1"

    # The saved model tells its own vocabulary, so that nothing is said about it here.
    tester = Classifier(classifier="cell", cell_state_dict=STATES, forward_batch_size=200)
    metrics = tester.evaluate_saved_model(
        model_directory=model,
        id_class_dict_file=classes,
        test_data_file=out / f"{PREFIX}_labeled_test.dataset",
        output_directory=out,
        output_prefix=PREFIX,
    )
    order = ["NK cells", "B cells", "CD14+ Monocytes"]
    tester.plot_conf_mat({"Geneformer": metrics["conf_matrix"]}, out, PREFIX, custom_class_order=order)
    tester.plot_predictions(out / f"{PREFIX}_pred_dict.pkl", classes, "cell type", out, PREFIX, order)
    return metrics


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    main(args.data, args.out)
