"""Every command that writes, broken off at every change it makes to the disk, and repeated: `make torture`.

    python tests/faults/torture.py [--every N] [--only NAME]... [--fault NAME]...

A run that was broken off must leave what was there before or what it should have made, say why it stopped where it can
speak, and come to the same bytes when the command is given again as its own message says. Prints a row of figures for
each command and fault as JSON; ends with 1 where something was wrong.
"""

# ruff: noqa: E402  threads are chosen before libraries load

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}

from disk import FAULTS, FIRED, Disk

from geneformer import cli
from small_cells import blood
from small_runs import write_architecture

SIZES = [0, 1 << 8, 1 << 11, 1 << 13, 1 << 15, 1 << 17, 1 << 19, 1 << 21, 1 << 23]
"""Bytes after which a file can grow no further, as on a full disk; unlike the other faults this stops libraries too."""

SHORT = "short write"
ALL = (*FAULTS, SHORT)

QUIET = ["--no-progress"]
TINY = ["--max-steps", "3", "--tokens-per-batch", "1000", "--logging-steps", "1", "--device", "cpu", *QUIET]


def commands(data: Path) -> dict[str, list[str]]:
    """Arguments of each command; what it writes goes below the folder it is called in."""
    cells, tokens, model, run = (str(data / name) for name in ("cells.h5ad", "cells.dataset", "model", "run"))
    read = ["--model", model, "--vocabulary", "V1", "--device", "cpu", *QUIET]
    fit = [cells, "--label", "kind", *read[:4], "--baselines", "none", "--rare-below", "0", *TINY]
    return {
        "tokenize": ["tokenize", cells, "-o", "out.dataset", "--chunk-size", "8", *QUIET],
        "embed to h5ad": ["embed", cells, "-o", "out.h5ad", *read],
        "embed to csv": ["embed", cells, "-o", "out.csv", "--heatmap", "map.png", "--color", "kind", *read],
        "embed to parquet": ["embed", cells, "-o", "out.parquet", "--pooling", "gene", *read],
        "attention": ["attention", cells, "-o", "out.parquet", "--genes", "CD3D", "--genes", "LYZ", *read],
        "perturb run": ["perturb", "run", cells, "-o", "out", "--genes", "LYZ", "--cells-per-shard", "4", *read],
        "perturb rank": ["perturb", "rank", run, "-o", "out.csv", "--mode", "aggregate", "--plot", "plot.png"],
        "pretrain": [
            "pretrain", tokens, "-o", "out", "--architecture", str(data / "architecture.json"), "--vocabulary", "V1",
            "--save-steps", "1", "--eval-steps", "2", *TINY,
        ],
        "classify fit": ["classify", "fit", "-o", "out", "--eval-steps", "1", *fit],
        "classify search": ["classify", "search", "-o", "out", "--trials", "2", "--refit", "none", *fit],
        "vocabulary": ["vocabulary", "V1", "-o", "out"],
    }  # fmt: skip


def prepare(data: Path) -> None:
    """Cells, tokens, a narrow model and a perturbation run to start from."""
    data.mkdir(parents=True)
    cells = blood(24)
    cells.obs["kind"] = ["a", "b"] * 12
    cells = cells[:, cells.X.getnnz(0) > 3].copy()
    cells.write_h5ad(data / "cells.h5ad")
    write_architecture(data)
    for name, arguments in (
        ("tokenize", ["-o", str(data / "cells.dataset")]),
        ("pretrain", ["-o", str(data / "model")]),
        ("perturb run", ["-o", str(data / "run")]),
    ):
        line = commands(data)[name]
        line[line.index("-o") : line.index("-o") + 2] = arguments
        status, said = called(line, data)
        assert status == 0, said


