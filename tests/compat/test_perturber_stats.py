"""`InSilicoPerturberStats`: the published tables from files of every layout, and right ones where those were wrong."""

import inspect
import json
import pickle
from ast import literal_eval
from collections import defaultdict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats as scipy_stats

import geneformer
from geneformer import InSilicoPerturberStats
from geneformer.compat.dictionaries import dictionary_path
from geneformer.compat.perturber_stats import ALONE, ANCHOR, TOGETHER, anchored_mixture_model
from geneformer.errors import (
    AbsentGeneError,
    GeneformerWarning,
    InputNotFoundError,
    OptionError,
    PerturbationError,
    StateError,
    UnknownChoiceError,
    UnknownGeneError,
    UnsafeFileError,
    UnsupportedArgumentError,
)
from geneformer.files.pickles import read_pickle
from geneformer.genes.vocabulary import Vocabulary
from geneformer.perturbation.effects import EFFECT_COLUMNS, SIMILARITY, PerturbationEffects, Perturbed
from golden import GOLDEN, golden_table

pytestmark = pytest.mark.contract


START, GOAL, ALTERNATE = STATE_NAMES = json.loads((GOLDEN / "choices.json").read_text())["states"]
LYZ, S100A9 = json.loads((GOLDEN / "choices.json").read_text())["deleted"]
STATES = {"state_key": "cell_type", "start_state": START, "goal_state": GOAL, "alt_states": [ALTERNATE]}
CELL = "cell_emb"
NAMED = ("Gene_name", "Affected_gene_name")
V1 = Vocabulary.load("V1")
GENES = V1.genes[100:140].tolist()
TOKENS = [V1.token_of[gene] for gene in GENES]

both = pytest.mark.parametrize("version", ["V1", "V2"])


def put(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_raw.pickle").write_bytes(pickle.dumps(content))


def stored_content(version, run):
    """What the published package stored of a run, cell by cell where it did so: `{file: content}`."""
    stored = golden_table(f"perturbation_{version}")
    stored = stored[stored["run"] == run]
    cell = stored["cell_in_slice"].fillna(-1).astype(int)
    files = {}
    for number, part in stored.groupby(cell):
        content = (
            {state: defaultdict(list) for state in STATE_NAMES} if part["state"].notna().any() else defaultdict(list)
        )
        for row in part.itertuples():
            tokens = tuple(map(int, row.perturbed_tokens.split(",")))
            key = (tokens[0] if len(tokens) == 1 else tokens, CELL if row.affected == "cell" else int(row.affected))
            (content if row.state is None else content[row.state])[key].append(row.value)
        files[f"in_silico_{run}_dict_cell_embs_{number}batch-1"] = content
    return files


def old_content(version, run):
    """The same in the layout of old: all cells in one file, a tuple of the states per cell."""
    content = defaultdict(list)
    for file in stored_content(version, run).values():
        inner = list(file.values()) if START in file else [file]
        for key in inner[0]:
            values = [table[key] for table in inner]
            content[key] += list(zip(*values, strict=True)) if START in file else values[0]
    return {f"in_silico_{run}_dict_1Kbatch0": content}


LAYOUTS = {"new": stored_content, "old": old_content}


def tabled(folder, out, version="V1", *, null=None, null_dict_list=None, **arguments):
    """The table that the statistics write."""
    InSilicoPerturberStats(model_version=version, **arguments).get_stats(folder, null, out, "v1.2", null_dict_list)
    return pd.read_csv(out / "v1.2.csv", index_col=0)


def signature(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]


def test_arguments_are_the_published_ones():
    assert signature(InSilicoPerturberStats) == [
        ("mode", "mixture_model"),
        ("genes_perturbed", "all"),
        ("combos", 0),
        ("anchor_gene", None),
        ("cell_states_to_model", None),
        ("pickle_suffix", "_raw.pickle"),
        ("model_version", "V2"),
        ("token_dictionary_file", dictionary_path("TOKEN_DICTIONARY_FILE")),
        ("gene_name_id_dictionary_file", dictionary_path("ENSEMBL_DICTIONARY_FILE")),
    ]
    required = inspect.Parameter.empty
    assert signature(InSilicoPerturberStats.get_stats) == [
        ("input_data_directory", required),
        ("null_dist_data_directory", required),
        ("output_directory", required),
        ("output_prefix", required),
        ("null_dict_list", None),
    ]
    assert geneformer.in_silico_perturber_stats.InSilicoPerturberStats is InSilicoPerturberStats


@both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "run", "arguments"),
    [
        ("goal", "delete_all_goal", {"mode": "goal_state_shift", "cell_states_to_model": STATES}),
        ("mixture", "delete_all", {}),
        ("aggregate", "delete_list", {"mode": "aggregate_data", "genes_perturbed": [LYZ]}),
        ("gene_shifts", "delete_list_gene", {"mode": "aggregate_gene_shifts", "genes_perturbed": [LYZ]}),
    ],
)
def test_published_tables(tmp_path, version, layout, name, run, arguments):
    for file, content in LAYOUTS[layout](version, run).items():
        put(tmp_path / "raw", file, content)
    found = tabled(tmp_path / "raw", tmp_path / "a" / "b", version, **arguments)
    wanted = pd.read_csv(GOLDEN / f"stats_{version}_{name}.csv", index_col=0)
    assert list(found.columns) == list(wanted.columns)
    if name != "gene_shifts":  # there it is the order of a dictionary
        assert list(found.index) == list(wanted.index)
    for column in wanted:
        ours, theirs = found[column].reset_index(drop=True), wanted[column].reset_index(drop=True)
        if column in NAMED:  # some genes have a name here that the published dictionary lacks
            ours, theirs = ours[theirs.notna()], theirs[theirs.notna()]
        if theirs.dtype == object:
            assert ours.fillna("").tolist() == theirs.fillna("").tolist(), column
        else:
            tolerance = 1e-6 if "pval" in column or "FDR" in column else 1e-5
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance, err_msg=column)


