"""Files with raw numbers: every published layout is read, nothing in them is run, and published readers read ours."""

import pickle
from collections import defaultdict

import numpy as np
import pytest

from geneformer.compat.perturber_files import RunFiles, of_content, read_raw_folder, write_raw
from geneformer.compat.perturber_stats import CELL_NAME, RawEffects
from geneformer.errors import (
    DatasetError,
    InputNotFoundError,
    OutputError,
    StateError,
    UnreadableInputError,
    UnsafeFileError,
    VocabularyMismatchError,
)
from geneformer.genes.vocabulary import Vocabulary
from geneformer.perturbation.effects import Perturbed

pytestmark = pytest.mark.contract

V1 = Vocabulary.load("V1")
CELL = "cell_emb"


def put(folder, name, content, protocol=4):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(content, protocol))


def frame_of(files, **how):
    table = RawEffects(V1, **how).read(files).to_frame()
    return table.astype({name: str for name in table if name != "value"})


def rows_of(content, **how):
    table = frame_of([of_content(content, "it")], **how)
    return table[["genes", "effect", "target", "value"]].values.tolist()


A, B = (str(V1.gene_of[token]) for token in (10, 11))


def test_numbers_without_states():
    content = defaultdict(list, {(10, CELL): [0.5, 0.25], ((10, 11), CELL): [0.125], (11, CELL): []})
    assert rows_of(content) == [
        [A, "similarity", "", 0.5],
        [A, "similarity", "", 0.25],
        [f"{A}+{B}", "similarity", "", 0.125],
    ]


def test_numbers_by_state():
    content = {"sick": {(10, CELL): [0.5]}, 7: {(10, CELL): [0.25]}}
    assert rows_of(content) == [[A, "shift", "sick", 0.5], [A, "shift", "7", 0.25]]


def test_effects_on_genes_beside_those_on_cells():
    content = {(10, 11): [0.5], (10, CELL): [0.25]}
    assert rows_of(content) == [[A, "gene_similarity", B, 0.5], [A, "similarity", "", 0.25]]
    assert rows_of({(10, 11): [0.5], (10, CELL): [0.25], (11, 10): [1.0]}, anchor=10) == [[B, "similarity", "", 0.5]]


def test_tuples_of_old_are_states_or_an_anchor_with_a_gene():
    content = {(10, CELL): [(0.5, 0.25, 0.125), (1.0, 2.0, 4.0)]}
    assert rows_of(content, states=("a", "b", "c")) == [
        [A, "shift", state, value]
        for state, values in zip("abc", zip(*content[10, CELL], strict=True), strict=True)
        for value in values
    ]
    assert rows_of(content) == [[A, "similarity", "", 0.125], [A, "similarity", "", 4.0]]
    kept = rows_of(content, triples=True)
    assert [row[2:] for row in kept[::2]] == [["anchor", 0.5], ["alone", 0.25], ["together", 0.125]]
    with pytest.raises(StateError, match=r"3 numbers per cell.*2 states a, b"):
        rows_of(content, states=("a", "b"))
    with pytest.raises(StateError, match="cell_states_to_model"):
        rows_of({(10, CELL): [(0.5, 0.25)]})


@pytest.mark.parametrize("protocol", range(6))
def test_files_of_any_protocol_with_numpy_numbers(tmp_path, protocol):
    content = defaultdict(list, {(np.int16(10), CELL): [np.float32(0.5), np.float64(0.25)]})
    put(tmp_path, "in_silico_delete_x_dict_1Kbatch0_raw.pickle", content, protocol)
    assert frame_of(read_raw_folder(tmp_path))["value"].tolist() == [0.5, 0.25]


def test_published_readers_read_what_is_written(tmp_path):
    for content in ({(10, CELL): [0.5]}, {"sick": {(10, CELL): [0.5]}}, {(10, CELL): [(0.5, 0.25, 0.125)]}):
        write_raw(content, tmp_path / "a_raw.pickle")
        with (tmp_path / "a_raw.pickle").open("rb") as file:
            read = pickle.load(file)
        assert read == content
        inner = read.get("sick", read)
        assert inner[99, CELL] == []
        [found] = read_raw_folder(tmp_path)
        assert found.by_state == ({"sick": content["sick"]} if "sick" in content else {None: content})


