"""Models from the hub: the right files of the pinned commit, once; then from the cache, network or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from geneformer.models.hub import HUB
from geneformer.models.loading import save_checkpoint
from models.reference_bert import ours, random_bert, small_config
from models.stand_in_hub import StandInHub

NEWEST, TAGGED = "a" * 40, "b" * 40
PINNED = HUB["V1-10M"].revision

PRELUDE = """
import json, sys, time
from pathlib import Path
from urllib.request import urlopen
from geneformer.errors import GeneformerError
from geneformer.models.loading import load_model

answers = {}

def attempt(mark, name, **kwargs):
    try:
        loaded = load_model(name, **kwargs)
    except GeneformerError as error:
        answers[mark] = {"error": type(error).__name__, "message": str(error)}
    else:
        files = sorted(p.name for p in loaded.folder.iterdir())
        answers[mark] = {
            "folder": str(loaded.folder), "files": files, "size": loaded.network.config.vocab_size,
            "bias": loaded.network.cls.predictions.bias[5].item(),
        }

def visit(mark):
    urlopen(sys.argv[1] + "/" + mark).close()

def wait_until_refused():
    while True:
        try:
            visit("mark/still-there")
        except OSError as error:
            if isinstance(getattr(error, "reason", None), ConnectionRefusedError):
                return
        time.sleep(0.05)
"""

ONLINE = """
visit("mark/first")
attempt("first", "V1-10M")
visit("mark/second")
attempt("second", "V1-10M")
visit("mark/newest")
attempt("newest", "someone/models")
visit("mark/tagged")
attempt("tagged", "someone/models", revision="v1")
visit("mark/own-cache")
attempt("own cache", "someone/models", cache_dir=Path(sys.argv[2]))
visit("mark/pickled")
attempt("pickled", "someone/pickled")
visit("mark/end")
attempt("no such repository", "someone/nothing")
attempt("no such revision", "someone/models", revision="v9")
attempt("no such folder", "someone/models/nothing")
attempt("no such name", "someone/in valid")
attempt("cut short", "someone/cut/cut")
visit("stop")
wait_until_refused()
attempt("cached without network", "V1-10M")
attempt("uncached without network", "V2-104M")
"""

OFFLINE = """
attempt("cached", "V1-10M")
attempt("cached branch", "someone/models")
attempt("uncached", "V2-104M")
attempt("empty cache", "V1-10M", cache_dir=Path(sys.argv[2]) / "empty")
attempt("partly cached", "V1-10M", cache_dir=Path(sys.argv[3]))
"""


def checkpoint_files(folder: Path, seed: int) -> dict[str, bytes]:
    save_checkpoint(ours(random_bert(small_config(vocab_size=25_426), seed)), folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pickled_files(files: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    return {"config.json": files["config.json"], "pytorch_model.bin": (folder / "pytorch_model.bin").read_bytes()}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    first, second = (checkpoint_files(folder / str(seed), seed) for seed in (0, 1))
    published = {f"Geneformer-V1-10M/{name}": content for name, content in first.items()}
    beside = {
        "Geneformer-V1-10M/pytorch_model.bin": b"not needed",
        "Geneformer-V1-10M/training_args.bin": b"",
        "Geneformer-V2-104M/config.json": b"{}",
        "Geneformer-V2-104M/model.safetensors": b"",
        "config.json": b"{}",
        "other/config.json": b"{}",
    }
    repositories = {
        "ctheodoris/Geneformer": {PINNED: published | beside, NEWEST: {"config.json": b"{}"}},
        "someone/models": {NEWEST: second | {"README.md": b"#"}, TAGGED: first},
        "someone/pickled": {NEWEST: pickled_files(first, folder / "0")},
        "someone/cut": {
            NEWEST: {"cut/config.json": first["config.json"], "cut/model.safetensors": b"x" * 500},
        },
    }
    branches = {"main": NEWEST, "v1": TAGGED}
    with StandInHub(repositories, branches, cut_short=frozenset({"cut/model.safetensors"})) as server:
        yield server


def ask(script: str, hub: StandInHub, cache: Path, *arguments: Path, **environment: str):
    """Answers of a fresh process whose hub is the stand-in; the address is read at import."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    result = subprocess.run(
        [sys.executable, "-c", f"{PRELUDE}{script}\nprint(json.dumps(answers))", hub.endpoint, *map(str, arguments)],
        env=clean | settings | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def online(hub, cache, tmp_path_factory):
    return ask(ONLINE, hub, cache, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def offline(online, hub, cache, tmp_path_factory):
    partly = tmp_path_factory.mktemp("partly")
    snapshot = partly / "models--ctheodoris--Geneformer" / "snapshots" / PINNED / "Geneformer-V1-10M"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes(hub.repositories["someone/models"][TAGGED]["config.json"])
    before = len(hub.requests)
    answers = ask(OFFLINE, hub, cache, tmp_path_factory.mktemp("nothing"), partly, HF_HUB_OFFLINE="1")
    assert hub.requests[before:] == []
    return answers


def test_a_published_name_takes_its_files_from_its_pinned_commit(hub, online):
    assert online["first"]["files"] == ["config.json", "model.safetensors"]
    assert Path(online["first"]["folder"]).parts[-2:] == (PINNED, "Geneformer-V1-10M")
    address = f"/ctheodoris/Geneformer/resolve/{PINNED}/Geneformer-V1-10M"
    assert hub.downloads("first", "second") == [f"{address}/config.json", f"{address}/model.safetensors"]


def test_files_are_downloaded_once(hub, online):
    assert online["second"] == online["first"]
    assert hub.downloads("second", "newest") == []


def test_a_repository_is_read_at_its_newest_commit_or_at_the_one_asked_for(online):
    assert online["newest"]["files"] == ["config.json", "model.safetensors"]
    assert Path(online["newest"]["folder"]).name == NEWEST
    assert Path(online["tagged"]["folder"]).name == TAGGED
    assert online["tagged"]["bias"] == online["first"]["bias"] != online["newest"]["bias"]


def test_downloads_go_where_they_are_sent(hub, online, cache):
    assert not Path(online["own cache"]["folder"]).is_relative_to(cache)
    assert len(hub.downloads("own-cache", "pickled")) == 2


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub, online):
    assert online["pickled"]["error"] == "ConversionNeededError"
    names = [Path(path).name for path in hub.downloads("pickled", "end")]
    assert names == ["config.json", "pytorch_model.bin"]