def test_a_run_of_v1_is_recognized_by_its_tokens(tmp_path, caplog):
    for file, content in stored_content("V1", "delete_all_goal").items():
        put(tmp_path / "raw", file, content)
    how = {"mode": "goal_state_shift", "cell_states_to_model": STATES}
    named = tabled(tmp_path / "raw", tmp_path / "named", "V1", **how)
    pd.testing.assert_frame_equal(tabled(tmp_path / "raw", tmp_path / "found", "V2", **how), named)
    assert "holds a run of V1, and is read as such" in caplog.text


def goal_means(*runs):
    """Mean shifts of LYZ and S100A9 together."""
    stored = golden_table("perturbation_V1")
    return stored[stored["run"].isin(runs)].groupby("state")["value"].mean()


def test_a_list_has_its_means_whatever_else_lies_in_the_folder(tmp_path):
    for file, content in stored_content("V1", "delete_pair_goal").items():
        put(tmp_path / "raw", file, content)
    other = {state: {(5, CELL): [0.5, 0.75]} for state in STATE_NAMES}
    put(tmp_path / "raw", "in_silico_delete_other_cell_embs_dict_[5]", other)
    how = {"mode": "goal_state_shift", "cell_states_to_model": STATES}
    for genes in ([LYZ, S100A9], [S100A9, LYZ]):
        found = tabled(tmp_path / "raw", tmp_path / "out", **how, genes_perturbed=genes)
        means = goal_means("delete_pair_goal")
        columns = ["Shift_to_goal_end", f"Shift_to_alt_end_{ALTERNATE}"]
        assert list(found) == [*columns, "Gene", "Gene_name", "Ensembl_ID", "N_Detections"]
        assert found.loc[0, columns].tolist() == pytest.approx([means[GOAL], means[ALTERNATE]], abs=1e-7)
        assert literal_eval(found["Gene_name"][0]) == ("LYZ", "S100A9")
        assert found["N_Detections"].tolist() == [97, 2]
        assert found["Shift_to_goal_end"][1] == pytest.approx(0.625)
    found = tabled(tmp_path / "raw", tmp_path / "out", **how, genes_perturbed=[str(V1.gene_of[5])])
    assert found["Shift_to_goal_end"][0] == pytest.approx(0.625)
    with pytest.raises(AbsentGeneError, match="No run perturbed"):
        tabled(tmp_path / "raw", tmp_path / "out", **how, genes_perturbed=[LYZ])


