"""Files of every kind the package reads, damaged at random, and read: `python tests/faults/fuzz.py [--cases N]`.

Each must be read, or refused with an error of this package, within ten seconds and a bound of memory. Bytes are changed
anywhere; in HDF5 files entries and attributes are, too. Prints how many cases were read and refused by format, and what
else came of them; ends with 1 where anything else did.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1])]

from faults.formats import FORMATS
from geneformer.errors import GeneformerError

SECONDS = 10
MEMORY = 2 << 30
"""Bytes a reader may take beyond what is there before it reads."""

FREE = settings(deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))

BYTE_EDITS = st.lists(
    st.tuples(st.sampled_from(["put", "insert", "cut", "end"]), st.floats(0, 1), st.binary(min_size=1, max_size=12)),
    min_size=1,
    max_size=4,
)
ENTRY_EDITS = st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1, max_size=3)

ODD_ATTRIBUTES = [
    None, 0, -1, 2**62, 1.5, "", "odd", "csr_matrix", "array", b"\xff\xfe", [], [1, 2, 3], [2**62, 2**62], ["a", "b"],
]  # fmt: skip
ODD_VALUES = [
    lambda x: x[:-1],
    lambda x: x[:0],
    lambda x: x[::-1],
    lambda x: x[..., None],
    lambda x: x.ravel()[0],
    lambda x: np.concatenate([x, x]),
    lambda x: np.arange(x.size).reshape(x.shape),
    *(lambda x, odd=odd: np.full(x.shape, odd) for odd in (-1, 2**40, np.nan, 1j, b"x", 1e300)),
]
LINKS = [h5py.SoftLink("/nowhere"), h5py.SoftLink("/X"), h5py.ExternalLink("other.h5", "/X")]


def edit_bytes(path: Path, edits: list[tuple[str, float, bytes]]) -> None:
    """A few bytes replaced, inserted or cut out, or the end torn off."""
    content = path.read_bytes()
    for kind, where, given_bytes in edits:
        place = int(where * len(content))
        skipped = {"put": len(given_bytes), "insert": 0, "cut": len(given_bytes), "end": len(content)}[kind]
        new = given_bytes if kind in {"put", "insert"} else b""
        content = content[:place] + new + content[place + skipped :]
    path.write_bytes(content)


def edit_entries(path: Path, edits: list[tuple[int, int, int]]) -> None:
    """Entries of an HDF5 file removed, replaced or linked elsewhere, or attributes changed."""
    with h5py.File(path, "r+") as file:
        for what, how, odd in edits:
            names: list[str] = []
            file.visit(names.append)
            with suppress(OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError):
                edit_entry(file, names[what % len(names)], how, odd)


def edit_entry(file: h5py.File, name: str, how: int, odd: int) -> None:
    entry = file[name]
    attributes = list(entry.attrs)
    if attributes and how % 3 == 0:
        attribute, value = attributes[how % len(attributes)], ODD_ATTRIBUTES[odd % len(ODD_ATTRIBUTES)]
        del entry.attrs[attribute]
        if value is not None:
            entry.attrs[attribute] = value
        return
    kept, content = dict(entry.attrs), entry[...] if isinstance(entry, h5py.Dataset) else None
    del file[name]
    if how % 7 == 1:
        file[name] = LINKS[odd % len(LINKS)]
    elif how % 7 == 2:
        file.create_group(name)
    elif how % 7 != 3 and content is not None:
        file.create_dataset(name, data=ODD_VALUES[odd % len(ODD_VALUES)](content)).attrs.update(kept)


def signature(error: BaseException) -> str:
    """What kind of failure it is: the error, and the last place in the package it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if f"{os.sep}geneformer{os.sep}" in frame.filename] or list(frames))[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno} {last.name}: {str(error)[:90]}"


def fuzz(name: str, cases: int, folder: Path, number: int) -> dict[str, Any]:
    """Outcomes of some cases of one format."""
    form, original, place = FORMATS[name], folder / "original", folder / "damaged"
    original.mkdir()
    form.write(original)
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    damages = [BYTE_EDITS.map(lambda edits: (edit_bytes, edits))]
    damages += [ENTRY_EDITS.map(lambda edits: (edit_entries, edits))] if form.is_hdf5 else []
    outcomes: Counter[str] = Counter()
    wrong: dict[str, str] = {}

    @seed(number)
    @settings(FREE, max_examples=cases)
    @given(st.one_of(damages), st.sampled_from(files))
    def run(damage: tuple[Any, Any], file: Path) -> None:
        edit, edits = damage
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(original, place)
        edit(place / file, edits)
        signal.alarm(SECONDS)
        try:
            form.read(place)
            outcomes["read"] += 1
        except GeneformerError as error:
            outcomes[error.code] += 1
        except Exception as error:  # noqa: BLE001  this is what is looked for
            outcomes["failed"] += 1
            wrong.setdefault(signature(error), f"{edit.__name__} of {file}: {edits}")
        finally:
            signal.alarm(0)

    run()
    return {"format": name, "cases": sum(outcomes.values()), **outcomes, "wrong": wrong}


def too_long(*_: object) -> None:
    raise TimeoutError


def in_fork(name: str, cases: int, number: int) -> dict[str, Any]:
    """The same in a process of its own, within the bounds; a crash is an outcome."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        signal.signal(signal.SIGALRM, too_long)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        warnings.simplefilter("ignore")
        with tempfile.TemporaryDirectory() as folder:
            sender.send(fuzz(name, cases, Path(folder), number))

    process = context.Process(target=child)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        return {"format": name, "cases": 0, "wrong": {f"the process died with {process.exitcode}": ""}}
    finally:
        process.join()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000, help="in all, shared by the formats")
    parser.add_argument("--only", action="append", choices=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    names, failed = chosen.only or list(FORMATS), False
    for name in names:
        row = in_fork(name, -(-chosen.cases // len(names)), chosen.seed)
        failed |= bool(row["wrong"])
        print(json.dumps(row), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
