"""Options that take several names: one name alone is that name, and what is no name is refused."""

import pytest

import geneformer as gf
from geneformer import options
from geneformer.errors import OptionError
from small_finetuning import labeled_blood, tiny_model

METHODS = {"balance": {"method": "balanced"}, "train_ids": {"method": "ids"}}
LISTS = [
    (options.AttentionOptions, "genes"),
    (options.PredictOptions, "genes"),
    (options.PerturbOptions, "genes"),
    (options.TokenizeOptions, "keep"),
    (options.SplitOptions, "balance"),
    (options.SplitOptions, "train_ids"),
    (options.PretrainOptions, "hold_out_sources"),
]


@pytest.mark.parametrize(("cls", "name"), LISTS)
def test_one_name_is_a_list_of_one(cls, name):
    method = METHODS.get(name, {})
    assert getattr(cls(**{name: "CD3E"}, **method), name) == ("CD3E",)
    assert getattr(cls(**{name: ["CD3E", "LYZ"]}, **method), name) == ("CD3E", "LYZ")


def test_all_is_every_gene_and_one_alternate_is_one_state():
    assert options.PerturbOptions(genes="all", method="screen").genes == ("all",)
    chosen = options.PerturbOptions(start="x1", goal="y1", alternates="z1")
    assert chosen.states == ("x1", "y1", "z1")


@pytest.mark.parametrize(("cls", "name"), [pair for pair in LISTS if pair[1] != "keep"])
@pytest.mark.parametrize("value", [None, 5, b"CD3E"])
def test_what_is_no_name_is_refused(cls, name, value):
    with pytest.raises(OptionError, match=f"{name}.* is no name or list of names"):
        cls(**{name: value})


def test_tools_take_one_gene_and_refuse_none(tmp_path):
    adata, model = labeled_blood(4), tiny_model(tmp_path / "tiny", dropout=0.0)
    quiet = {"model": model, "device": "cpu", "dtype": "float32", "progress": False}
    gf.tl.attention(adata, genes="FTL", **quiet)
    assert (adata.varp["geneformer_attention"].sum(0) > 0).sum() <= 1
    assert set(gf.tl.predict_masked(adata, genes="FTL", **quiet)["masked_symbol"]) == {"FTL"}
    for tool in (gf.tl.attention, gf.tl.predict_masked, gf.tl.perturb):
        with pytest.raises(OptionError, match="genes=None is no name or list of names"):
            tool(adata, genes=None, **quiet)
