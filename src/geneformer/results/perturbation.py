"""Effects of perturbations: one row per cell, perturbation and effect, and what is known about cells and genes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import DatasetError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SIMILARITY, SHIFT = "similarity", "shift"
GENE_SIMILARITY, PROBABILITY_SHIFT = "gene_similarity", "probability_shift"
"""Values of the column `effect`."""

EXACT, SCREEN = "exact", "screen"
"""Values of the column `method`."""

EFFECT_COLUMNS = ("cell_id", "perturbation", "genes", "edit", "effect", "target", "value", "method")

DEFINITIONS = {
    "cell_id": "Cell that was perturbed.",
    "perturbation": "Name of what was done to it.",
    "genes": "Ensembl ids of the perturbed genes, joined by +.",
    "edit": "What was done to them; edits one after the other are joined by >.",
    "effect": (
        "similarity: cosine of the cell before and after, 1 = no effect (with pooling mean, the mean over its other "
        "genes). shift: change of the cosine with the target state, above 0 = towards it. gene_similarity: cosine of "
        "the target gene before and after, 1 = no effect. probability_shift: change of the probability of the target "
        "class, above 0 = more probable."
    ),
    "target": "State, class or affected gene; empty for similarity.",
    "value": "The effect; no unit.",
    "method": "exact: from the network run on the edited cell. screen: first-order estimate.",
}
"""What each column says, with unit and sign."""

TABLES = ("effects", "cells", "genes", "states")


@dataclass(frozen=True, slots=True, eq=False)
class PerturbationEffects:
    """What came of a perturbation run.

    Attributes
    ----------
    effects
        Columns `EFFECT_COLUMNS`; `DEFINITIONS` says what they mean.
    cells
        Perturbed cells: `cell_id`, `state` where states were named, `length`, and what else is known about them.
    genes
        Genes of the vocabulary found in the perturbed cells: `gene`, `symbol`, `token`, `n_cells`, `mean_rank` (0 =
        highest, 1 = lowest, over the cells that have it), and `expression:<state>` (mean of log1p counts per 10,000
        over all cells of a state, where counts are known) or else `rank:<state>` (mean of 1 - rank, 0 where absent).
    states
        Embeddings of the named states by name, ``(D,)`` each; the first is the start, the second the goal.
    provenance
        Model, vocabulary fingerprint, options, versions; for a screen, what its estimates were found to be worth.
    """

    effects: "pa.Table"
    cells: "pa.Table"
    genes: "pa.Table"
    states: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.effects.num_rows)

    @property
    def start(self) -> str | None:
        """Name of the start state."""
        return next(iter(self.states), None)

    @property
    def goal(self) -> str | None:
        """Name of the goal state."""
        return next((name for place, name in enumerate(self.states) if place == 1), None)

    def to_frame(self) -> "pd.DataFrame":
        """One row per cell, perturbation and effect."""
        frame: pd.DataFrame = self.effects.to_pandas()
        return frame

    def save(self, folder: Path) -> None:
        """Write the tables into a folder that exists: Parquet, each with provenance and definitions in its metadata."""
        from pyarrow import parquet

        notes = {"provenance": dict(self.provenance), "definitions": DEFINITIONS}
        noted = {keys.UNS.encode(): json.dumps(notes, default=str).encode()}
        for name in TABLES:
            table = states_table(self.states) if name == "states" else getattr(self, name)
            parquet.write_table(
                table.replace_schema_metadata((table.schema.metadata or {}) | noted), folder / f"{name}.parquet"
            )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """What `save` wrote.

        Raises
        ------
        DatasetError
            The folder is not such a result, or a file of it is missing or damaged.
        """
        import pyarrow as pa
        from pyarrow import parquet

        folder = Path(folder)
        try:
            tables = {name: parquet.read_table(folder / f"{name}.parquet") for name in TABLES}
            notes = json.loads((tables["effects"].schema.metadata or {})[keys.UNS.encode()])
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            msg = (
                f'"{folder}" holds no finished perturbation run ({error}). It must be a folder that `geneformer perturb'
                " run` finished; run the same command again to finish it."
            )
            raise DatasetError(msg) from error
        states = states_of(tables.pop("states"))
        return cls(**tables, states=states, provenance=notes["provenance"])


def states_table(states: Mapping[str, NDArray[np.float32]]) -> "pa.Table":
    """Embeddings of states, one row each: `state`, `embedding`."""
    import pyarrow as pa

    vectors = [np.asarray(vector, dtype=np.float32).tolist() for vector in states.values()]
    return pa.table(
        {"state": pa.array(list(states), pa.string()), "embedding": pa.array(vectors, pa.list_(pa.float32()))}
    )


def states_of(table: "pa.Table") -> dict[str, NDArray[np.float32]]:
    """Embeddings of states as `states_table` laid them out."""
    rows = zip(table.column("state").to_pylist(), table.column("embedding").to_pylist(), strict=True)
    return {name: np.asarray(vector, dtype=np.float32) for name, vector in rows}
