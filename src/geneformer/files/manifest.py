"""The manifest beside every output: what went in, with which options and versions, and what came of it."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geneformer._version import __version__
from geneformer.errors import OutputError, reason_of
from geneformer.files import file_digest, read_json
from geneformer.files.atomic import MANIFEST_NAME, atomic_file

HASH_LIMIT = 64 * 2**30
"""Bytes up to which an input is hashed; larger ones are identified by size and time of change."""

LIBRARIES = ("numpy", "scipy", "pandas", "pyarrow", "anndata", "torch", "transformers")


def installed_versions() -> dict[str, str]:
    """Versions of this package, of Python and of the libraries that decide the numbers; imports none of them."""
    versions = {"geneformer": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True, kw_only=True, slots=True)
class InputFile:
    """One input, such that it can be recognized later."""

    path: str
    size: int
    sha256: str | None = None
    modified: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an output was made from."""

    task: str
    vocabulary: str | None = None
    inputs: tuple[InputFile, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, folder: str | Path, *, leave_out: Collection[str] = ()) -> Path:
        """Write `geneformer_manifest.json` into a folder, or `<file>.manifest.json` beside a file.

        Files of the folder are recorded with their hashes; those of `outputs` are known already, and what is below the
        names in `leave_out` is passed over.
        """
        path = manifest_path(folder)
        hashes = dict(self.outputs)
        tops = (top for top in sorted(Path(folder).glob("*")) if top.name not in leave_out)
        for file in (file for top in tops for file in ([top] if top.is_file() else sorted(top.rglob("*")))):
            name = file.relative_to(folder).as_posix()
            if file.is_file() and file != path and name not in hashes:
                hashes[name] = file_digest(file)
        content = asdict(replace(self, outputs=hashes))
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, output: str | Path) -> Self | None:
        """The manifest of an output folder or file, or None where there is none."""
        path = manifest_path(output)
        if not path.is_file():
            return None
        fields = read_json(path, OutputError, "The manifest is damaged; make the output again.")
        if not isinstance(fields.get("vocabulary", ""), (str, type(None))):
            msg = f'The manifest "{path}" is damaged (vocabulary={fields["vocabulary"]!r:.80}). Make the output again.'
            raise OutputError(msg)
        try:
            inputs = tuple(InputFile(**entry) for entry in fields.pop("inputs", ()))
            return cls(inputs=inputs, **fields)
        except (ValueError, TypeError, AttributeError) as error:
            msg = f'The manifest "{path}" is damaged ({reason_of(error)}). Make the output again.'
            raise OutputError(msg) from error


UNCHANGED, CHANGED, MISSING = "unchanged", "changed", "missing"


def compare_with_manifest(folder: Path, manifest: Manifest) -> dict[str, dict[str, str]]:
    """What became of the inputs, the files and the versions that a manifest names."""
    return {
        "inputs": {file.path: _input_now(file) for file in manifest.inputs},
        "outputs": {name: _hash_now(folder / name, digest) for name, digest in manifest.outputs.items()},
        "versions": {
            library: UNCHANGED if now == then else f"{then} then, {now} now"
            for library, then in manifest.versions.items()
            for now in [installed_versions().get(library)]
        },
    }


def _input_now(file: InputFile) -> str:
    path = Path(file.path)
    if not path.exists():
        return MISSING
    (now,) = describe_inputs([path], hash_limit=HASH_LIMIT if file.sha256 else 0)
    same = now.sha256 == file.sha256 if file.sha256 else (now.size, now.modified) == (file.size, file.modified)
    return UNCHANGED if same else CHANGED


def _hash_now(file: Path, digest: str) -> str:
    if not file.is_file():
        return MISSING
    return UNCHANGED if file_digest(file) == digest else CHANGED


def manifest_path(output: str | Path) -> Path:
    """Where the manifest of an output folder, or of an output file, stands."""
    output = Path(output)
    return output / MANIFEST_NAME if output.is_dir() else output.with_name(output.name + ".manifest.json")


def describe_inputs(paths: Iterable[str | Path], *, hash_limit: int = HASH_LIMIT) -> tuple[InputFile, ...]:
    """Size and hash of every input file or folder, read in pieces."""
    return tuple(_describe(Path(path), hash_limit) for path in paths)


def hash_unchanged(seen: Iterable[InputFile]) -> tuple[InputFile, ...]:
    """Inputs that were described without a hash, with the hashes of those that are still as they were then."""
    return tuple(_hashed_if_unchanged(file) for file in seen)


def _hashed_if_unchanged(seen: InputFile) -> InputFile:
    path = Path(seen.path)
    unchanged = path.exists() and _describe(path, 0) == seen
    return _describe(path, HASH_LIMIT) if unchanged else seen


def _describe(path: Path, hash_limit: int) -> InputFile:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    sizes = [file.stat() for file in files]
    size = sum(stat.st_size for stat in sizes)
    if size > hash_limit:
        return InputFile(path=str(path), size=size, modified=max(stat.st_mtime_ns for stat in sizes))
    if not path.is_dir():
        return InputFile(path=str(path), size=size, sha256=file_digest(path))
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\n".encode())
    return InputFile(path=str(path), size=size, sha256=whole.hexdigest())


def _plain(value: object) -> object:
    """Paths, sets and array scalars as JSON can hold them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    msg = f"A manifest cannot hold {value!r} of type {type(value).__name__}."
    raise TypeError(msg)


def digest(*values: Any) -> str:
    """Hash of arrays, numbers, texts, and lists, tables and dataclasses of them, 64 hexadecimal digits."""
    whole = hashlib.sha256()
    for value in values:
        _add(whole, value)
    return whole.hexdigest()


def array_digest(*arrays: NDArray[Any]) -> str:
    """Short hash of arrays; folders of fine-tuning runs hold it, so its values stay apart from those of `digest`."""
    content = hashlib.sha256()
    for array in arrays:
        content.update(f"{array.dtype}{array.shape}".encode())
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()[:16]


def _add(whole: Any, value: Any) -> None:
    """Every entry goes in with its kind and size, so that none runs into the next."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray) and value.dtype != object:
        whole.update(f"array {value.dtype} {value.shape}\n".encode())
        whole.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        whole.update(f"table {len(value)}\n".encode())
        for name in sorted(value, key=str):
            _add(whole, str(name))
            _add(whole, value[name])
    elif isinstance(value, (list, tuple, np.ndarray)):
        whole.update(f"list {len(value)}\n".encode())
        for entry in value:
            _add(whole, entry)
    else:
        text = f"{type(value).__name__} {value!r}".encode()
        whole.update(f"{len(text)}\n".encode())
        whole.update(text)
