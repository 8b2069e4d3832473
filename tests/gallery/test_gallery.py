"""Every row gets its right answer: no traceback, no hang, nothing written on refusal, no input changed."""

import importlib
import multiprocessing
import sys
from collections import Counter

import pytest

from gallery.nursery import FAMILIES, ROWS, serve


@pytest.fixture(scope="session")
def nursery():
    """A connection to the process whose forks run the rows."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,))
    process.start()
    yield ours
    ours.send(None)
    process.join()


@pytest.mark.skipif(sys.platform == "win32", reason="rows run in forks")
@pytest.mark.parametrize("name", ROWS)
def test_row(name, tmp_path, nursery):
    nursery.send((name, tmp_path))
    assert not (found := nursery.recv()), "\n".join(found)


def test_names_of_rows_differ():
    names = Counter(
        (family, row.name) for family in FAMILIES for row in importlib.import_module(f"gallery.{family}").ROWS
    )
    assert not [name for name, times in names.items() if times > 1]
