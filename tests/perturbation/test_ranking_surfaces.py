"""Where effects and rankings are kept: slots of AnnData, files, the Python function and the command."""

import inspect
import json

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import geneformer as gf
from geneformer import keys
from geneformer.cli import app
from geneformer.errors import (
    DatasetError,
    OptionError,
    OutputExistsError,
    UnknownChoiceError,
    UnknownColumnError,
    UnsupportedFormatError,
)
from geneformer.keys import PERTURBATION as SLOT
from geneformer.options import RankOptions
from geneformer.perturbation.effects import PerturbationEffects, PerturbationRanking, from_uns, to_uns
from geneformer.perturbation.statistics import rank_effects
from small_perturbations import made_run

FAST = {"permutations": 20}


def awkward_run():
    """States, columns and cells as files do not like them."""
    run = made_run(6, 8, states=("CD4/CD8", "50%", "%2F"))
    cells = run.cells.to_pandas().assign(
        note=["a", None] * 4, time=pd.Timestamp("2024-01-01"), depth=np.arange(8.0), pass_qc=[True, False] * 4
    )
    return PerturbationEffects(
        run.effects, pa.Table.from_pandas(cells, preserve_index=False), run.genes, run.states, run.provenance
    )


def test_slots_survive_a_file(tmp_path):
    run = awkward_run()
    adata = ad.AnnData(np.zeros((2, 2), np.float32), uns={SLOT: to_uns(run)})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    for found in (from_uns(adata.uns[SLOT]), from_uns(ad.read_h5ad(tmp_path / "cells.h5ad").uns[SLOT])):
        assert list(found.states) == ["CD4/CD8", "50%", "%2F"]
        assert (found.start, found.goal) == ("CD4/CD8", "50%")
        for state, embedding in run.states.items():
            np.testing.assert_array_equal(found.states[state], embedding)
        assert found.provenance == run.provenance
        for name in ("effects", "genes"):
            one, other = (getattr(some, name).to_pandas() for some in (run, found))
            pd.testing.assert_frame_equal(one, other.astype(one.dtypes))
        assert found.cells["note"].to_pylist() == ["a", None] * 4
        assert found.cells["pass_qc"].to_pylist() == [True, False] * 4
        one, other = (rank_effects(some, RankOptions(**FAST)).frame for some in (run, found))
        pd.testing.assert_frame_equal(one, other)


def test_slots_without_states_and_effects(tmp_path):
    run = made_run(2, 3, states=())
    empty = PerturbationEffects(run.effects.slice(0, 0), run.cells, run.genes)
    for some in (run, empty):
        adata = ad.AnnData(np.zeros((1, 1), np.float32), uns={SLOT: to_uns(some)})
        adata.write_h5ad(tmp_path / "cells.h5ad")
        found = from_uns(ad.read_h5ad(tmp_path / "cells.h5ad").uns[SLOT])
        assert (len(found), dict(found.states), found.goal) == (len(some), {}, None)


def test_the_function_takes_effects_from_wherever_they_are(tmp_path):
    run = made_run()
    (tmp_path / "run").mkdir()
    run.save(tmp_path / "run")
    adata = ad.AnnData(np.zeros((1, 1), np.float32), uns={"mine": to_uns(run)})
    before = adata.copy()
    direct = gf.tl.rank_perturbations(run, **FAST)
    assert list(adata.uns) == list(before.uns)
    for source in (tmp_path / "run", str(tmp_path / "run"), adata):
        pd.testing.assert_frame_equal(gf.tl.rank_perturbations(source, key="mine", **FAST), direct)
    notes = direct.attrs["geneformer"]
    assert list(notes["definitions"]) == list(direct.columns)
    assert notes["provenance"]["model"] == "made up"
    assert PerturbationRanking.from_frame(direct).mode == "goal_state_shift"
    null = ad.AnnData(np.zeros((1, 1), np.float32), uns={"mine": to_uns(made_run(seed=1))})
    assert not gf.tl.rank_perturbations(run, null=null, key="mine", **FAST).equals(direct)


