"""How far a run has come, without a terminal."""

import pytest

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
