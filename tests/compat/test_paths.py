"""What is asked for under a published path: constants are there, other functions are refused with a way out."""

import pickle
from importlib import import_module

import pytest

import geneformer
from geneformer import errors
from geneformer.compat.paths import MODULES, REPLACED

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("module", sorted(MODULES))
def test_path_constants_are_in_every_module(module, tmp_path, monkeypatch):
    monkeypatch.setenv("GENEFORMER_CACHE", str(tmp_path))
    found = import_module(f"geneformer.{module}")
    assert found.TOKEN_DICTIONARY_FILE == geneformer.TOKEN_DICTIONARY_FILE
    assert not hasattr(found, "no_such_name")


@pytest.mark.parametrize("module", sorted(REPLACED))
def test_functions_left_out_name_what_to_use(module):
    found = import_module(f"geneformer.{module}")
    for instead, names in REPLACED[module].items():
        for name in names.split():
            assert name not in found.__all__
            with pytest.raises(errors.UnsupportedNameError, match=name) as caught:
                getattr(found, name)
            assert instead in str(caught.value)


def test_scripts_that_catch_import_errors_go_on():
    with pytest.raises(ImportError, match="ENSEMBL_DICTIONARY_FILE"):
        from geneformer.in_silico_perturber_stats import GENE_NAME_ID_DICTIONARY_FILE  # noqa: F401
    with pytest.raises(ImportError, match=r"geneformer\.perturber_utils"):
        from geneformer.in_silico_perturber import load_model  # noqa: F401


def test_scripts_of_before_there_was_v2_find_its_dictionary():
    from geneformer.collator_for_classification import token_dictionary as of_collators
    from geneformer.pretrainer import token_dictionary

    assert token_dictionary == of_collators == geneformer.EmbExtractor(model_version="V1").gene_token_dict
    assert not hasattr(geneformer.classifier, "token_dictionary")


def test_every_published_path_is_imported_as_a_module():
    for module in MODULES:
        found = import_module(f"geneformer.{module}")
        assert getattr(geneformer, module) is found
        assert sorted(found.__all__) == found.__all__
        assert all(hasattr(found, name) for name in found.__all__)


def test_pickles_find_classes_by_their_published_path():
    assert pickle.loads(b"cgeneformer.tokenizer\nTranscriptomeTokenizer\n.") is geneformer.TranscriptomeTokenizer
