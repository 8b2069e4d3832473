"""Processor time of the first embedding in a new process: `geneformer embed` of 100 cells, imports and all.

`.venv/bin/python benchmarks/cold_start.py [NAME=SOURCE[:PYTHON] ...]`

Every pair is a name, a folder with the package and the interpreter that runs it; without pairs this checkout alone is
measured. The first pair is what the others are compared with.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import HERE, Values, machine, median, ratio, save, versions

CELLS = 100
THREADS = {"as it comes": None, "one thread": 1}


def run_cold(source: Path, python: str, cells: Path, output: Path, threads: int | None) -> Values:
    """Seconds of processors and on the clock of one command in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    environment |= {"PYTHONPATH": str(source.resolve()), "HF_HUB_OFFLINE": "1"}
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [python, "-m", "geneformer", "embed", cells, "--model", "mini", "-o", output, "--overwrite"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"processor": processor, "seconds": seconds}


def main() -> None:
    """Alternate the pairs, report medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", default=[f"this checkout={HERE.parent / 'src'}"], metavar="NAME=SOURCE")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    pairs = {}
    for pair in options.pairs:
        name, _, place = pair.partition("=")
        source, _, python = place.partition(":")
        pairs[name] = Path(source), python or sys.executable
    about = machine()

    from geneformer.datasets import pbmc3k

    replies: dict[str, dict[str, list[Values]]] = {way: {name: [] for name in pairs} for way in THREADS}
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder) / "tiny.h5ad"
        pbmc3k()[:CELLS].copy().write_h5ad(cells)
        for turn in range(options.repetitions + 1):
            for way, threads in THREADS.items():
                for name, (source, python) in pairs.items():
                    reply = run_cold(source, python, cells, Path(folder) / "out.h5ad", threads)
                    print(f"  turn {turn}: {name}, {way}: {reply['processor']:.2f} s of processors")
                    if turn:  # the first one warms the disk's cache and writes byte code
                        replies[way][name].append(reply)

    first = next(iter(pairs))
    rows: list[tuple[str, ...]] = [("threads", "side", "processor s", "seconds", f"processor time of {first}")]
    for way, sides in replies.items():
        for name, runs in sides.items():
            share = ratio(runs, sides[first], "processor")
            rows.append(
                (way, name, f"{median(runs, 'processor'):.2f}", f"{median(runs, 'seconds'):.2f}", f"{share:.2f}")
            )
    notes = [
        f"`geneformer embed` of {CELLS} cells of the bundled PBMC3k with `mini`, from an empty process to the file.",
        "A command lets waiting threads sleep (`OMP_WAIT_POLICY=PASSIVE`, unless it is set already). Those of "
        "PyTorch's library spin by default, which on a busy machine is most of a short command's processor time.",
    ]
    details = {"machine": about, "versions": {"all": versions("torch", "transformers", "anndata")}, "replies": replies}
    save("cold_start", "The first embedding of 100 cells in a new process", rows, notes, details)


if __name__ == "__main__":
    main()