@pytest.mark.parametrize(
    ("case", "error", "says"),
    [
        ("no such repository", "UnknownModelError", "someone/nothing cannot be fetched"),
        ("no such revision", "UnknownModelError", "someone/models at v9 cannot be fetched"),
        ("no such folder", "CheckpointError", "someone/models/nothing: there is no checkpoint"),
        ("no such name", "UnknownModelError", "someone/in valid cannot be fetched"),
        ("cut short", "UnknownModelError", "size 500"),
        ("uncached without network", "UnknownModelError", "hub cannot be reached"),
    ],
)
def test_what_cannot_be_fetched_is_named(online, case, error, says):
    assert online[case]["error"] == error
    assert says in online[case]["message"]
    assert "\n" not in online[case]["message"]


def test_the_cache_serves_when_the_hub_is_down(online):
    assert online["cached without network"] == online["first"]


@pytest.mark.parametrize(("case", "same_as"), [("cached", "first"), ("cached branch", "newest")])
def test_offline_the_cache_serves(online, offline, case, same_as):
    assert offline[case] == online[same_as]


@pytest.mark.parametrize("case", ["uncached", "empty cache"])
def test_offline_without_the_files_the_way_out_is_named(offline, case):
    assert offline[case]["error"] == "UnknownModelError"
    assert 'model="mini" always works' in offline[case]["message"]


def test_offline_an_incomplete_cache_is_told_from_a_complete_one(offline):
    assert offline["partly cached"]["error"] in {"UnknownModelError", "CheckpointError"}
