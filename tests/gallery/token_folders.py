"""Small folders of tokens from which inputs of the gallery are made, written without the package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from geneformer.genes.vocabulary import Vocabulary

N_CELLS = 6


def rows(n_cells: int = N_CELLS, length: int = 20) -> list[list[int]]:
    """Token ids of cells, no gene twice in one."""
    rng = np.random.default_rng(0)
    return [(2 + rng.permutation(1000)[:length]).tolist() for _ in range(n_cells)]


def write(path: Path, ids: pa.Array, /, **columns: Any) -> None:
    """One Arrow file of cells."""
    names, arrays = ["input_ids", *columns], [ids, *(pa.array(values) for values in columns.values())]
    put(path, pa.Table.from_arrays(arrays, names=names))


def put(path: Path, table: pa.Table) -> None:
    """One Arrow file of a table."""
    with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def tokens(
    ids: Callable[[list[list[int]]], pa.Array] = pa.array,
    state: Callable[[dict[str, Any]], object] = lambda _: None,
    more: Callable[[Path], object] = lambda _: None,
    *,
    fingerprint: object = True,
) -> Callable[[Path], Path]:
    """A `.dataset` folder; its ids, its `state.json`, or all of it changed afterwards."""

    def make(folder: Path) -> Path:
        path = folder / "t.dataset"
        path.mkdir()
        write(path / "data-00000-of-00001.arrow", ids(rows()))
        said = {
            "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
            "_fingerprint": "0",
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        replaced = state(said)
        (path / "state.json").write_text(replaced if isinstance(replaced, str) else json.dumps(said))
        if fingerprint is not None:
            known = Vocabulary.load("V1").fingerprint if fingerprint is True else fingerprint
            manifest = {"task": "tokenize", "vocabulary": known}
            (path / "geneformer_manifest.json").write_text(json.dumps(manifest))
        more(path)
        return Path("t.dataset")

    return make
