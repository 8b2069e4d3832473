"""Genes as people write them: with commas, in files, as GMT sets."""

import json

import pytest
from typer.testing import CliRunner

from geneformer import cli
from geneformer.errors import GeneListError, InputNotFoundError, UnreadableInputError
from geneformer.genes.lists import named_genes, read_gmt


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "panel.txt").write_text("# the panel\nISG15\nIFI6, MX1  # two in a line\n\ninterferon=STAT1+STAT2\n")
    (tmp_path / "sets.gmt").write_text("INTERFERON\thttp\tISG15\tIFI6\tISG15\nB CELL\tna\tCD79A\tMS4A1\t\n")
    (tmp_path / "columns.tsv").write_text("ISG15\tENSG00000187608\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "twice.gmt").write_text("A\tx\tB2M\nA\tx\tLYZ\n")
    (tmp_path / "short.gmt").write_text("A B2M\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00B")
    (tmp_path / "GENES").write_text("B2M\n")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["ISG15,IFI6", " MX1 ", "ISG15"], ("ISG15", "IFI6", "MX1")),
        (["x=ISG15+IFI6,delete:STAT1 > overexpress:ISG15"], ("x=ISG15+IFI6", "delete:STAT1 > overexpress:ISG15")),
        (["panel.txt", "B2M"], ("ISG15", "IFI6", "MX1", "interferon=STAT1+STAT2", "B2M")),
        (["sets.gmt"], ("ISG15", "IFI6", "CD79A", "MS4A1")),
        (["sets.gmt:B CELL"], ("CD79A", "MS4A1")),
        (["GENES"], ("B2M",)),
        (
            ["LYZ, panel.txt,sets.gmt:B CELL"],
            ("LYZ", "ISG15", "IFI6", "MX1", "interferon=STAT1+STAT2", "CD79A", "MS4A1"),
        ),
        (["ENSG00000187608.12", "AC000123.1"], ("ENSG00000187608.12", "AC000123.1")),
    ],
)
def test_names_and_files_become_genes(files, given, expected):
    assert named_genes(given) == expected


def test_sets_become_groups(files):
    assert named_genes(["sets.gmt", "LYZ"], groups=True) == ("INTERFERON=ISG15+IFI6", "B CELL=CD79A+MS4A1", "LYZ")
    assert named_genes(["sets.gmt:B CELL"], groups=True) == ("B CELL=CD79A+MS4A1",)
    assert read_gmt(files / "sets.gmt") == {"INTERFERON": ["ISG15", "IFI6"], "B CELL": ["CD79A", "MS4A1"]}


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ("panl.txt", InputNotFoundError, "does not exist"),
        ("nope.gmt:A", InputNotFoundError, "does not exist"),
        ("sets.gmt:B CELLS", GeneListError, 'Did you mean "B CELL"'),
        ("columns.tsv", GeneListError, "Line 1 of"),
        ("empty.txt", GeneListError, "names no gene"),
        ("twice.gmt", GeneListError, "Line 2 of"),
        ("short.gmt", GeneListError, "Line 1 of"),
        ("binary.txt", UnreadableInputError, "UTF-8"),
    ],
)
def test_wrong_lists_are_refused(files, given, error, sentence):
    with pytest.raises(error, match=sentence):
        named_genes([given])


def test_commands_take_lists(files):
    def looked_up(*flags):
        done = CliRunner().invoke(cli.app, ["vocabulary", "V1", *flags, "--json"])
        assert done.exit_code == 0, done.output
        return {asked: entry["symbol"] for asked, entry in json.loads(done.stdout)["looked_up"].items()}

    assert looked_up("--gene", "ISG15,B2M", "--gene", "LYZ") == {"ISG15": "ISG15", "B2M": "B2M", "LYZ": "LYZ"}
    assert list(looked_up("--gene", "sets.gmt:B CELL")) == ["CD79A", "MS4A1"]
