"""Short forms of `make torture`: some moments of some commands, and some damaged files of every format."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [pytest.mark.contract, pytest.mark.skipif(sys.platform != "linux", reason="forks and audits")]


def rows(script, *arguments):
    """What a driver printed, a table of figures in each line."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("fault", ["kill", "power cut", "disk full"])
def test_a_command_that_was_broken_off_comes_to_the_same_when_it_is_given_again(fault):
    found = rows("torture.py", "--every", "43", "--fault", fault, "--only", "tokenize", "--only", "pretrain")
    assert [row["wrong"] for row in found] == [{}] * 2
    assert all(row["times"] for row in found)


def test_a_damaged_file_is_read_or_refused():
    found = rows("fuzz.py", "--cases", "650")
    assert {row["format"]: row["wrong"] for row in found if row["wrong"]} == {}
    assert all(row["cases"] >= 50 for row in found)
