"""`InSilicoPerturber`: the published numbers in the published files, and right ones where those were wrong."""

import inspect
import json
import logging
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertModel

import geneformer
from geneformer import Classifier, EmbExtractor, InSilicoPerturber
from geneformer.compat.perturber_files import read_raw_folder
from geneformer.errors import (
    AbsentGeneError,
    DeviceError,
    GeneformerWarning,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    OutputError,
    PairingError,
    StateError,
    UnknownChoiceError,
    UnknownGeneError,
    UnsupportedArgumentError,
    VocabularyMismatchError,
)
from geneformer.files.pickles import read_pickle
from geneformer.genes.vocabulary import Vocabulary
from geneformer.models.encoder import GeneformerEncoder
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import write_dataset
from golden import GOLDEN, SPECIALS, golden_table, save_tiny_checkpoint
from perturbation import reference
from small_cells import dataset_of

pytestmark = pytest.mark.contract

CHOICES = json.loads((GOLDEN / "choices.json").read_text())
START, GOAL, ALTERNATE = CHOICES["states"]
LYZ, S100A9 = CHOICES["deleted"]
STATES = {"state_key": "cell_type", "start_state": START, "goal_state": GOAL, "alt_states": [ALTERNATE]}
MODES = {"V1": "cell", "V2": "cls"}

both = pytest.mark.parametrize("version", ["V1", "V2"])


@pytest.fixture(scope="session")
def golden(tmp_path_factory):
    """Model folders and cells of the golden numbers; the four short cells in a folder of their own."""
    folder = tmp_path_factory.mktemp("golden")
    for version in ("V1", "V2"):
        save_tiny_checkpoint(version, folder / version)
        cells = TokenizedDataset(pq.read_table(GOLDEN / f"perturbed_tokens_{version}.parquet"))
        write_dataset(cells, folder / f"{version}.dataset")
        names = pd.read_csv(GOLDEN / f"short_{version}_cells.csv")["0"].tolist()
        short = cells.take([cells.cell_ids.tolist().index(name) for name in names])
        write_dataset(short, folder / f"short_{version}.dataset")
    return folder


@cache
def state_embeddings(version):
    stored = golden_table(f"state_embs_{version}")
    return {name: torch.tensor(stored[name].to_numpy(np.float32)) for name in stored}


def perturb(golden, out, version, *, cells=None, prefix="run", **arguments):
    """Run it, and return all raw numbers as one table."""
    if "cell_states_to_model" in arguments:
        arguments.setdefault("state_embs_dict", state_embeddings(version))
    arguments = {"emb_mode": MODES[version], "model_version": version, **arguments}
    source = (
        golden / f"{'' if 'genes_to_perturb' in arguments else 'short_'}{version}.dataset" if cells is None else cells
    )
    InSilicoPerturber(**arguments).perturb_data(golden / version, source, out, prefix)
    return numbers(out)


def numbers(folder):
    """Raw numbers of a folder: state, perturbed, affected, and what is stored."""
    return pd.DataFrame(
        [
            (state, perturbed, affected, value)
            for file in read_raw_folder(folder)
            for state, entries in file.by_state.items()
            for (perturbed, affected), values in entries.items()
            for value in values
        ],
        columns=["state", "perturbed", "affected", "value"],
    )


def compare(found, version, run):
    """Every number of a run of the published package is there, under the same key, in the order of the cells."""
    stored = golden_table(f"perturbation_{version}")
    stored = stored[stored["run"] == run]
    tokens = [tuple(map(int, text.split(","))) for text in stored["perturbed_tokens"]]
    stored = stored.assign(
        perturbed=pd.Series([key[0] if len(key) == 1 else key for key in tokens], index=stored.index, dtype=object),
        affected=[name if name == "cell" else int(name) for name in stored["affected"]],
    ).replace({"affected": {"cell": "cell_emb"}})
    keys = ["state", "perturbed", "affected"]
    ours, theirs = (
        {key: part["value"].to_numpy() for key, part in table.fillna({"state": ""}).groupby(keys)}
        for table in (found, stored)
    )
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        np.testing.assert_allclose(ours[key], values, atol=1e-5, rtol=0)


def signature(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]


