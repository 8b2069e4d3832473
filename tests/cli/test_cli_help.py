"""Help a newcomer can use: headings, whole sentences, and examples that are right."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geneformer import cli
from geneformer.cli._help import OWN

pytestmark = pytest.mark.contract

COMMANDS = [
    *([name] for name in cli.COMMANDS),
    *([family, member] for family, members in cli.GROUPS.items() for member in members),
]


def helped(*names):
    done = CliRunner().invoke(cli.app, [*names, "--help"])
    assert done.exit_code == 0, done.output
    return done.stdout


def headings(text):
    return [line.removesuffix(":") for line in text.splitlines() if line and not line.startswith((" ", "Usage"))]


def test_commands_are_listed_in_the_order_of_a_job():
    text = helped()
    assert headings(text) == ["Options", *cli.SECTIONS, "Examples"]
    listed = [line.split()[0] for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    assert [name for name in listed if name in cli.COMMANDS or name in cli.GROUPS] == [
        name for names in cli.SECTIONS.values() for name in names
    ]


@pytest.mark.parametrize("names", [[], *([family] for family in cli.GROUPS)])
def test_no_summary_is_cut_off(names):
    text = " ".join(helped(*names).split())
    assert "..." not in text.replace("ARGS]...", "")
    summaries = cli.GROUPS[names[0]] if names else cli.COMMANDS
    assert all(summary in text for summary in summaries.values())


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_a_command_shows_two_examples_that_are_right(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("space.toml").touch()
    command = cli.load_command("-".join(names))
    lines = helped(*names).partition("\nExamples:\n")[2].strip().splitlines()
    assert len(lines) == 2
    for line in lines:
        program, *given = shlex.split(line)
        assert program == "geneformer"
        assert given[: len(names)] == names
        command.make_context(names[-1], given[len(names) :])  # refuses flags and values that there are not


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_flags_stand_under_headings(names):
    command = cli.load_command("-".join(names))
    under = {}
    for parameter in command.params:
        if parameter.param_type_name == "option":
            under.setdefault(parameter.rich_help_panel, []).append(parameter.name)
    assert None not in under
    assert len(under.get(OWN, ())) <= 6
    assert max(map(len, under.values())) <= 14
    shown = headings(helped(*names))
    assert set(under) <= {*shown}
    assert shown[-2:] == ["Command line", "Examples"]