def test_files_of_states_and_of_genes_may_share_a_folder(tmp_path):
    for file, content in stored_content("V1", "delete_all_goal").items():
        put(tmp_path / "raw", file, content)
    how = {"mode": "goal_state_shift", "cell_states_to_model": STATES}
    alone = tabled(tmp_path / "raw", tmp_path / "out", **how)
    put(tmp_path / "raw", "in_silico_delete_x_gene_embs_dict_[5]", {(5, 6): [0.5], (5, 7): [0.25]})
    beside = tabled(tmp_path / "raw", tmp_path / "out", **how)
    pd.testing.assert_frame_equal(alone, beside)
    genes = tabled(tmp_path / "raw", tmp_path / "out", mode="aggregate_gene_shifts")
    assert genes["Affected"].tolist() == [7, 6]


def test_several_runs_are_added_up(tmp_path):
    first, second = (next(iter(stored_content("V1", run).values())) for run in ("delete_list", "delete_null"))
    put(tmp_path / "raw", "b", first)
    put(tmp_path / "raw", "a", first)
    put(tmp_path / "raw", "c", second)
    found = tabled(tmp_path / "raw", tmp_path / "out", mode="aggregate_data", genes_perturbed=[LYZ])
    assert len(found) == 2 * 139
    assert found["Gene"].unique().tolist() == ["LYZ"]
    assert "cell_id" not in found


def test_a_run_against_another_one(tmp_path):
    rng = np.random.default_rng(0)
    test = {(token, CELL): rng.normal(0.9, 0.01, 20).tolist() for token in TOKENS}
    null = {
        (token, CELL): rng.normal(0.9 + 0.01 * (place % 3), 0.01, 15).tolist() for place, token in enumerate(TOKENS[1:])
    }
    put(tmp_path / "raw", "a", test)
    put(tmp_path / "null", "a", null)
    from_folder = tabled(tmp_path / "raw", tmp_path / "out", mode="vs_null", null=tmp_path / "null")
    from_list = tabled(tmp_path / "raw", tmp_path / "out", mode="vs_null", null_dict_list=[null])
    pd.testing.assert_frame_equal(from_folder, from_list)
    assert list(from_folder) == [
        "Gene", "Gene_name", "Ensembl_ID", "Test_avg_shift", "Null_avg_shift", "Test_vs_null_avg_shift",
        "Test_vs_null_pval", "Test_vs_null_FDR", "N_Detections_test", "N_Detections_null", "Sig",
    ]  # fmt: skip
    by_gene = from_folder.set_index("Gene")
    for token in TOKENS[1:]:
        ours, values = by_gene.loc[token], (test[token, CELL], null[token, CELL])
        assert ours["Test_vs_null_pval"] == pytest.approx(scipy_stats.ranksums(*values).pvalue, abs=1e-9)
        assert ours["Test_vs_null_avg_shift"] == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert by_gene.loc[TOKENS[0], "Test_vs_null_pval"] == 1
    assert from_folder["Sig"].is_monotonic_decreasing
    put(tmp_path / "shifted", "a", dict.fromkeys(STATE_NAMES, test))
    with pytest.raises(StateError, match="without cell_states_to_model"):
        tabled(tmp_path / "raw", tmp_path / "out", mode="vs_null", null=tmp_path / "shifted")
    with pytest.raises(OptionError, match="null_dist_data_directory"):
        tabled(tmp_path / "raw", tmp_path / "out", mode="vs_null")


def clusters(seed):
    """Similarities of forty genes in two clusters; every tenth gene has an impact."""
    rng = np.random.default_rng(seed)
    centers = [0.6 if place % 10 == 0 else 0.95 for place in range(40)]
    return {(token, CELL): rng.normal(center, 0.02, 12).tolist() for token, center in zip(TOKENS, centers, strict=True)}


@pytest.mark.parametrize("seed", range(3))
def test_impact_is_the_component_with_the_lower_mean(tmp_path, seed):
    put(tmp_path / "raw", "a", clusters(seed))
    found = tabled(tmp_path / "raw", tmp_path / "out").set_index("Gene")
    assert found["Impact_component"].sum() == 4
    assert set(found.index[:4]) == set(TOKENS[::10])
    assert (found["Impact_component_percent"][:4] > 90).all()
    assert (found["Impact_component_percent"][4:] < 60).all()