def test_arguments_are_the_published_ones():
    assert signature(InSilicoPerturber) == [
        ("perturb_type", "delete"),
        ("perturb_rank_shift", None),
        ("genes_to_perturb", "all"),
        ("combos", 0),
        ("anchor_gene", None),
        ("model_type", "Pretrained"),
        ("num_classes", 0),
        ("emb_mode", "cls"),
        ("cell_emb_style", "mean_pool"),
        ("filter_data", None),
        ("cell_states_to_model", None),
        ("state_embs_dict", None),
        ("max_ncells", None),
        ("cell_inds_to_perturb", "all"),
        ("emb_layer", -1),
        ("forward_batch_size", 100),
        ("nproc", 4),
        ("model_version", "V2"),
        ("token_dictionary_file", None),
        ("clear_mem_ncells", 1000),
        ("filter_data_dict", None),
    ]
    required = inspect.Parameter.empty
    assert signature(InSilicoPerturber.perturb_data) == [
        ("model_directory", required),
        ("input_data_file", required),
        ("output_directory", required),
        ("output_prefix", required),
    ]
    assert geneformer.in_silico_perturber.InSilicoPerturber is InSilicoPerturber


@both
@pytest.mark.parametrize("edit", ["delete", "overexpress"])
def test_every_gene_of_four_cells(golden, tmp_path, version, edit):
    compare(perturb(golden, tmp_path, version, perturb_type=edit), version, f"{edit}_all")


@both
def test_every_gene_towards_states(golden, tmp_path, version):
    found = perturb(golden, tmp_path, version, cell_states_to_model=STATES)
    compare(found, version, "delete_all_goal")
    content = read_pickle(tmp_path / "in_silico_delete_run_dict_cell_embs_0batch-1_raw.pickle")
    assert list(content) == [START, GOAL, ALTERNATE]


@both
@pytest.mark.parametrize(
    ("run", "genes", "arguments"),
    [
        ("delete_list", [LYZ], {}),
        ("delete_null", [S100A9], {}),
        ("overexpress_list", CHOICES["overexpressed"], {"perturb_type": "overexpress"}),
        ("delete_pair_goal", [LYZ, S100A9], {"cell_states_to_model": STATES}),
    ],
)
def test_genes_perturbed_together(golden, tmp_path, version, run, genes, arguments):
    compare(perturb(golden, tmp_path, version, genes_to_perturb=genes, **arguments), version, run)


@both
def test_effects_on_every_other_gene(golden, tmp_path, version):
    short = golden / f"short_{version}.dataset"
    mode = MODES[version] + "_and_gene"
    found = perturb(golden, tmp_path, version, cells=short, genes_to_perturb=[LYZ], emb_mode=mode)
    compare(found, version, "delete_list_gene")
    token = Vocabulary.load(version).token_of[LYZ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"in_silico_delete_run_cell_embs_dict_[{token}]_cells.csv",
        f"in_silico_delete_run_cell_embs_dict_[{token}]_raw.pickle",
        f"in_silico_delete_run_gene_embs_dict_[{token}]_raw.pickle",
    ]


# What the published package gets wrong, or refuses, against a slow reference on the BERT of `transformers`.

GENES = {version: Vocabulary.load(version).genes[100:130].tolist() for version in ("V1", "V2")}


def token(gene, version="V1"):
    return Vocabulary.load(version).token_of[gene]


def cell(*places, version="V1", special=True):
    """A cell of some of `GENES`, by their places."""
    tokens = [token(GENES[version][place], version) for place in places]
    return [2, *tokens, 3] if version == "V2" and special else tokens


CELLS = [(0, 1, 2, 3, 4, 5, 6, 7), (3, 8, 0, 9, 1), (10, 11, 2), (5, 12, 6)]
KINDS = ["sick", "sick", "well", "sick"]


def write_cells(folder, rows, version="V1", **columns):
    """A folder of cells that say nothing of their vocabulary, as the published package leaves them."""
    columns["length"] = [len(row) for row in rows]
    return write_dataset(dataset_of(rows, **columns), folder / f"{version}.dataset")


@cache
def bert(folder):
    return BertModel.from_pretrained(folder).eval()


def expected(golden, rows, steps, version="V1", *, layer=-1, pooling="mean", goals=None):
    """Reference effects of each cell."""
    limit = {"V1": 2048, "V2": 4096}[version]
    how = {"layer": layer, "pooling": pooling, "goals": goals}
    return [reference.effects(bert(golden / version), row, steps, SPECIALS[version], limit, **how) for row in rows]


def by_key(found):
    return {key: part["value"].tolist() for key, part in found.groupby(["perturbed", "affected"], sort=False)}


