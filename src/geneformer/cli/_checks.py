"""What a command line names, checked before any library is loaded: files, models, columns."""

import os
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

OUTPUTS = ("output", "umap", "heatmap", "confusion", "calibration", "plot", "differential")
"""Flags with the names of what is made; every other path is read."""

COLUMNS = ("label", "groups", "ids", "state_key", "color", "groupby", "donor_key")
"""Flags with the names of columns that the cells have."""


def check_given(given: Mapping[str, Any]) -> None:
    """Refuse what is not there, models that cannot be meant, and results over what is read; whichever command it is."""
    from geneformer.files.atomic import refuse_overlap

    paths = {name: [one for one in _listed(value) if isinstance(one, Path)] for name, value in given.items()}
    outputs = [path for name in OUTPUTS for path in paths.pop(name, [])]
    for path in (path for name, entries in paths.items() if name != "model" for path in entries):
        _check_input(path)
    folders = [Path(given[name]) for name in ("model", "vocabulary") if os.path.isdir(given.get(name) or "")]  # noqa: PTH112
    inputs = [path for entries in paths.values() for path in entries]
    refuse_overlap(outputs, [*inputs, *folders], overwrite=bool(given.get("overwrite")))
    _check_model(given.get("model"), given.get("vocabulary"))
    _check_columns(given)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_input(path: Path) -> None:
    from geneformer.files import check_file

    if not path.is_dir() and not os.access(path, os.R_OK):
        check_file(path)


def _check_model(model: object, vocabulary: str | None) -> None:
    """Refuse a name that is neither a model nor a folder with one; nothing is downloaded."""
    if isinstance(model, Path):
        from geneformer.models.hub import fitted_folder

        fitted_folder(model)
    elif isinstance(model, str):
        from geneformer.models.hub import config_file, place_of_model

        place = place_of_model(model)
        if isinstance(place, Path):
            config_file(place)
    if vocabulary is not None:
        from geneformer.genes.vocabulary import Vocabulary

        Vocabulary.load(vocabulary)


def _check_columns(given: Mapping[str, Any]) -> None:
    """Refuse columns that none of the cells has, where that is known without reading them."""
    from geneformer import keys
    from geneformer.errors import UnknownColumnError
    from geneformer.options._fields import nearest

    asked = {name: [one for one in _listed(given.get(name)) if isinstance(one, str)] for name in COLUMNS}
    if isinstance(given.get("model"), Path) and isinstance(given.get("label"), list):
        del asked["label"]  # tasks of a fitted model
    inputs = given.get("reference") or given.get("inputs")
    if not inputs or not any(asked.values()):
        return
    held = [columns_of(path) for path in inputs]
    known = {name for names in held for name in names or ()}
    if None in held or not known:
        return
    for flag, names in asked.items():
        for name in names:
            is_added = flag == "color" and name.startswith(keys.predicted(""))
            is_known = is_added or name in known | set(keys.RESERVED)
            if not is_known and not (flag == "color" and _is_gene(name, inputs)):
                columns = sorted(known)
                msg = f"No cell has a column {name!r} (--{flag.replace('_', '-')}); there are {columns}."
                raise UnknownColumnError(msg + nearest(name, columns))


def _is_gene(name: str, inputs: Iterable[Path]) -> bool:
    """Whether counts have a gene of that name."""
    from geneformer.errors import UnknownGeneError
    from geneformer.tokenization.checks import open_counts
    from geneformer.tokenization.expression import columns_of_gene

    with suppress(UnknownGeneError):
        for path in inputs:
            with closing(open_counts(path)) as source:
                columns_of_gene(source, name)
        return True
    return False


def columns_of(path: Path) -> list[str] | None:
    """Columns of the cells in an `.h5ad` file or a dataset of tokens; None of what is neither, or not in order."""
    if path.is_dir():
        from geneformer.errors import DatasetError
        from geneformer.tokens.storage import is_dataset, read_dataset

        with suppress(DatasetError):
            return list(read_dataset(path).columns) if is_dataset(path) else None
    elif path.suffix == ".h5ad":
        import h5py

        with suppress(OSError, KeyError, AttributeError, TypeError, RuntimeError), h5py.File(path) as file:
            obs = file["obs"]
            return _texts(obs.dtype.names if isinstance(obs, h5py.Dataset) else obs.attrs["column-order"])
    return None


def _texts(names: Iterable[str | bytes]) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else name for name in names]
