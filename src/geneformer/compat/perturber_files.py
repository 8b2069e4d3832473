"""Files with the raw numbers of perturbation runs: their published names, what is in them, and reading them safely.

===============  ==========================================================================================
layout           content
===============  ==========================================================================================
without states   ``{(gene, "cell_emb"): [number per cell]}``; genes perturbed together are a tuple of tokens
with states      ``{state: {(gene, "cell_emb"): [number per cell]}}``
effects on genes ``{(perturbed gene, affected gene): [number per cell]}``
of old           as the first, with a tuple per cell: a number for every state, or three for a gene and an
                 anchor: the anchor alone, the gene alone, both
===============  ==========================================================================================
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from geneformer.errors import DatasetError, InputNotFoundError, OutputError
from geneformer.files.atomic import check_output, make_folder
from geneformer.files.manifest import digest
from geneformer.files.pickles import read_pickle, write_pickle
from geneformer.files.progress import counted, progress_bar

SUFFIX = "_raw.pickle"
CELL = "cell_emb"
"""What stands for the cell among affected genes."""

CELLS_SUFFIX = "_cells.csv"
"""Table of the cells of a run, which nothing that reads raw numbers looks at."""

_LONGEST = 240
"""Bytes of a file's name: what file systems take, less what the name of an unfinished file has more."""

Key = tuple[Any, Any]
Raw = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Names of the files of one run."""

    folder: Path
    stem: str
    part: tuple[int, int] | None = None

    @classmethod
    def prepare(
        cls, folder: str | Path, perturb_type: str, prefix: str, part: tuple[int, int] | None = None
    ) -> "RunFiles":
        """Names of a run, in a folder that is made and can be written to, before anything is computed."""
        files = cls(make_folder(folder), f"in_silico_{perturb_type}_{prefix}", part)
        for path in (files.of_group("gene", range(1000)), files.of_cell("gene", 10**9, 10**9)):
            if len(path.name.encode()) > _LONGEST:
                msg = f'The file name "{path.name}" is too long for file systems. Shorten output_prefix={prefix!r}.'
                raise OutputError(msg)
            check_output(path, overwrite=True)
        return files

    def of_cell(self, kind: str, cell: int, batch: int) -> Path:
        """File with single perturbations of one cell; `kind` is "cell" or "gene"."""
        return self.folder / f"{self.stem}_dict_{kind}_embs_{cell}batch{batch}{SUFFIX}"

    def of_group(self, kind: str, tokens: Iterable[int], suffix: str = SUFFIX) -> Path:
        """File with one perturbation of several genes in all cells; of many genes it has the digest."""
        tokens, start = list(tokens), f"{self.stem}_{kind}_embs_dict_"
        if len(f"{start}{tokens}{self._slice}{SUFFIX}".encode()) > _LONGEST:
            return self.folder / f"{start}[{len(tokens)} genes {digest(tokens)[:16]}]{self._slice}{suffix}"
        return self.folder / f"{start}{tokens}{self._slice}{suffix}"

    @property
    def cells(self) -> Path:
        """Table of the cells of single perturbations."""
        return self.folder / f"{self.stem}{self._slice}{CELLS_SUFFIX}"

    @property
    def _slice(self) -> str:
        return "" if self.part is None else f"_cells{self.part[0]}-{self.part[1]}"


def write_raw(content: Mapping[Any, Any], path: Path) -> None:
    """Write raw numbers as published scripts read them: tables that give an empty list for what they lack."""
    nested = any(isinstance(value, Mapping) for value in content.values())
    write_pickle(
        {state: defaultdict(list, inner) for state, inner in content.items()} if nested else defaultdict(list, content),
        path,
    )


class RawFile(NamedTuple):
    """Raw numbers of one file."""

    name: str
    by_state: Mapping[Any, Mapping[Key, Sequence[Any]]]
    cell_ids: Sequence[str] | None = None


def read_raw_folder(folder: str | Path, suffix: str = SUFFIX) -> list[RawFile]:
    """Raw numbers of all runs in a folder, in the order of the names of their files, numbers in these by size."""
    folder = Path(folder)
    if not folder.is_dir():
        msg = f'There is no folder "{folder}". Give the output_directory of InSilicoPerturber.'
        raise InputNotFoundError(msg)
    paths = sorted((path for path in folder.iterdir() if path.name.endswith(suffix)), key=_by_numbers)
    if not paths:
        names = sorted(path.name for path in folder.iterdir())[:5]
        msg = (
            f'No file in "{folder}" ends with "{suffix}"; found {names}. Give another folder, or another pickle_suffix.'
        )
        raise InputNotFoundError(msg)
    with progress_bar("Reading", unit="files") as update:
        return [of_content(read_pickle(path), f'"{path}"', _cell_ids(path, suffix)) for path in counted(paths, update)]


def highest_perturbed(files: Iterable[RawFile]) -> int:
    """The highest token that was perturbed; -1 without tokens."""
    keys = (perturbed for file in files for entries in file.by_state.values() for perturbed, _ in entries)
    tokens = (token for key in keys for token in (key if isinstance(key, tuple) else (key,)))
    return max((int(token) for token in tokens if isinstance(token, Integral)), default=-1)


def of_content(content: Any, name: str, cell_ids: Sequence[str] | None = None) -> RawFile:
    """Raw numbers as they lie in memory, of any layout."""
    if isinstance(content, Mapping):
        is_nested = bool(content) and all(isinstance(value, Mapping) for value in content.values())
        by_state: Mapping[Any, Any] = content if is_nested else {None: content}
        if all(
            isinstance(key, tuple) and len(key) == 2 and isinstance(values, list | tuple)
            for entries in by_state.values()
            for key, values in entries.items()
        ):
            return RawFile(name, by_state, cell_ids)
    msg = f"{name} holds no raw numbers of a perturbation run. Keep such files out of the folder, or set pickle_suffix."
    raise DatasetError(msg)


def _by_numbers(path: Path) -> list[Any]:
    """A name in parts, so that the tenth cell comes after the ninth, and batch -1 first of all."""
    parts = re.split(r"((?<=batch)-?\d+|\d+)", path.name)
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]


def _cell_ids(path: Path, suffix: str) -> list[str] | None:
    """Names of the cells of a file, from the table next to it."""
    table = path.with_name(path.name.removesuffix(suffix) + CELLS_SUFFIX)
    if not table.is_file():
        return None
    import pandas as pd

    cells = pd.read_csv(table, dtype=str, keep_default_na=False)
    return cells["cell_id"].tolist() if "cell_id" in cells else None
