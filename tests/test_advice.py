"""No message advises what the function or command that raised it cannot take."""

from collections import defaultdict

import numpy as np
import pytest
from typer.testing import CliRunner

import geneformer as gf
from advice import Source, commands, doors, functions, options_in, spelled_out
from geneformer import cli
from geneformer.errors import GeneformerError, option, options_taken, tokenizing
from small_cells import blood

pytestmark = pytest.mark.contract

FIELDS = {
    "pad_token_id", "hidden_size", "id2label", "peft_type", "bnb_4bit_quant_type",  # of a model's configuration
    "train_sampling_strategy", "output_dir", "logging_dir",  # of training_args
    "low", "high", "log", "step",  # of a range to search
    "name", "other_name", "cell_type",  # what users call genes and tasks
}  # fmt: skip
"""What stands before "=" in messages and is no option, but an entry of a file or of a dictionary that was given."""

NOT_TOLD = ("<", "  n=")
"""Beginnings of strings that are HTML or labels of pictures."""


@pytest.fixture(scope="module")
def source():
    return Source()


@pytest.fixture(scope="module")
def ways_in(source):
    """Public ways in with what they take, for each piece of code."""
    found = defaultdict(list)
    for name, (starts, taken) in doors().items():
        for key in source.reached(*starts):
            found[key].append((name, taken))
    return found


def told(source):
    for key, messages in source.messages.items():
        for line, text in messages:
            if not text.lstrip("\n").startswith(NOT_TOLD):
                yield key, line, text


def test_options_in_messages_are_taken_by_what_raises_them(source, ways_in):
    untaken = []
    for key, line, text in told(source):
        for of_command in (True, False):
            here = {name: taken for name, taken in ways_in[key] if name.startswith("geneformer ") == of_command}
            named = options_in(text, of_command=of_command) - FIELDS
            if here and (wrong := named - set().union(*here.values())):
                untaken.append(f"{key}:{line}: {wrong} of {text!r}, raised by {list(here)[:3]}")
    assert untaken == []


def test_messages_are_reached_and_this_test_sees_them(source, ways_in):
    named = {key for key, _, text in told(source) if options_in(text, of_command=True)}
    assert len(named) > 100
    reached = {key for key in named if ways_in[key]}
    assert len(reached) > 0.9 * len(named), sorted(named - reached)


def test_commands_and_calls_in_messages_exist(source):
    known = commands() | {name.partition(".")[2] if not name.startswith("gf.") else name: taken
                          for name, (_, taken) in functions().items()}  # fmt: skip
    wrong = [
        f"{key}:{line}: {name} with {given}"
        for key, line, text in told(source)
        for name, given in spelled_out(text)
        if "{" not in name and not given <= known.get(name, set())
    ]
    assert wrong == []


def test_a_wrong_piece_of_advice_is_seen():
    assert options_in("Pass --layer X (layer=).", of_command=True) == {"layer"}
    assert options_in("Pass --with-spread (return_std=True).", of_command=True) == {"with_spread"}
    assert options_in("Pass --with-spread (return_std=True).", of_command=False) == {"return_std"}
    assert options_in("Run `geneformer tokenize --counts` first.", of_command=True) == set()
    assert list(spelled_out(tokenizing(counts=True, layer="a b"))) == [
        ("geneformer tokenize", {"counts", "layer"}), ("gf.pp.tokenize", {"counts", "layer"}),
    ]  # fmt: skip


def test_options_are_called_as_who_asks_calls_them():
    assert option("layer", "a b") == "--layer 'a b' (layer=\"a b\")"
    with options_taken(layer="counts_layer"):
        assert option("layer", "raw") == '--counts-layer raw (counts_layer="raw")'
        assert option("missing", "zero") == tokenizing(missing="zero")
        with options_taken(other="layer"):
            assert option("other", 1) == "--counts-layer 1 (counts_layer=1)"
    assert option("missing", "zero") == '--missing zero (missing="zero")'


