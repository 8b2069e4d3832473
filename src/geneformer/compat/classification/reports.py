"""Metrics and figures of a published `Classifier`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geneformer.compat.classification import data as cells
from geneformer.compat.classification import evaluation, plots
from geneformer.compat.classification.settings import ClassifierSettings
from geneformer.compat.pickle_writing import write_pickle
from geneformer.errors import OptionError


class Reports(ClassifierSettings):
    """`evaluate_model`, `evaluate_saved_model` and the figures of the published `Classifier`."""

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
        model
            Of a trainer of this class, or of plain `transformers`.
        num_classes
            Classes; as many as the model has.
        id_class_dict
            Labels by class id, in the order of the confusion matrix.
        eval_data
            Labeled cells.
        predict, output_directory, output_prefix
            Write `<prefix>_pred_dict.pkl`.
        predict_metadata
            Columns to keep beside the predictions.

        Returns
        -------
        `conf_mat`, `macro_f1`, `acc`, and `roc_metrics` for two classes, else None. Figures of genes are over single
        occurrences.

        Raises
        ------
        PairingError, LabelError, OptionError
            What was given does not belong together.
        """
        if num_classes != len(set(id_class_dict.values())):
            msg = f"num_classes={num_classes}, but id_class_dict has {len(set(id_class_dict.values()))} labels."
            raise OptionError(msg)
        outcome = evaluation.evaluate(
            model, self.classifier, eval_data, list(id_class_dict),
            forward_batch_size=self.forward_batch_size, predict_metadata=predict_metadata,
        )  # fmt: skip
        if predict:
            evaluation.write_outcome(outcome, output_directory, output_prefix)
        return outcome.metrics

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
        model_directory
            Folder of a trained classifier of this package, of `transformers`, or of adapters of PEFT.
        id_class_dict_file, test_data_file
            What `prepare_data` wrote.
        output_directory, output_prefix
            Where files go.
        predict
            Write `<prefix>_pred_dict.pkl`.
        predict_metadata
            Columns to keep beside the predictions.

        Returns
        -------
        `conf_matrix`, a table with the truth in rows; `macro_f1`, `acc`; and for two classes `all_roc_metrics`.

        Raises
        ------
        PairingError, LabelError
            Model, classes and cells do not belong together.
        """
        classes = cells.read_classes(id_class_dict_file)
        network = evaluation.saved_classifier(self, model_directory, len(classes))
        result = self.evaluate_model(
            network, len(set(classes.values())), classes, test_data_file, predict, output_directory, output_prefix,
            predict_metadata,
        )  # fmt: skip
        metrics = evaluation.test_metrics(result, list(classes.values()))
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
        conf_mat_dict
            Confusion matrices, as `validate` returns them, by the name of the model.
        output_directory, output_prefix
            Where files go.
        custom_class_order
            Classes in the order to draw them.
        """
        plots.plot_confusions(conf_mat_dict, output_directory, output_prefix, custom_class_order)

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
        roc_metric_dict
            `all_roc_metrics`, as `validate` returns them, by the name of the model.
        model_style_dict
            `color` and `linestyle` by the name of the model.
        title
            Heading.
        output_directory, output_prefix
            Where the file goes.
        """
        plots.plot_rocs(roc_metric_dict, model_style_dict, title, output_directory, output_prefix)

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
        predictions_file
            `<prefix>_pred_dict.pkl`, or `predictions.pkl` of the Trainer.
        id_class_dict_file
            Labels by class id.
        title
            Heading.
        output_directory, output_prefix
            Where the file goes.
        custom_class_order
            Classes in the order to draw them.
        kwargs_dict
            Settings of `seaborn.clustermap`.
        """
        plots.plot_scores(
            predictions_file,
            id_class_dict_file,
            title,
            output_directory,
            output_prefix,
            custom_class_order,
            kwargs_dict,
        )