def test_genes_after_an_overexpressed_one_keep_their_own_similarities(golden, tmp_path):
    rows = [cell(*CELLS[0])]
    mode = {"perturb_type": "overexpress", "emb_mode": "cell_and_gene"}
    found = by_key(perturb(golden, tmp_path, "V1", cells=write_cells(tmp_path, rows), **mode))
    for gene in rows[0][1:]:
        [(similarity, genes)] = expected(golden, rows, [("overexpress", (gene,), 1.0)])
        assert found[gene, "cell_emb"] == pytest.approx([similarity], abs=1e-5)
        assert {key[1]: value for key, [value] in found.items() if key[0] == gene and key[1] != "cell_emb"} == (
            pytest.approx(genes, abs=1e-5)
        )
    assert (rows[0][0], "cell_emb") not in found


@pytest.mark.parametrize("emb_mode", ["cell", "cell_and_gene"])
def test_overexpressed_genes_may_be_in_some_cells_only(golden, tmp_path, emb_mode):
    rows, genes = [cell(*places) for places in CELLS], [GENES["V1"][0], GENES["V1"][20]]
    found = perturb(
        golden,
        tmp_path,
        "V1",
        cells=write_cells(tmp_path, rows),
        perturb_type="overexpress",
        genes_to_perturb=genes,
        emb_mode=emb_mode,
    )
    tokens = tuple(map(token, genes))
    order = [0, 1, 2, 3]
    wanted = expected(golden, [rows[place] for place in order], [("overexpress", tokens, 1.0)])
    assert by_key(found)[tokens, "cell_emb"] == pytest.approx([similarity for similarity, _ in wanted], abs=1e-5)
    if emb_mode == "cell_and_gene":
        shared = token(GENES["V1"][1])
        assert by_key(found)[tokens, shared] == pytest.approx([wanted[0][1][shared], wanted[1][1][shared]], abs=1e-5)


def test_a_cell_at_the_limit_is_compared_with_itself_without_what_had_no_room(golden, tmp_path):
    everything = Vocabulary.load("V1").token_ids.tolist()
    rows, genes = [everything[:2047], everything[:30]], [GENES["V1"][0], *Vocabulary.load("V1").genes[-3:].tolist()]
    found = perturb(
        golden,
        tmp_path,
        "V1",
        cells=write_cells(tmp_path, rows),
        perturb_type="overexpress",
        genes_to_perturb=genes,
        emb_mode="cell",
    )
    wanted = expected(golden, rows, [("overexpress", tuple(map(token, genes)), 1.0)])
    assert found["value"].tolist() == pytest.approx([similarity for similarity, _ in wanted], abs=1e-5)


def test_unknown_genes_are_named_before_anything_runs():
    for perturb_type in ("delete", "overexpress"):
        with pytest.raises(UnknownGeneError, match="ENSG99999999999"):
            InSilicoPerturber(perturb_type, genes_to_perturb=[LYZ, "ENSG99999999999"], model_version="V1")
    with pytest.raises(UnknownGeneError, match="ENSG99999999999"):
        InSilicoPerturber(combos=1, anchor_gene="ENSG99999999999")


def test_a_long_list_of_genes_has_a_file_name(golden, tmp_path):
    genes = Vocabulary.load("V1").genes[:150].tolist()
    cells = write_cells(tmp_path, [cell(*CELLS[0])])
    for some in (genes, genes[::-1]):
        perturb(golden, tmp_path / "out", "V1", cells=cells, perturb_type="overexpress", genes_to_perturb=some)
    names = sorted(path.name for path in (tmp_path / "out").glob("*_raw.pickle"))
    assert len(names) == 2
    assert all("[150 genes " in name and len(name) < 200 for name in names)
    found = numbers(tmp_path / "out")
    assert set(found["perturbed"]) == {tuple(map(token, some)) for some in (genes, genes[::-1])}


def test_a_prefix_that_is_too_long_is_refused_before_anything_runs(golden, tmp_path, monkeypatch):
    monkeypatch.setattr(GeneformerEncoder, "run_layers", None)
    with pytest.raises(OutputError, match="Shorten output_prefix"):
        perturb(golden, tmp_path, "V1", prefix="x" * 230)