def fractions(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X * 0.5


def missing(adata):
    adata.X = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
    adata.X = np.where(adata.X > 0, np.nan, adata.X)


def other_names(adata):
    adata.var_names = [f"thing {number}" for number in range(adata.n_vars)]
    adata.var = adata.var[[]]


def few_names(adata):
    names = adata.var_names.to_numpy().copy()
    names[5:] = [f"thing {number}" for number in range(adata.n_vars - 5)]
    adata.var_names = names
    adata.var = adata.var[[]]


FAULTS = {"fractions": fractions, "missing": missing, "other names": other_names, "few names": few_names}
COMMANDS = {
    "tokenize": ["-o", "x.dataset"],
    "embed": ["-o", "x.h5ad"],
    "annotate": ["-r", "good.h5ad", "-l", "cell_type", "-o", "x"],
    "pretrain": ["-o", "x"],
    "classify fit": ["-l", "cell_type", "-o", "x"],
}
FUNCTIONS = {
    "gf.pp.tokenize": lambda adata, good: gf.pp.tokenize(adata),
    "gf.tl.embed": lambda adata, good: gf.tl.embed(adata, progress=False),
    "gf.tl.annotate": lambda adata, good: gf.tl.annotate(adata, good, label="cell_type", progress=False),
    "gf.CellClassifier": lambda adata, good: gf.CellClassifier().fit(adata, "cell_type"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    good = blood(12)
    good.write_h5ad(folder / "good.h5ad")
    for name, spoil in FAULTS.items():
        adata = blood(12)
        spoil(adata)
        adata.write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_advice_about_counts_fits_who_asked(fault, faulty, monkeypatch):
    monkeypatch.chdir(faulty)
    for name, rest in COMMANDS.items():
        done = CliRunner().invoke(cli.app, [*name.split(), f"{fault}.h5ad", *rest])
        assert done.exit_code == 1, (name, done.output)
        taken = commands()[f"geneformer {name.replace(' ', '-')}"]
        assert options_in(done.stderr, of_command=True) <= taken, (name, done.stderr)
    import anndata as ad

    adata, good = ad.read_h5ad(f"{fault}.h5ad"), ad.read_h5ad("good.h5ad")
    for name, call in FUNCTIONS.items():
        with pytest.raises(GeneformerError) as refused:
            call(adata.copy(), good)
        assert options_in(str(refused.value), of_command=False) <= functions()[name][1], (name, str(refused.value))


def test_the_layer_is_called_as_it_is_where_the_cells_were_given(faulty, tmp_path):
    import anndata as ad

    adata, good = ad.read_h5ad(faulty / "fractions.h5ad"), ad.read_h5ad(faulty / "good.h5ad")
    with pytest.raises(GeneformerError, match=r'choose with --layer counts \(layer="counts"\)\.'):
        gf.pp.tokenize(adata)
    with pytest.raises(GeneformerError, match=r'choose with --counts-layer counts \(counts_layer="counts"\)\.'):
        gf.tl.embed(adata)
    with pytest.raises(GeneformerError, match=r"choose with --reference-layer counts \(reference_layer="):
        gf.tl.annotate(good, adata, label="cell_type", progress=False)
    with pytest.raises(GeneformerError, match=rf'GF203\): "{faulty / "fractions.h5ad"}": X does not hold raw counts'):
        gf.CellClassifier().fit(faulty / "fractions.h5ad", "cell_type")
    adata = ad.read_h5ad(faulty / "missing.h5ad")
    adata.var["ensembl_id"], adata.obs["n_counts"] = adata.var_names, 1.0
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(GeneformerError, match=r"take them for zero with `geneformer tokenize --missing zero`"):
        gf.TranscriptomeTokenizer(model_version="V1").tokenize_data(tmp_path, tmp_path, "x", file_format="h5ad")
