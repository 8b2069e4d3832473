"""The published recipe for embeddings, written anew from its description.

Cells sorted by length, longest first; batches of a fixed number of cells, padded to their longest; `BertForMaskedLM`
with every hidden state and the logits of every position; one hidden state averaged over the positions that are not
padding. Runs in the environment of the published recipe, without this package.
"""

import argparse
import time

import numpy as np
import torch
from transformers import BertForMaskedLM

from measuring import reply


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("tokens")
    parser.add_argument("output")
    parser.add_argument("--batch", type=int, required=True)
    arguments = parser.parse_args()
    model = BertForMaskedLM.from_pretrained(arguments.checkpoint, output_hidden_states=True, output_attentions=False)
    model.eval()
    stored = np.load(arguments.tokens)
    cells = np.split(stored["ids"], stored["starts"][1:-1])
    get_embeddings(model, cells[:2], 2)
    started = time.perf_counter()
    lengths = np.array([len(cell) for cell in cells])
    order = np.argsort(-lengths, kind="stable")
    embeddings = get_embeddings(model, [cells[row] for row in order], arguments.batch).numpy()
    seconds = time.perf_counter() - started
    np.save(arguments.output, embeddings[np.argsort(order)])
    padded = sum(
        len(order[i : i + arguments.batch]) * int(lengths[order[i]]) for i in range(0, len(order), arguments.batch)
    )
    reply(seconds=seconds, cells=len(cells), cells_per_second=len(cells) / seconds, padded_tokens=padded)


def get_embeddings(model: BertForMaskedLM, cells: list[np.ndarray], batch: int, layer: int = -1) -> torch.Tensor:
    """Mean over the genes of each cell, ``(n, D)``."""
    layer = model.config.num_hidden_layers + layer
    found = []
    for start in range(0, len(cells), batch):
        part = cells[start : start + batch]
        lengths = torch.tensor([len(cell) for cell in part])
        longest = int(lengths.max())
        rows = [torch.from_numpy(cell).long() for cell in part]
        input_ids = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row)), value=0) for row in rows])
        mask = torch.tensor([[1] * len(cell) + [0] * (longest - len(cell)) for cell in part])
        with torch.no_grad():
            outputs = model(input_ids=input_ids, attention_mask=mask)
        hidden = outputs.hidden_states[layer]
        kept = (torch.arange(longest)[None] < lengths[:, None]).unsqueeze(-1)
        found.append((hidden * kept).sum(1) / lengths[:, None].float())
        del outputs, hidden
    return torch.cat(found)


if __name__ == "__main__":
    main()
