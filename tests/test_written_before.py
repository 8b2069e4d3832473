"""Files of version 0.1.0, as it wrote them, are read."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import geneformer as gf
from geneformer.perturbation.effects import PerturbationEffects
from golden import GOLDEN

pytestmark = pytest.mark.contract

BEFORE = Path(__file__).parent / "data" / "written_before"


def test_a_dataset():
    dataset = gf.read_dataset(BEFORE / "cells.dataset")
    golden = pd.read_parquet(GOLDEN / "tokens_V2.parquet")
    assert len(dataset) == 12
    assert dataset.vocabulary == gf.Vocabulary.load("V2").fingerprint
    packed = dataset.gather(np.arange(12))
    cells = np.split(packed.input_ids, packed.cu_seqlens[1:-1])
    assert [cell.tolist() for cell in cells] == [ids.tolist() for ids in golden["input_ids"][:12]]


def test_a_perturbation_run_and_its_ranking():
    effects = PerturbationEffects.read(BEFORE / "perturbation")
    assert len(effects.to_frame()) == 4
    ranking = gf.tl.rank_perturbations(BEFORE / "perturbation")
    stored = pd.read_csv(BEFORE / "perturbation_ranking.csv", index_col=0)
    pd.testing.assert_frame_equal(ranking.reset_index(drop=True), stored, check_dtype=False)
