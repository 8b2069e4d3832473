"""Several reports on the same cells, by name, in one folder."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from geneformer.errors import DatasetError, InputNotFoundError, UnreadableInputError
from geneformer.results.reports import REPORT, TEXT, Report
from geneformer.runs.files import atomic_file, check_output

KIND = "set"
"""What the file of a set calls itself."""

_HOMES = {
    "classes": ("classification", "ClassificationReport"),
    "expression": ("expression", "ExpressionReport"),
    "label sets": ("label_sets", "LabelSetReport"),
    "numbers": ("numbers", "NumberReport"),
}


class ReportSet(dict[str, Report]):
    """Reports by name: those of several tasks, or of several quantities.

    Examples
    --------
    >>> from geneformer.results.report_sets import ReportSet
    >>> ReportSet().to_dict()
    {'kind': 'set', 'reports': {}}
    """

    def to_dict(self) -> dict[str, Any]:
        """Figures and settings as JSON can hold them, without the predictions."""
        return {"kind": KIND, "reports": {name: report.to_dict() for name, report in self.items()}}

    def to_markdown(self) -> str:
        """The reports one below the other."""
        return "\n".join(f"# {name}\n\n{report.to_markdown()}" for name, report in self.items())

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `report.json` and `report.md`, and each report into a folder of its own.

        Parameters
        ----------
        folder
            Folder; made if there is none.
        overwrite
            Replace reports that are there.

        Raises
        ------
        OutputExistsError
            There is a report already.
        OutputError
            The place cannot be written to.
        """
        folder = Path(folder)
        if not folder.exists():
            check_output(folder)
            folder.mkdir()
        for name in (REPORT, TEXT):
            check_output(folder / name, overwrite=overwrite)
        (folder / REPORT).unlink(missing_ok=True)
        places = {name: f"{i}_{re.sub(r'[^0-9A-Za-z.-]+', '_', name)[:60]}" for i, name in enumerate(self)}
        for name, report in self.items():
            report.save(folder / places[name], overwrite=overwrite)
        with atomic_file(folder / TEXT, overwrite=overwrite) as temporary:
            temporary.write_text(self.to_markdown(), encoding="utf-8")
        content = {
            "kind": KIND,
            "reports": {name: {"folder": places[name], "kind": report.kind} for name, report in self.items()},
        }
        with atomic_file(folder / REPORT, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The reports in a folder, equal to those saved there.

        Raises
        ------
        InputNotFoundError
            No reports are there.
        UnreadableInputError
            A file is damaged.
        DatasetError
            The folder holds a single report.
        """
        folder = Path(folder)
        if not (folder / REPORT).is_file():
            msg = f'There is no "{folder / REPORT}". Give the folder that reports were saved to.'
            raise InputNotFoundError(msg)
        try:
            content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
            kind = content["kind"]
            entries = [(str(name), Path(e["folder"]).name, _HOMES[e["kind"]]) for name, e in content["reports"].items()]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f'The reports in "{folder}" cannot be read ({error!r}). They are damaged; save them again.'
            if isinstance(error, KeyError) and error.args == ("reports",):
                msg = f'"{folder / REPORT}" is a single report on {kind}. Load it with the class for those.'
                raise DatasetError(msg) from error
            raise UnreadableInputError(msg) from error
        return cls({name: _loaded(folder / place, *home) for name, place, home in entries})


def load_report(folder: str | Path) -> Report | ReportSet:
    """Whatever report a folder holds: a single one of any kind, or several.

    Raises
    ------
    InputNotFoundError
        No report is there.
    UnreadableInputError
        A file is damaged.
    """
    folder = Path(folder)
    try:
        kind = json.loads((folder / REPORT).read_text(encoding="utf-8"))["kind"]
        home = _HOMES[kind] if kind != KIND else None
    except FileNotFoundError:
        home = None  # the set tells it
    except (ValueError, KeyError, TypeError) as error:
        msg = f'The report in "{folder}" cannot be read ({error!r}). It is damaged; save it again.'
        raise UnreadableInputError(msg) from error
    return ReportSet.load(folder) if home is None else _loaded(folder, *home)


def _loaded(folder: Path, module: str, name: str) -> Report:
    kind: type[Report] = getattr(import_module(f"geneformer.results.{module}"), name)
    return kind.load(folder)
