"""`Classifier`: classes of cells and of genes, under the published names."""

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import InitVar, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from geneformer import errors
from geneformer.compat import classifier_data as cells
from geneformer.compat import classifier_reports as reports
from geneformer.compat import classifier_training as training
from geneformer.compat.cells import (
    balanced_classes,
    blocks,
    gene_folds,
    rows_with,
    subsample_by_class,
    without_rare,
)
from geneformer.compat.dictionaries import only_in_v1, published_vocabulary
from geneformer.compat.networks import checked_quantize, load_bert_classifier, published_runtime, usable_bits
from geneformer.compat.options import Count, Limit, Positive, Values, Version, check_arguments, given_filter
from geneformer.compat.search_space import read_ray_space
from geneformer.files import require
from geneformer.files.atomic import make_folder
from geneformer.files.pickles import write_pickle
from geneformer.files.progress import progress_bar
from geneformer.finetuning.training import count_cells
from geneformer.options._fields import check_choice, check_range, whole_number
from geneformer.tokens.dataset import TokenizedDataset

_logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
"""Files by which a folder is recognized as that of a trained model."""

Split = tuple[TokenizedDataset, TokenizedDataset | None, TokenizedDataset | None]
"""Cells to learn from, to evaluate on, and to test on."""


@dataclass(eq=False, repr=False)
class Classifier:
    """Cell or gene classes, learnt by fine-tuning BERT's classifiers on a pretrained encoder.

    Cells are classified by their first position, `<cls>` or the top ranked gene; genes at every occurrence. Model
    folders are opened by `transformers.BertForSequenceClassification` and `BertForTokenClassification`, and by this
    package.

    Parameters
    ----------
    classifier : "cell" or "gene".
    quantize
        True for low-rank updates over weights of four bits, or a dictionary with `peft_config`, `bnb_config`. On a CPU
        the weights keep their 32 bits.
    cell_state_dict : For cells: `state_key`, a column, and `states`, a list of its values or "all".
    gene_class_dict : For genes: lists of Ensembl ids by label; as an attribute, token ids. Unknown genes are left out.
    filter_data : Values to keep, by column.
    rare_threshold : States of this share of the cells or less are left out.
    max_ncells, max_ncells_per_class : Most cells in all, and of each state; drawn with seed 42.
    training_args : Arguments of `transformers.TrainingArguments`, over the published defaults; honored, or refused.
    ray_config : What a search draws from: lists of choices, pairs (low, high), or domains of `ray.tune`. Optuna draws.
    freeze_layers : Lowest encoder layers kept as they are; the token embeddings go on learning.
    num_crossval_splits : 0 for `train_all_data` only, 1, or 5.
    split_sizes : Shares of `train`, `valid` and `test`; they add up to 1.
    stratify_splits_col : Column whose shares are kept in random splits.
    no_eval : Train without evaluation.
    forward_batch_size : At most so many of the longest cells in one pass of an evaluation; how, not what.
    model_version, token_dictionary_file
        "V1" or "V2", for the dictionary of genes; or one of the user's own. Left at "V2", cells of V1 are recognized.
    nproc, ngpu : Checked, with nothing to do: reading is memory mapped, and trials run one after another.
    filter_data_dict : Another name of `filter_data`.
    """

    classifier: str = None  # type: ignore[assignment]  # the published default, which is refused
    quantize: bool | dict[str, Any] = False
    cell_state_dict: dict[str, Any] | None = None
    gene_class_dict: dict[Any, Any] | None = None
    filter_data: Values = None
    rare_threshold: float = 0
    max_ncells: Limit = None
    max_ncells_per_class: Limit = None
    training_args: dict[str, Any] | None = None
    ray_config: dict[str, Any] | None = None
    freeze_layers: Count = 0
    num_crossval_splits: Literal[0, 1, 5] = 1
    split_sizes: Mapping[str, float] | None = cells.SPLIT_SIZES
    stratify_splits_col: str | None = None
    no_eval: bool = False
    forward_batch_size: Positive = 100
    model_version: Version = "V2"
    token_dictionary_file: str | Path | None = None
    nproc: Positive = 4
    ngpu: Count = 1
    filter_data_dict: InitVar[Values] = None

    def __post_init__(self, filter_data_dict: Values) -> None:
        self.filter_data = given_filter(self.filter_data, filter_data_dict)
        check_choice("classifier", self.classifier, ("cell", "gene"))
        vars(self).update(check_arguments(type(self), vars(self)))
        check_range("rare_threshold", self.rare_threshold, low=0.0, high=1.0)
        arguments: Any = self.training_args
        if not isinstance(arguments, Mapping | None):
            msg = f"training_args={arguments!r} takes a dictionary of arguments of transformers.TrainingArguments."
            raise errors.OptionError(msg)
        self.vocabulary = published_vocabulary(self.model_version, self.token_dictionary_file)
        self.gene_token_dict = dict(self.vocabulary.token_of)
        self.adapters, bits = checked_quantize(self.quantize)
        self.bits = usable_bits(bits, training.chosen_device(arguments), "quantize")
        if self.classifier == "cell":
            _warn_unused("cell", gene_class_dict=self.gene_class_dict)
            self.gene_class_dict = None
            self.cell_state_dict = cells.checked_states(self.cell_state_dict)
        else:
            if self.max_ncells_per_class is not None:
                msg = 'max_ncells_per_class is about states of cells; with classifier="gene" use max_ncells.'
                raise errors.UnsupportedArgumentError(msg)
            unused = {"rare_threshold": self.rare_threshold, "stratify_splits_col": self.stratify_splits_col}
            _warn_unused("gene", cell_state_dict=self.cell_state_dict, **unused)
            self.cell_state_dict = None
            self._genes_given = self.gene_class_dict
            self.gene_class_dict = cells.checked_genes(self.gene_class_dict, self.vocabulary)
        self.filter_data = cells.checked_filter(self.filter_data, self.cell_state_dict)
        self.split_sizes = sizes = cells.checked_shares(self.split_sizes)
        self.train_size, self.oos_test_size = sizes["train"], sizes["test"]
        self.eval_size = sizes["valid"] / (sizes["train"] + sizes["valid"])

    def _read(self, data: Any) -> TokenizedDataset:
        """Tokenized cells; if they are of V1, and no other version was chosen, genes are those of V1 from here on."""
        tokens, v1 = cells.as_tokens(data), published_vocabulary("V1")
        if self.classifier == "cell" or self.vocabulary != published_vocabulary("V2"):
            return tokens
        is_unmarked = tokens.vocabulary is None
        if tokens.vocabulary == v1.fingerprint or (is_unmarked and only_in_v1(training.highest_token(tokens))):
            _logger.warning("The cells are of V1, and genes are looked up as such.")
            self.model_version, self.vocabulary, self.gene_token_dict = "V1", v1, dict(v1.token_of)
            self.gene_class_dict = cells.checked_genes(self._genes_given, v1)
        return tokens

    def prepare_data(  # noqa: PLR0917  the published signature
        self,
        input_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        split_id_dict: dict[str, Any] | None = None,
        test_size: float | None = None,
        attr_to_split: str | None = None,
        attr_to_balance: list[str] | None = None,
        max_trials: int = 100,
        pval_threshold: float = 0.1,
        id_class_dict_path: str | Path | None = None,
    ) -> None:
        """Filter, draw, label and split tokenized cells.

        Writes `<prefix>_id_class_dict.pkl`, and `<prefix>_labeled_train.dataset` with `<prefix>_labeled_test.dataset`,
        or `<prefix>_labeled.dataset` where nothing is held out. Class ids count through the sorted states of cells, or
        the classes of genes as given.

        Parameters
        ----------
        input_data_file : Tokenized cells.
        output_directory, output_prefix : Where files go; the folder is made.
        split_id_dict : `attr_key`, a column, and the ids of `train` and of `test`.
        test_size : Share of the cells held out; that of `split_sizes` by default, 0 for none. For cells.
        attr_to_split, attr_to_balance : Column of ids held out as a whole; attributes in which both sides are alike.
        max_trials, pval_threshold
            Draws made at most, and the p-value all attributes must reach; the best draw is used if none does. They are
            kept in `<prefix>_train_test_balance_df.csv`.
        id_class_dict_path : Class ids made before.
        """
        stem = str(Path(output_directory) / output_prefix)
        split = cells.CellSplit(
            "test", split_id_dict, attr_to_split, attr_to_balance, max_trials, pval_threshold,
            trials_file=Path(f"{stem}_train_test_balance_df.csv"),
        )  # fmt: skip
        data = self._read(input_data_file)
        for name in training.LABELS.values():
            if name in data.columns:
                msg = f"The data set has a column {name!r} already, the name of the labels to be made. Rename it."
                raise errors.DatasetError(msg)
        if self.filter_data:
            data = data.take(rows_with(data, self.filter_data))
        classes = None if id_class_dict_path is None else cells.read_classes(id_class_dict_path)
        if self.classifier == "gene":
            if split.attr_to_split is not None or test_size:
                msg = "Genes are split, not cells. Leave out attr_to_split and test_size, or use split_id_dict."
                raise errors.UnsupportedArgumentError(msg)
            share = 0.0
            labeled, classes = self._label_genes(data, classes)
        else:
            share = self.oos_test_size if test_size is None else test_size
            check_range("test_size", share, low=0.0, high=1.0)
            labeled, classes = self._label_cells(data, classes)
        write_pickle(classes, f"{stem}_id_class_dict.pkl")
        if split.is_at_random and not 0 < share < 1:
            cells.save_labeled(labeled, Path(f"{stem}_labeled.dataset"))
            return
        for part, name in zip(self._split_cells(labeled, classes, split, share), ("train", "test"), strict=True):
            cells.save_labeled(part, Path(f"{stem}_labeled_{name}.dataset"))

    def _label_cells(
        self, data: TokenizedDataset, classes: dict[int, Any] | None
    ) -> tuple[TokenizedDataset, dict[int, Any]]:
        """Cells without rare states, in the published order and at most so many, with their classes."""
        states = self.cell_state_dict or {}
        state_key = states["state_key"]
        present = set(data.column(state_key).tolist())
        absent = [] if states["states"] == "all" else [state for state in states["states"] if state not in present]
        if absent:
            msg = f"No cell has {state_key!r} among {absent} of cell_state_dict; the classes are the other states."
            warnings.warn(msg, errors.GeneformerWarning, stacklevel=3)
        if self.rare_threshold > 0:
            data = data.take(without_rare(data.column(state_key), self.rare_threshold))
        data = cells.shuffled(data, self.max_ncells)
        if self.max_ncells_per_class is not None:
            data = data.take(subsample_by_class(data.column(state_key).tolist(), self.max_ncells_per_class))
        return cells.label_cells(data, state_key, classes)

    def _label_genes(
        self, data: TokenizedDataset, classes: dict[int, Any] | None
    ) -> tuple[TokenizedDataset, dict[int, Any]]:
        """Cells with any of the genes, with the classes of their tokens."""
        if data.vocabulary is not None and data.vocabulary != self.vocabulary.fingerprint:
            name = self.vocabulary.name
            msg = f"The cells were not tokenized with vocabulary {name}, that of the genes. Set their model_version."
            raise errors.VocabularyMismatchError(msg)
        classes = dict(enumerate(self.gene_class_dict or {})) if classes is None else classes
        labeled = cells.label_genes(data, self._class_of_genes(classes))
        if not len(labeled):
            msg = "None of the cells has any of the genes of gene_class_dict."
            raise errors.GeneListError(msg)
        return labeled, classes

    def _split_cells(
        self, data: TokenizedDataset, classes: Mapping[int, Any], split: cells.CellSplit, share: float
    ) -> tuple[TokenizedDataset, TokenizedDataset]:
        """Cells to learn from and cells held out; the state column is called `label` by now."""
        stratify, state_names = self.stratify_splits_col, {}
        if self.cell_state_dict is not None:
            state_key = self.cell_state_dict["state_key"]
            stratify = training.LABELS["cell"] if stratify == state_key else stratify
            state_names[state_key] = [str(classes[code]) for code in data.column(training.LABELS["cell"]).tolist()]
        return split.draw(data, share, state_names, stratify)

    def _class_of_genes(self, classes: Mapping[int, Any]) -> dict[int, int]:
        """Class id of every gene by its token, class by class."""
        id_of = {label: number for number, label in classes.items()}
        genes = self.gene_class_dict or {}
        unknown = [label for label in genes if label not in id_of]
        if unknown:
            msg = f"The dictionary of classes has no {unknown[0]!r}; it has {list(id_of)}. Use that of prepare_data."
            raise errors.OptionError(msg)
        return {token: id_of[label] for label, tokens in genes.items() for token in tokens}

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
        model_directory, prepared_input_data_file, id_class_dict_file, output_directory, output_prefix
            As in `validate`.
        save_eval_output : Has nothing to do: nothing is evaluated.
        gene_balance : Leave out genes of the more frequent of two classes until both occur about equally often.
        """
        self._check_balance(gene_balance)
        run = self._run_folder(output_directory, output_prefix)
        _refuse_trained(run)
        classes = cells.read_classes(id_class_dict_file)
        data = self._read(prepared_input_data_file)
        if self.classifier == "gene":
            data = self._cells_of_genes(data, self._class_of_genes(classes), balance=gene_balance)
        else:
            data = cells.shuffled(data)
        return self.train_classifier(model_directory, len(classes), data, None, run)

    def _run_folder(self, output_directory: str | Path, prefix: str) -> Path:
        day = datetime.now().astimezone().strftime("%y%m%d")
        return Path(output_directory) / f"{day}_geneformer_{self.classifier}Classifier_{prefix}"

    def _check_balance(self, gene_balance: bool) -> None:
        if gene_balance and self.classifier == "cell":
            msg = 'gene_balance is about classes of genes; with classifier="cell" use max_ncells_per_class.'
            raise errors.UnsupportedArgumentError(msg)
        if gene_balance and len(self.gene_class_dict or {}) != 2:
            msg = f"gene_balance takes two classes of genes; there are {len(self.gene_class_dict or {})}."
            raise errors.OptionError(msg)

    def _cells_of_genes(self, data: TokenizedDataset, class_of: dict[int, int], *, balance: bool) -> TokenizedDataset:
        """Cells with any of the genes, drawn, with the labels of these genes only."""
        if balance:
            size = max(*class_of, self.vocabulary.size - 1) + 1
            counts = count_cells(data, size, int(data.lengths.max()))
            class_of = balanced_classes(dict(enumerate(counts.tolist())), class_of)
        return cells.shuffled(cells.label_genes(data, class_of), self.max_ncells)

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
        model_directory : Pretrained model: a folder, or a name that `geneformer.load_model` knows.
        prepared_input_data_file, id_class_dict_file : What `prepare_data` wrote.
        output_directory, output_prefix : Where files go.
        split_id_dict : `attr_key`, a column, and the ids of `train` and of `eval`.
        attr_to_split, attr_to_balance, max_trials, pval_threshold
            As in `prepare_data`; draws are kept in `<prefix>_train_valid_balance_df.csv`.
        gene_balance : See `train_all_data`; for the genes learnt from.
        save_eval_output, predict_eval
            Write `<prefix>_eval_metrics_dict.pkl`, and `<prefix>_pred_dict.pkl` of every split into its folder.
        predict_trainer : For cells: write the Trainer's `predictions.pkl` and `eval_results.json` as well.
        n_hyperopt_trials : Trials of a search for training arguments in each split; genes are then tested on others.
        save_gene_split_datasets : For genes: write `<prefix>_{train,valid,test}_gene_labeled_ksplit<i>.dataset`.
        debug_gene_split_datasets : For genes: write the data sets of the first split, train nothing, and return None.

        Returns
        -------
        `conf_matrix`, a table with the truth in rows, summed over splits; `macro_f1` and `acc` of each split; and for
        two classes `all_roc_metrics`, else None. None with `no_eval`.
        """
        run = self._run_folder(output_directory, output_prefix)
        split = cells.CellSplit(
            "eval", split_id_dict, attr_to_split, attr_to_balance, max_trials, pval_threshold,
            trials_file=run / f"{output_prefix}_train_valid_balance_df.csv",
        )  # fmt: skip
        self._check_balance(gene_balance)
        if self.classifier == "cell":
            _warn_unused("cell", debug_gene_split_datasets=debug_gene_split_datasets)
        else:
            _warn_unused("gene", predict_trainer=predict_trainer)
        n_hyperopt_trials = whole_number("n_hyperopt_trials", n_hyperopt_trials, low=0)
        classes = cells.read_classes(id_class_dict_file)
        splits = self._splits(self._read(prepared_input_data_file), classes, split, gene_balance)
        results = []
        with progress_bar():  # one display for all splits
            for number, (train, valid, test) in enumerate(splits, start=1):
                if self.classifier == "gene" and (save_gene_split_datasets or debug_gene_split_datasets):
                    _save_gene_split(run / output_prefix, number, train=train, valid=valid, test=test)
                    if debug_gene_split_datasets:
                        return None
                folder = run / f"ksplit{number}"
                inputs = model_directory, len(classes), train, None if self.no_eval else valid, folder
                if n_hyperopt_trials == 0:
                    trainer, evaluated = self.train_classifier(*inputs, predict=predict_trainer), valid
                else:
                    trainer = self.hyperopt_classifier(*inputs, n_trials=n_hyperopt_trials)
                    self._write_trainer_predictions(trainer, valid if predict_trainer else None, folder)
                    evaluated = valid if test is None else test  # the validation genes chose the trial
                if not self.no_eval:
                    results.append(
                        self.evaluate_model(
                            trainer.model, len(classes), classes, evaluated, predict_eval, folder, output_prefix
                        )
                    )
        if self.no_eval:
            return None
        metrics = reports.metrics_of_splits(results, list(classes.values()))
        if save_eval_output:
            write_pickle(metrics, Path(output_directory) / f"{output_prefix}_eval_metrics_dict.pkl")
        return metrics

    def _splits(
        self, data: TokenizedDataset, classes: dict[int, Any], split: cells.CellSplit, gene_balance: bool
    ) -> Iterator[Split]:
        """Cells to learn from, to evaluate on and to test on, of each split."""
        if self.num_crossval_splits == 0:
            msg = "num_crossval_splits=0 is for train_all_data. Construct the Classifier with 1 or 5 to validate."
            raise errors.OptionError(msg)
        if self.classifier == "cell":
            return self._cell_splits(data, classes, split)
        if not split.is_at_random:
            msg = "Genes are split, not cells. Leave out split_id_dict and attr_to_split, or split in prepare_data."
            raise errors.UnsupportedArgumentError(msg)
        return self._gene_splits(data, classes, gene_balance)

    def _cell_splits(self, data: TokenizedDataset, classes: dict[int, Any], split: cells.CellSplit) -> Iterator[Split]:
        """One split by ids, balanced or at random; or five blocks that cover every cell once."""
        data = cells.shuffled(data)
        if self.stratify_splits_col is not None and (self.num_crossval_splits > 1 or not split.is_at_random):
            msg = "stratify_splits_col is about one random split, and has no effect on this one."
            warnings.warn(msg, errors.GeneformerWarning, stacklevel=4)
        if self.num_crossval_splits == 1:
            yield *self._split_cells(data, classes, split, self.eval_size), None
            return
        if not split.is_at_random:
            msg = "Five splits deal out single cells. Use num_crossval_splits=1 with split_id_dict or attr_to_split."
            raise errors.UnsupportedArgumentError(msg)
        for train_rows, eval_rows in blocks(len(data), self.num_crossval_splits):
            yield data.take(train_rows), data.take(eval_rows), None

    def _gene_splits(self, data: TokenizedDataset, classes: dict[int, Any], gene_balance: bool) -> Iterator[Split]:
        """Folds of genes: cells with genes that are learnt from, that validate, and that are tested on."""
        data, class_of = cells.shuffled(data), self._class_of_genes(classes)
        tokens, codes = list(class_of), list(class_of.values())
        held_out = self.eval_size + self.oos_test_size
        test_share = self.oos_test_size / held_out if held_out else 0.0
        n_folds = max(int(1 / (1 - self.train_size) + 1e-9), 2)  # that leave the share to learn from
        folds = gene_folds(codes, n_folds, test_share, list(classes.values()), first=self.num_crossval_splits)
        for parts in folds:
            genes = [{tokens[row]: codes[row] for row in rows.tolist()} for rows in parts]
            train, valid, test = (
                self._cells_of_genes(data, subset, balance=gene_balance and subset is genes[0]) if subset else None
                for subset in genes
            )
            yield data if train is None else train, valid, test

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

        Trials go to `run-<i>/`, the best model to the folder itself, with `trials.csv`.

        Parameters
        ----------
        model_directory, num_classes, train_data, eval_data, output_directory
            As in `train_classifier`; the cells of `eval_data` choose among the trials.
        n_trials : Trials.
        """
        optuna = require("optuna", "A search", extra="train")
        n_trials = whole_number("n_trials", n_trials, low=1)
        space = read_ray_space(self.ray_config)
        folder = Path(output_directory)
        _refuse_trained(folder)
        train, valid = cells.as_tokens(train_data), None if eval_data is None else cells.as_tokens(eval_data)
        if valid is None or not len(valid):
            msg = "A search compares its trials on the cells of eval_data; there are none. Set no_eval=False."
            raise errors.OptionError(msg)
        make_folder(folder)
        sampler = optuna.samplers.TPESampler(seed=int((self.training_args or {}).get("seed", 42)))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        best, best_value, failure = None, -1.0, None
        for number in range(n_trials):
            trial = study.ask(space)
            # As published, every pass is evaluated and the last checkpoint kept.
            drawn = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, **trial.params}
            single = copy(self)
            single.training_args = {**(self.training_args or {}), **drawn}
            try:
                trainer = single.train_classifier(model_directory, num_classes, train, valid, folder / f"run-{number}")
            except errors.TrainingError as error:
                failure = error
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                continue
            value = max(line["eval_macro_f1"] for line in trainer.state.log_history if "eval_macro_f1" in line)
            study.tell(trial, value)
            _logger.info("trial %d: macro-F1 %.4f with %s", number, value, trial.params)
            if value > best_value:
                best_value, best = value, trainer
        if best is None:
            msg = f"All {n_trials} trials failed, the last one: {failure}"
            raise errors.TrainingError(msg)
        study.trials_dataframe().to_csv(folder / "trials.csv", index=False)
        for file in Path(best.args.output_dir).iterdir():
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        return best

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
        model_directory, num_classes : Pretrained model, and how many classes it learns.
        train_data, eval_data
            Folders, or a `datasets.Dataset`, with a column `label`, or `labels` for genes; None for no evaluation.
        output_directory : Gets the model and its checkpoints.
        predict : For cells: also write `predictions.pkl` and `eval_results.json`.
        """
        folder = Path(output_directory)
        _refuse_trained(folder)
        train, valid = cells.as_tokens(train_data), None if eval_data is None else cells.as_tokens(eval_data)
        base = training.open_base(model_directory, self.classifier, self.vocabulary)
        for data in (train, valid):
            if data is not None:
                training.check_fit(data, base.vocabulary.size, base.max_length, base.vocabulary)
        if not len(train):
            msg = "No labeled cell is left to learn from. Check the labels, the split and the filters."
            raise errors.NoCellsError(msg)
        settings = training.placed_arguments(
            make_folder(folder), self.training_args, self.classifier, base.n_layers, len(train), valid is not None
        )
        network = training.new_network(
            base, self.classifier, num_classes, seed=int(settings.seed), freeze_layers=self.freeze_layers,
            adapters=self.adapters, bits=self.bits,
        )  # fmt: skip
        trainer = training.train_network(network, settings, train, valid)
        if predict:
            self._write_trainer_predictions(trainer, valid, folder)
        return trainer

    def _write_trainer_predictions(
        self, trainer: training.FixedBatchTrainer, data: TokenizedDataset | None, folder: Path
    ) -> None:
        """For cells: `predictions.pkl`, as the Trainer of `transformers` would hand it out, and `eval_results.json`."""
        from transformers.trainer_utils import PredictionOutput

        if data is None or self.classifier == "gene":
            return
        network: Any = trainer.model
        runtime = published_runtime(network, self.forward_batch_size, progress=False)
        predictions = training.predict(network, data, runtime)
        metrics = {name.replace("eval_", "test_", 1): value for name, value in trainer.evaluate().items()}
        output = PredictionOutput(predictions=predictions.logits, label_ids=predictions.truth, metrics=metrics)
        write_pickle(output, folder / "predictions.pkl")
        trainer.save_metrics("eval", metrics)

    def evaluate_model(  # noqa: PLR0917  the published signature
        self,
        model: Any,
        num_classes: int,
        id_class_dict: Mapping[int, Any],
        eval_data: Any,
        predict: bool = False,
        output_directory: str | Path | None = None,
        output_prefix: str | None = None,
        predict_metadata: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a trained network on labeled cells; none of them is left out.

        Parameters
        ----------
        model : Of a trainer of this class, or of plain `transformers`.
        num_classes, id_class_dict : Classes of the model; their labels by class id, in the order of the matrix.
        eval_data : Labeled cells.
        predict, output_directory, output_prefix : Write `<prefix>_pred_dict.pkl`.
        predict_metadata : Columns to keep with the predictions.

        Returns
        -------
        `conf_mat`, `macro_f1`, `acc`, and `roc_metrics` for two classes, else None. Figures of genes are over single
        occurrences.
        """
        if num_classes != (n_labels := training.get_num_classes(id_class_dict)):
            msg = f"num_classes={num_classes}, but id_class_dict has {n_labels} labels."
            raise errors.OptionError(msg)
        if predict and (output_directory is None or output_prefix is None):
            msg = "predict=True writes <output_prefix>_pred_dict.pkl. Give output_directory and output_prefix."
            raise errors.OptionError(msg)
        predictions, metadata = reports.predict_labels(
            model, self.classifier, eval_data, self.forward_batch_size, predict_metadata
        )
        ids, n_classes = list(id_class_dict), predictions.logits.shape[1]
        highest = int(predictions.truth.max(initial=0))
        if highest >= n_classes or sorted(ids) != list(range(n_classes)):
            has = f"The data has classes up to {highest}, the dictionary {sorted(ids)}, the model {n_classes} classes."
            msg = f"{has} Use a data set, a dictionary and a model that belong together."
            raise errors.UnknownClassError(msg)
        table, macro_f1, accuracy, roc = reports.get_metrics(
            predictions.predicted, predictions.truth, predictions.logits, n_classes, ids
        )
        if predict:
            lists: list[Any] = [values.tolist() for values in predictions[:3]]
            content = dict(zip(("pred_ids", "label_ids", "predictions"), lists, strict=True))
            content |= {} if metadata is None else {"prediction_metadata": metadata}
            write_pickle(content, Path(str(output_directory)) / f"{output_prefix}_pred_dict.pkl")
        return {"conf_mat": table, "macro_f1": macro_f1, "acc": accuracy, "roc_metrics": roc}

    def evaluate_saved_model(  # noqa: PLR0917  the published signature
        self,
        model_directory: str | Path,
        id_class_dict_file: str | Path,
        test_data_file: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        predict: bool = True,
        predict_metadata: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Evaluate a trained model from its folder; writes `<prefix>_test_metrics_dict.pkl`.

        Parameters
        ----------
        model_directory : Folder of a trained classifier of this package, of `transformers`, or of adapters of PEFT.
        id_class_dict_file, test_data_file : What `prepare_data` wrote.
        output_directory, output_prefix : Where files go.
        predict, predict_metadata : As in `evaluate_model`.

        Returns
        -------
        `conf_matrix`, a table with the truth in rows; `macro_f1`, `acc`; and for two classes `all_roc_metrics`.
        """
        classes = cells.read_classes(id_class_dict_file)
        network = load_bert_classifier(Path(model_directory), self.classifier, len(classes))
        files = output_directory, output_prefix
        n_classes = training.get_num_classes(classes)
        result = self.evaluate_model(network, n_classes, classes, test_data_file, predict, *files, predict_metadata)
        metrics = reports.metrics_of_test(result, list(classes.values()))
        write_pickle(metrics, Path(output_directory) / f"{output_prefix}_test_metrics_dict.pkl")
        return metrics

    def plot_conf_mat(
        self,
        conf_mat_dict: Mapping[str, Any],
        output_directory: str | Path,
        output_prefix: str,
        custom_class_order: Sequence[Any] | None = None,
    ) -> None:
        """Confusion matrices as shares of the rows: `<prefix>_conf_mat.pdf`, or one file per model with its name.

        Parameters
        ----------
        conf_mat_dict : Confusion matrices, as `validate` returns them, by the name of the model.
        output_directory, output_prefix : Where files go.
        custom_class_order : Classes in the order to draw them.
        """
        reports.plot_confusion_matrices(conf_mat_dict, output_directory, output_prefix, custom_class_order)

    def plot_roc(
        self,
        roc_metric_dict: Mapping[str, Any],
        model_style_dict: Mapping[str, Mapping[str, Any]],
        title: str,
        output_directory: str | Path,
        output_prefix: str,
    ) -> None:
        """Mean ROC curves of several models: `<prefix>_roc.pdf`.

        Parameters
        ----------
        roc_metric_dict : `all_roc_metrics`, as `validate` returns them, by the name of the model.
        model_style_dict : `color` and `linestyle` by the name of the model.
        title, output_directory, output_prefix : Heading, and where the file goes.
        """
        reports.plot_ROC(roc_metric_dict, model_style_dict, title, output_directory, output_prefix)

    def plot_predictions(  # noqa: PLR0917  the published signature
        self,
        predictions_file: str | Path,
        id_class_dict_file: str | Path,
        title: str,
        output_directory: str | Path,
        output_prefix: str,
        custom_class_order: Sequence[Any] | None = None,
        kwargs_dict: Mapping[str, Any] | None = None,
    ) -> None:
        """Heatmap of the scores of all classes, cells by true class: `<prefix>_pred.pdf`.

        Parameters
        ----------
        predictions_file : `<prefix>_pred_dict.pkl`, or `predictions.pkl` of the Trainer.
        id_class_dict_file : Labels by class id.
        title, output_directory, output_prefix : Heading, and where the file goes.
        custom_class_order, kwargs_dict : Classes in the order to draw them, and settings of `seaborn.clustermap`.
        """
        reports.plot_predictions(
            predictions_file,
            id_class_dict_file,
            title,
            output_directory,
            output_prefix,
            custom_class_order,
            kwargs_dict,
        )


def _refuse_trained(folder: Path) -> None:
    """Refuse to train into a folder that holds a trained model."""
    trained = [name for name in WEIGHT_FILES if (folder / name).exists()]
    if trained:
        msg = f'"{folder}" holds a trained model already ({trained[0]}). Choose another output_prefix, or move it away.'
        raise errors.OutputExistsError(msg)


def _save_gene_split(stem: Path, number: int, **parts: TokenizedDataset | None) -> None:
    for name, part in parts.items():
        if part is not None:
            cells.save_labeled(part, stem.with_name(f"{stem.name}_{name}_gene_labeled_ksplit{number}.dataset"))


def _warn_unused(kind: str, **arguments: Any) -> None:
    """Warn of arguments that are given, but have no meaning for this kind of classifier."""
    given = [name for name, value in arguments.items() if value]
    if given:
        msg = f'{", ".join(given)} has no meaning for classifier="{kind}" and is left out.'
        warnings.warn(msg, errors.GeneformerWarning, stacklevel=4)