def test_the_function_has_the_knobs_of_its_options():
    parameters = inspect.signature(gf.tl.rank_perturbations).parameters
    fields = RankOptions.__dataclass_fields__
    assert {name: parameters[name].default for name in fields} == {name: f.default for name, f in fields.items()}


def test_what_holds_no_effects(tmp_path):
    adata = ad.AnnData(np.zeros((1, 1), np.float32), uns={SLOT[:-1]: {}})
    with pytest.raises(UnknownColumnError, match=rf"no '{SLOT}'.*Did you mean.*gf.tl.perturb first"):
        gf.tl.rank_perturbations(adata)
    with pytest.raises(DatasetError, match="holds no effects of perturbations"):
        gf.tl.rank_perturbations(adata, key=SLOT[:-1])
    with pytest.raises(DatasetError, match="holds no finished perturbation run"):
        gf.tl.rank_perturbations(tmp_path)
    with pytest.raises(DatasetError, match="cannot be read from int"):
        gf.tl.rank_perturbations(5)
    with pytest.raises(UnknownChoiceError):
        gf.tl.rank_perturbations(made_run(2), mode="goal")
    with pytest.raises(DatasetError, match="no ranking, or lost its attrs"):
        PerturbationRanking.from_frame(pd.DataFrame({"a": [1]}))


@pytest.fixture(scope="module")
def ranking():
    return rank_effects(awkward_run(), RankOptions(donor="donor", **FAST))


def test_a_parquet_defines_its_columns(ranking, tmp_path):
    ranking.save(tmp_path / "out.parquet")
    notes = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[keys.UNS.encode()])
    read = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(read, ranking.frame)
    assert list(notes["definitions"]) == list(read.columns)
    assert notes["mode"] == "goal_state_shift"
    assert notes["provenance"]["ranking"]["options"]["donor"] == "donor"


def test_a_csv_is_read_as_the_published_one_and_defined_beside(ranking, tmp_path):
    ranking.save(tmp_path / "out.csv")
    read = pd.read_csv(tmp_path / "out.csv", index_col=0)
    pd.testing.assert_frame_equal(read, ranking.frame, check_dtype=False)
    notes = json.loads((tmp_path / "out.csv.columns.json").read_text())
    assert list(notes["definitions"]) == list(read.columns)
    with pytest.raises(OutputExistsError):
        ranking.save(tmp_path / "out.csv")
    (tmp_path / "out.csv").unlink()
    with pytest.raises(OutputExistsError, match=r"columns\.json"):
        ranking.save(tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    ranking.save(tmp_path / "out.csv", overwrite=True)


def test_an_h5ad_has_perturbations_as_rows_and_states_as_columns(ranking, tmp_path):
    ranking.save(tmp_path / "out.h5ad")
    read = ad.read_h5ad(tmp_path / "out.h5ad")
    assert list(read.obs_names) == list(ranking.frame["perturbation"]) == list(read.obs["perturbation"])
    assert list(read.var_names) == ["CD4/CD8", "50%", "%2F"]
    columns = ["shift_to_start", "Shift_to_goal_end", "Shift_to_alt_end_%2F"]
    np.testing.assert_allclose(read.X, ranking.frame[columns])
    assert read.uns["definitions"]["effect"] == ranking.definitions["effect"]
    assert json.loads(read.uns[keys.UNS]["perturbation_ranking"])["states"] == dict(ranking.states)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5ad"])
def test_groups_and_long_tables_are_saved_in_every_form(suffix, tmp_path):
    rows = made_run(4, 6, states=()).to_frame()
    pair = rows[rows["genes"] == "ENSG00001"].assign(genes="ENSG00001+ENSG00002", perturbation="both")
    affected = pd.concat([rows, pair]).assign(effect="gene_similarity", target="ENSG00003")
    run = made_run(4, 6, states=())
    table = pa.Table.from_pandas(pd.concat([rows, pair, affected]), preserve_index=False)
    run = PerturbationEffects(table, run.cells, run.genes)
    for mode in ("aggregate", "aggregate_gene_shifts", "mixture_model"):
        ranking = rank_effects(run, RankOptions(mode=mode, **FAST))
        path = tmp_path / f"{mode}{suffix}"
        ranking.save(path)
        if suffix == ".h5ad":
            read = ad.read_h5ad(path)
            assert sorted(read.obs_names) == ["ENSG00000", "ENSG00001", "ENSG00002", "ENSG00003", "both"]
            assert list(read.var_names) == (["cell", "ENSG00003"] if mode == "aggregate_gene_shifts" else ["cell"])
            means = rows.groupby("perturbation")["value"].mean()
            value = read[list(means.index), "cell"].X.ravel()
            np.testing.assert_allclose(value if mode != "mixture_model" else 1 - value, means, atol=1e-6)
        else:
            read = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path, index_col=0)
            assert len(read) == len(ranking)
    with pytest.raises(UnsupportedFormatError, match=r"\.csv, \.parquet, \.h5ad"):
        ranking.save(tmp_path / "out.xlsx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perturb_rank")
    for name, run in (
        ("run", made_run(spread=0.6)),
        ("null", made_run(seed=1)),
        ("few", made_run(3, states=())),
    ):
        (folder / name).mkdir()
        run.save(folder / name)
    return folder


