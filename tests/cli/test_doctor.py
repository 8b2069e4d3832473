"""`geneformer doctor` on this machine, and where something is not in order."""

import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from geneformer import cli
from geneformer.cli import doctor
from geneformer.engine import device

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, and the bundled model run once."""
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "cache" / "below"))
    return tmp_path


def examined(*flags):
    done = CliRunner().invoke(cli.app, ["doctor", "--json", *flags])
    told = json.loads(done.stdout)
    assert done.exit_code == (0 if told["healthy"] else 1)
    assert told["healthy"] is not any(check["fails"] for check in told["checks"])
    return {check["name"]: check for check in told["checks"]}


def test_this_installation_is_in_order(cache):
    found = examined()
    assert not any(check["fails"] for check in found.values())
    assert {"geneformer", "Python", *doctor.CORE, "extra plot", "extra train", "processors", "memory"} <= found.keys()
    assert f"{torch.__version__} (>=" in found["torch"]["found"]
    assert "float32" in found["device cpu"]["found"]
    assert found["cache"]["found"].startswith(f"{cache / 'cache' / 'below'}, ")
    assert "embedded as they should be" in found["model mini"]["found"]
    assert not (cache / "cache").exists()


def test_it_is_readable(monkeypatch):
    monkeypatch.setattr(doctor, "_bundled_model", lambda: doctor.Check("model mini", "off", "Mend it", fails=True))
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 1
    assert "Not in order: model mini" in done.stderr
    assert "off. Mend it" in done.stderr
    assert done.stdout == ""


def test_what_is_not_in_order_comes_with_what_mends_it(monkeypatch, cache):
    (cache / "file").touch()
    monkeypatch.setenv("GENEFORMER_CACHE", str(cache / "file"))
    monkeypatch.setattr(doctor, "GOLDEN", tuple((number + 1, *rest) for number, *rest in doctor.GOLDEN))
    monkeypatch.setattr(device, "list_devices", lambda: [torch.device("meta")])
    real = metadata.version
    versions = {"torch": "2.1.0", "scanpy": None, "matplotlib": None}

    def version(name):
        if versions.get(name, "") is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = examined()
    bad = {name for name, check in found.items() if check["fails"]}
    assert bad == {"torch", "scanpy", "cache", "model mini", "device meta"}
    assert re.fullmatch(r'pip install "torch>=[\d.]+"', found["torch"]["remedy"])
    assert found["scanpy"]["found"].startswith("missing")
    assert 'pip install "geneformer[plot]"' in found["extra plot"]["remedy"]
    assert "GENEFORMER_CACHE" in found["cache"]["remedy"]
    assert "off by 1 " in found["model mini"]["found"]


def test_every_extra_is_looked_at():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = {name for name, needed in extras.items() if all(one.startswith("geneformer[") for one in needed)}
    assert set(doctor.COLLECTIONS) == own
    assert set(doctor.CORE) <= {re.split("[<>=]", one)[0] for one in project["dependencies"]}