def test_files_come_in_the_order_of_their_numbers(tmp_path):
    for cell in (10, 9, 1):
        for batch in (0, -1, 10, 2):
            put(
                tmp_path,
                f"in_silico_delete_x_dict_cell_embs_{cell}batch{batch}_raw.pickle",
                {(10, CELL): [cell + batch / 100]},
            )
    put(tmp_path, "x_cells.csv", {})
    found = [file.by_state[None][10, CELL][0] for file in read_raw_folder(tmp_path)]
    assert found == [cell + batch / 100 for cell in (1, 9, 10) for batch in (-1, 0, 2, 10)]


def test_a_table_beside_a_file_names_its_cells(tmp_path):
    put(tmp_path, "run_raw.pickle", {(10, CELL): [0.5, 0.25]})
    put(tmp_path, "s_raw.pickle", {(10, CELL): [0.5]})
    (tmp_path / "run_cells.csv").write_text("cell,row,cell_id\n0,4,b\n1,2,a\n")
    (tmp_path / "s_cells.csv").write_text("cell,row,cell_id\n0,4,b\n1,2,a\n")
    effects = RawEffects(V1).read(read_raw_folder(tmp_path))
    assert Perturbed(effects).cell_column(CELL_NAME).tolist() == ["b", "a", None]


class Harm:
    def __reduce__(self):
        return print, ("harm",)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    put(tmp_path, "a_raw.pickle", {(10, CELL): [Harm()]})
    with pytest.raises(UnsafeFileError, match="print"):
        read_raw_folder(tmp_path)
    assert not capsys.readouterr().out


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(InputNotFoundError, match="no folder"):
        read_raw_folder(tmp_path / "nowhere")
    put(tmp_path, "a.pickle", {})
    with pytest.raises(InputNotFoundError, match=r"found \['a.pickle'\]"):
        read_raw_folder(tmp_path)
    assert [file.by_state for file in read_raw_folder(tmp_path, ".pickle")] == [{None: {}}]
    for content in ([1], {"a": 1}, {(10, CELL): 0.5}, {(10, CELL, 1): [0.5]}, {"a": {"b": [1]}}):
        put(tmp_path, "b_raw.pickle", content)
        with pytest.raises(DatasetError, match=r"b_raw\.pickle"):
            read_raw_folder(tmp_path)
    (tmp_path / "b_raw.pickle").write_bytes(pickle.dumps({(10, CELL): [0.5] * 9})[:-9])
    with pytest.raises(UnreadableInputError, match=r"b_raw\.pickle"):
        read_raw_folder(tmp_path)


def test_numbers_that_are_none_and_tokens_of_another_vocabulary_are_refused():
    with pytest.raises(DatasetError, match="no numbers"):
        rows_of({(10, CELL): ["a"]})
    for token in (99_999, -1, "ENSG00000000003", 1.5):
        with pytest.raises(VocabularyMismatchError, match="model_version"):
            rows_of({(token, CELL): [0.5]})


def test_names_of_files(tmp_path):
    files = RunFiles.prepare(tmp_path / "new" / "folder", "delete", "v1.2")
    assert files.of_cell("cell", 3, -1).name == "in_silico_delete_v1.2_dict_cell_embs_3batch-1_raw.pickle"
    assert files.of_group("gene", [3, 4]).name == "in_silico_delete_v1.2_gene_embs_dict_[3, 4]_raw.pickle"
    part = RunFiles.prepare(tmp_path, "delete", "x", (10, 20))
    assert part.of_group("cell", [3]).name == "in_silico_delete_x_cell_embs_dict_[3]_cells10-20_raw.pickle"
    assert part.cells.name == "in_silico_delete_x_cells10-20_cells.csv"
    long, other = (files.of_group("cell", tokens).name for tokens in (range(1000, 1100), range(1000, 1101)))
    assert len(long) < 200
    assert long != other != files.of_group("cell", range(1101, 1000, -1)).name
    with pytest.raises(OutputError, match="too long"):
        RunFiles.prepare(tmp_path, "delete", "x" * 300)
    (tmp_path / "file").write_text("")
    with pytest.raises((OutputError, OSError)):
        RunFiles.prepare(tmp_path / "file", "delete", "x")
