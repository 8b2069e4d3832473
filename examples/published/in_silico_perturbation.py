"""Which genes, when deleted, move monocytes towards B cells? Every gene of a few cells, one at a time.

    python examples/published/in_silico_perturbation.py DATA OUT

DATA is what `make_inputs.py` wrote. OUT/stats/pbmc.csv ranks the genes by how far their deletion moves the embedding of
a monocyte towards the mean B cell, and the shift towards NK cells. OUT/perturbed has the raw numbers of every cell
with a table of the cells, OUT/states/pbmc.pkl the mean embeddings. Scripts for the published package run like this
one: only the paths are others.
"""

import argparse
from pathlib import Path

from transformers import BertForSequenceClassification

from geneformer import EmbExtractor, InSilicoPerturber, InSilicoPerturberStats

STATES = {
    "state_key": "cell_type",
    "start_state": "CD14+ Monocytes",
    "goal_state": "B cells",
    "alt_states": ["NK cells"],
}


def classifier(pretrained: Path, folder: Path) -> Path:
    """A folder of a cell classifier with three classes; its head is new, which perturbation does not read."""
    BertForSequenceClassification.from_pretrained(pretrained, num_labels=3).save_pretrained(folder)
    return folder


def main(data: Path, out: Path, max_ncells: int = 2) -> None:
    """Embed the states, perturb, and rank."""
    model = classifier(data / "V1", out / "classifier")
    filter_data = {"depth": ["shallow"]}
    extractor = EmbExtractor(
        model_type="CellClassifier",
        num_classes=3,
        filter_data=filter_data,
        max_ncells=1000,
        emb_layer=0,
        summary_stat="exact_mean",
        forward_batch_size=256,
        model_version="V1",
        nproc=16,
    )
    state_embs = extractor.get_state_embs(STATES, model, data / "V1.dataset", out / "states", "pbmc")
    perturber = InSilicoPerturber(
        perturb_type="delete",
        perturb_rank_shift=None,
        genes_to_perturb="all",
        combos=0,
        anchor_gene=None,
        model_type="CellClassifier",
        num_classes=3,
        emb_mode="cell",
        cell_emb_style="mean_pool",
        filter_data=filter_data,
        cell_states_to_model=STATES,
        state_embs_dict=state_embs,
        max_ncells=max_ncells,
        emb_layer=0,
        forward_batch_size=400,
        model_version="V1",
        nproc=16,
    )
    perturber.perturb_data(model, data / "V1.dataset", out / "perturbed", "pbmc")
    stats = InSilicoPerturberStats(
        mode="goal_state_shift",
        genes_perturbed="all",
        combos=0,
        anchor_gene=None,
        cell_states_to_model=STATES,
        model_version="V1",
    )
    stats.get_stats(out / "perturbed", None, out / "stats", "pbmc")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    main(arguments.data, arguments.out)
