"""The published recipe for deleting the genes of a cell one at a time, written anew from its description.

The cell runs once as it is. A `Dataset` holds one copy of the cell per deletion, as Python integers; one map takes the
gene out, another one tells the new length. Batches of a fixed number of deletions run through `BertForMaskedLM` with
every hidden state and the logits of every position. One hidden state is compared with as many copies of that of the
unedited cell, each without the deleted gene: cosine of every gene, averaged over the positions that are not padding.
Maps run in this process: the published package starts processes of its own for cells of 400 genes and more, which
takes longer. Runs in the environment of the published recipe, without this package.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from transformers import BertForMaskedLM

from measuring import reply

LAYER = -1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("cell")
    parser.add_argument("output")
    parser.add_argument("--batch", type=int, required=True)
    arguments = parser.parse_args()
    disable_progress_bars()
    model = BertForMaskedLM.from_pretrained(arguments.checkpoint, output_hidden_states=True, output_attentions=False)
    model.eval()
    stored = np.load(arguments.cell)
    cell, places = stored["cell"].tolist(), stored["places"].tolist()
    perturb(model, cell[:32], [0, 1, 2], 2)
    started, worked = time.perf_counter(), time.process_time()
    similarities, preparing = perturb(model, cell, places, arguments.batch)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - worked
    np.save(arguments.output, similarities)
    reply(
        seconds=seconds,
        processor_seconds=processor_seconds,
        deletions=len(places),
        deletions_per_second=len(places) / seconds,
        preparing=preparing,
    )


def perturb(model: BertForMaskedLM, cell: list[int], places: list[int], batch: int) -> tuple[np.ndarray, float]:
    """Similarity of the cell without each of some genes, and the seconds it took to edit the cells."""
    layer = model.config.num_hidden_layers + LAYER
    whole = Dataset.from_dict({"input_ids": [cell], "length": [len(cell)]})
    [original] = hidden_states(model, whole, layer)
    started = time.perf_counter()
    edited = deletions(cell, places)
    preparing = time.perf_counter() - started
    found = []
    for start in range(0, len(places), batch):
        part = edited.select(range(start, min(start + batch, len(places))))
        after = hidden_states(model, part, layer)
        before = copies_without(original, [place for [place] in part["perturb_index"]])
        similarities = torch.nn.CosineSimilarity(dim=2)(after, before)
        found.append(mean_over_genes(similarities, torch.tensor(part["length"])))
        del after, before
    return torch.cat(found).numpy(), preparing


def deletions(cell: list[int], places: list[int]) -> Dataset:
    """One row per deletion."""
    rows = Dataset.from_dict({"input_ids": [cell] * len(places), "perturb_index": [[place] for place in places]})
    return rows.map(delete).map(tell_length)


def delete(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the gene."""
    gone = set(row["perturb_index"])
    row["input_ids"] = [token for place, token in enumerate(row["input_ids"]) if place not in gone]
    return row


def tell_length(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its length."""
    row["length"] = len(row["input_ids"])
    return row


def hidden_states(model: BertForMaskedLM, rows: Dataset, layer: int) -> torch.Tensor:
    """One hidden state of some cells, padded to the longest of them, ``(n, L, D)``."""
    cells, lengths = rows.with_format("torch")["input_ids"], rows["length"]
    longest = max(lengths)
    padded = torch.stack([torch.nn.functional.pad(cell, (0, longest - len(cell)), value=0) for cell in cells])
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    with torch.no_grad():
        return model(input_ids=padded, attention_mask=mask).hidden_states[layer]


def copies_without(original: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Copies of the states of a cell, each without one gene, ``(n, L - 1, D)``."""
    copies = original.repeat(len(places), 1, 1)
    kept = [torch.cat([copy[:place], copy[place + 1 :]]) for copy, place in zip(copies, places, strict=True)]
    return torch.stack(kept)


def mean_over_genes(similarities: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mean over the positions that are not padding, ``(n,)``."""
    is_gene = torch.arange(similarities.shape[1])[None] < lengths[:, None]
    return (similarities * is_gene).sum(1) / lengths.float()


if __name__ == "__main__":
    main()
