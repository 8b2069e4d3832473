"""What may be written for a perturbation, what it means, and how it is refused before the network runs."""

from dataclasses import replace

import numpy as np
import pytest

from geneformer.errors import (
    AbsentGeneError,
    GeneformerWarning,
    GroupTooLargeError,
    NoCellsError,
    OptionError,
    OutOfRangeError,
    PerturbationError,
    StateError,
    UnknownChoiceError,
    UnknownGeneError,
)
from geneformer.models.encoder import GeneformerEncoder
from geneformer.options import PerturbOptions
from geneformer.perturbation.edits import Step
from geneformer.perturbation.plan import cells_per_token, find_targets
from geneformer.perturbation.run import run_plan
from small_cells import dataset_of
from small_plans import V1, frame_of, parsed, planned, small_cells, small_model


def token(symbol):
    """Token id of a symbol, by the published dictionaries."""
    [found] = [t for t, gene in enumerate(V1.gene_of) if V1.symbol_of(str(gene)) == symbol]
    return found


LYZ, FTL, CST3, ISG15, CD3E, B2M = (token(name) for name in ("LYZ", "FTL", "CST3", "ISG15", "CD3E", "B2M"))


def cells(*rows, **columns):
    return dataset_of(rows, vocabulary=V1.fingerprint, **columns)


@pytest.fixture(autouse=True)
def nothing_runs(request, monkeypatch):
    """No forward pass, but where a test asks for one."""
    if "runs" in request.fixturenames:
        return

    def refuse(*_, **__):
        msg = "the network ran"
        raise AssertionError(msg)

    for name in ("forward", "embed_tokens", "run_layers"):
        monkeypatch.setattr(GeneformerEncoder, name, refuse)


@pytest.fixture
def runs():
    """The network may run."""


@pytest.mark.parametrize(
    ("entry", "name", "steps"),
    [
        ("LYZ", "LYZ", [("delete", (LYZ,), 1.0)]),
        ("lyz", "lyz", [("delete", (LYZ,), 1.0)]),
        ("ENSG00000090382", "ENSG00000090382", [("delete", (LYZ,), 1.0)]),
        ("ensg00000090382.7", "ensg00000090382.7", [("delete", (LYZ,), 1.0)]),
        ("LYZ+FTL", "LYZ+FTL", [("delete", (LYZ, FTL), 1.0)]),
        (" FTL + lyz ", "FTL + lyz", [("delete", (FTL, LYZ), 1.0)]),
        ("mine=ENSG00000090382+ftl+G1P2", "mine", [("delete", (LYZ, FTL, ISG15), 1.0)]),
        ("a=b=LYZ", "a=b", [("delete", (LYZ,), 1.0)]),
        ("ISG15+G1P2+ENSG00000187608", "ISG15+G1P2+ENSG00000187608", [("delete", (ISG15,), 1.0)]),
        ("overexpress:LYZ", "overexpress:LYZ", [("overexpress", (LYZ,), 1.0)]),
        ("inhibit@0.25:LYZ", "inhibit@0.25:LYZ", [("inhibit", (LYZ,), 0.25)]),
        (
            "delete:LYZ > overexpress:FTL+CST3",
            "delete:LYZ > overexpress:FTL+CST3",
            [("delete", (LYZ,), 1.0), ("overexpress", (FTL, CST3), 1.0)],
        ),
        (
            "both = activate @ .5 : LYZ>inhibit:FTL > CST3",
            "both",
            [("activate", (LYZ,), 0.5), ("inhibit", (FTL,), 1.0), ("delete", (CST3,), 1.0)],
        ),
    ],
)
def test_grammar(entry, name, steps):
    found = parsed(entry)
    assert found.name == name
    assert found.steps == tuple(Step(*step) for step in steps)


def test_an_entry_without_an_edit_takes_that_of_the_run():
    options = PerturbOptions(edit="inhibit", dose=0.5)
    assert parsed("LYZ", options).steps == (Step("inhibit", (LYZ,), 0.5),)
    assert parsed("activate:LYZ", options).steps == (Step("activate", (LYZ,), 0.5),)
    assert parsed("activate@1:LYZ", options).edit == "activate@1"


