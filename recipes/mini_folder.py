"""The folder of the bundled `mini`: weights in float16, the records of its stages, and a picture of them.

python recipes/mini_folder.py mini_first mini_second mini_third -o src/geneformer/models/assets/mini
"""

import argparse
import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

import geneformer as gf
from geneformer.models.loading import save_checkpoint


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """The stages end to end, with a dotted line between them."""
    starts = [0, *accumulate(record["steps"] for record in records)][:-1]
    lines = [
        {**line, "step": line["step"] + start}
        for record, start in zip(records, starts, strict=True)
        for line in record["history"]
        if "step" in line
    ]
    axes = gf.pl.training_curve({"history": lines, "metrics": records[-1]["metrics"]})
    for axis in axes:
        for start in starts[1:]:
            axis.axvline(start, color="0.6", linewidth=1, linestyle=":")
    axes[0].figure.savefig(path, dpi=150)


def main() -> None:
    """Read the runs, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", type=Path, nargs="+", help="folders of the stages, in their order")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    save_checkpoint(gf.load_model(arguments.stages[-1]).network, arguments.output, dtype=torch.float16)
    records = [(folder / "pretraining.json").read_text() for folder in arguments.stages]
    names = [f"{stage}_stage.json" for stage in ("first", "second", "third")[: len(records) - 1]]
    for name, record in zip([*names, "pretraining.json"], records, strict=True):
        (arguments.output / name).write_text(record)
    draw([json.loads(record) for record in records], arguments.output / "training_curve.png")


if __name__ == "__main__":
    main()