@pytest.mark.parametrize(
    "states",
    [
        {"kind": (["sick"], ["well"], ["other"])},
        {"state_key": "kind", "start_state": "sick", "goal_state": "well", "alt_states": ["other"]},
        {"state_key": "kind", "start_state": "sick", "goal_state": "well", "alt_states": None},
        {"state_key": "kind", "start_state": "sick", "goal_state": "well"},
        {"kind": (["sick"], ["well"], [])},
        {"state_key": "kind", "start_state": "sick", "goal_state": "well", "alt_states": [None]},
    ],
)
def test_states_may_be_named_in_every_published_form(golden, tmp_path, states):
    vectors = dict(zip(("sick", "well", "other"), torch.randn(3, 32), strict=True))
    cells = write_cells(tmp_path, [cell(*places) for places in CELLS], kind=KINDS)
    how = {"cell_states_to_model": states, "state_embs_dict": vectors}
    found = perturb(golden, tmp_path, "V1", cells=cells, genes_to_perturb=[GENES["V1"][3]], **how)
    several = "other" in str(states)
    assert found["state"].unique().tolist() == ["sick", "well", *(["other"] if several else [])]
    rows = [cell(*CELLS[0]), cell(*CELLS[1])]
    goals = list(vectors.values())[: 2 + several]
    wanted = expected(golden, rows, [("delete", (token(GENES["V1"][3]),), 1.0)], goals=goals)
    shifts = [[shift[place] for shift, _ in wanted] for place in range(len(goals))]
    assert found["value"].tolist() == pytest.approx(np.ravel(shifts).tolist(), abs=1e-5)


def test_states_may_be_numbers_and_embeddings_are_used_as_they_are(golden, tmp_path):
    cells = write_cells(tmp_path, [cell(*places) for places in CELLS], grade=[1, 1, 2, 3])
    states = {"state_key": "grade", "start_state": 1, "goal_state": 2, "alt_states": [3]}
    vectors = {1: torch.ones(32, dtype=torch.float64), 2: torch.arange(32).float(), 3: torch.randn(1, 32)}
    found = perturb(
        golden,
        tmp_path,
        "V1",
        cells=cells,
        cell_states_to_model=states,
        state_embs_dict=vectors,
        genes_to_perturb=[GENES["V1"][3]],
    )
    assert found["state"].unique().tolist() == [1, 2, 3]
    rows, steps = [cell(*CELLS[0]), cell(*CELLS[1])], [("delete", (token(GENES["V1"][3]),), 1.0)]
    wanted = expected(golden, rows, steps, goals=[vector.float().flatten() for vector in vectors.values()])
    assert found["value"].tolist() == pytest.approx([s[p] for p in range(3) for s, _ in wanted], abs=1e-5)


@pytest.mark.parametrize("edit", ["delete", "overexpress"])
@both
def test_with_an_anchor_every_gene_has_three_similarities(golden, tmp_path, edit, version):
    rows = [cell(*places, version=version) for places in CELLS]
    found = perturb(
        golden,
        tmp_path,
        version,
        cells=write_cells(tmp_path, rows, version),
        perturb_type=edit,
        combos=1,
        anchor_gene=GENES[version][3],
    )
    anchor, found = token(GENES[version][3], version), by_key(found)
    compared = 0
    for row in rows[:2]:
        for gene in set(row) - {anchor, 2, 3}:
            pair = sorted((anchor, gene), key=row.index)
            steps = [(anchor,), (gene,), tuple(pair)]
            how = {"pooling": "mean" if version == "V1" else "cls"}
            triple = [expected(golden, [row], [(edit, tokens, 1.0)], version, **how)[0] for tokens in steps]
            if triple[2] is None:
                continue
            triple = [1.0 if effect is None else effect[0] for effect in triple]
            stored = found[gene, "cell_emb"]
            assert min(np.abs(np.array(value) - triple).max() for value in stored) < 1e-5
            compared += 1
    assert compared == sum(map(len, found.values()))
    assert compared == 11 if edit == "delete" else compared == 10


def test_anchor_and_states_together(golden, tmp_path):
    vectors = {"sick": torch.randn(32), "well": torch.randn(32)}
    rows, genes = [cell(*places) for places in CELLS], GENES["V1"]
    found = perturb(
        golden,
        tmp_path,
        "V1",
        cells=write_cells(tmp_path, rows, kind=KINDS),
        combos=1,
        anchor_gene=genes[5],
        cell_states_to_model={"state_key": "kind", "start_state": "sick", "goal_state": "well"},
        state_embs_dict=vectors,
    )
    pairs = [(token(genes[5]), token(genes[place])) for place in (0, 1, 2, 3, 4, 6, 7, 12)]
    assert set(found["perturbed"]) == set(pairs)
    [(shifts, _)] = expected(golden, rows[3:], [("delete", pairs[-1], 1.0)], goals=list(vectors.values()))
    assert found[found["perturbed"] == pairs[-1]]["value"].tolist() == pytest.approx(shifts, abs=1e-5)


