"""Where the time and the memory of tokenizing 20,000 cells go: processor seconds by part, memory by import and chunk.

`.venv/bin/python benchmarks/tokenizing_parts.py [FILE.h5ad ...]`
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from inputs import counts_file
from measuring import machine, median, save, versions

IMPORTS = {
    "Python": "pass",
    "NumPy": "import numpy",
    "Arrow": "from pyarrow import parquet",
    "HDF5": "import h5py",
    "this package": "from geneformer.tokenization.tokenizer import tokenize_counts",
    "vocabulary V1": "from geneformer.genes.vocabulary import Vocabulary; v = Vocabulary.load('V1')",
}
CHUNKS = (2048, 1024, 512, 256)
REPETITIONS = 5
MEMORY = """
import json
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
told = {}
for name, code in %r.items():
    exec(code)
    told[name] = resident()
print(json.dumps(told))
"""
WHOLE = """
import json, sys, time, warnings
import h5py
from pyarrow import parquet
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.genes.vocabulary import Vocabulary
warnings.simplefilter("ignore")
vocabulary = Vocabulary.load("V1")
started = time.process_time()
tokenize_counts(sys.argv[1], TokenizeOptions(chunk_size=int(sys.argv[3])), output=sys.argv[2], vocabulary=vocabulary)
status = open("/proc/self/status").read()  # getrusage would tell the peak of the process this one was forked from
peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"processor": time.process_time() - started, "peak": peak}))
"""


def told_by(code: str, *arguments: object) -> dict[str, float]:
    """What a fresh interpreter prints last."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def unpacking(path: Path) -> dict[str, float]:
    """Processor seconds for the compressed pieces of the matrix, with zlib, and with ISA-L where `isal` is there."""
    import h5py

    with h5py.File(path) as file:
        arrays = [file["X"][name] for name in ("data", "indices")]
        pieces = [
            array.id.read_direct_chunk((number * array.chunks[0],))[1]
            for array in arrays
            for number in range(array.id.get_num_chunks())
        ]
    ways = {"zlib": zlib.decompress}
    try:
        from isal import isal_zlib

        ways["ISA-L"] = isal_zlib.decompress
    except ImportError:
        pass
    seconds = {}
    for name, unpack in ways.items():
        started = time.thread_time()
        for piece in pieces:
            unpack(piece)
        seconds[name] = time.thread_time() - started
    return seconds


def preparing(path: Path) -> float:
    """Processor seconds until the first cell is read: the file opened, its genes looked up."""
    from contextlib import ExitStack

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.options import TokenizeOptions
    from geneformer.tokenization.checks import prepare

    vocabulary = Vocabulary.load("V1")
    started = time.thread_time()
    with ExitStack() as stack:
        prepare([path], vocabulary, TokenizeOptions(), stack)
    return time.thread_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="count matrices; the bundled PBMC3k by default")
    parser.add_argument("--cells", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="geneformer-benchmark-") as name:
        path = Path(name) / "cells.h5ad"
        counts_file(arguments.files, arguments.cells, path, compression="gzip")
        runs = {
            size: [told_by(WHOLE, path, Path(name) / f"{size}-{turn}.dataset", size) for turn in range(REPETITIONS)]
            for size in CHUNKS
        }
        whole = {size: {key: median(turns, key) for key in turns[0]} for size, turns in runs.items()}
        unpacked, prepared = unpacking(path), preparing(path)
    memory = told_by(MEMORY % IMPORTS)
    total = whole[CHUNKS[0]]["processor"]
    rows = [("part", "processor seconds"), (f"everything, both threads, median of {REPETITIONS}", f"{total:.2f}")]
    rows += [(f"of which unpacking, {way}", f"{seconds:.2f}") for way, seconds in unpacked.items()]
    rows += [("of which genes looked up, before any cell", f"{prepared:.2f}")]
    notes = [
        "Resident memory after each import, MB: "
        + ", ".join(f"{part} {size / 1e6:.0f}" for part, size in memory.items())
        + ".",
        "Peak memory by cells in a chunk, MB: "
        + ", ".join(f"{size} {told['peak'] / 1e6:.0f}" for size, told in whole.items())
        + ".",
    ]
    told = ", ".join(f"{package} {version}" for package, version in versions("numpy", "pyarrow", "h5py").items())
    details = {
        "versions": {"geneformer": told},
        "whole": whole,
        "unpacking": unpacked,
        "preparing": prepared,
        "memory": memory,
        "machine": machine(),
    }
    save("tokenizing_parts", "Tokenizing: where time and memory go", rows, notes, details)


if __name__ == "__main__":
    main()
