"""Cut the golden embeddings of the published package down to what the tests need.

    python tests/data/cut_golden_embeddings.py FOLDER_WITH_ALL_VALUES

Keeps the tokens of the 60 embedded cells in the order of the tables, and of the gene embeddings the special tokens and
150 genes drawn with seed 0.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

GOLDEN = Path(__file__).parent / "golden"


def cut(source: Path, version: str) -> None:
    cells = pd.read_parquet(source / f"embs_{version}_cell_0.parquet")["cell_id"]
    tokens = pd.read_parquet(source / f"tokens_{version}.parquet").set_index("cell_id")
    tokens = tokens.loc[cells, ["input_ids"]].reset_index()
    tokens["input_ids"] = [ids.astype(np.int16) for ids in tokens["input_ids"]]
    tokens.to_parquet(GOLDEN / f"embedded_tokens_{version}.parquet", compression="zstd")
    for layer in (-1, 0):
        table = pd.read_parquet(source / f"embs_{version}_gene_{layer}.parquet")
        special = [name for name in table.index if name.startswith("<")]
        genes = np.random.default_rng(0).choice(table.index.difference(special), 150, replace=False)
        table.loc[[*special, *sorted(genes)]].to_parquet(GOLDEN / f"embs_{version}_gene_{layer}.parquet")


if __name__ == "__main__":
    cut(Path(sys.argv[1]), "V1")
    cut(Path(sys.argv[1]), "V2")