def called(arguments: list[str], folder: Path, before: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """Exit code of a command run in a fork, negative where a signal ended it, and what it wrote to its streams."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 70
        try:
            os.chdir(folder)
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            sys.argv = ["geneformer", *arguments]
            before()
            cli.main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        except BaseException:  # noqa: BLE001  the parent reads it
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


TIMES = {"created", "times", "path"}
"""Entries of JSON files that may differ between two runs, each in a place of its own."""


def contents(folder: Path) -> dict[str, object]:
    """Every file below a folder, times left out."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name.startswith("events.out.tfevents."):  # named after the time and the process, full of times
            found[f"{path.parents[1].relative_to(folder)}/events"] = True
        elif path.is_file():
            found[name] = path.read_bytes()
            with suppress(ValueError):
                entries = json.loads(found[name]) if path.suffix == ".json" else None
                if isinstance(entries, dict):
                    found[name] = {entry: value for entry, value in entries.items() if entry not in TIMES}
                    found[name].get("outputs", {}).pop("pretraining.json", None)  # the hash of a file with times
    return found


def repeated(arguments: list[str], place: Path) -> str:
    """Give the command again, as its messages say; what was wrong, or nothing."""
    for more in ([], ["--resume"], ["--overwrite"]):
        status, said = called([*arguments, *more], place)
        if not status:
            return ""
        if not any(reason in said for reason in ("(GF4", "(GF307)", "No such option")):
            break
    return f"given again with {more} it ended with {status}: {said[-600:]}"


def limit(size: int) -> None:
    """Let no file grow beyond a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def broken_off(arguments: list[str], place: Path, fault: str, every: int) -> Iterator[tuple[str, int, str]]:
    """Break a command off at one moment after another, until it gets to its end; its exit code and messages."""
    moment = 1
    while True:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if fault == SHORT:
            if moment > len(SIZES):
                return
            size = SIZES[moment - 1]
            yield f"files of {size:,} bytes", *called(arguments, place, lambda size=size: limit(size))
            moment += 1
            continue
        FIRED[0] = 0
        outcome = called(arguments, place, lambda m=moment: Disk(place, m, fault).arm())
        if not FIRED[0]:
            return
        yield f"change {moment}", *outcome
        moment += every


def wrong_with(status: int, said: str, fault: str) -> str:
    """What is wrong with the way a command ended, or nothing."""
    if status == -signal.SIGKILL:
        return "" if fault in {"kill", "power cut"} else "it was killed"
    if "Traceback" in said or (status and fault == "interrupt" and status != 130):
        return f"it ended with {status}: {said[-600:]}"
    if status and fault != "interrupt" and "(GF" not in said:
        return f"it ended with {status} without a code: {said[-300:]}"
    return ""


def torture(name: str, fault: str, data: Path, place: Path, every: int) -> dict[str, object]:
    """One command and one fault, at one moment after another."""
    arguments = commands(data)[name]
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    status, said = called(arguments, place)
    assert status == 0, said
    expected, inputs = contents(place), contents(data)
    row: dict[str, object] = {"command": name, "fault": fault, "times": 0, "complete": 0}
    wrong = {}
    for moment, status, said in broken_off(arguments, place, fault, every):
        row["times"] += 1
        row["complete"] += status == 0
        problem = wrong_with(status, said, fault) or repeated(arguments, place)
        if not problem:
            made = contents(place)
            different = [file for file in sorted({*made, *expected}) if made.get(file) != expected.get(file)]
            problem = f"other contents: {different}" if different else ""
        if not problem and contents(data) != inputs:
            problem = "an input was changed"
        if problem:
            wrong[moment] = problem
    return {**row, "wrong": wrong}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", action="append")
    parser.add_argument("--fault", action="append", choices=ALL)
    chosen = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        data, place = Path(folder) / "data", Path(folder) / "place"
        prepare(data)
        for name in chosen.only or commands(data):
            for fault in chosen.fault or ALL:
                row = torture(name, fault, data, place, chosen.every)
                failed += bool(row["wrong"])
                print(json.dumps(row), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
