"""Embeddings of cells from a fine-tuned classifier, as a table, a map and a heatmap.

    python examples/published/extract_and_plot_cell_embeddings.py DATA OUT

DATA is what `make_inputs.py` wrote. OUT/embs/pbmc.csv has one row per cell: the embedding, its labels, its name; beside
it lie pbmc_umap_cell_type.pdf and pbmc_heatmap_cell_type.pdf. Scripts for the published package run like this one: only
the paths are others.
"""

import argparse
from pathlib import Path

from transformers import BertForSequenceClassification

from geneformer import EmbExtractor


def classifier(pretrained: Path, folder: Path) -> Path:
    """A folder of a cell classifier with three classes; its head is new, which embeddings do not read."""
    BertForSequenceClassification.from_pretrained(pretrained, num_labels=3).save_pretrained(folder)
    return folder


def main(data: Path, out: Path) -> None:
    """Extract and plot."""
    model = classifier(data / "V1", out / "classifier")
    extractor = EmbExtractor(
        model_type="CellClassifier",
        num_classes=3,
        filter_data={"cell_type": ["B cells", "CD14+ Monocytes", "NK cells"]},
        max_ncells=1000,
        emb_layer=0,
        emb_label=["depth", "cell_type"],
        labels_to_plot=["cell_type"],
        forward_batch_size=200,
        model_version="V1",
        nproc=16,
    )
    embs = extractor.extract_embs(model, data / "V1.dataset", out / "embs", "pbmc")
    extractor.plot_embs(embs=embs, plot_style="umap", output_directory=out / "embs", output_prefix="pbmc")
    extractor.plot_embs(embs=embs, plot_style="heatmap", output_directory=out / "embs", output_prefix="pbmc")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    main(arguments.data, arguments.out)
