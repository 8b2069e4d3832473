"""How far a run has come: in log files, in notebooks and on terminals."""

import io
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
from rich.console import Console

from geneformer.files import progress
from geneformer.files.progress import progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told to."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_a_minute_with_the_time_left(clock, capsys):
    with progress_bar("Training") as update:
        for step in range(1, 1201):
            clock[0] += 1.0
            update(step, 1200)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 1200 // progress.SECONDS_BETWEEN_LINES
    assert lines[9] == "Training: 600 of 1,200 after 0:10:00, about 0:10:00 left"
    assert lines[-1] == "Training: 1,200 of 1,200 after 0:20:00, about 0:00:00 left"


def test_what_an_earlier_run_did_is_not_counted_as_pace(clock, capsys):
    with progress_bar("Training") as update:
        for step in range(801, 901):
            clock[0] += 6.0
            update(step, 1000)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "Training: 900 of 1,000 after 0:10:00, about 0:10:00 left"


def test_nothing_is_guessed_where_the_end_is_not_known(clock, capsys):
    with progress_bar("Tokenizing [cells]") as update:
        for done in (0, 2048):
            clock[0] += 100.0
            update(done)
    assert capsys.readouterr().err == "Tokenizing [cells]: 0 after 0:01:40\nTokenizing [cells]: 2,048 after 0:03:20\n"


def test_it_can_be_silenced_everywhere(clock, capsys):
    with progress_bar("Training", shown=False) as update:
        clock[0] += 1000.0
        update(5, 10)
    assert capsys.readouterr() == ("", "")


def test_phases_are_named_in_the_line_of_what_they_are_part_of(clock, capsys):
    with progress_bar("Cross-validation", unit="folds") as folds:
        folds(1, 5)
        with progress_bar("Training", unit="steps") as steps:
            for done in range(61):
                clock[0] += 1.0
                steps(done, 120)
    assert capsys.readouterr().err.splitlines() == [
        "Cross-validation (1 of 5 folds), Training: 59 of 120 steps after 0:01:00, about 0:01:01 left"
    ]


def test_of_the_processes_of_a_launcher_the_first_one_tells(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with progress_bar("Training") as update:
        clock[0] += 1000.0
        update(5, 10)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def notebook(monkeypatch, clock):
    """What a kernel without widgets was given to display, and each state of it."""

    class Handle:
        def __init__(self, shown):
            self.states = [shown]

        def update(self, shown, *, raw):
            assert raw
            self.states.append(shown)

    handles = []

    def display(shown, *, raw, display_id):
        assert raw
        assert display_id is True
        handles.append(Handle(shown))
        return handles[-1]

    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    return handles


def test_a_notebook_has_one_output_that_stays_and_needs_no_widgets(notebook, clock, capsys):
    with progress_bar("Training", unit="steps") as update:
        for step in range(1, 101):
            clock[0] += 0.1
            update(step, 100)
    (output,) = notebook
    assert 20 < len(output.states) < 60
    assert output.states[20]["text/plain"].endswith("left")
    assert output.states[-1]["text/plain"] == "Training: 100 of 100 steps in 0:00:10"
    assert '<progress value="100" max="100">' in output.states[-1]["text/html"]
    assert all(state["text/plain"].strip() for state in output.states)
    assert capsys.readouterr() == ("", "")


def test_what_is_over_at_once_leaves_no_output(notebook, clock):
    for _ in range(3):
        with progress_bar("Predicting") as update:
            clock[0] += 0.1
            update(1, 1)
    assert notebook == []


def test_phases_of_a_fit_stay_and_those_of_what_counts_go(notebook, clock):
    with progress_bar("Fitting"):
        for label in ("Training", "Baselines"):
            with progress_bar(label):
                clock[0] += 60.0
        with progress_bar("Cross-validation", unit="folds") as folds:
            for fold in range(2):
                folds(fold, 2)
                with progress_bar("Training <fold>") as steps:
                    clock[0] += 5.0
                    steps(1, 1)
            folds(2, 2)
    (output,) = notebook
    assert output.states[-1]["text/plain"].splitlines() == [
        "Fitting: in 0:02:10",
        "  Training: in 0:01:00",
        "  Baselines: in 0:01:00",
        "  Cross-validation: 2 of 2 folds in 0:00:10",
    ]
    assert "Training &lt;fold&gt;" in "".join(state["text/html"] for state in output.states)


def test_what_broke_off_says_so_and_the_next_bar_is_one_of_its_own(notebook, clock):
    with suppress(KeyboardInterrupt), progress_bar("Fitting"), progress_bar("Training") as update:
        clock[0] += 10.0
        update(3, 10)
        raise KeyboardInterrupt
    with progress_bar("Embedding") as update:
        clock[0] += 10.0
        update(10, 10)
    broken, whole = (output.states[-1]["text/plain"].splitlines() for output in notebook)
    assert broken == ["Fitting: stopped after 0:00:10", "  Training: 3 of 10 stopped after 0:00:10"]
    assert whole == ["Embedding: 10 of 10 in 0:00:10"]


def test_what_hides_its_progress_hides_that_of_its_phases(notebook, clock):
    with progress_bar(shown=False), progress_bar("Tokenizing") as update:
        clock[0] += 10.0
        update(1, 2)
    assert notebook == []


def test_a_terminal_keeps_the_bars(clock, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(progress, "_console", lambda: console)
    monkeypatch.delenv("TERM", raising=False)
    with progress_bar("Fitting"), progress_bar("Training", unit="steps") as update:
        clock[0] += 75.0
        update(300, 300)
    last = screen.getvalue().replace("\x1b[?25l", "").rpartition("\x1b[2K")[2].splitlines()
    assert last[0].split() == ["Fitting", "in", "0:01:15"]
    assert last[1].startswith("  Training ━━━")
    assert last[1].rstrip().endswith("300 of 300 steps in 0:01:15")


def test_what_has_no_line_of_its_own_leaves_no_empty_output(notebook, clock):
    with progress_bar():
        clock[0] += 10.0
    assert notebook == []
    with progress_bar():
        clock[0] += 10.0
        with progress_bar("Tokenizing", unit="cells") as update:
            clock[0] += 0.1
            update(3, 3)
    (output,) = notebook
    assert [state["text/plain"].partition(":")[0] for state in output.states] == ["Tokenizing"] * len(output.states)
