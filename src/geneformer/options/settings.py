"""`gf.settings`: what holds for a whole session where a function is not told otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from geneformer.errors import OptionError, UnknownOptionError
from geneformer.options._fields import Range, check_value, field_docs, nearest, plain_type, typed_value

Inches = Annotated[float, Range(above=0.0, high=100.0)]


@dataclass(kw_only=True, repr=False, eq=False)
class Settings:
    """What holds for a whole session where a function is not told otherwise.

    A value is checked when it is assigned. Options take `device` and `dtype` when they are made and left at "auto", so
    what is recorded with a result is what was used. On the command line flags go first, then `--config`, then these.

    Examples
    --------
    >>> import geneformer as gf
    >>> with gf.settings.override(device="cpu", progress=False):
    ...     gf.settings.device
    'cpu'
    >>> gf.settings.device
    'auto'
    """

    progress: bool = True
    """Show how far a run has come. False silences every bar; True leaves it to the `progress` of each function."""

    verbosity: Literal["warning", "info", "debug"] = "info"
    """What is told on the way: warnings alone; with "info" also which cells and genes a model reads; with "debug" also
    the log lines of training."""

    device: str = "auto"
    """Where models run that are not told: "auto" (the accelerator if there is one, else the CPU), "cpu", "cuda:1", …"""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of models that are not told. "auto" takes bfloat16 where the device has instructions for it."""

    cache: Path | None = None
    """Folder of downloaded models and of the published dictionaries. By default models are in the cache of the Hugging
    Face hub, and dictionaries in the folder that the variable `GENEFORMER_CACHE` names, or the user's cache."""

    figure_dpi: Annotated[int, Range(low=10, high=2400)] = 150
    """Dots per inch of figures that are saved as pixels."""

    figure_format: Literal["png", "pdf", "svg", "jpg", "tif"] = "png"
    """Kind of file of a figure that is saved under a name without a suffix."""

    figure_size: tuple[float, float] | None = None
    """Width and height of new figures in inches. By default what suits the picture."""

    def __setattr__(self, name: str, value: Any) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        if name not in hints:
            msg = f"{name!r} is no setting. Settings are {', '.join(hints)}.{nearest(name, hints)}"
            raise UnknownOptionError(msg)
        super().__setattr__(name, _checked(name, value, hints[name]))

    @contextmanager
    def override(self, **changes: Any) -> Iterator["Settings"]:
        """Other settings within a `with` block, as before afterwards.

        Parameters
        ----------
        **changes
            Settings by name.

        Raises
        ------
        OptionError
            No such setting, or a value that it does not take; then none is changed.
        """
        before = {field.name: getattr(self, field.name) for field in fields(self)}
        try:
            for name, value in changes.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def reset(self) -> None:
        """All settings as they are at the start."""
        for field in fields(self):
            setattr(self, field.name, field.default)

    def _rows(self) -> list[tuple[str, Any, str]]:
        """Name, value and meaning of every setting."""
        kind: Any = type(self)
        return [(name, getattr(self, name), doc) for name, doc in field_docs(kind).items()]

    def __repr__(self) -> str:
        rows = (f"  {name:<14} {value!r:<9} {doc.split('. ')[0].rstrip('.')}" for name, value, doc in self._rows())
        return "geneformer settings\n" + "\n".join(rows)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><b>{name}</b></td><td><code>{escape(repr(value))}</code></td>"
            f'<td style="text-align:left">{escape(doc)}</td></tr>'
            for name, value, doc in self._rows()
        )
        return f"<table><caption>geneformer settings</caption>{rows}</table>"


def _checked(name: str, value: Any, annotation: Any) -> Any:
    """The value of a setting in the type it has, or an error that says what it takes."""
    kind = plain_type(get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation)
    if value is None and kind is not annotation:
        return None
    if kind is Path:
        if not isinstance(value, (str, Path)) or not str(value):
            msg = f"settings.{name}={value!r} is no folder. Give its path, or None."
            raise OptionError(msg)
        return Path(value).expanduser()
    value = typed_value(name, list(value) if isinstance(value, tuple) else value, kind, "settings")
    for inches in value if name == "figure_size" else ():
        check_value(name, inches, Inches)
    return check_value(name, value, annotation)


settings = Settings()
"""The settings of this session, `gf.settings`."""
