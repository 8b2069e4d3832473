"""Version, authors and archive of a release are told once, or told the same."""

import re
import tomllib
from pathlib import Path

from geneformer import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_version_is_that_of_the_latest_release():
    releases = re.findall(
        r"^## (\d+\.\d+\.\d+) - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert releases[0] == __version__
    assert f"\nversion: {__version__}\n" in CITATION


def test_authors_and_addresses_are_those_of_the_citation():
    for author in PROJECT["project"]["authors"]:
        assert f"name: {author['name']}\n" in CITATION
    for address in PROJECT["project"]["urls"].values():
        assert address.removeprefix("https://doi.org/") in CITATION


def test_an_archive_holds_what_tests_and_make_read():
    included = {name.strip("/") for name in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    read = {"src", *PROJECT["tool"]["pytest"]["ini_options"]["testpaths"], *PROJECT["tool"]["ruff"]["src"]}
    read |= set(re.findall(r"(?<![\w./$(])(\w+)/\w+", (ROOT / "Makefile").read_text(encoding="utf-8"))) - {"bin"}
    for script in sorted((ROOT / "tests").rglob("*.py")):
        read |= set(re.findall(r'parents\[\d\] / "(\w+)"', script.read_text(encoding="utf-8")))
    read = {name for name in read if (ROOT / name).exists()}
    assert {"tests", "docs", "examples", "recipes", "benchmarks"} <= read
    assert read - {"data"} <= included
    assert {"Makefile", "constraints.txt", "CONTRIBUTING.md", *PROJECT["project"]["license-files"]} <= included