def call(*arguments):
    return CliRunner().invoke(app, ["perturb", "rank", *map(str, arguments)])


def test_the_command_says_what_the_function_says(folder, tmp_path):
    flags = ["--donor", "donor", "--permutations", 20, "--null", folder / "null", "--json"]
    found = call(
        folder / "run", "-o", tmp_path / "out.csv", "--plot", tmp_path / "volcano.png", "--kind", "volcano", *flags
    )
    assert found.exit_code == 0, found.stderr
    table = gf.tl.rank_perturbations(folder / "run", null=folder / "null", donor="donor", **FAST)
    read = pd.read_csv(tmp_path / "out.csv", index_col=0)
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    told = json.loads(found.stdout)
    assert told["mode"] == "goal_state_shift"
    assert (told["n"], told["tested"], told["significant"]) == (40, 40, int(table["Sig"].sum()))
    assert (tmp_path / "volcano.png").stat().st_size > 5000


def test_the_command_draws_where_the_table_has_a_row_per_cell(folder, tmp_path):
    found = call(folder / "few", "-o", tmp_path / "out.parquet", "--plot", tmp_path / "ranked.svg", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["mode"] == "aggregate"
    assert "distance moved" in (tmp_path / "ranked.svg").read_text() or (tmp_path / "ranked.svg").stat().st_size > 5000


def test_the_command_refuses_before_it_writes(folder, tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    for arguments, told in (
        ((folder / "run", "-o", tmp_path / "there.csv"), "OutputExistsError"),
        ((folder / "run", "-o", tmp_path / "out.txt"), "UnsupportedFormatError"),
        ((folder / "run", "-o", tmp_path / "out.csv", "--plot", tmp_path / "out.bmp"), "UnknownChoiceError"),
        ((folder, "-o", tmp_path / "out.csv"), "DatasetError"),
        ((folder / "few", "-o", tmp_path / "out.csv", "--mode", "goal_state_shift"), "StateError"),
        ((folder / "run", "-o", tmp_path / "out.csv", "--donor", "patient"), "UnknownColumnError"),
        (
            (folder / "run", "-o", tmp_path / "out.csv", "--plot", tmp_path / "a.png", "--kind", "response"),
            "DatasetError",
        ),
    ):
        found = call(*arguments)
        assert found.exit_code == 1
        assert told in found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert call(folder / "run", "-o", tmp_path / "there.csv", "--overwrite", "--permutations", 5).exit_code == 0


def test_options_come_from_a_file_too(folder, tmp_path):
    (tmp_path / "rank.toml").write_text('[rank]\npermutations = 5\ndonor = "donor"\n')
    found = call(folder / "run", "-o", tmp_path / "out.csv", "--config", tmp_path / "rank.toml")
    assert found.exit_code == 0, found.stderr
    assert "donor_p" in pd.read_csv(tmp_path / "out.csv")


def test_an_unknown_knob_is_an_option_error():
    with pytest.raises(OptionError):
        gf.tl.rank_perturbations(made_run(2), confidence=2)