def test_cells_without_special_tokens_are_edited_at_their_front(golden, tmp_path):
    rows = [cell(*places, version="V2", special=False) for places in CELLS]
    genes = [GENES["V2"][0], GENES["V2"][20]]
    found = perturb(
        golden,
        tmp_path,
        "V2",
        cells=write_cells(tmp_path, rows, "V2"),
        perturb_type="overexpress",
        genes_to_perturb=genes,
        emb_mode="cell",
    )
    wanted = expected(golden, rows, [("overexpress", tuple(token(g, "V2") for g in genes), 1.0)], "V2")
    assert found["value"].tolist() == pytest.approx([similarity for similarity, _ in wanted], abs=1e-5)
    with pytest.raises(PairingError, match="<cls>"):
        perturb(golden, tmp_path, "V2", cells=tmp_path / "V2.dataset", genes_to_perturb=genes[:1])


def test_cells_of_another_vocabulary_are_refused(golden, tmp_path):
    with pytest.raises(PairingError):
        perturb(golden, tmp_path, "V2", cells=golden / "short_V1.dataset", emb_mode="cell")


def test_a_cell_that_is_left_as_it_is_keeps_its_place(golden, tmp_path):
    rows, genes = [cell(*places) for places in CELLS[:2]], [GENES["V1"][0], GENES["V1"][1]]
    how = {"perturb_type": "overexpress", "genes_to_perturb": genes}
    cells = write_cells(tmp_path, rows, kind=["sick", "sick"])
    found = perturb(golden, tmp_path / "a", "V1", cells=cells, **how, emb_mode="cell_and_gene")
    by = by_key(found)
    assert by[tuple(map(token, genes)), "cell_emb"][0] == 1
    assert by[tuple(map(token, genes)), token(GENES["V1"][2])] == [1]
    states = {"state_key": "kind", "start_state": "sick", "goal_state": "well"}
    vectors = {"sick": torch.randn(32), "well": torch.randn(32)}
    towards = perturb(
        golden, tmp_path / "b", "V1", cells=cells, **how, cell_states_to_model=states, state_embs_dict=vectors
    )
    assert towards["value"].tolist()[::2] == [0, 0]


def test_an_anchor_among_the_genes_of_a_list_changes_nothing_in_cells_that_have_it(golden, tmp_path):
    genes = [GENES["V1"][0], GENES["V1"][3]]
    cells = write_cells(tmp_path, [cell(*places) for places in CELLS[:2]])
    found = perturb(golden, tmp_path / "a", "V1", cells=cells, genes_to_perturb=genes)
    anchored = perturb(golden, tmp_path / "b", "V1", cells=cells, genes_to_perturb=genes, anchor_gene=genes[1])
    pd.testing.assert_frame_equal(found, anchored)
    assert found["value"].notna().all()


def test_genes_move_by_quarters_of_the_cell(golden, tmp_path):
    rows = [cell(*CELLS[0])]
    cells, gene = write_cells(tmp_path, rows), GENES["V1"][4]
    for edit, shift, dose in (("inhibit", 1, 0.25), ("activate", 2, 0.5), ("activate", None, 1.0)):
        out = tmp_path / f"{edit}{shift}"
        how = {"perturb_type": edit, "perturb_rank_shift": shift, "genes_to_perturb": [gene]}
        found = perturb(golden, out, "V1", cells=cells, **how)
        [(similarity, _)] = expected(golden, rows, [(edit, (token(gene),), dose)])
        assert found["value"].tolist() == pytest.approx([similarity], abs=1e-5)


