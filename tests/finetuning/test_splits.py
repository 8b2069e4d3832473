"""Splits cover the labeled cells, learn every class, keep groups on one side, and say what they could not do."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from geneformer.errors import (
    ConstantLabelError,
    GeneformerWarning,
    GeneListError,
    LabelError,
    LeakageError,
    MissingLabelError,
    OptionError,
    OutOfRangeError,
    RareClassError,
    UnknownChoiceError,
    UnknownClassError,
    UnknownColumnError,
    UnknownIdError,
)
from geneformer.finetuning.splits import (
    Split,
    assign_groups,
    balance_ids,
    draw_folds,
    draw_gene_folds,
    draw_split,
    shared_groups,
    split_genes,
)
from geneformer.finetuning.targets import OneOf
from geneformer.models.losses import MISSING
from geneformer.options import SplitOptions


def parts_of(split, n):
    """Part of each cell, from its rows: 0 to 2, or -1."""
    parts = np.full(n, -1)
    for part, rows in enumerate((split.train, split.valid, split.test)):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert (parts[rows] == -1).all()
        parts[rows] = part
    return parts


def equal(first, second):
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("train", "valid", "test"))


@pytest.fixture
def cohort():
    """600 cells of 12 donors; donors are sick or well, and have three cell types in different shares."""
    rng = np.random.default_rng(0)
    donor = np.repeat([f"d{i}" for i in range(12)], 50)
    sick = np.repeat(np.arange(12) % 2, 50)
    types = np.concatenate([rng.choice(3, 50, p=rng.dirichlet([5, 3, 1])) for _ in range(12)])
    return donor, sick, types


# Options


@pytest.mark.parametrize(("valid", "test"), [(0.2, 0.1), (0.1, 0.2), (0.3, 0.6), (0.0, 0.0), (0, 0.5)])
def test_shares_that_fit(valid, test):
    assert SplitOptions(valid=valid, test=test).valid == valid


@pytest.mark.parametrize(("valid", "test"), [(0.9, 0.1), (0.3, 0.7), (0.6, 0.6), (1.0, 0.0), (-0.1, 0.1), (0.1, 1.5)])
def test_shares_that_do_not(valid, test):
    with pytest.raises(OutOfRangeError):
        SplitOptions(valid=valid, test=test)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"train_ids": ["a"]}, 'Pass method="ids"'),
        ({"balance": ["a"]}, 'Pass method="balanced"'),
        ({"method": "ids", "test_ids": ["a"]}, "without train_ids"),
        ({"method": "balanced"}, "without balance"),
        ({"method": "ids", "train_ids": ["a", "b"], "test_ids": ["b", "c"]}, "first 'b', in train_ids, test_ids"),
    ],
)
def test_lists_that_contradict(arguments, match):
    with pytest.raises(OptionError, match=match):
        SplitOptions(**arguments)


def test_ids_may_be_numbers_and_listed_twice_in_one_list():
    assert SplitOptions(method="ids", train_ids=[1, 1, " 2"]).train_ids == ("1", "1", "2")


def test_an_unknown_method():
    with pytest.raises(UnknownChoiceError, match='Did you mean "stratified"'):
        SplitOptions(method="stratify")


# Cell by cell


@given(
    st.lists(st.integers(-1, 3), min_size=4, max_size=120),
    st.sampled_from([0.0, 0.05, 0.1, 0.3]),
    st.sampled_from([0.0, 0.1, 0.25]),
    st.sampled_from(["random", "stratified"]),
    st.integers(0, 3),
)
@pytest.mark.filterwarnings("ignore::geneformer.errors.GeneformerWarning")
def test_cells_are_covered_and_every_class_is_learnt(codes, valid, test, method, seed):
    codes = np.array(codes)
    labeled = codes[codes >= 0]
    wanted = [max(1, round(share * len(labeled))) if share else 0 for share in (valid, test)]
    options = SplitOptions(method=method, valid=valid, test=test, seed=seed)
    n_classes = len(np.unique(labeled))
    if len(labeled) == 0 or len(labeled) - n_classes < sum(wanted):
        with pytest.raises(RareClassError if len(labeled) else MissingLabelError):
            draw_split(codes, options)
        return
    split = draw_split(codes, options)
    parts = parts_of(split, len(codes))
    assert ((parts == -1) == (codes == -1)).all()
    assert [len(split.valid), len(split.test)] == wanted
    assert set(codes[split.train]) == set(labeled)
    assert split.method == method
    assert equal(split, draw_split(codes, options))
    if method == "stratified" and (np.bincount(labeled)[np.unique(labeled)] >= 20).all():
        for rows, size in zip((split.valid, split.test), wanted, strict=True):
            for code in np.unique(labeled):
                assert abs((codes[rows] == code).sum() - size * (labeled == code).mean()) < 1


def test_shares_of_classes_are_those_of_scikit_learn():
    codes = np.repeat([0, 1, 2], [700, 250, 50])
    split = draw_split(codes, SplitOptions(method="stratified", valid=0.2, test=0.1))
    _, test = train_test_split(codes, test_size=0.1, stratify=codes, random_state=0)
    assert np.bincount(codes[split.test]).tolist() == np.bincount(test).tolist() == [70, 25, 5]
    assert np.bincount(codes[split.valid]).tolist() == [140, 50, 10]


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_every_cell_has_the_same_chance(method):
    codes = np.repeat([0, 1], [20, 10])
    drawn = np.zeros(30)
    for seed in range(2000):
        drawn[draw_split(codes, SplitOptions(method=method, valid=0.1, test=0.2, seed=seed)).test] += 1
    assert np.abs(drawn / 2000 - 0.2).max() < 0.04


def test_a_class_with_one_cell_is_learnt_and_this_is_said():
    codes = np.array([0] * 30 + [1] * 30 + [2])
    for seed in range(20):
        with pytest.warns(GeneformerWarning, match="1 classes have one cell, .* 'rare'"):
            split = draw_split(codes, SplitOptions(method="random", seed=seed), classes=["a", "b", "rare"])
        assert 60 in split.train


def test_auto():
    codes = np.repeat([0, 1], [40, 20])
    assert draw_split(codes, SplitOptions()).method == "stratified"
    assert draw_split(codes, SplitOptions(), groups=np.arange(60) % 6).method == "group"
    with pytest.warns(GeneformerWarning, match=r"1 classes have fewer cells .* \('rare': 2\)"):
        split = draw_split(np.append(codes, [2, 2]), SplitOptions(), classes=["a", "b", "rare"])
    assert split.method == "random"
    assert draw_split(np.append(codes, [2, 2]), SplitOptions(valid=0)).method == "stratified"
    assert draw_split(np.zeros(60), SplitOptions()).method == "stratified"


def test_a_part_may_be_empty():
    split = draw_split(np.arange(100) % 2, SplitOptions(valid=0, test=0.3))
    assert (len(split.train), len(split.valid), len(split.test)) == (70, 0, 30)


def test_splits_that_cannot_be_drawn():
    with pytest.raises(MissingLabelError, match="None of the 3 cells"):
        draw_split([-1, -1, -1], SplitOptions())
    with pytest.raises(RareClassError, match="2 cells are to be held out, but 1 are left"):
        draw_split([0, 0], SplitOptions(method="stratified"), classes=["a"])
    with pytest.raises(OptionError, match="Pass groups"):
        draw_split([0, 1, 0], SplitOptions(method="group"))
    with pytest.raises(LabelError, match="groups has 2 values for 3 cells"):
        draw_split([0, 1, 0], SplitOptions(), groups=["a", "b"])


# Groups


def test_groups_stay_together_and_classes_are_spread(cohort):
    donor, sick, types = cohort
    for codes in (sick, types):
        split = draw_split(codes, SplitOptions(valid=1 / 6, test=1 / 6), groups=donor)
        parts = parts_of(split, 600)
        assert all(len(np.unique(parts[donor == name])) == 1 for name in np.unique(donor))
        assert split.shared_groups == shared_groups(split, donor) == {}
        assert [len(split.train), len(split.valid), len(split.test)] == [400, 100, 100]
        for rows in (split.valid, split.test):
            assert set(codes[rows]) == set(codes)
    assert np.bincount(draw_split(sick, SplitOptions(test=0.2), groups=donor).test % 2).sum() == 100


def far_from(shares, counts, parts):
    """What a split by groups minimizes."""
    loss = 0.0
    for part, share in enumerate(shares):
        held = counts[np.asarray(parts) == part].sum(axis=0)
        absent = held == 0
        loss += ((held / counts.sum(axis=0) - share) ** 2).mean() + (held.sum() / counts.sum() - share) ** 2
        loss += 1e6 * absent.all() + 0.5 * absent.mean() + 10 * absent.sum() * (part == 0)
    return loss


@pytest.mark.parametrize("seed", range(12))
def test_no_assignment_of_few_groups_is_better(seed):
    rng = np.random.default_rng(seed)
    n_groups, n_classes = rng.integers(3, 8), rng.integers(1, 5)
    counts = rng.poisson(rng.gamma(0.5, 20, size=(n_groups, n_classes)))
    counts[np.arange(n_groups), rng.integers(n_classes, size=n_groups)] += 1
    counts = counts[:, counts.any(axis=0)]
    shares = [0.7, 0.2, 0.1]
    best = min(far_from(shares, counts, every) for every in itertools.product(range(3), repeat=n_groups))
    parts = assign_groups(counts, shares, seed=seed)
    assert far_from(shares, counts, parts) == pytest.approx(best)
    assert set(parts) == {0, 1, 2}


def test_many_groups_are_dealt_out_as_well_as_by_the_search_before():
    """Mean distances of 40 cohorts: at most 2% over 0.0948, 0.0238 and 0.0029 of a search by moves and swaps."""
    rng = np.random.default_rng(0)
    distances = {12: [], 30: [], 120: []}
    for case in range(40):
        for n_groups, measured in distances.items():
            counts = rng.poisson(rng.gamma(0.3, 20, size=(n_groups, 6)) * rng.lognormal(size=(n_groups, 1))) + 1
            shares = [[0.8, 0.1, 0.1], [0.2] * 5][case % 2]
            parts = assign_groups(counts, shares, seed=case)
            assert set(parts) == set(range(len(shares)))
            assert all(counts[parts == 0].any(axis=0))
            measured.append(far_from(shares, counts, parts))
    for measured, before in zip(distances.values(), (0.0947622, 0.0237725, 0.0029381), strict=True):
        assert np.mean(measured) < 1.02 * before


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(-1, 3)), min_size=1, max_size=80), st.integers(0, 2))
def test_any_groups(cells, seed):
    groups, codes = np.array(cells).T
    n_groups = len(np.unique(groups[codes >= 0]))
    options = SplitOptions(seed=seed)
    if n_groups < 3:
        with pytest.raises(MissingLabelError if n_groups == 0 else LeakageError):
            draw_split(codes, options, groups=groups)
        return
    learnable = len({tuple(np.unique(codes[(groups == g) & (codes >= 0)])) for g in np.unique(groups)})
    try:
        split = draw_split(codes, options, groups=groups)
    except RareClassError:
        assert learnable > 1  # three groups of one class each, say
        return
    labeled = codes >= 0
    if len(np.unique(codes[labeled])) > 1:
        assert all(len(np.unique(codes[rows])) > 1 for rows in (split.train, split.valid, split.test))
    parts = parts_of(split, len(codes))
    assert shared_groups(split, groups) == {}
    assert set(parts[codes >= 0]) == {0, 1, 2}
    assert equal(split, draw_split(codes, options, groups=groups.astype(str)))


def test_a_class_of_one_donor_is_learnt(cohort):
    donor, sick, _ = cohort
    codes = np.where((donor == "d3") & (np.arange(600) % 5 == 0), 2, sick)
    for seed in range(10):
        split = draw_split(codes, SplitOptions(seed=seed), groups=donor)
        assert "d3" in donor[split.train]
        assert set(codes[split.train]) == {0, 1, 2}


def nested(donors_of, cells_of=lambda rng: 20):
    """Codes and donors of cells whose donors have one class each."""
    rng = np.random.default_rng(len(donors_of) + sum(donors_of))
    donor_class = np.repeat(np.arange(len(donors_of)), donors_of)
    sizes = [cells_of(rng) for _ in donor_class]
    return np.repeat(donor_class, sizes), np.repeat([f"d{i}" for i in range(len(donor_class))], sizes)


@pytest.mark.parametrize("donors_of", [(3, 3), (3, 4), (4, 4), (3, 9), (3, 3, 3), (5, 4, 3, 6), (30, 3)])
def test_every_class_is_on_every_side_where_each_donor_has_one(donors_of):
    codes, donors = nested(donors_of, lambda rng: int(rng.integers(5, 200)))
    for seed in range(10):
        split = draw_split(codes, SplitOptions(seed=seed), groups=donors)
        assert all(set(codes[rows]) == set(codes) for rows in (split.train, split.valid, split.test))
        assert shared_groups(split, donors) == {}


def test_a_class_with_fewer_donors_than_parts_is_refused_with_the_ways_out():
    codes, donors = nested((3, 2))
    kinds = ["sick", "well"]
    with pytest.raises(RareClassError, match=r"'well' is found in 2 of 5 groups \('d3', 'd4'\).*valid=0.*n_folds=2"):
        draw_split(codes, SplitOptions(), groups=donors, classes=kinds)
    split = draw_split(codes, SplitOptions(valid=0), groups=donors, classes=kinds)
    assert set(codes[split.train]) == set(codes[split.test]) == {0, 1}
    assert len(draw_folds(codes, 2, groups=donors, valid=0)) == 2
    codes, donors = nested((4, 1))
    with pytest.raises(
        RareClassError, match=r"'well' .* 1 of 5 groups \('d4'\).*'well' apart cannot be told from .*'d4'"
    ):
        draw_split(codes, SplitOptions(valid=0), groups=donors, classes=kinds)
    with pytest.raises(UnknownClassError, match=r"'1' \(20 cells\) is found in one fold only \(groups 'd4'\)"):
        draw_folds(codes, 2, groups=donors)
    three = nested((4, 4, 1))
    with pytest.raises(RareClassError, match="'2' is found in 1 of 9 groups"):
        draw_split(three[0], SplitOptions(), groups=three[1])


def test_a_rare_class_next_to_others_is_no_reason_to_refuse():
    donors = np.repeat([f"d{i}" for i in range(8)], 30)
    codes = np.arange(240) % 3
    codes[donors == "d5"] = 3
    split = draw_split(np.where((donors == "d5") & (np.arange(240) % 2 == 0), 0, codes), SplitOptions(), groups=donors)
    assert "d5" in donors[split.train]


@pytest.mark.parametrize("donors_of", [(3, 3), (2, 2), (4, 6, 5)])
def test_folds_of_nested_donors_learn_every_class(donors_of):
    codes, donors = nested(donors_of)
    valid = 0.1 if min(donors_of) > 2 else 0.0
    for seed in range(5):
        for split in draw_folds(codes, min(donors_of), groups=donors, seed=seed, valid=valid):
            assert set(codes[split.train]) == set(codes[split.test]) == set(codes)
            assert not valid or set(codes[split.valid]) == set(codes)


def test_every_task_and_label_is_on_every_side():
    donors = np.repeat([f"d{i}" for i in range(6)], 40)
    sick, cell_type = np.repeat([0, 1, 0, 1, 0, 1], 40), np.arange(240) % 5
    labels = {"disease": (sick, ["well", "sick"]), "type": (cell_type, list("abcde"))}
    for seed in range(10):
        split = draw_split(sick * 5 + cell_type, SplitOptions(seed=seed), groups=donors, labels=labels)
        assert all(set(sick[rows]) == {0, 1} for rows in (split.train, split.valid, split.test))
    sick = np.repeat([0, 1, 0, 0, 0, 0], 40)
    labels["disease"] = (sick, ["well", "sick"])
    with pytest.raises(RareClassError, match="Labels 'disease': 'sick' is found in 1 of 6 groups"):
        draw_split(sick * 5 + cell_type, SplitOptions(), groups=donors, labels=labels)


def test_too_few_groups():
    with pytest.raises(LeakageError, match=r"2 groups cannot be dealt out to 3 parts .* 'a', 'b'"):
        draw_split([0, 1, 0, 1], SplitOptions(), groups=["a", "a", "b", "b"])
    split = draw_split([0, 1, 0, 1], SplitOptions(valid=0), groups=["a", "a", "b", "b"])
    assert sorted([split.train.tolist(), split.test.tolist()]) == [[0, 1], [2, 3]]


def test_donors_of_one_class_each_leave_one_class_to_learn():
    with pytest.raises(ConstantLabelError, match="All 2 cells to learn from are 'a'; the other 2 classes"):
        draw_split([0, 0, 1, 2], SplitOptions(method="ids", train_ids=["x"]), ids=list("xxyz"), classes=list("abc"))


def test_cells_without_a_group_are_kept_together(cohort):
    donor, sick, _ = cohort
    gaps = np.where(np.isin(donor, ["d0", "d1"]), None, donor)
    with pytest.warns(GeneformerWarning, match="100 labeled cells have no group"):
        split = draw_split(sick, SplitOptions(), groups=gaps)
    assert len(np.unique(parts_of(split, 600)[:100])) == 1


@pytest.mark.parametrize("method", ["random", "stratified"])
def test_groups_on_two_sides_are_refused_unless_allowed(cohort, method):
    donor, sick, _ = cohort
    with pytest.raises(LeakageError, match=r'12 groups have cells in both of train/valid: .*method="group"'):
        draw_split(sick, SplitOptions(method=method), groups=donor)
    with pytest.warns(GeneformerWarning, match="too high"):
        split = draw_split(sick, SplitOptions(method=method, allow_leakage=True), groups=donor)
    assert list(split.shared_groups) == ["train/valid", "train/test", "valid/test"]
    assert split.shared_groups["train/test"] == tuple(sorted(np.unique(donor)))


def test_shared_groups_are_named():
    split = Split(np.array([0, 1, 2]), np.array([3]), np.array([4, 5]), "ids")
    assert shared_groups(split, ["a", "b", None, "c", "b", None]) == {"train/test": ("b",)}
    assert shared_groups(split, pd.Categorical([1, 2, 2, 2, 3, 3])) == {"train/valid": ("2",)}
    assert shared_groups(split, list("aabbcc")) == {"train/valid": ("b",)}
    assert shared_groups(split, list("aaabcc")) == {}


# Lists of ids


def test_listed_ids(cohort):
    donor, sick, _ = cohort
    options = SplitOptions(method="ids", train_ids=["d0", "d1", "d2"], valid_ids=["d4"], test_ids=["d5", "d11"])
    split = draw_split(sick, options, groups=donor)
    assert [sorted(set(donor[rows])) for rows in (split.train, split.valid, split.test)] == [
        ["d0", "d1", "d2"],
        ["d4"],
        ["d11", "d5"],
    ]
    assert (parts_of(split, 600) == -1).sum() == 300


def test_ids_of_numbers_and_cells_without_an_id():
    options = SplitOptions(method="ids", train_ids=[1, 3], test_ids=["2"])
    split = draw_split([0, 1, 0, 1, 0], options, ids=[1.0, 2.0, np.nan, 3.0, 1.0])
    assert (split.train.tolist(), split.test.tolist(), len(split.valid)) == ([0, 3, 4], [1], 0)


def test_ids_that_are_not_there(cohort):
    donor, sick, _ = cohort
    options = SplitOptions(method="ids", train_ids=["d0", "d1"], test_ids=["d2", "donor3"])
    with pytest.raises(UnknownIdError, match="test_ids names 1 ids that no cell has: 'donor3'"):
        draw_split(sick, options, ids=donor)
    with pytest.raises(KeyError):
        draw_split(sick, options, ids=donor)
    with pytest.raises(OptionError, match="Pass ids or groups"):
        draw_split(sick, options)


def test_listed_ids_without_labels(cohort):
    donor, sick, _ = cohort
    with pytest.raises(MissingLabelError, match="1 ids in test_ids"):
        draw_split(
            np.where(donor == "d2", -1, sick),
            SplitOptions(method="ids", train_ids=["d0", "d1"], test_ids=["d2"]),
            ids=donor,
        )


def test_listed_cells_of_one_donor_leak(cohort):
    donor, sick, _ = cohort
    names = [f"cell{i}" for i in range(600)]
    lists = {"train_ids": names[:130], "test_ids": names[130:200]}
    with pytest.raises(LeakageError, match="1 groups have cells in both of train/test: 'd2'"):
        draw_split(sick, SplitOptions(method="ids", **lists), ids=names, groups=donor)
    with pytest.warns(GeneformerWarning, match="too high"):
        split = draw_split(sick, SplitOptions(method="ids", allow_leakage=True, **lists), ids=names, groups=donor)
    assert split.shared_groups == {"train/test": ("d2",)}
    assert draw_split(sick, SplitOptions(method="ids", **lists), ids=names).shared_groups == {}


# Balanced


def test_a_balanced_split(cohort):
    donor, sick, _ = cohort
    age = pd.Series(donor).str[1:].astype(int).to_numpy() * 5 + 20
    options = SplitOptions(method="balanced", balance=["age"], valid=1 / 6, test=1 / 6)
    split = draw_split(sick, options, ids=donor, attributes={"age": age}, groups=donor, classes=["well", "sick"])
    parts_of(split, 600)
    assert split.shared_groups == {}
    assert [len(split.train), len(split.valid), len(split.test)] == [400, 100, 100]
    for rows in (split.train, split.valid, split.test):
        assert set(sick[rows]) == {0, 1}
    table = pd.DataFrame(split.trials)
    assert table["part"].unique().tolist() == ["test", "valid"]
    for part, rows in table.groupby("part"):
        accepted = rows[rows["accepted"]]
        assert len(accepted) == 1
        assert accepted["age_p"].item() >= 0.1
        assert accepted["label_p"].item() >= 0.1
        assert accepted["held_out"].item() == tuple(sorted(set(donor[getattr(split, part)])))
    assert equal(split, draw_split(sick, options, groups=donor, attributes={"age": age}))


def test_a_split_that_cannot_be_balanced_takes_the_best_draw(cohort):
    donor, sick, _ = cohort
    options = SplitOptions(method="balanced", balance=["age"], valid=0, max_trials=7, p_threshold=1.0)
    age = pd.Series(donor).str[1:].astype(int)
    with pytest.warns(GeneformerWarning, match="None of 7 draws of the test ids reached p >= 1 "):
        split = draw_split(sick, options, ids=donor, attributes={"age": age})
    table = pd.DataFrame(split.trials)
    assert len(table) == 7
    assert table.loc[table["accepted"], "mean_p"].item() == table["mean_p"].max()


def test_a_class_of_one_id_is_learnt(cohort):
    donor, sick, _ = cohort
    codes = np.where(donor == "d7", 2, sick)
    for seed in range(5):
        split = draw_split(
            codes,
            SplitOptions(method="balanced", balance=["age"], p_threshold=0.0, seed=seed),
            ids=donor,
            attributes={"age": pd.Series(donor).str[1:].astype(int)},
        )
        assert "d7" in donor[split.train]


def test_a_balanced_split_of_cell_types_within_donors(cohort):
    donor, _, types = cohort
    options = SplitOptions(method="balanced", balance=["sex"], valid=0.3, test=0.3)
    sex = np.where(np.isin(donor, ["d0", "d1", "d2", "d3", "d4", "d5"]), "f", "m")
    split = draw_split(types, options, ids=donor, attributes={"sex": sex})
    assert "label_p" not in split.trials[0]
    assert set(types[split.train]) == {0, 1, 2}


def test_attributes_that_do_not_fit(cohort):
    donor, sick, _ = cohort
    options = SplitOptions(method="balanced", balance=["age"])
    with pytest.raises(UnknownColumnError, match="No attribute 'age' to balance; given are 'Age'"):
        draw_split(sick, options, ids=donor, attributes={"Age": sick})
    with pytest.raises(LabelError, match="'age' differs between cells of id 'd0': 0 and 1"):
        draw_split(sick, options, ids=donor, attributes={"age": np.arange(600)})
    with pytest.raises(LabelError, match="age has 3 values"):
        draw_split(sick, options, ids=donor, attributes={"age": [1, 2, 3]})
    with pytest.raises(OptionError, match="Pass ids or groups"):
        draw_split(sick, options, attributes={"age": sick})


def test_cells_without_an_id_are_left_out_of_a_balanced_split(cohort):
    donor, sick, _ = cohort
    gaps = np.where(donor == "d9", None, donor)
    options = SplitOptions(method="balanced", balance=["age"], p_threshold=0.0)
    with pytest.warns(GeneformerWarning, match="50 labeled cells without an id"):
        split = draw_split(sick, options, ids=gaps, attributes={"age": sick})
    assert set(donor[parts_of(split, 600) == -1]) == {"d9"}


# Folds


@given(st.lists(st.integers(-1, 3), min_size=6, max_size=100), st.integers(2, 5), st.sampled_from([0.0, 0.1, 0.3]))
def test_folds_test_every_labeled_cell_once(codes, n_folds, valid):
    codes = np.array(codes)
    counts = np.bincount(codes[codes >= 0], minlength=4)
    present = counts[counts > 0]
    try:
        splits = draw_folds(codes, n_folds, valid=valid, seed=1)
    except (MissingLabelError, OutOfRangeError, RareClassError):
        n_valid = max(1, round(valid * counts.sum())) if valid else 0
        possible = (
            counts.sum() >= n_folds
            and present.min() > 1
            and counts.sum() * (1 - 1 / n_folds) - 1 - len(present) >= n_valid
        )
        assert not possible
        return
    tested = np.concatenate([split.test for split in splits])
    assert np.array_equal(np.sort(tested), np.flatnonzero(codes >= 0))
    sizes = np.array([np.bincount(codes[split.test], minlength=4) for split in splits])
    assert np.ptp(sizes, axis=0).max() <= 1
    assert np.ptp(sizes.sum(axis=1)) <= 1
    for split in splits:
        parts_of(split, len(codes))
        assert set(codes[split.train]) == set(codes[codes >= 0])
        assert len(split.valid) == (max(1, round(valid * counts.sum())) if valid else 0)


def test_folds_of_groups_are_as_even_as_those_of_scikit_learn(cohort):
    donor, _, types = cohort
    splits = draw_folds(types, 4, groups=donor)
    assert np.array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(600))
    for split in splits:
        parts_of(split, 600)
        assert shared_groups(split, donor) == {}
        assert len(split.valid) > 0
        assert split.method == "group"

    def unevenness(tests):
        shares = np.array([np.bincount(types[test], minlength=3) / np.bincount(types) for test in tests])
        return shares.std(axis=0).mean()

    theirs = StratifiedGroupKFold(4, shuffle=True, random_state=0).split(types, types, donor)
    assert unevenness([split.test for split in splits]) <= unevenness([test for _, test in theirs]) + 1e-9


def test_folds_that_cannot_be_made():
    with pytest.raises(RareClassError, match="one cell: 'b'"):
        draw_folds([0, 0, 0, 0, 1], 2, classes=["a", "b"])
    with pytest.raises(OutOfRangeError, match="n_folds=1"):
        draw_folds([0, 0, 1, 1], 1)
    with pytest.raises(OutOfRangeError, match="n_folds=5"):
        draw_folds([0, 0, 1, 1], 5)
    with pytest.raises(OutOfRangeError, match=r"valid=0\.5"):
        draw_folds([0, 0, 1, 1], 2, valid=0.5)
    with pytest.raises(LeakageError, match="2 groups cannot be dealt out to 3 parts"):
        draw_folds([0, 1, 0, 1], 3, groups=list("aabb"))
    with pytest.raises(LeakageError, match="1 groups cannot be dealt out to 2 parts"):
        draw_folds([0, 1, 0, 1], 2, groups=list("aabb"))
    assert len(draw_folds([0, 1, 0, 1], 2, groups=list("aabb"), valid=0)) == 2


# What is learnt


def test_classes_that_are_tested_but_not_learnt():
    split = Split(np.array([0, 1]), np.array([2]), np.array([3, 4]), "ids")
    kinds = OneOf("kind", ("a", "b", "c"))
    with pytest.raises(UnknownClassError, match=r"1 classes of the test part are not learnt: 'c' \(2 cells\)"):
        kinds.prepare(np.array([0, 1, 0, 2, 2]), split)
    with pytest.warns(GeneformerWarning, match="Labels 'kind': None of the 1 cells measured is of 'a'"):
        kinds.prepare(np.array([0, 1, 0, MISSING, 1]), split)
    with pytest.raises(UnknownClassError, match="valid part"):
        kinds.prepare(np.array([0, 1, 2, 0, 0]), split)


def test_one_class_to_learn():
    split = Split(np.array([0, 1]), np.array([2]), np.array([3]), "ids")
    kinds = OneOf("kind", ("a", "b"))
    with pytest.raises(ConstantLabelError, match="2 cells to learn from are all 'a'"):
        kinds.prepare(np.array([0, 0, 1, 1]), split)
    with pytest.raises(ConstantLabelError, match="without a label"):
        kinds.prepare(np.array([MISSING, MISSING, 1, 1]), split)
    nobody = Split(np.array([], dtype=int), np.array([2]), np.array([3]), "ids")
    with pytest.raises(ConstantLabelError, match="0 cells to learn from"):
        kinds.prepare(np.array([0, 0, 1, 1]), nobody)


def test_the_hash_seed_changes_nothing():
    code = (
        "import numpy as np; from geneformer.options import SplitOptions; from geneformer.finetuning.splits import *\n"
        "groups = [f'g{i % 9}' for i in range(90)]; codes = np.arange(90) // 7 % 3\n"
        "balanced = SplitOptions(method='balanced', balance=['a'], p_threshold=0)\n"
        "for split in (draw_split(codes, SplitOptions()), draw_split(codes, SplitOptions(), groups=groups),\n"
        "    draw_split(codes, balanced, ids=groups, attributes={'a': groups}), *draw_folds(codes, 3, groups=groups),\n"
        "):\n"
        "    print(split.train.tolist(), split.valid.tolist(), split.test.tolist(), split.trials)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(told) == 1


# Draws of ids


def draws_of(attributes, size, has_class, **options):
    return balance_ids(attributes, size, has_class, SplitOptions(method="balanced", balance=["x"], **options))


@pytest.fixture
def donors():
    rng = np.random.default_rng(0)
    sick = np.arange(40) % 2 == 0
    frame = pd.DataFrame({"age": rng.integers(20, 80, 40), "sex": rng.choice(["f", "m"], 40)})
    return frame, np.column_stack([sick, ~sick])


def test_the_first_draw_that_passes_is_taken(donors):
    frame, has_class = donors
    best, trials = draws_of(frame, 8, has_class, p_threshold=0.4)
    assert best is trials[-1]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert [trial.passes(0.4) for trial in trials] == [False] * (len(trials) - 1) + [True]
    assert len(trials) > 1
    assert len(best.held_out) == 8


def test_p_values_and_summaries_are_those_of_the_two_sides(donors):
    frame, has_class = donors
    for trial in draws_of(frame, 8, has_class, p_threshold=1.0, max_trials=20)[1]:
        held = np.isin(np.arange(40), trial.held_out)
        age, sex = frame["age"], frame["sex"]
        assert trial.p["age"] == pytest.approx(stats.ranksums(age[~held], age[held]).pvalue)
        assert trial.summary["age"] == pytest.approx((age[~held].mean(), age[held].mean()))
        counts = [{value: int((sex[side] == value).sum()) for value in "fm"} for side in (~held, held)]
        assert trial.summary["sex"] == tuple(counts)
        expected = [counts[1][value] * 32 / 8 for value in "fm"]
        statistic = sum((counts[0][v] - e) ** 2 / e for v, e in zip("fm", expected, strict=True) if e)
        assert trial.p["sex"] == pytest.approx(stats.chi2.sf(statistic, 1) if min(expected) else 0.0)
        assert trial.mean_p == pytest.approx((trial.p["age"] + trial.p["sex"]) / 2)


def test_the_best_draw_is_taken_where_none_passes(donors):
    frame, has_class = donors
    best, trials = draws_of(frame, 8, has_class, p_threshold=1.0, max_trials=30)
    assert len(trials) == 30
    assert not any(trial.passes(1.0) for trial in trials)
    assert best.mean_p == max(trial.mean_p for trial in trials)
    assert best is not trials[-1]


def test_a_seed_fixes_the_draws(donors):
    frame, has_class = donors

    def drawn(**changes):
        return [t.held_out.tolist() for t in draws_of(frame, 8, has_class, p_threshold=1.0, max_trials=5, **changes)[1]]

    assert drawn() == drawn(seed=0) != drawn(seed=1)
    assert len({tuple(places) for places in drawn()}) == 5


@given(
    st.integers(1, 5).flatmap(
        lambda c: st.lists(st.lists(st.booleans(), min_size=c, max_size=c).filter(any), min_size=2, max_size=15)
    ),
    st.integers(1, 6),
    st.integers(0, 3),
)
def test_every_class_is_learnt_and_held_out_where_it_can_be(has_class, size, seed):
    has_class = np.array(has_class)
    has_class = has_class[:, has_class.any(axis=0)]
    try:
        best, _ = draws_of({"age": np.arange(len(has_class))}, size, has_class, seed=seed)
    except RareClassError:
        assert len(has_class) <= has_class.shape[1]  # one id per class is all there are
        return
    held = np.isin(np.arange(len(has_class)), best.held_out)
    assert has_class[~held].any(axis=0).all()
    assert held.any()
    alone = has_class.sum(axis=1).max() == 1
    if alone:  # ids of one class each: two are enough to be on both sides
        assert has_class[held].any(axis=0)[has_class.sum(axis=0) > 1].all()
        forced = (has_class.sum(axis=0) > 1).sum()
        assert held.sum() == max(forced, min(size, len(held) - has_class.shape[1]))


@pytest.mark.parametrize(
    "values",
    [
        [True, False] * 4,
        ["a", "b"] * 4,
        pd.Categorical(["a", "b"] * 4),
        ["a", None] * 4,
        pd.array(["a", pd.NA] * 4, dtype="string"),
    ],
)
def test_whatever_is_no_number_is_counted(values):
    best, _ = draws_of({"x": values}, 2, np.ones((8, 1), dtype=bool))
    learnt, held = best.summary["x"]
    assert sum(learnt.values()) == 6
    assert sum(held.values()) == 2
    assert len(learnt) == 2


@pytest.mark.parametrize(
    "values", [[1, 2.5, None, 4] * 2, pd.Categorical([1, 2] * 4), pd.array([1, None] * 4, "Int64")]
)
def test_numbers_are_averaged_without_the_missing(values):
    best, _ = draws_of({"x": values}, 2, np.ones((8, 1), dtype=bool))
    numbers = pd.Series(values).astype(float)
    held = np.isin(np.arange(8), best.held_out)
    expected = [side.mean() if side.notna().any() else None for side in (numbers[~held], numbers[held])]
    assert list(best.summary["x"]) == expected


def test_an_attribute_that_tells_nothing_passes():
    best, trials = draws_of({"x": ["same"] * 8, "y": [np.nan] * 8}, 2, np.ones((8, 1), dtype=bool), p_threshold=1.0)
    assert len(trials) == 1
    assert best.p["x"] == 1
    assert np.isnan(best.p["y"])
    assert best.mean_p == 1


def test_draws_that_cannot_be_made():
    with pytest.raises(RareClassError, match="All 3 ids are needed to learn 3 classes"):
        draws_of({"x": [1, 2, 3]}, 1, np.eye(3, dtype=bool))
    with pytest.raises(LabelError, match="'x' mixes texts and numbers: 1, 'b'"):
        draws_of({"x": [1, "b", 1]}, 1, np.ones((3, 1), dtype=bool))
    with pytest.raises(OutOfRangeError):
        draws_of({"x": [1, 2, 3]}, 1, np.ones((3, 1), dtype=bool), max_trials=0)


# Genes


@st.composite
def problems(draw):
    """Codes of at least `n_folds` genes per class."""
    n_folds = draw(st.integers(2, 6))
    sizes = draw(st.lists(st.integers(n_folds, 20), min_size=2, max_size=4))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(codes), n_folds


@given(problems(), st.sampled_from([0.0, 0.1, 0.5, 0.95]), st.integers(0, 5))
def test_every_gene_is_held_out_once(problem, valid, seed):
    codes, n_folds = problem
    folds = draw_gene_folds(codes, n_folds, valid=valid, seed=seed)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(codes)))
    for fold in folds:
        assert sorted(np.concatenate([fold.train, fold.valid, fold.test])) == list(range(len(codes)))
        assert fold.learnt.tolist() == sorted([*fold.train, *fold.valid])
        assert set(codes[fold.train]) == set(codes)
        n_free = len(fold.learnt) - len(set(codes))
        assert len(fold.valid) == min(round(valid * len(fold.learnt)), n_free)
    held_out = np.array([np.bincount(codes[fold.test], minlength=codes.max() + 1) for fold in folds])
    assert (np.ptp(held_out, axis=0) <= 1).all()
    assert np.ptp(held_out.sum(axis=1)) <= 1


def test_the_seed_decides():
    codes = np.arange(60) % 2
    parts = [[fold.test.tolist() for fold in draw_gene_folds(codes, 5, seed=seed)] for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert split_genes(codes, test=0.2, seed=3).test.tolist() == split_genes(codes, test=0.2, seed=3).test.tolist()


def test_a_class_with_fewer_genes_than_folds_is_refused():
    with pytest.raises(GeneListError, match=r"Too few genes .* for 5 folds: 'rare' 3.*pass --folds 3 \(n_folds=3\)"):
        draw_gene_folds([0] * 9 + [1] * 3, 5, classes=("common", "rare"))
    with pytest.raises(GeneListError, match=r"'1' 1. Every fold .* give more genes\.$"):
        draw_gene_folds([0] * 9 + [1], 2)
    with pytest.raises(OutOfRangeError, match="n_folds=1"):
        draw_gene_folds([0, 1, 0, 1], 1)


@given(problems(), st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.0, 0.2, 0.4]))
def test_shares_are_of_all_genes(problem, valid, test):
    codes, _ = problem
    n, n_classes = len(codes), len(set(codes))
    if test and not 0 < round(test * n) <= n - n_classes:
        with pytest.raises(GeneListError, match="at least one gene"):
            split_genes(codes, valid=valid, test=test)
        return
    parts = split_genes(codes, valid=valid, test=test)
    assert sorted(np.concatenate([parts.train, parts.valid, parts.test])) == list(range(n))
    assert len(parts.test) == round(test * n)
    assert len(parts.valid) in (
        round(valid * n),
        round(valid * n) - 1,
        round(valid * n) + 1,
        len(parts.learnt) - n_classes,
    )
    assert set(codes[parts.train]) == set(codes)


def test_two_genes_are_both_learnt_from():
    parts = split_genes([0, 1], valid=0.5)
    assert parts.train.tolist() == [0, 1]
    assert not len(parts.valid)
    with pytest.raises(GeneListError, match="one of each class must be left"):
        split_genes([0, 1], test=0.5)