def triples(seed=0):
    """Of forty genes: the anchor alone, the gene alone, both; every tenth pair does more than both alone."""
    rng = np.random.default_rng(seed)
    found = {}
    for place, token in enumerate(TOKENS[1:], start=1):
        alone = rng.normal(0.95, 0.005, (12, 2))
        extra = 0.3 if place % 10 == 0 else 0.0
        both_ = alone.sum(1) - 1 - extra + rng.normal(0, 0.005, 12)
        found[token, CELL] = [(float(a), float(g), float(p)) for (a, g), p in zip(alone, both_, strict=True)]
    return found


def test_pairs_with_an_anchor_against_both_alone(tmp_path):
    content = triples()
    put(tmp_path / "raw", "a", content)
    found = tabled(tmp_path / "raw", tmp_path / "out", combos=1, anchor_gene=GENES[0])
    assert list(found) == [
        "Gene", "Gene_name", "Ensembl_ID", "Anchor_shift", "Test_token_shift", "Sum_of_indiv_shifts", "Combo_shift",
        "Combo_minus_sum_shift", "Impact_component", "Impact_component_percent", "N_Detections",
    ]  # fmt: skip
    assert set(found["Gene"][:3]) == {TOKENS[10], TOKENS[20], TOKENS[30]}
    assert found["Impact_component"].tolist() == [1] * 3 + [0] * 36
    assert found["Combo_minus_sum_shift"][:3].is_monotonic_increasing
    assert found["Combo_minus_sum_shift"][3:].is_monotonic_increasing
    row, values = found.iloc[5], np.array(content[found["Gene"].iloc[5], CELL])
    sums = 1 - ((1 - values[:, 0]) + (1 - values[:, 1]))
    means = [*values[:, :2].mean(0), sums.mean(), values[:, 2].mean(), (values[:, 2] - sums).mean()]
    assert row[list(found)[3:8]].tolist() == pytest.approx(means)
    assert row["N_Detections"] == 12
    put(tmp_path / "single", "a", clusters(0))
    with pytest.raises(PerturbationError, match="one number per cell"):
        tabled(tmp_path / "single", tmp_path / "out", combos=1, anchor_gene=GENES[0])


def test_what_an_anchor_does_to_each_other_gene(tmp_path):
    on_others = {(TOKENS[0], token): values for (token, _), values in clusters(0).items() if token != TOKENS[0]}
    noise = {(TOKENS[0], CELL): [0.1], (TOKENS[1], TOKENS[2]): [0.1]}
    put(tmp_path / "raw", "a", on_others | noise)
    found = tabled(tmp_path / "raw", tmp_path / "out", anchor_gene=GENES[0])
    assert sorted(found["Gene"]) == TOKENS[1:]
    assert set(found["Gene"][:3]) == set(TOKENS[10::10])
    assert (found["N_Detections"] == 12).all()
    with pytest.raises(PerturbationError, match="cls_and_gene"):
        tabled(tmp_path / "raw", tmp_path / "out", anchor_gene=GENES[5])


def test_an_anchor_is_left_out_with_states_and_said_so(tmp_path):
    for file, content in stored_content("V1", "delete_all_goal").items():
        put(tmp_path / "raw", file, content)
    how = {"mode": "goal_state_shift", "cell_states_to_model": STATES}
    with pytest.warns(GeneformerWarning, match="anchor_gene has no meaning"):
        found = tabled(tmp_path / "raw", tmp_path / "out", **how, anchor_gene=LYZ)
    pd.testing.assert_frame_equal(found, tabled(tmp_path / "raw", tmp_path / "out", **how))
    pairs = {state: {((5, 6), CELL): [0.5], ((5, 7), CELL): [0.25]} for state in STATE_NAMES}
    put(tmp_path / "pairs", "a", pairs)
    found = tabled(tmp_path / "pairs", tmp_path / "out", **how, combos=1, anchor_gene=str(V1.gene_of[5]))
    assert found["Ensembl_ID"].tolist() == [str(V1.gene_of[6]), str(V1.gene_of[7])]