def test_cells_are_chosen_in_the_published_order(golden, tmp_path):
    rows = [cell(*range(first, first + 4 + first % 3)) for first in range(12)]
    kinds = ["sick" if row % 2 == 0 else "well" for row in range(12)]
    names = [f"barcode{row}" for row in range(12)]
    cells = write_cells(tmp_path, rows, kind=kinds, cell_id=names, donor=["a"] * 11 + ["b"])
    arguments = {"filter_data": {"donor": "a"}, "genes_to_perturb": [GENES["V1"][8]], "max_ncells": 3}
    perturb(golden, tmp_path / "out", "V1", cells=cells, **arguments)
    [table] = (pd.read_csv(path) for path in (tmp_path / "out").glob("*_cells.csv"))
    with_gene = [row for row in range(11) if cell(8)[0] in rows[row]]
    drawn = [with_gene[place] for place in np.random.default_rng(42).permutation(len(with_gene))[:3]]
    assert table["row"].tolist() == sorted(drawn, key=lambda row: -len(rows[row]))
    assert table["cell_id"].tolist() == [names[row] for row in table["row"]]
    assert list(table) == ["cell", "row", "kind", "donor", "length", "cell_id"]
    assert len(numbers(tmp_path / "out")) == 3


def test_slices_of_a_run_lie_side_by_side(golden, tmp_path):
    cells = write_cells(tmp_path, [cell(*places) for places in CELLS])
    whole = perturb(golden, tmp_path / "whole", "V1", cells=cells)
    whole_list = perturb(
        golden, tmp_path / "list", "V1", cells=cells, perturb_type="overexpress", genes_to_perturb=[LYZ]
    )
    for start, end in ((0, 2), (2, 4)):
        part = {"cell_inds_to_perturb": {"start": start, "end": end}}
        perturb(golden, tmp_path / "parts", "V1", cells=cells, **part)
        edit = {"perturb_type": "overexpress", "genes_to_perturb": [LYZ]}
        perturb(golden, tmp_path / "list parts", "V1", cells=cells, **part, **edit)
    pd.testing.assert_frame_equal(numbers(tmp_path / "parts"), whole)
    pd.testing.assert_frame_equal(numbers(tmp_path / "list parts"), whole_list)
    tables = [pd.read_csv(path) for path in sorted((tmp_path / "parts").glob("*_cells.csv"))]
    assert pd.concat(tables)["cell"].tolist() == [0, 1, 2, 3]
    with pytest.warns(GeneformerWarning, match="ends at cell 9"):
        perturb(golden, tmp_path / "end", "V1", cells=cells, cell_inds_to_perturb={"start": 3, "end": 9})
    with pytest.raises(OutOfRangeError, match="starts at cell 4"):
        perturb(golden, tmp_path / "end", "V1", cells=cells, cell_inds_to_perturb={"start": 4, "end": 9})


def test_files_have_the_published_names_and_parts(golden, tmp_path):
    cells = write_cells(tmp_path, [cell(*CELLS[0])])
    perturb(golden, tmp_path / "a" / "b", "V1", cells=cells, prefix="v1.2", clear_mem_ncells=3, emb_mode="cls_and_gene")
    found = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    stem = "in_silico_delete_v1.2"
    parts = [f"{stem}_dict_{kind}_embs_0batch{n}_raw.pickle" for kind in ("cell", "gene") for n in (-1, 0, 1)]
    assert found == sorted([*parts, f"{stem}_cells.csv"])
    contents = [read_pickle(tmp_path / "a" / "b" / part) for part in parts]
    assert [len(content) for content in contents] == [3, 3, 2, 21, 21, 14]
    [(key, value)] = list(contents[0].items())[:1]
    assert (key, type(key[0]), type(value[0])) == ((cell(0)[0], "cell_emb"), int, float)


def test_two_cells_may_have_one_name(golden, tmp_path):
    cells = write_cells(tmp_path, [cell(*CELLS[0]), cell(*CELLS[1])], cell_id=["barcode", "barcode"])
    assert len(perturb(golden, tmp_path, "V1", cells=cells)) == 8 + 5


def test_batches_say_how_and_not_what(golden, tmp_path):
    cells = write_cells(tmp_path, [cell(*places) for places in CELLS])
    one, many = (
        perturb(golden, tmp_path / str(size), "V1", cells=cells, forward_batch_size=size, nproc=size)
        for size in (1, 64)
    )
    np.testing.assert_allclose(one["value"], many["value"], atol=1e-6)