@pytest.mark.parametrize(
    ("entry", "error", "told"),
    [
        ("LYZZ", UnknownGeneError, r"'LYZZ'.*Ensembl ids or symbols.*Did you mean \"LYZ\""),
        ("FTL+nonsense+LYZ", UnknownGeneError, "25,424 genes of vocabulary V1: 'nonsense'"),
        ("FTL+", UnknownGeneError, "''"),
        ("", UnknownGeneError, "''"),
        ("x=", UnknownGeneError, "''"),
        ("FTL >", UnknownGeneError, "''"),
        ("ENSG99999999999", UnknownGeneError, "'ENSG99999999999'"),
        ("deleet:LYZ", UnknownChoiceError, "edit='deleet'.*Did you mean \"delete\""),
        ("Delete:LYZ", UnknownChoiceError, 'Did you mean "delete"'),
        ("inhibit@much:LYZ", OptionError, 'dose "much", which is no number.*inhibit@0.25'),
        ("inhibit@:LYZ", OptionError, 'dose "", which is no number'),
        ("inhibit@2:LYZ", OutOfRangeError, "dose=2.0.*at most 1"),
        ("inhibit@0:LYZ", OutOfRangeError, "dose=0.0.*more than 0"),
        ("inhibit@nan:LYZ", OutOfRangeError, "dose=nan"),
        (":LYZ", UnknownChoiceError, "edit=''"),
        ("=LYZ", OptionError, 'no name before "="'),
        ("delete@0.5:LYZ", OptionError, 'has a dose, which "delete" does not take'),
        ("ALL", OptionError, '"ALL" is not clear. Write "all" for every gene'),
    ],
)
def test_entries_that_cannot_be_read(entry, error, told):
    with pytest.raises(error, match=told):
        planned(genes=("FTL", entry), unknown="error")


@pytest.mark.parametrize(
    ("rows", "options", "error", "told"),
    [
        ([[LYZ, FTL]], {"genes": ("CD3E",)}, AbsentGeneError, "'CD3E' needs cells.*CD3E; of the 1 .*overexpress it"),
        ([[LYZ, FTL], [FTL, CST3]], {"genes": ("LYZ",), "min_cells": 2}, AbsentGeneError, "fewer than 2"),
        ([[LYZ, FTL], [FTL, CST3]], {"genes": ("all",), "min_cells": 3}, AbsentGeneError, "3 or more of the 2 cells"),
        (
            [[LYZ, FTL, B2M], [FTL, CST3, B2M]],
            {"genes": ("p=LYZ+CST3",)},
            AbsentGeneError,
            "'p' needs cells that have all of its 2 genes at once; 0 of 2 cells.*min_cells=1",
        ),
        (
            [[LYZ, FTL, B2M], [FTL, CST3]],
            {"genes": ("inhibit:LYZ > delete:CST3",)},
            AbsentGeneError,
            "all of its 2 genes",
        ),
        ([[LYZ, FTL], [CST3]], {"genes": ("g=LYZ+FTL+CST3",)}, GroupTooLargeError, "deletes 3 .*largest cell has 2"),
        ([[LYZ, FTL]], {"genes": ("LYZ+FTL",)}, GroupTooLargeError, "nothing would be left"),
        ([[LYZ, FTL]], {"genes": ("LYZ", "LYZ")}, OptionError, "are called 'LYZ'.*other_name=GENE"),
        ([[LYZ, FTL]], {"genes": ("x=LYZ", "x=FTL")}, OptionError, "are called 'x'"),
        ([[LYZ, FTL]], {"genes": ("LYZ", "ENSG00000090382")}, OptionError, "'LYZ' and 'ENSG00000090382' are the same"),
        ([[LYZ, FTL, CST3]], {"genes": ("FTL+LYZ", "LYZ+FTL")}, OptionError, "are the same perturbation"),
        ([[LYZ, FTL]], {"genes": ("all", "LYZ")}, OptionError, "'LYZ' and 'ENSG00000090382' are the same"),
        ([[LYZ, FTL]], {"genes": ("all", "ENSG00000090382")}, OptionError, "are called 'ENSG00000090382'"),
        ([[LYZ, FTL]], {"genes": ("overexpress:LYZ",)}, NoCellsError, "None of the perturbations changes"),
        ([[LYZ, FTL]], {"genes": ("activate:LYZ",)}, NoCellsError, "other genes, or choose other cells"),
        ([[LYZ, FTL]], {"genes": ("overexpress:CD3E > delete:CD3E",)}, NoCellsError, "None of"),
        ([[LYZ]], {}, NoCellsError, "None of"),
        ([[LYZ, FTL]], {"anchor": "CD3E"}, AbsentGeneError, "anchor CD3E is found in 0 of the 1 .*min_cells=1"),
        ([[LYZ, FTL]], {"anchor": "CD3EE"}, UnknownGeneError, "'CD3EE'.*Did you mean"),
    ],
)
def test_perturbations_that_fit_no_cell(rows, options, error, told):
    with pytest.raises(error, match=told):
        planned(cells(*rows), **options)


def panel_of(plan):
    panel = plan.provenance["panel"]
    return panel["asked"], panel["used"], dict(zip(panel["left_out"], panel["reasons"], strict=True))


