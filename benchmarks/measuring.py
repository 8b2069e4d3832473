"""What all benchmarks share: sides run in turns in processes of their own, medians, the machine, the report.

Standard library only, so that both sides can import it whatever their environment.
"""

import datetime
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIDES = HERE / "sides"
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", HERE / "results"))
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "sve")
"""Instructions that matter for matrix products."""

_MARK = "RESULT "
_LEAST_SECONDS = 1e-9

Values = dict[str, Any]


def peak_memory() -> int:
    """Most memory this process held at a time, in bytes.

    Linux carries `ru_maxrss` over from the parent when a process starts; its own high-water mark does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reply(**values: Any) -> None:
    """Called by a side when it is done: its figures, with its peak memory, as the last line it prints."""
    print(_MARK + json.dumps({**values, "peak_bytes": peak_memory()}))


def run_side(command: Sequence[str | Path], threads: int | None = None) -> Values:
    """Run one side in a process of its own and return what it replied."""
    environment = dict(os.environ, PYTHONPATH=str(HERE), HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run([str(part) for part in command], env=environment, stdout=subprocess.PIPE, text=True)  # noqa: PLW1510
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or not lines:
        print(done.stdout)
        msg = f"{shlex.join(str(part) for part in command)} ended with status {done.returncode}."
        raise SystemExit(msg)
    return json.loads(lines[-1].removeprefix(_MARK))


def alternate(
    sides: Mapping[str, Sequence[str | Path]], repetitions: int, threads: int | None = None
) -> dict[str, list[Values]]:
    """Run the sides in turns, A B A B, so that a slow minute of the machine touches all of them."""
    replies: dict[str, list[Values]] = {name: [] for name in sides}
    for turn in range(repetitions):
        for name, command in sides.items():
            replies[name].append(run_side(command, threads))
            last = replies[name][-1]
            print(f"  turn {turn + 1}: {name:<24} {last['seconds']:8.2f} s  {last['peak_bytes'] / 2**20:8,.0f} MiB")
    return replies


def median(replies: Sequence[Values], key: str) -> float:
    """Median of one figure over the repetitions."""
    return statistics.median(reply[key] for reply in replies)


def ratio(above: Sequence[Values], below: Sequence[Values], key: str) -> float:
    """Median of the ratios of turns that ran next to each other."""
    pairs = zip(above, below, strict=True)
    return statistics.median(a[key] / max(b[key], _LEAST_SECONDS) for a, b in pairs)


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def machine() -> Values:
    """What ran the benchmark, as far as speed depends on it."""
    described: Values = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }
    if Path("/proc/cpuinfo").exists():
        fields = dict(
            (part.strip() for part in line.split(":", 1))
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if ":" in line
        )
        present = fields.get("flags", fields.get("Features", "")).split()
        described["processor"] = fields.get("model name", described["processor"])
        described["instructions"] = [flag for flag in FLAGS if flag in present]
        total = Path("/proc/meminfo").read_text().split()[1]
        described["memory_gib"] = round(int(total) / 2**20, 1)
    if hasattr(os, "getloadavg"):
        described["load_before"] = round(os.getloadavg()[0], 2)
    return described


def command_line() -> str:
    """The command that repeats this run."""
    script = Path(sys.argv[0]).resolve().relative_to(HERE.parent)
    return shlex.join([".venv/bin/python", str(script), *sys.argv[1:]])


def gibibytes(n_bytes: float) -> str:
    """Memory for people."""
    return f"{n_bytes / 2**30:.2f} GiB"


def save(name: str, title: str, rows: Sequence[tuple[str, ...]], notes: Sequence[str], details: Values) -> None:
    """Print the report and store it as `results/NAME.md` and, with every single figure, as `results/NAME.json`.

    Parameters
    ----------
    name, title
        File name and heading.
    rows
        Lines of the table; the first holds the column names.
    notes
        Sentences below the table.
    details
        Everything measured.
    """
    about = details["machine"]
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, width, strict=True)) + " |" for row in rows]
    table.insert(1, "|" + "|".join("-" * (w + 2) for w in width) + "|")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    instructions = ", ".join(about.get("instructions", []))
    where = f"{about['processor']}, {about['cores']} cores, {about.get('memory_gib', '?')} GiB ({instructions})"
    lines = [
        f"# {title}",
        "",
        *table,
        "",
        *(f"* {note}" for note in notes),
        f"* Machine: {where}; load before: {about.get('load_before', '?')}; Python {about['python']}; {today}.",
        f"* Versions: {'; '.join(f'{k}: {v}' for k, v in details['versions'].items())}.",
        f"* Command: `{command_line()}`",
        "",
    ]
    print("\n" + "\n".join(lines))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")
    stored = {"title": title, "date": today, "command": command_line(), **details}
    (RESULTS / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
