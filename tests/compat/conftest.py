"""Inputs of the example scripts, small."""

import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "published"
sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session")
def published_inputs(tmp_path_factory):
    """Counts, tokens and models as `make_inputs.py` writes them, twenty cells of each kind."""
    from make_inputs import make_inputs

    return make_inputs(tmp_path_factory.mktemp("published"), per_kind=20)
