"""`Classifier`: classes of cells and of genes, under the published names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from geneformer.compat.classification import data as cells
from geneformer.compat.classification import evaluation
from geneformer.compat.classification import search as classifier_search
from geneformer.compat.classification import training as classifier_training
from geneformer.compat.classification import validation as classifier_validation
from geneformer.compat.classification.preparation import Preparation
from geneformer.compat.classification.reports import Reports
from geneformer.compat.classification.settings import warn_unused
from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import OptionError, UnsupportedArgumentError
from geneformer.options._check import whole_number


class Classifier(Preparation, Reports):
    """Cell or gene classes, learnt by fine-tuning BERT's classifiers on a pretrained encoder.

    Cells are told by the first position, `<cls>` or the top ranked gene; genes by every occurrence. Model folders are
    opened by `transformers.BertForSequenceClassification` and `BertForTokenClassification`, and by this package.

    Parameters
    ----------
    classifier
        "cell" or "gene".
    quantize
        True for low-rank updates over frozen weights of four bits; a dictionary with `peft_config` and, if wanted,
        `bnb_config`. Updates become part of the weights that are written.
    cell_state_dict
        For cells: `state_key`, a column, and `states`, a list of its values or "all".
    gene_class_dict
        For genes: lists of Ensembl ids by label. Unknown genes are left out, with a warning.
    filter_data
        Values to keep, by column.
    rare_threshold
        States of this share of the cells or less are left out.
    max_ncells, max_ncells_per_class
        Most cells in all, and of each state; drawn with seed 42.
    training_args
        Words of `transformers.TrainingArguments`, over the published defaults. All are honored or refused by name.
    ray_config
        What a search draws from: lists of choices, pairs (low, high), or domains of `ray.tune`. Optuna draws.
    freeze_layers
        Lowest encoder layers kept as they are; the token embeddings go on learning.
    num_crossval_splits
        0 for `train_all_data` only, 1, or 5.
    split_sizes
        Shares of `train`, `valid` and `test`; they add up to 1.
    stratify_splits_col
        Column whose shares are kept in random splits.
    no_eval
        Train without evaluation.
    forward_batch_size
        At most so many of the longest cells in one pass of an evaluation; how, not what.
    model_version
        "V1" or "V2", for the dictionary that genes are looked up in.
    token_dictionary_file
        A dictionary of the user's own instead.
    nproc, ngpu
        Checked, with nothing to do: reading is memory mapped, and a search runs its trials one after another.

    Attributes
    ----------
    gene_class_dict
        For genes: token ids by label.
    train_size, eval_size, oos_test_size
        Share learnt from, share of the rest of `train` and `valid` that is evaluated on, share tested on.

    Raises
    ------
    OptionError
        Arguments that are out of range, contradict each other, or cannot be honored.
    GeneListError
        Classes of genes that cannot be used.
    """

    def train_all_data(  # noqa: PLR0917  the published signature
        self,
        model_directory: str | Path,
        prepared_input_data_file: str | Path,
        id_class_dict_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        save_eval_output: bool = True,
        gene_balance: bool = False,
    ) -> Any:
        """Train on all prepared cells, without evaluation; returns the trainer.

        The model goes to `<output_directory>/<YYMMDD>_geneformer_<cell|gene>Classifier_<prefix>/`.

        Parameters
        ----------
        model_directory
            Pretrained model: a folder, or a name that `geneformer.load_model` knows.
        prepared_input_data_file, id_class_dict_file
            What `prepare_data` wrote.
        output_directory, output_prefix
            Where the model goes.
        save_eval_output
            Checked, with nothing to do: nothing is evaluated.
        gene_balance
            Leave out genes of the more frequent of two classes until both occur about equally often. For genes.

        Raises
        ------
        OutputExistsError
            The folder holds a trained model.
        PairingError
            Model and cells do not belong together.
        OptionError
            Arguments that cannot be honored.
        """
        self._check_balance(gene_balance)
        run = classifier_training.run_folder(self, output_directory, output_prefix)
        classifier_training.refuse_trained(run)
        classes = cells.read_classes(id_class_dict_file)
        data = cells.opened(prepared_input_data_file)
        if self.classifier == "gene":
            genes = classifier_validation.class_of_genes(self, classes)
            data = classifier_validation.gene_side(self, data, genes, balance=gene_balance)
        else:
            data = cells.shuffled(data)
        return self.train_classifier(model_directory, len(classes), data, None, run)

    def _check_balance(self, gene_balance: bool) -> None:
        if gene_balance and self.classifier == "cell":
            msg = 'gene_balance is about classes of genes; with classifier="cell" use max_ncells_per_class.'
            raise UnsupportedArgumentError(msg)
        if gene_balance and len(self.gene_class_dict or {}) != 2:
            msg = f"gene_balance takes two classes of genes; there are {len(self.gene_class_dict or {})}."
            raise OptionError(msg)

    def validate(  # noqa: PLR0913, PLR0917  the published signature
        self,
        model_directory: str | Path,
        prepared_input_data_file: str | Path,
        id_class_dict_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        split_id_dict: dict[str, Any] | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: list[str] | None = None,
        gene_balance: bool = False,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
        save_eval_output: bool = True,
        predict_eval: bool = True,
        predict_trainer: bool = False,
        n_hyperopt_trials: int = 0,
        save_gene_split_datasets: bool = True,
        debug_gene_split_datasets: bool = False,
    ) -> dict[str, Any] | None:
        """Train and evaluate on one or five splits of the prepared cells.

        Cells are split once, by ids, by balanced attributes or at random; or into five blocks that together cover all
        of them. Genes are split into folds with the classes evenly spread; the held-out genes validate and test. Each
        split goes to `<output_directory>/<YYMMDD>_geneformer_<cell|gene>Classifier_<prefix>/ksplit<i>/`.

        Parameters
        ----------
        model_directory
            Pretrained model: a folder, or a name that `geneformer.load_model` knows.
        prepared_input_data_file, id_class_dict_file
            What `prepare_data` wrote.
        output_directory, output_prefix
            Where files go.
        split_id_dict
            `attr_key`, a column, and the ids of `train` and of `eval`.
        attr_to_split, attr_to_balance, max_trials, pval_threshold
            As in `prepare_data`; draws are kept in `<prefix>_train_valid_balance_df.csv`.
        gene_balance
            See `train_all_data`; for the genes learnt from.
        save_eval_output
            Write `<prefix>_eval_metrics_dict.pkl`.
        predict_eval
            Write `<prefix>_pred_dict.pkl` of every split into its folder.
        predict_trainer
            For cells: write the Trainer's `predictions.pkl` and `eval_results.json` as well.
        n_hyperopt_trials
            Search for training arguments in each split with so many trials. Cells are then evaluated on the cells that
            chose among the trials, genes on the test genes.
        save_gene_split_datasets
            For genes: write `<prefix>_{train,valid,test}_gene_labeled_ksplit<i>.dataset`.
        debug_gene_split_datasets
            For genes: write the data sets of the first split, train nothing, and return None.

        Returns
        -------
        `conf_matrix`, a table with the truth in rows, summed over splits; `macro_f1` and `acc` of each split; and for
        two classes `all_roc_metrics`, else None. None with `no_eval`.

        Raises
        ------
        OutputExistsError
            The folder holds a trained model.
        PairingError
            Model and cells do not belong together.
        LabelError
            Cells or genes that cannot be split so.
        OptionError
            Arguments that cannot be honored.
        """
        way = cells.CellSplit(
            split_id_dict=split_id_dict, attr_to_split=attr_to_split, attr_to_balance=attr_to_balance,
            max_trials=max_trials, pval_threshold=pval_threshold,
        )  # fmt: skip
        self._check_balance(gene_balance)
        if self.classifier == "cell":
            warn_unused("cell", debug_gene_split_datasets=debug_gene_split_datasets)
        else:
            warn_unused("gene", predict_trainer=predict_trainer)
        n_hyperopt_trials = whole_number("n_hyperopt_trials", n_hyperopt_trials, low=0)
        run = classifier_training.run_folder(self, output_directory, output_prefix)
        classes = cells.read_classes(id_class_dict_file)
        data = cells.opened(prepared_input_data_file)
        results = []
        for number, sides in enumerate(self._splits(data, classes, way, run, output_prefix, gene_balance), start=1):
            if self.classifier == "gene" and (save_gene_split_datasets or debug_gene_split_datasets):
                classifier_validation.save_sides(run, output_prefix, number, sides)
                if debug_gene_split_datasets:
                    return None
            trainer, judged = self._learn_split(
                (model_directory, len(classes)), sides, run / f"ksplit{number}", n_hyperopt_trials, predict_trainer
            )
            if not self.no_eval:
                told = (predict_eval, run / f"ksplit{number}", output_prefix)
                results.append(self.evaluate_model(trainer.model, len(classes), classes, judged, *told))
        if self.no_eval:
            return None
        metrics = evaluation.split_metrics(results, list(classes.values()))
        if save_eval_output:
            write_pickle(metrics, Path(output_directory) / f"{output_prefix}_eval_metrics_dict.pkl")
        return metrics

    def _learn_split(
        self,
        model: tuple[str | Path, int],
        sides: classifier_validation.Split,
        folder: Path,
        trials: int,
        predict: bool,
    ) -> tuple[Any, cells.Data | None]:
        """The trainer of a split, and the cells it is judged by."""
        learnt, held, test = sides
        shown = None if self.no_eval else held
        if trials == 0:
            return self.train_classifier(*model, learnt, shown, folder, predict=predict), held
        trainer = self.hyperopt_classifier(*model, learnt, shown, folder, n_trials=trials)
        if predict and held is not None and self.classifier == "cell":
            classifier_training.write_predictions(self, trainer, held, folder)
        return trainer, held if test is None else test

    def _splits(
        self, data: cells.Data, classes: dict[int, Any], way: cells.CellSplit, run: Path, prefix: str, balance: bool
    ) -> Iterator[classifier_validation.Split]:
        if self.num_crossval_splits == 0:
            msg = "num_crossval_splits=0 is for train_all_data. Construct the Classifier with 1 or 5 to validate."
            raise OptionError(msg)
        if self.classifier == "cell":
            draws = run / f"{prefix}_train_valid_balance_df.csv"
            return classifier_validation.cell_splits(self, data, classes, way, draws)
        if not way.is_at_random:
            msg = "Genes are split, not cells. Leave out split_id_dict and attr_to_split, or split in prepare_data."
            raise UnsupportedArgumentError(msg)
        return classifier_validation.gene_splits(self, data, classes, gene_balance=balance)

    def hyperopt_classifier(
        self,
        model_directory: str | Path,
        num_classes: int,
        train_data: Any,
        eval_data: Any,
        output_directory: str | Path,
        n_trials: int = 100,
    ) -> Any:
        """Train once per trial of Optuna, and keep the model with the best macro-F1; returns its trainer.

        Trials go to `run-<i>/`, the best model to the folder itself, beside `trials.csv`.

        Parameters
        ----------
        model_directory, num_classes, train_data, eval_data, output_directory
            As in `train_classifier`; the cells of `eval_data` choose among the trials.
        n_trials
            Trials.

        Raises
        ------
        TrainingError
            Every trial failed.
        MissingExtraError
            Optuna is not installed.
        OptionError
            A search space that cannot be drawn from.
        """
        return classifier_search.search(
            self, model_directory, num_classes, train_data, eval_data, output_directory, n_trials
        )

    def train_classifier(
        self,
        model_directory: str | Path,
        num_classes: int,
        train_data: Any,
        eval_data: Any,
        output_directory: str | Path,
        predict: bool = False,
    ) -> Any:
        """Train on labeled cells; returns the trainer, whose `model` is the trained network.

        Parameters
        ----------
        model_directory
            Pretrained model.
        num_classes
            Classes.
        train_data, eval_data
            Cells with a column `label`, or `labels` for genes: a folder, or a `datasets.Dataset`. None for `eval_data`
            trains without evaluation.
        output_directory
            Gets the model and its checkpoints.
        predict
            For cells: also write `predictions.pkl` and `eval_results.json`.

        Raises
        ------
        OutputExistsError
            The folder holds a trained model.
        PairingError, OptionError, TrainingError
            Model, cells and arguments do not belong together, or training failed.
        """
        return classifier_training.train(
            self, model_directory, num_classes, train_data, eval_data, output_directory, predict
        )
