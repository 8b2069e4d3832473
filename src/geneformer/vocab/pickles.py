"""Plain data out of a pickle by interpreting its opcodes; nothing the file names is ever imported or called.

Literals, containers, the memo and frames of protocols 0 to 5 are understood. The few globals of `pickle_globals.py`
are recognized by their spelling: NumPy numbers become Python numbers, `defaultdict` and `OrderedDict` become `dict`,
`bytearray` becomes `bytes`. A caller may understand more of them (`Known`). All else is refused.
"""

import struct
from pathlib import Path
from typing import Any, Final

from geneformer.errors import (
    GeneformerError,
    InputNotFoundError,
    PlaceholderFileError,
    UnreadableInputError,
)
from geneformer.vocab.pickle_globals import Known
from geneformer.vocab.pickle_machine import Machine
from geneformer.vocab.pickle_opcodes import HANDLERS, STOP

_MAX_BYTES: Final = 1 << 30
_LFS: Final = b"version https://git-lfs"
_ZIP: Final = b"PK\x03\x04"

_DAMAGE: Final = (LookupError, struct.error, ValueError, TypeError, OverflowError)
"""What the interpreter trips over in a truncated or garbled stream."""


def read_pickle(path: str | Path, *, known: Known | None = None) -> Any:
    """The data in a pickle file: dicts, lists, tuples, sets, text, bytes and Python numbers.

    Parameters
    ----------
    path
        File to read. It is opened for reading and nothing else is touched, whatever it contains.
    known
        Globals to understand beside those of plain data.

    Raises
    ------
    InputNotFoundError
        No such file.
    PlaceholderFileError
        A git-lfs pointer stands in for the file.
    UnsafeFileError
        The file asks for something to be imported, called or built.
    UnreadableInputError
        The file is truncated, damaged, or no pickle.
    """
    path = Path(path)
    if not path.is_file():
        msg = f'No file "{path}". Give the path of a pickle, such as a published dictionary.'
        raise InputNotFoundError(msg)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        msg = f'"{path}" holds {size:,} bytes; pickles of at most {_MAX_BYTES:,} bytes are read.'
        raise UnreadableInputError(msg)
    try:
        data = path.read_bytes()
    except OSError as error:
        msg = f'"{path}" cannot be read: {error.strerror}. Check its permissions.'
        raise UnreadableInputError(msg) from error
    return read_pickle_bytes(data, name=f'"{path}"', known=known)


def read_pickle_bytes(data: bytes, *, name: str = "The pickle", known: Known | None = None) -> Any:
    """The data in a pickle held in memory; `name` is what errors call it, `known` as for `read_pickle`.

    Raises
    ------
    PlaceholderFileError, UnsafeFileError, UnreadableInputError
        As `read_pickle`.
    """
    if data.startswith(_LFS):
        msg = (
            f"{name} is a {len(data)}-byte git-lfs pointer, not the file itself. "
            "Fetch the file with `git lfs pull`, or download it from where the repository came from."
        )
        raise PlaceholderFileError(msg)
    machine = Machine(data, name, known)
    if data.startswith(_ZIP):
        machine.damaged("is a zip archive (weights saved by PyTorch are), no pickle")
    try:
        return _run(machine)
    except GeneformerError:
        raise
    except _DAMAGE:
        machine.damaged("is truncated, damaged or no pickle")


def _run(machine: Machine) -> Any:
    """Follow the opcodes up to the stop, which must be the last byte."""
    data, handlers = machine.data, HANDLERS
    while (code := data[machine.at]) != STOP:
        machine.at += 1
        handlers[code](machine)
    machine.at += 1
    if len(machine.stack) != 1 or machine.below:
        machine.damaged("ends with an unfinished stack")
    if machine.at != len(data):
        machine.damaged(f"goes on for {len(data) - machine.at:,} bytes after its end")
    machine.check_plain(machine.stack[0])
    return machine.stack[0]