def test_absent_genes_are_left_out_at_once_and_the_run_goes_on():
    rows = cells([LYZ, FTL, B2M], [FTL, CST3, B2M])
    asked = (
        "LYZ",
        "LYZZ",
        "CD3E",
        "overexpress:CD3E",
        "FTL",
        "NOSUCHGENE",
        "delete:NOSUCHGENE > overexpress:LYZ",
        "LYZ+CST3",
    )
    with pytest.warns(GeneformerWarning, match="3 of 8 perturbations are used") as caught:
        plan = planned(rows, genes=asked, min_cells=1)
    assert len(caught) == 1
    assert all(f"{name!r}" in str(caught[0].message) for name in ("LYZZ", "CD3E", "NOSUCHGENE", "LYZ+CST3"))
    assert [p.name for p in plan.targets.named] == ["LYZ", "overexpress:CD3E", "FTL"]
    n_asked, n_used, left_out = panel_of(plan)
    assert (n_asked, n_used) == (8, 3)
    assert left_out == {
        "LYZZ": "without a token in vocabulary V1",
        "CD3E": "in none of the cells",
        "NOSUCHGENE": "without a token in vocabulary V1",
        "delete:NOSUCHGENE > overexpress:LYZ": "without a token in vocabulary V1",
        "LYZ+CST3": "not together in any cell",
    }
    with pytest.warns(GeneformerWarning, match="in fewer than 2 of the cells"):
        assert [p.name for p in planned(rows, genes=("LYZ", "FTL"), min_cells=2).targets.named] == ["FTL"]


def test_a_group_goes_on_without_absent_members():
    rows = cells([LYZ, FTL, B2M], [FTL, CST3, B2M])
    with pytest.warns(GeneformerWarning, match="of 'mine', which goes on without"):
        plan = planned(rows, genes=("mine=LYZ+CD3E+NOSUCHGENE", "activate@0.5:FTL+NOSUCHGENE", "B2M"))
    assert [(p.name, p.steps) for p in plan.targets.named] == [
        ("mine", (Step("delete", (LYZ,)),)),
        ("activate@0.5:FTL", (Step("activate", (FTL,), 0.5),)),
        ("B2M", (Step("delete", (B2M,)),)),
    ]
    assert panel_of(plan)[:2] == (3, 3)
    assert set(panel_of(plan)[2]) == {"CD3E", "NOSUCHGENE"}
    with pytest.warns(GeneformerWarning, match="the same as another one"):
        plan = planned(rows, genes=("LYZ+NOSUCHGENE", "LYZ"))
    assert [p.name for p in plan.targets.named] == ["LYZ"]


def test_nothing_left_of_a_panel_is_an_error_and_so_is_anything_missing_where_that_is_asked_for():
    rows = cells([LYZ, FTL])
    with pytest.raises(AbsentGeneError, match=r"None of the 2 perturbations .*CD3E.*CST3"):
        planned(rows, genes=("CD3E", "CST3"))
    with pytest.raises(UnknownGeneError, match="'LYZZ', 'NOSUCHGENE'"):
        planned(rows, genes=("LYZZ", "NOSUCHGENE"))
    with pytest.raises(AbsentGeneError, match=r"Not all of the 2 perturbations .*'CD3E'"):
        planned(rows, genes=("LYZ", "CD3E"), unknown="error")
    with pytest.raises(AbsentGeneError, match=r"'CD3E'"):
        planned(rows, genes=("LYZ+CD3E",), unknown="error")
    with pytest.raises(UnknownGeneError, match="'NOSUCHGENE'"):
        planned(rows, genes=("LYZ", "LYZ+NOSUCHGENE"), unknown="error")


def test_a_group_larger_than_the_input():
    names = [str(gene) for gene in V1.genes[:2049]]
    with pytest.raises(GroupTooLargeError, match="overexpresses 2,049 genes at once; a cell has room for 2,048"):
        planned(cells([LYZ, FTL]), genes=("big=" + "+".join(names),), edit="overexpress")


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"genes": ()}, OptionError, "No gene is named"),
        ({"edit": "remove"}, UnknownChoiceError, "edit='remove'"),
        ({"start": "sick", "goal": "sick"}, StateError, "must differ; they are 'sick', 'sick'"),
        ({"start": "sick", "goal": "well", "alternates": ("sick",)}, StateError, "must differ"),
        ({"start": "sick", "alternates": ("other",)}, StateError, r"alternates=\('other',\) need a goal"),
        ({"goal": "well"}, StateError, "goal='well' needs start"),
        ({"dose": 0.0}, OutOfRangeError, "dose=0.0"),
        ({"method": "screen", "genes": ("LYZ",)}, OptionError, 'Use genes="all"'),
    ],
)
def test_options_that_contradict_each_other(options, error, told):
    with pytest.raises(error, match=told):
        PerturbOptions(**options)
    assert issubclass(StateError, PerturbationError)


# Which perturbations a cell gets