def test_groups_of_genes_have_a_row_per_cell(tmp_path):
    put(tmp_path / "raw", "a", {((TOKENS[0], TOKENS[1]), CELL): [0.5, 0.25]})
    (tmp_path / "raw" / "a_cells.csv").write_text("cell,row,cell_id\n0,4,b\n1,2,a\n")
    found = tabled(tmp_path / "raw", tmp_path / "out", mode="aggregate_data", genes_perturbed=GENES[:2])
    name = "+".join(V1.symbol_of(gene) for gene in GENES[:2])
    assert found.values.tolist() == [[0.5, name, "b"], [0.25, name, "a"]]
    assert list(found) == ["Cosine_sim", "Gene", "cell_id"]


def test_the_old_way_to_name_states(tmp_path):
    for file, content in old_content("V1", "delete_all_goal").items():
        put(tmp_path / "raw", file, content)
    old = {"cell_type": ([START], [GOAL], [ALTERNATE])}
    found = tabled(tmp_path / "raw", tmp_path / "out", mode="goal_state_shift", cell_states_to_model=old)
    new = tabled(tmp_path / "raw", tmp_path / "out", mode="goal_state_shift", cell_states_to_model=STATES)
    pd.testing.assert_frame_equal(found, new)
    fewer = {**STATES, "alt_states": []}
    with pytest.raises(StateError, match="does not fit the 2 states"):
        tabled(tmp_path / "raw", tmp_path / "out", mode="goal_state_shift", cell_states_to_model=fewer)


def test_names_and_suffix_of_the_users_own(tmp_path):
    (tmp_path / "names.pkl").write_bytes(pickle.dumps({"mine": GENES[0], "other": GENES[1]}))
    put(tmp_path / "raw", "a", {(token, CELL): values for (token, _), values in clusters(0).items()})
    (tmp_path / "raw" / "a_raw.pickle").rename(tmp_path / "raw" / "a.pkl")
    v2 = Vocabulary.load("V2")
    (tmp_path / "tokens.pkl").write_bytes(pickle.dumps({str(name): number for number, name in enumerate(V1.gene_of)}))
    files = {
        "gene_name_id_dictionary_file": tmp_path / "names.pkl",
        "token_dictionary_file": tmp_path / "tokens.pkl",
    }
    found = tabled(tmp_path / "raw", tmp_path / "out", v2.name, pickle_suffix=".pkl", **files)
    names = found.set_index("Gene")["Gene_name"]
    assert (names[TOKENS[0]], names[TOKENS[1]]) == ("mine", "other")


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    put(tmp_path / "raw", "a", {(10, CELL): [0.5]})
    (tmp_path / "raw" / "b_raw.pickle").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(UnsafeFileError):
        tabled(tmp_path / "raw", tmp_path / "out")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"mode": "mean"}, UnknownChoiceError),
        ({"genes_perturbed": LYZ}, OptionError),
        ({"genes_perturbed": [LYZ]}, UnsupportedArgumentError),
        ({"mode": "aggregate_data"}, UnsupportedArgumentError),
        ({"mode": "aggregate_data", "genes_perturbed": ["ENSG99999999999"]}, UnknownGeneError),
        ({"combos": 1}, UnsupportedArgumentError),
        ({"combos": 2}, UnknownChoiceError),
        ({"anchor_gene": "ENSG99999999999"}, UnknownGeneError),
        ({"mode": "goal_state_shift"}, StateError),
        ({"model_version": "V3"}, UnknownChoiceError),
    ],
)
def test_values_that_are_not_accepted_are_refused_at_once(arguments, error):
    with pytest.raises(error):
        InSilicoPerturberStats(**arguments)


def test_runs_without_the_effects_of_a_mode_are_refused(tmp_path):
    put(tmp_path / "raw", "a", clusters(0))
    put(tmp_path / "shifted", "a", {state: clusters(0) for state in STATE_NAMES})
    how = {"mode": "goal_state_shift", "cell_states_to_model": STATES}
    other = {**STATES, "goal_state": "T cells"}
    with pytest.raises(StateError, match="hold similarity"):
        tabled(tmp_path / "raw", tmp_path / "out", **how)
    with pytest.raises(StateError, match="no shifts towards \\['T cells'\\]"):
        tabled(tmp_path / "shifted", tmp_path / "out", mode="goal_state_shift", cell_states_to_model=other)
    with pytest.raises(StateError, match="shift towards"):
        tabled(tmp_path / "shifted", tmp_path / "out")
    with pytest.raises(PerturbationError, match="cell_and_gene"):
        tabled(tmp_path / "raw", tmp_path / "out", mode="aggregate_gene_shifts")
    with pytest.raises(InputNotFoundError):
        tabled(tmp_path / "nothing", tmp_path / "out")


