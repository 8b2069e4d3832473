"""Make the inputs, run every example of this folder on them, and say how long each takes.

    python examples/published/run_all.py OUT

OUT/data    inputs, see make_inputs.py
OUT/NAME    what the example NAME.py writes
"""

import argparse
import importlib
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NO_EXAMPLES = ("make_inputs", "run_all")


def examples() -> list[str]:
    """Names of the scripts that have a `main(data, out)`."""
    return sorted(script.stem for script in FOLDER.glob("*.py") if script.stem not in NO_EXAMPLES)


def main(out: Path) -> dict[str, float]:
    """Seconds by example."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    start = time.perf_counter()
    data = importlib.import_module("make_inputs").make_inputs(out / "data")
    seconds = {"make_inputs": time.perf_counter() - start}
    tell("make_inputs", seconds["make_inputs"])
    for name in examples():
        start = time.perf_counter()
        (out / name).mkdir(parents=True, exist_ok=True)
        importlib.import_module(name).main(data, out / name)
        seconds[name] = time.perf_counter() - start
        tell(name, seconds[name])
    return seconds


def tell(name: str, seconds: float) -> None:
    """One line about one example."""
    sys.stdout.write(f"{name}: {seconds:.1f} s\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