def test_every_gene_found_in_enough_cells():
    tokens = cells([LYZ, FTL, B2M], [FTL, LYZ, CST3], [FTL, ISG15])
    wanted = {1: {LYZ, FTL, B2M, CST3, ISG15}, 2: {LYZ, FTL}, 3: {FTL}}
    for least, genes in wanted.items():
        targets = find_targets(tokens, small_model(), PerturbOptions(min_cells=least))
        assert set(targets.every.tolist()) == genes
        first = [perturbation.tokens for perturbation in targets.of_cell(tokens[0])]
        assert first == [(gene,) for gene in tokens[0].tolist() if gene in genes]
    assert cells_per_token(tokens, small_model())[[LYZ, FTL, B2M, CD3E]].tolist() == [2, 3, 1, 0]


def test_special_tokens_are_no_targets():
    targets = planned(small_cells(2, 9, "V2"), model=v2()).targets
    assert not np.isin(targets.every, [0, 1, 2, 3]).any()


def v2():
    from small_plans import small_model

    return small_model("V2")


def test_named_ones_beside_all():
    tokens = cells([LYZ, FTL, CST3])
    names = [
        p.name
        for p in find_targets(tokens, small_model(), PerturbOptions(genes=("all", "two=LYZ+FTL"))).of_cell(tokens[0])
    ]
    assert names == ["two", *(str(V1.gene_of[gene]) for gene in (LYZ, FTL, CST3))]


def test_an_anchor_joins_every_gene_and_keeps_the_order_of_the_cell():
    tokens = cells([LYZ, FTL, CST3], [B2M, LYZ])
    targets = find_targets(tokens, small_model(), PerturbOptions(anchor="ftl"))
    first = targets.of_cell(tokens[0])
    assert [p.tokens for p in first] == [(LYZ, FTL), (FTL, CST3)]
    ftl, lyz = str(V1.gene_of[FTL]), str(V1.gene_of[LYZ])
    assert first[0].name == f"{ftl}+{lyz}"
    assert targets.of_cell(tokens[1]) == []
    with pytest.raises(OptionError, match="Two perturbations"):
        find_targets(tokens, small_model(), PerturbOptions(genes=("all", f"{ftl}+{lyz}"), anchor="FTL"))


def test_an_anchor_joins_the_first_edit_of_named_ones():
    options = PerturbOptions(genes=("LYZ > overexpress:ISG15", "CST3+FTL"), anchor="FTL")
    targets = find_targets(cells([LYZ, FTL, CST3]), small_model(), options)
    assert [p.steps for p in targets.named] == [
        (Step("delete", (FTL, LYZ)), Step("overexpress", (ISG15,))),
        (Step("delete", (CST3, FTL)),),
    ]


@pytest.mark.usefixtures("runs")
def test_only_cells_that_have_the_genes_are_told():
    tokens = cells([LYZ, FTL, B2M], [FTL, CST3, CD3E], [B2M, LYZ])
    entries = ("lyz", "pair=LYZ+B2M", "overexpress:CST3 > delete:CST3+FTL", "overexpress:FTL")
    found = frame_of(run_plan(planned(tokens, genes=entries)))
    assert found.groupby("perturbation")["cell_id"].apply(list).to_dict() == {
        "lyz": ["0", "2"],
        "pair": ["0"],
        "overexpress:CST3 > delete:CST3+FTL": ["0", "1"],
        "overexpress:FTL": ["0", "2"],
    }
    ensembl = {gene: str(V1.gene_of[gene]) for gene in (LYZ, B2M, CST3, FTL)}
    genes = dict(zip(found["perturbation"], found["genes"], strict=True))
    assert genes["pair"] == f"{ensembl[LYZ]}+{ensembl[B2M]}"
    assert genes["overexpress:CST3 > delete:CST3+FTL"] == f"{ensembl[CST3]}+{ensembl[FTL]}"
    edits = dict(zip(found["perturbation"], found["edit"], strict=True))
    assert (edits["lyz"], edits["overexpress:CST3 > delete:CST3+FTL"]) == ("delete", "overexpress > delete")


def test_genes_beyond_the_longest_cell_of_a_model_are_not_there():
    model = replace(small_model(), cut=2)
    rows = cells([LYZ, FTL, CST3], [FTL, LYZ, CST3])
    with pytest.raises(AbsentGeneError, match="'CST3' needs cells that have CST3"):
        planned(rows, model, genes=("CST3",), truncate=True)
    with pytest.raises(GroupTooLargeError, match="deletes 2 genes at once, and the largest cell has 2"):
        planned(rows, model, genes=("LYZ+FTL",), truncate=True)
    with pytest.raises(GroupTooLargeError, match="a cell has room for 2"):
        planned(rows, model, genes=("LYZ+FTL+CST3",), edit="overexpress", truncate=True)
    assert cells_per_token(rows, model)[CST3] == 0