def test_the_example_ranks_genes_of_monocytes(published_inputs, tmp_path):
    from in_silico_perturbation import main

    main(published_inputs, tmp_path, max_ncells=1)
    stem = "in_silico_delete_pbmc"
    names = sorted(path.name for path in (tmp_path / "perturbed").iterdir())
    assert names == [f"{stem}_cells.csv", f"{stem}_dict_cell_embs_0batch-1_raw.pickle"]
    cells = pd.read_csv(tmp_path / "perturbed" / names[0])
    assert cells["cell_type"].tolist() == [START]
    assert list(cells)[:2] == ["cell", "row"]
    assert list(cells)[-1] == "cell_id"
    raw = read_pickle(tmp_path / "perturbed" / names[1])
    assert list(raw) == STATE_NAMES
    table = pd.read_csv(tmp_path / "stats" / "pbmc.csv", index_col=0)
    assert len(table) == len(raw[GOAL]) == cells["length"][0]
    assert list(table)[3:] == [
        "Shift_to_goal_end", f"Shift_to_alt_end_{ALTERNATE}", "Goal_end_vs_random_pval",
        f"Alt_end_vs_random_pval_{ALTERNATE}", "Goal_end_FDR", f"Alt_end_FDR_{ALTERNATE}", "N_Detections", "Sig",
    ]  # fmt: skip
    for state, column in ((GOAL, "Shift_to_goal_end"), (ALTERNATE, f"Shift_to_alt_end_{ALTERNATE}")):
        found = [raw[state][token, CELL][0] for token in table["Gene"]]
        np.testing.assert_allclose(table[column], found, atol=1e-12)
    assert set(table["Gene_name"][:30]) & {"S100A8", "S100A9", "LYZ", "FTL", "CST3", "TYROBP", "LST1"}


def effects_of(values):
    """Effects of genes by name: `{gene: {target: numbers}}`."""
    rows = [
        (f"c{cell}", gene, gene, "", SIMILARITY, target, value, "exact")
        for gene, of_target in values.items()
        for target, numbers in of_target.items()
        for cell, value in enumerate(numbers)
    ]
    table = pa.table(dict(zip(EFFECT_COLUMNS, zip(*rows, strict=True), strict=True)))
    genes = pa.table({"gene": list(values), "symbol": list(values), "token": list(range(4, 4 + len(values)))})
    cells = pa.table({"cell_id": sorted({row[0] for row in rows})})
    return Perturbed(PerturbationEffects(table, cells, genes))


def three(anchor, alone, together):
    return {ANCHOR: anchor, ALONE: alone, TOGETHER: together}


def test_numbers_by_hand():
    genes = {f"G{place}": three([0.9], [0.95], [0.85]) for place in range(8)}
    genes |= {"G8": three([0.9, 0.8], [0.9, 0.9], [0.5, 0.3]), "G9": three([0.9], [0.7], [0.45])}
    found = anchored_mixture_model(effects_of(genes))
    assert found["Gene_name"].tolist()[:2] == ["G8", "G9"]
    numbers = ["Anchor_shift", "Test_token_shift", "Sum_of_indiv_shifts", "Combo_shift", "Combo_minus_sum_shift"]
    np.testing.assert_allclose(found.iloc[0][numbers].tolist(), [0.85, 0.9, 0.75, 0.4, -0.35])
    np.testing.assert_allclose(found.iloc[1][numbers].tolist(), [0.9, 0.7, 0.6, 0.45, -0.15])
    assert found["Impact_component"].tolist() == [1, 1] + [0] * 8
    assert found["Impact_component_percent"].tolist() == [100.0, 100.0] + [0.0] * 8
    assert found["N_Detections"].tolist() == [2, 1] + [1] * 8


def test_all_three_are_needed():
    with pytest.raises(PerturbationError, match="all three"):
        anchored_mixture_model(effects_of({"A": three([0.9], [0.8], [0.5]), "B": {ANCHOR: [0.9], TOGETHER: [0.9]}}))
