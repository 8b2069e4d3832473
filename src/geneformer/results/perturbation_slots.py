"""Effects of perturbations inside an AnnData object, and wherever else they can be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geneformer import keys
from geneformer.errors import DatasetError, UnknownColumnError
from geneformer.options._check import nearest
from geneformer.results.perturbation import EFFECT_COLUMNS, PerturbationEffects

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from anndata import AnnData

FRAMES = ("effects", "cells", "genes")


def to_uns(effects: PerturbationEffects) -> dict[str, Any]:
    """Effects as an entry of `uns` that `write_h5ad` can hold.

    Returns
    -------
    entry
        Tables `effects`, `cells` and `genes`, names of states with their embeddings ``(S, D)``, provenance as JSON.
        Slashes in names of columns are written as %2F.
    """
    entry: dict[str, Any] = {name: _stored(getattr(effects, name)) for name in FRAMES}
    states = effects.states
    entry["state_names"] = np.array(list(states), dtype=object)
    entry["state_embeddings"] = np.array(list(states.values()), dtype=np.float32).reshape(
        len(states), -1 if states else 0
    )
    entry["provenance"] = json.dumps(dict(effects.provenance), default=str)
    return entry


def from_uns(entry: Mapping[str, Any]) -> PerturbationEffects:
    """What `to_uns` made, also after a round through a file.

    Raises
    ------
    DatasetError
        The entry holds something else.
    """
    try:
        tables = {name: _restored(entry[name]) for name in FRAMES}
        tables["effects"] = tables["effects"].select(EFFECT_COLUMNS)
        names = [str(name) for name in entry["state_names"]]
        embeddings = np.asarray(entry["state_embeddings"], dtype=np.float32)
        provenance = json.loads(str(entry["provenance"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = f"This entry of uns holds no effects of perturbations ({error!r}). Run gf.tl.perturb first."
        raise DatasetError(msg) from error
    return PerturbationEffects(**tables, states=dict(zip(names, embeddings, strict=True)), provenance=provenance)


def effects_of(
    source: "PerturbationEffects | AnnData | str | Path", key: str = keys.PERTURBATION
) -> PerturbationEffects:
    """Effects from wherever they are.

    Parameters
    ----------
    source
        Effects, an AnnData object with them in `uns[key]`, or the folder of a finished run.
    key
        Slot of `uns`.

    Raises
    ------
    UnknownColumnError
        No such slot.
    DatasetError
        The slot, folder or object holds no effects.
    """
    if isinstance(source, PerturbationEffects):
        return source
    if isinstance(source, str | Path):
        return PerturbationEffects.read(source)
    slots = getattr(source, "uns", None)
    if slots is None:
        msg = (
            f"Effects of perturbations cannot be read from {type(source).__name__}. Pass an AnnData object after "
            "gf.tl.perturb, its PerturbationEffects, or the folder of a finished run."
        )
        raise DatasetError(msg)
    if key not in slots:
        names = [str(name) for name in slots]
        msg = f"adata.uns has no {key!r}; it has {names or 'nothing'}.{nearest(key, names)} Run gf.tl.perturb first."
        raise UnknownColumnError(msg)
    return from_uns(slots[key])


def _stored(table: "pa.Table") -> "pd.DataFrame":
    """A table that HDF5 can hold: texts as categories, dates as text."""
    frame: pd.DataFrame = table.to_pandas()
    for name in frame.columns:
        if frame[name].dtype.kind in "Mm":
            frame[name] = frame[name].astype(str).where(frame[name].notna(), None)
        if frame[name].dtype == object:
            frame[name] = frame[name].astype("category")
    frame.index = frame.index.astype(str)
    return frame.rename(columns=lambda name: str(name).replace("%", "%25").replace("/", "%2F"))


def _restored(frame: "pd.DataFrame") -> "pa.Table":
    import pyarrow as pa

    frame = frame.rename(columns=lambda name: str(name).replace("%2F", "/").replace("%25", "%"))
    return pa.Table.from_pandas(frame, preserve_index=False)
