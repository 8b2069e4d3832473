"""Time and peak memory of each step of a run."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step cost.

    Attributes
    ----------
    name
        What was done.
    seconds
        Wall-clock time.
    peak_bytes
        Most memory of the process during the step; where the system cannot tell that, since its start. None where it
        tells neither.
    """

    name: str
    seconds: float
    peak_bytes: int | None

    def __str__(self) -> str:
        memory = "" if self.peak_bytes is None else f", peak {self.peak_bytes / 2**20:,.0f} MiB"
        return f"{self.seconds:.1f} s{memory}"


@dataclass(slots=True)
class StepLog:
    """Steps done so far.

    Attributes
    ----------
    tell
        Called with each step when it is done.
    steps
        All of them.
    """

    tell: Callable[[Step], object] | None = None
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the block."""
        forget_peak()
        started = time.perf_counter()
        yield
        done = Step(name=name, seconds=time.perf_counter() - started, peak_bytes=peak_memory())
        self.steps.append(done)
        if self.tell is not None:
            self.tell(done)


def forget_peak() -> None:
    """Start measuring the peak anew, where the system allows that."""
    try:
        RESET.write_text("5")
    except OSError:
        return


def peak_memory() -> int | None:
    """Most memory this process held at a time, in bytes; None where the system does not tell."""
    try:
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
