"""The frame of the command line: flags, configuration, reports, exit codes."""

import dataclasses
import json
import subprocess
import sys
import threading
import warnings
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from geneformer import __version__, cli
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome
from geneformer.errors import GeneformerWarning, NoCellsError
from geneformer.files.progress import progress_bar
from geneformer.options._fields import check_range

pytestmark = pytest.mark.contract

runner = CliRunner()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ToyOptions:
    """Knobs of a toy."""

    speed: float = 1.5
    """How fast it goes."""

    color: Literal["red", "blue"] = "red"
    """Its color."""

    names: tuple[str, ...] = ()
    """Names it answers to."""

    span: tuple[float, float] = (0.3, 1.0)
    """From and to."""

    loud: bool = True
    """Whether it sounds."""

    limit: int | None = None
    """Where it stops."""

    def __post_init__(self) -> None:
        check_range("speed", self.speed, above=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RoomOptions:
    """Where it plays."""

    room: str = "nursery"
    """Which room."""

    limit: int = 3
    """How many fit."""


@with_options(hide={RoomOptions: ("limit",)})
def toy(
    place: Annotated[str, typer.Argument()],
    *,
    options: ToyOptions,
    room: RoomOptions,
    fail: Annotated[str, typer.Option()] = "",
) -> Outcome:
    """Play."""
    if fail == "refused":
        msg = "0 of 5 cells [are] left."
        raise NoCellsError(msg)
    if fail == "interrupted":
        raise KeyboardInterrupt
    if fail == "broken":
        raise ZeroDivisionError
    if fail == "warned":
        warnings.warn("3 genes [were] summed.", GeneformerWarning, stacklevel=2)
    data = {**dataclasses.asdict(options), **dataclasses.asdict(room), "place": place}
    return Outcome("Toy", [("place", place), ("number", 12345)], data)


@pytest.fixture(autouse=True)
def toy_command(monkeypatch):
    """`geneformer toy` for the length of a test."""
    usual = cli.load_command
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command("toy")(toy)
    monkeypatch.setitem(cli.COMMANDS, "toy", "Play.")
    monkeypatch.setattr(cli, "load_command", lambda n: typer.main.get_command(single) if n == "toy" else usual(n))


def run(*arguments):
    return runner.invoke(cli.app, list(map(str, arguments)))


def played(*arguments):
    result = run("toy", "garden", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_defaults_are_those_of_the_classes():
    wanted = {**dataclasses.asdict(RoomOptions()), **dataclasses.asdict(ToyOptions()), "limit": 3, "place": "garden"}
    assert played() == json.loads(json.dumps(wanted))


def test_flags():
    told = played("--speed", 2, "--color", "blue", "--names", "a", "--names", "b", "--span", 0.1, 0.2, "--no-loud")
    assert told["speed"] == 2.0
    assert (told["color"], told["names"], told["span"], told["loud"]) == ("blue", ["a", "b"], [0.1, 0.2], False)


def test_flags_go_before_the_file_and_the_file_before_defaults(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('[toy]\nspeed = 9\ncolor = "blue"\nloud = false\n[room]\nroom = "hall"\n')
    told = played("--config", config, "--speed", 4, "--loud")
    assert (told["speed"], told["color"], told["loud"], told["room"]) == (4.0, "blue", True, "hall")


@pytest.mark.parametrize(
    ("text", "code"),
    [("sped = 1", "GF103"), ("speed = 'fast'", "GF100"), ("speed = 0", "GF102"), ("[room]\nlimit = 9", "GF103")],
)
def test_a_wrong_configuration_is_refused(tmp_path, text, code):
    config = tmp_path / "run.toml"
    config.write_text(text)
    result = run("toy", "garden", "--config", config)
    assert result.exit_code == 1
    assert code in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["toy"],
        ["toy", "garden", "--color", "green"],
        ["toy", "garden", "--speed", "fast"],
        ["toy", "garden", "--colour", "red"],
        ["toy", "garden", "--config", "missing.toml"],
        ["tokenise"],
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_refusal_is_a_message_and_exit_code_1():
    result = run("toy", "garden", "--fail", "refused")
    assert result.exit_code == 1
    assert result.stderr == "NoCellsError (GF205): 0 of 5 cells [are] left.\n"
    assert result.stdout == ""


def test_an_interruption_exits_with_130():
    assert run("toy", "garden", "--fail", "interrupted").exit_code == 130


def test_a_defect_is_not_hidden():
    assert isinstance(run("toy", "garden", "--fail", "broken").exception, ZeroDivisionError)


def test_a_warning_is_one_line():
    result = run("toy", "garden", "--fail", "warned")
    assert result.exit_code == 0
    assert "Note: 3 genes [were] summed.\n" in result.stderr


def test_the_report_is_a_table_on_stderr():
    result = run("toy", "garden")
    assert result.stdout == ""
    assert "garden" in result.stderr
    assert "12,345" in result.stderr


def test_help_shows_the_docstrings_and_defaults_of_the_fields():
    told = " ".join(run("toy", "--help").stdout.split())
    for text in (
        "How fast it goes. [default: 1.5]",
        "Its color. [default: red]",
        "From and to. [default: 0.3 1.0]",
        "Whether it sounds. [default: on]",
        "Where it stops. --room",
        "--config",
        "--json",
    ):
        assert text in told


def test_two_flags_of_one_name_are_a_mistake_of_ours():
    def command(*, options: ToyOptions, room: RoomOptions) -> Outcome: ...

    with pytest.raises(TypeError, match=r"two flags each for \['limit'\]"):
        with_options()(command)


def test_a_progress_bar_is_silent_without_a_terminal(capsys):
    with progress_bar("Working") as update:
        update(1, 10)
        update(10, 10)
    assert capsys.readouterr() == ("", "")


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    assert all(f"  {name} " in result.stdout for name in cli.COMMANDS)
    assert run().exit_code == 2


def test_version():
    assert run("--version").stdout == f"geneformer {__version__}\n"


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "geneformer", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"geneformer {__version__}\n"


def test_control_c_in_a_real_process(tmp_path):
    code = """
import os, signal, sys, threading
from geneformer import cli
import geneformer.genes.vocabulary as module

def interrupted(name):
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(10)

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background start with it ignored
module.Vocabulary.load = interrupted
sys.argv = ["geneformer", "vocabulary"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


def test_the_vocabulary_command(tmp_path):
    result = run("vocabulary", "V2", "--gene", "gata4", "--gene", "nonsense", "-o", tmp_path / "own", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["genes"], told["tokens"], told["input_size"]) == (20271, 20275, 4096)
    assert told["looked_up"]["gata4"]["gene"] == "ENSG00000136574"
    assert told["looked_up"]["nonsense"] is None
    again = json.loads(run("vocabulary", tmp_path / "own", "--json").stdout)
    assert again["fingerprint"] == told["fingerprint"]
    assert run("vocabulary", "V2", "-o", tmp_path / "own").exit_code == 1
    assert "GATA4" in run("vocabulary", "--gene", "GATA4").stderr


def test_an_unknown_vocabulary_is_refused():
    result = run("vocabulary", "V3")
    assert (result.exit_code, "GF302" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("error", "shown"), [(OSError("No space left on device"), False), (ValueError("a defect"), True)]
)
def test_a_thread_that_cannot_write_leaves_the_word_to_the_command(monkeypatch, capsys, error, shown):
    """TensorBoard's thread prints its own trace of calls, and hands the error on."""

    def fail():
        raise error

    def work():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(cli, "app", work)
    cli.main()
    assert ("Traceback" in capsys.readouterr().err) is shown
