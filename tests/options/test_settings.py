"""What holds for a session: values are checked, options take them when they are made, and a block gives them back."""

import re

import pytest

import geneformer as gf
from geneformer.compat.dictionaries import cache_folder
from geneformer.errors import OptionError, OutOfRangeError, UnknownChoiceError, UnknownOptionError
from geneformer.files.progress import progress_bar
from geneformer.options import RuntimeOptions

START = {name: getattr(gf.settings, name) for name in ("progress", "device", "dtype", "cache", "figure_dpi")}


def now():
    return {name: getattr(gf.settings, name) for name in START}


@pytest.mark.parametrize(
    ("name", "value", "refusal", "text"),
    [
        ("devise", "cpu", UnknownOptionError, 'Did you mean "device"?'),
        ("dtype", "float8", UnknownChoiceError, '"bfloat16"'),
        ("progress", "yes", OptionError, "true or false"),
        ("device", "", OptionError, "device is empty"),
        ("cache", 3, OptionError, "no folder"),
        ("figure_dpi", 1, OutOfRangeError, "at least 10"),
        ("figure_size", (4, 0), OutOfRangeError, "more than 0"),
        ("figure_size", 4, OptionError, "a list of 2"),
    ],
)
def test_a_value_is_checked_when_it_is_assigned(name, value, refusal, text):
    with pytest.raises(refusal, match=re.escape(text)):
        setattr(gf.settings, name, value)
    assert now() == START


def test_options_left_alone_take_the_settings_when_they_are_made():
    with gf.settings.override(device="cpu", dtype="float32"):
        made = RuntimeOptions()
        assert (made.device, made.dtype) == ("cpu", "float32")
        assert RuntimeOptions(dtype="bfloat16").dtype == "bfloat16"
        estimator = gf.CellClassifier(dtype="float16")
    assert (made.device, made.dtype) == ("cpu", "float32")
    assert (estimator.runtime.device, estimator.runtime.dtype) == ("cpu", "float16")
    assert RuntimeOptions().device == "auto"


def test_a_block_gives_back_what_was_set_before_and_a_wrong_one_changes_nothing():
    with gf.settings.override(figure_dpi=300, cache="~/models"):
        assert gf.settings.cache.is_absolute()
    with pytest.raises(UnknownOptionError), gf.settings.override(figure_dpi=300, colour="red"):
        pass
    assert now() == START


def test_all_is_shown_with_its_meaning():
    text, html = repr(gf.settings), gf.settings._repr_html_()
    for name in now():
        assert re.search(rf"^  {name} +\S+ +\S", text, re.MULTILINE)
        assert f"<b>{name}</b>" in html


def test_no_bar_is_shown_where_none_is_wanted(capsys, monkeypatch):
    monkeypatch.setattr("geneformer.files.progress.SECONDS_BETWEEN_LINES", 0.0)
    for wanted in (False, True):
        with gf.settings.override(progress=wanted), progress_bar("Training") as update:
            update(1, 2)
    assert capsys.readouterr().err.count("Training: 1 of 2") == 1


def test_the_cache_goes_before_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path / "variable"))
    assert cache_folder() == tmp_path / "variable"
    with gf.settings.override(cache=tmp_path / "setting"):
        assert cache_folder() == tmp_path / "setting"


def test_figures_have_the_size_and_the_kind_of_file_that_is_set(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    with gf.settings.override(figure_size=(5, 3), figure_dpi=50, figure_format="svg"):
        axes = gf.pl.training_curve({"history": history}, save=tmp_path / "curve")
    assert axes[0].figure.get_size_inches().tolist() == [5, 3]
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    pyplot.close("all")
