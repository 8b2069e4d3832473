"""What every report on held-out cells is: the model beside its baselines, every prediction, and a folder of files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from geneformer import keys
from geneformer.errors import DatasetError, InputNotFoundError, OptionError, UnreadableInputError
from geneformer.results.estimates import Measured
from geneformer.results.report_tables import metrics_table
from geneformer.runs.files import atomic_file, check_output

if TYPE_CHECKING:
    import pyarrow as pa

REPORT, TEXT, PREDICTIONS = "report.json", "report.md", "predictions.parquet"
"""Files of a report."""

MODEL = "model"
"""Row of the model in the table of figures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Figures of a model beside those of baselines on the same cells, with the predictions behind them.

    Attributes
    ----------
    evaluation
        Figures of the model.
    baselines
        Figures of what it has to beat, by name, measured on the same cells.
    cell_ids
        Names of the cells, ``(n,)``; row numbers if None was given.
    settings
        How the model was made and the cells were split; anything JSON can hold.
    """

    kind: ClassVar[str]
    """Name of this sort of report in its files."""

    evaluation: Measured
    cell_ids: NDArray[Any] | None = None
    baselines: Mapping[str, Measured] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = self._columns()
        sizes = {name: len(column) for name, column in columns.items()}
        n = next(iter(sizes.values()))
        ids = [str(i) for i in range(n)] if self.cell_ids is None else [str(name) for name in self.cell_ids]
        if set(sizes.values()) | {len(ids)} != {n}:
            msg = f"A report takes one row per cell in everything; found {len(ids):,} cell ids and {sizes}."
            raise OptionError(msg)
        object.__setattr__(self, "cell_ids", np.array(ids, dtype=object))
        object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings), default=str)))
        object.__setattr__(self, "baselines", dict(self.baselines))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Report) or type(self) is not type(other):
            return NotImplemented
        same = self.predictions().to_pandas().equals(other.predictions().to_pandas())  # NaN equals NaN there
        return bool(same) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Figures and settings as JSON can hold them, without the predictions."""
        return {
            "kind": self.kind,
            "evaluation": self.evaluation.to_dict(),
            "baselines": {name: found.to_dict() for name, found in self.baselines.items()},
            "settings": dict(self.settings),
        }

    def to_markdown(self) -> str:
        """The report to read: figures of the model and of every baseline in one table, then the details."""
        rows = {MODEL: self.evaluation.metrics} | {name: found.metrics for name, found in self.baselines.items()}
        return "\n\n".join([self.evaluation.told_size(), metrics_table(rows), *self._details()]) + "\n"

    def predictions(self) -> "pa.Table":
        """One row per cell: `cell_id`, `truth`, `predicted`, and whatever else was predicted."""
        import pyarrow as pa

        return pa.table({keys.CELL_ID: pa.array(self.cell_ids, pa.string()), **self._columns()})

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `report.json`, `report.md` and `predictions.parquet` into a folder, which may hold other files.

        Parameters
        ----------
        folder
            Folder; made if there is none.
        overwrite
            Replace a report that is there.

        Raises
        ------
        OutputExistsError
            There is a report already.
        OutputError
            The place cannot be written to.
        """
        from pyarrow import parquet

        folder = Path(folder)
        if not folder.exists():
            check_output(folder)
            folder.mkdir()
        for name in (PREDICTIONS, TEXT, REPORT):
            check_output(folder / name, overwrite=overwrite)
        (folder / REPORT).unlink(missing_ok=True)  # a half-replaced report must not read as a whole one
        with atomic_file(folder / PREDICTIONS, overwrite=overwrite) as temporary:
            parquet.write_table(self.predictions(), temporary)
        with atomic_file(folder / TEXT, overwrite=overwrite) as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")
        with atomic_file(folder / REPORT, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The report in a folder, equal to the one that was saved there.

        Raises
        ------
        InputNotFoundError
            No report is there.
        UnreadableInputError
            A file is damaged.
        DatasetError
            The report is of another kind.
        """
        from pyarrow import ArrowInvalid, parquet

        folder = Path(folder)
        for name in (REPORT, PREDICTIONS):
            if not (folder / name).is_file():
                msg = f'There is no "{folder / name}". Give the folder that a report was saved to.'
                raise InputNotFoundError(msg)
        try:
            content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            kind = content["kind"]
            found = cls._read(content, parquet.read_table(folder / PREDICTIONS)) if kind == cls.kind else None
        except (ValueError, KeyError, TypeError, ArrowInvalid) as error:
            msg = f'The report in "{folder}" cannot be read ({error}). It is damaged or incomplete; save it again.'
            raise UnreadableInputError(msg) from error
        if found is None:
            msg = f'"{folder / REPORT}" is a report on {kind}, not on {cls.kind}. Load it with the class for those.'
            raise DatasetError(msg)
        return found

    def _columns(self) -> dict[str, Any]:
        """Predictions as columns of a table."""
        raise NotImplementedError

    def _details(self) -> list[str]:
        """Sections of the text below the table of figures."""
        raise NotImplementedError

    @classmethod
    def _read(cls, content: Mapping[str, Any], table: "pa.Table") -> Self:
        """The report from what its two files hold."""
        raise NotImplementedError
