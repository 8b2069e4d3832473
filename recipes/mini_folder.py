"""The folder of the bundled `mini`: weights in float16, the records of both stages, and a picture of them.

python recipes/mini_folder.py mini_first mini -o src/geneformer/models/assets/mini
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import geneformer as gf
from geneformer.models.loading import save_checkpoint


def draw(first: dict[str, Any], second: dict[str, Any], path: Path) -> None:
    """Both stages end to end, with a dotted line between them."""
    later = [{**line, "step": line["step"] + first["steps"]} for line in second["history"] if "step" in line]
    axes = gf.pl.training_curve({"history": first["history"] + later, "metrics": second["metrics"]})
    for axis in axes:
        axis.axvline(first["steps"], color="0.6", linewidth=1, linestyle=":")
    axes[0].figure.savefig(path, dpi=150)


def main() -> None:
    """Read both runs, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path, help="folder of the first stage")
    parser.add_argument("second", type=Path, help="folder of the second stage")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    save_checkpoint(gf.load_model(arguments.second).network, arguments.output, dtype=torch.float16)
    records = [(folder / "pretraining.json").read_text() for folder in (arguments.first, arguments.second)]
    for name, record in zip(("first_stage.json", "pretraining.json"), records, strict=True):
        (arguments.output / name).write_text(record)
    draw(*map(json.loads, records), arguments.output / "training_curve.png")


if __name__ == "__main__":
    main()