def test_models_of_all_types_give_their_encoder(golden, tmp_path):
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    cells = write_cells(tmp_path, [cell(*CELLS[1])])
    plain = perturb(golden, tmp_path / "plain", "V1", cells=cells)["value"]
    weights = {n: w for n, w in load_file(golden / "V1" / "model.safetensors").items() if n.startswith("bert.")}
    heads = {
        "CellClassifier": {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
        | {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)},
        "GeneClassifier": {"classifier.weight": torch.ones(3, 32), "classifier.bias": torch.ones(3)},
        "MTLCellClassifier": {"classification_heads.0.weight": torch.ones(3, 32)}
        | {"classification_heads.0.bias": torch.ones(3), "attention_pool.attention_weights": torch.ones(32, 1)},
    }
    for model_type, head in heads.items():
        for name in ("model.safetensors", "pytorch_model.bin"):
            folder = copytree(golden / "V1", tmp_path / f"{model_type}-{name}" / "V1")
            (folder / "model.safetensors").unlink()
            save = save_file if name == "model.safetensors" else torch.save
            save(weights | head, folder / name)
            arguments = {"model_type": model_type, "num_classes": 0 if model_type.startswith("MTL") else 3}
            found = perturb(folder.parent, folder.parent / "out", "V1", cells=cells, **arguments)
            assert found["value"].tolist() == plain.tolist()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_quantized_models_keep_32_bits_on_a_cpu(golden, tmp_path):
    plain = perturb(golden, tmp_path / "plain", "V1", max_ncells=2)
    for model_type in ("Pretrained-Quantized", "MTLCellClassifier-Quantized"):
        with pytest.warns(GeneformerWarning, match=f'model_type="{model_type}" saves memory on an acc') as caught:
            InSilicoPerturber(model_type=model_type)
        assert caught[0].filename == __file__
        with pytest.warns(GeneformerWarning, match="32 bits"):
            found = perturb(golden, tmp_path / model_type, "V1", model_type=model_type, max_ncells=2)
        pd.testing.assert_frame_equal(found, plain)


def test_quantized_models_are_refused_by_accelerators_that_cannot_run_them(monkeypatch):
    monkeypatch.setattr("geneformer.compat.perturber.resolve_device", lambda: torch.device("mps"))
    library = SimpleNamespace(supported_torch_devices={"cpu", "cuda"})
    monkeypatch.setattr("geneformer.compat.networks.low_bit_library", lambda: library)
    with pytest.raises(DeviceError, match=r'model_type="Pretrained-Quantized" cannot run here.*kernels for cuda'):
        InSilicoPerturber(model_type="Pretrained-Quantized")


def test_a_model_of_v1_is_perturbed_as_such(golden, tmp_path, caplog):
    how = {"genes_to_perturb": [LYZ], "max_ncells": 6}
    named = perturb(golden, tmp_path / "named", "V1", **how)
    with caplog.at_level(logging.WARNING):
        found = perturb(golden, tmp_path / "found", "V1", **how, model_version="V2", emb_mode="cls")
    pd.testing.assert_frame_equal(found, named)
    assert [path.name for path in sorted((tmp_path / "found").iterdir())] == [
        path.name for path in sorted((tmp_path / "named").iterdir())
    ]
    assert "is of V1, and is perturbed as such" in caplog.text
    assert 'emb_mode is "cell"' in caplog.text


def test_a_model_of_v2_is_no_model_of_v1(golden, tmp_path):
    with pytest.raises(VocabularyMismatchError, match=r'belongs to vocabulary V2, not to V1\. Pass model_version="V2"'):
        perturb(golden, tmp_path, "V2", model_version="V1")


