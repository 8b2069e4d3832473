"""Outputs appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geneformer.errors import OutputError, OutputExistsError, RunLockedError
from geneformer.files.atomic import MANIFEST_NAME, atomic_file, atomic_folder, check_output, lock, output_errors


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_file_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "embedding.csv"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("a,b\n")
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert [path.name for path in tmp_path.iterdir()] == ["embedding.csv"]


@pytest.mark.parametrize("context", [atomic_file, atomic_folder])
def test_an_error_leaves_nothing(tmp_path, context):
    def fail():
        with context(tmp_path / "out") as temporary:
            (temporary / "x" if temporary.is_dir() else temporary).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_the_old_file(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    code = """
import os, signal, sys
from geneformer.files.atomic import atomic_file
with atomic_file(sys.argv[1], overwrite=True) as temporary:
    temporary.write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(code, target).returncode == -9
    assert target.read_text() == "old"
    (tmp_path / ".out.new-1-1-00000000.txt").write_text("somebody's own")
    with atomic_file(target, overwrite=True) as first, atomic_file(target, overwrite=True) as second:
        first.write_text("newer")  # it is there still: its process runs
        second.write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.new-1-1-00000000.txt", "out.txt"]
    assert target.read_text() == "newer"


def test_killed_between_the_old_folder_and_the_new_one(tmp_path):
    """The old folder is there again with the next attempt, even one that fails."""
    with atomic_folder(tmp_path / "out") as folder:
        (folder / MANIFEST_NAME).write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from geneformer.files.atomic import atomic_folder
def renamed(self, target, rename=Path.rename):
    rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = renamed
with atomic_folder(sys.argv[1], overwrite=True):
    pass
"""
    assert run(code, tmp_path / "out").returncode == -9
    assert not (tmp_path / "out").exists()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / MANIFEST_NAME).read_text() == "old"


def test_what_exists_stays(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(OutputExistsError, match="--overwrite"), atomic_file(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "old"
    with atomic_file(tmp_path / "out", overwrite=True) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "out").read_text() == "new"


def test_only_our_own_folders_are_replaced(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="not made by this package"), atomic_folder(home, overwrite=True):
        pass
    assert (home / "thesis.tex").exists()
    with pytest.raises(OutputExistsError, match="folder"), atomic_file(home, overwrite=True):
        pass
    (home / MANIFEST_NAME).write_text("{}")
    with atomic_folder(home, overwrite=True) as temporary:
        (temporary / "new").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["home", "new"]


def test_places_that_cannot_be_written_are_named_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="no folder"):
        check_output(tmp_path / "missing" / "out")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="not writable"):
        check_output(tmp_path / "out")


def test_a_full_disk_is_an_output_error(tmp_path):
    def fill():
        with atomic_folder(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "within"):
        with pytest.raises(OutputError, match=r"(?s)file.*stands where"), output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)


def test_other_system_errors_pass_unchanged():
    with pytest.raises(OSError, match="Bad file") as caught, output_errors(Path("x")):
        raise OSError(errno.EBADF, "Bad file descriptor")
    assert not isinstance(caught.value, OutputError)


def test_a_lock_keeps_other_processes_out_until_its_holder_dies(tmp_path):
    code = """
import sys
from pathlib import Path
from geneformer.files.atomic import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunLockedError, match="Another process"), lock(tmp_path / "lock"):
        pass
    holder.kill()
    holder.communicate()
    with lock(tmp_path / "lock"):
        pass
