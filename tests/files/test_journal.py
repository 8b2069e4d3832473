"""A journal survives kills and refuses other runs."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geneformer.errors import RunMismatchError
from geneformer.files.atomic import Journal

IDENTITY = {"inputs": ["a.h5ad"], "options": {"layer": None}}


def test_entries_come_back(tmp_path):
    journal = Journal(tmp_path / "journal", IDENTITY)
    journal.append({"file": "0", "stop": (1, 2)})
    journal.append({"file": "1"})
    again = Journal(tmp_path / "journal", IDENTITY)
    assert again.entries == journal.entries == [{"file": "0", "stop": [1, 2]}, {"file": "1"}]
    assert Journal.has_entries(tmp_path / "journal")


def test_an_empty_journal_has_no_entries(tmp_path):
    assert not Journal.has_entries(tmp_path / "journal")
    Journal(tmp_path / "journal", IDENTITY)
    assert not Journal.has_entries(tmp_path / "journal")


def test_another_run_is_refused_and_the_difference_named(tmp_path):
    Journal(tmp_path / "journal", IDENTITY)
    with pytest.raises(RunMismatchError, match=r"options was \{'layer': None\}, now \{'layer': 'counts'\}"):
        Journal(tmp_path / "journal", {**IDENTITY, "options": {"layer": "counts"}})


@settings(max_examples=30)
@given(cut=st.integers(min_value=0, max_value=200))
def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path, IDENTITY)
    for number in range(3):
        journal.append({"shard": number})
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    resumed = Journal(path, IDENTITY)
    kept = len(resumed.entries)
    assert resumed.entries == journal.entries[:kept]
    resumed.append({"shard": "next"})
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines[1:]] == [*journal.entries[:kept], {"shard": "next"}]