def test_runs_and_statistics_say_how_far_they_are(golden, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("geneformer.files.progress.SECONDS_BETWEEN_LINES", 0.0)
    perturb(golden, tmp_path / "raw", "V1", genes_to_perturb=[LYZ], max_ncells=3)
    geneformer.InSilicoPerturberStats("aggregate_data", [LYZ], model_version="V1").get_stats(
        tmp_path / "raw", None, tmp_path, "x"
    )
    said = capsys.readouterr().err
    assert "Perturbing: 3 of 3 cells" in said
    assert "Reading: 1 of 1 files" in said


def test_states_are_embedded_where_nobody_gave_them(golden, tmp_path):
    """As the first releases did, which had no argument for it; filters hold for these cells too."""
    extract = EmbExtractor(emb_mode="cell", summary_stat="exact_mean", max_ncells=None, model_version="V1")
    vectors = extract.get_state_embs(STATES, golden / "V1", golden / "V1.dataset", tmp_path, "states")
    how = {"genes_to_perturb": [LYZ], "cells": golden / "V1.dataset", "cell_states_to_model": STATES, "max_ncells": 3}
    given = perturb(golden, tmp_path / "given", "V1", **how, state_embs_dict=vectors)
    pd.testing.assert_frame_equal(perturb(golden, tmp_path / "none", "V1", **how, state_embs_dict=None), given)


def test_filters_may_be_called_as_in_a_published_notebook():
    kinds = {"kind": ["a"]}
    assert InSilicoPerturber(filter_data_dict=kinds).filter_data == kinds
    assert EmbExtractor(filter_data_dict=kinds).filter_data == kinds
    assert Classifier(
        "cell", cell_state_dict={"state_key": "kind", "states": "all"}, filter_data_dict=kinds
    ).filter_data
    for construct in (InSilicoPerturber, EmbExtractor):
        with pytest.raises(OptionError, match="two names"):
            construct(filter_data=kinds, filter_data_dict=kinds)


def test_what_has_no_meaning_is_said():
    with pytest.warns(GeneformerWarning, match="perturb_rank_shift has no meaning"):
        InSilicoPerturber(perturb_rank_shift=1)
    with pytest.warns(GeneformerWarning, match="combos=1 has no meaning"):
        InSilicoPerturber(combos=1, anchor_gene=LYZ, genes_to_perturb=[S100A9])
    with pytest.warns(GeneformerWarning, match="anchor_gene has no meaning"):
        InSilicoPerturber(anchor_gene=LYZ, cell_states_to_model=STATES, state_embs_dict=state_embeddings("V2"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"perturb_type": "remove"}, UnknownChoiceError),
        ({"perturb_rank_shift": 4}, UnknownChoiceError),
        ({"genes_to_perturb": LYZ}, OptionError),
        ({"genes_to_perturb": []}, OptionError),
        ({"combos": 2}, UnknownChoiceError),
        ({"combos": 1}, UnsupportedArgumentError),
        ({"model_type": "Classifier"}, UnknownChoiceError),
        ({"emb_mode": "gene"}, UnknownChoiceError),
        ({"cell_emb_style": "max_pool"}, UnknownChoiceError),
        ({"emb_layer": -2}, UnknownChoiceError),
        ({"max_ncells": 0}, OutOfRangeError),
        ({"forward_batch_size": 0}, OutOfRangeError),
        ({"nproc": 0}, OutOfRangeError),
        ({"clear_mem_ncells": 0}, OutOfRangeError),
        ({"model_version": "V3"}, UnknownChoiceError),
        ({"filter_data": ["B cells"]}, OptionError),
        ({"cell_inds_to_perturb": {"start": 1}}, OptionError),
        ({"cell_inds_to_perturb": {"start": 5, "end": 5}}, OutOfRangeError),
        ({"cell_inds_to_perturb": {"start": -1, "end": 5}}, OutOfRangeError),
        ({"cell_states_to_model": STATES, "state_embs_dict": {}}, StateError),
        ({"cell_states_to_model": {**STATES, "goal_state": START}, "state_embs_dict": {}}, StateError),
        ({"cell_states_to_model": {"a": "b", "c": "d"}, "state_embs_dict": {}}, StateError),
    ],
)
def test_values_that_are_not_accepted_are_refused_at_once(arguments, error):
    with pytest.raises(error):
        InSilicoPerturber(**arguments)


def test_cells_that_cannot_be_perturbed_are_refused(golden, tmp_path):
    cells = write_cells(tmp_path, [cell(*places) for places in CELLS], kind=KINDS)
    with pytest.raises(AbsentGeneError, match="genes_to_perturb"):
        perturb(golden, tmp_path, "V1", cells=cells, genes_to_perturb=[GENES["V1"][0], GENES["V1"][10]])
    with pytest.raises(AbsentGeneError, match="anchor_gene"):
        perturb(golden, tmp_path, "V1", cells=cells, combos=1, anchor_gene=GENES["V1"][29])
    with pytest.raises(NoCellsError, match="sick, well"):
        perturb(golden, tmp_path, "V1", cells=cells, filter_data={"kind": "sic"})
    vectors = {state: torch.randn(8) for state in ("sick", "well")}
    states = {"state_key": "kind", "start_state": "sick", "goal_state": "well"}
    with pytest.raises(StateError, match="needs 32 numbers"):
        perturb(golden, tmp_path, "V1", cells=cells, cell_states_to_model=states, state_embs_dict=vectors)
