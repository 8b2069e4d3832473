"""Options from files: strict in names and kinds."""

import dataclasses

import pytest

from geneformer.errors import OptionError, OutOfRangeError, UnknownChoiceError, UnknownOptionError
from geneformer.options import EmbedOptions, PretrainOptions, RuntimeOptions, TokenizeOptions
from geneformer.options._fields import field_docs, read_options, section, to_table


def config(folder, text):
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_tables_and_top_level_fields(tmp_path):
    path = config(tmp_path, 'layer = -2\npooling = "cls"\n[runtime]\ndevice = "cpu"\n[pretrain]\nepochs = 1\n')
    values = read_options(path, EmbedOptions, RuntimeOptions)
    assert values == {EmbedOptions: {"layer": -2, "pooling": "cls"}, RuntimeOptions: {"device": "cpu"}}


def test_whole_numbers_pass_for_numbers_and_lists_for_tuples(tmp_path):
    path = config(tmp_path, '[pretrain]\nepochs = 2\nsubsample_counts = [0.5, 1]\nhold_out_sources = ["a", "b"]\n')
    values = read_options(path, PretrainOptions)[PretrainOptions]
    assert values == {"epochs": 2.0, "subsample_counts": (0.5, 1.0), "hold_out_sources": ("a", "b")}
    assert PretrainOptions(**values).epochs == 2.0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("chunk_size = 2.0", "chunk_size=2.0; it takes a whole number"),
        ('chunk_size = "2"', "chunk_size='2'"),
        ("chunk_size = true", "chunk_size=True"),
        ("counts = 1", "counts=1; it takes true or false"),
        ("vocabulary = 1", "vocabulary=1; it takes a text"),
        ('keep = "cell_type"', "keep='cell_type'; it takes a list"),
        ("keep = [1]", r"keep\[0\]=1"),
        ("layer = [1]", "layer="),
        ("tokenize = 5", "tokenize"),
        ("chunk_size = ", r"run\.toml.* cannot be read"),
    ],
)
def test_values_of_the_wrong_kind(tmp_path, text, match):
    with pytest.raises(OptionError, match=match):
        read_options(config(tmp_path, text), TokenizeOptions)


def test_a_tuple_of_the_wrong_length(tmp_path):
    with pytest.raises(OptionError, match="a list of 2"):
        read_options(config(tmp_path, "subsample_counts = [0.1]"), PretrainOptions)


@pytest.mark.parametrize("text", ['vocabluary = "V2"', '[tokenize]\nvocabluary = "V2"'])
def test_a_misspelt_option_is_corrected(tmp_path, text):
    with pytest.raises(UnknownOptionError, match='Did you mean "vocabulary"'):
        read_options(config(tmp_path, text), TokenizeOptions)


def test_an_unknown_table(tmp_path):
    with pytest.raises(UnknownOptionError, match='Did you mean "tokenize"'):
        read_options(config(tmp_path, "[tokenise]\ncounts = true"), TokenizeOptions)


def test_a_hidden_field_cannot_be_set(tmp_path):
    with pytest.raises(UnknownOptionError, match="tokens_per_batch"):
        read_options(
            config(tmp_path, "[runtime]\ntokens_per_batch = 5"),
            RuntimeOptions,
            hidden={RuntimeOptions: ("tokens_per_batch",)},
        )


def test_values_meet_the_checks_of_the_class(tmp_path):
    values = read_options(config(tmp_path, 'missing = "nan"'), TokenizeOptions)[TokenizeOptions]
    with pytest.raises(UnknownChoiceError):
        TokenizeOptions(**values)
    values = read_options(config(tmp_path, "chunk_size = 0"), TokenizeOptions)[TokenizeOptions]
    with pytest.raises(OutOfRangeError):
        TokenizeOptions(**values)


def test_tables_hold_every_field():
    options = EmbedOptions(pooling="cls"), RuntimeOptions(device="cpu")
    table = to_table(*options)
    assert list(table) == ["embed", "runtime"]
    assert all(dataclasses.asdict(entry) == table[section(type(entry))] for entry in options)


def test_documentation_is_read_from_under_the_fields():
    assert field_docs(TokenizeOptions)["chunk_size"] == "Cells read at a time."
    assert "\n" not in field_docs(EmbedOptions)["pooling"]
