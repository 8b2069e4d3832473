"""Gene identifiers as they come: found, repaired, summed, counted, or refused by what they are."""

import json

import numpy as np
import pytest

from geneformer.errors import (
    GeneIdsNotFoundError,
    TooFewGenesMatchedError,
    UnknownColumnError,
    UnsupportedGeneIdsError,
    WrongSpeciesError,
)
from geneformer.genes.lookup import check_matched_share, resolve_genes
from geneformer.genes.vocabulary import MemoryTables, Vocabulary

TP53, GAPDH, ACTB, CD3D, MS4A1 = (
    "ENSG00000141510",
    "ENSG00000111640",
    "ENSG00000075624",
    "ENSG00000167286",
    "ENSG00000156738",
)
HUMAN = [TP53, GAPDH, ACTB, CD3D, MS4A1]
SYMBOLS = ["TP53", "GAPDH", "ACTB", "CD3D", "MS4A1"]
MOUSE_SYMBOLS = ["Trp53", "Gapdh", "Actb", "Cd3d", "Ms4a1", "Htr7", "0610009B20Rik", "mt-Nd1"]
MOUSE_IDS = [f"ENSMUSG{n:011d}" for n in (24798, 42385, 36198, 28780, 15843)]


@pytest.fixture(scope="module", params=["V1", "V2"])
def vocabulary(request):
    return Vocabulary.load(request.param)


@pytest.fixture(scope="module")
def v1():
    return Vocabulary.load("V1")


@pytest.fixture(scope="module")
def v2():
    return Vocabulary.load("V2")


def genes(match):
    return [match.vocabulary.genes[p] if p >= 0 else None for p in match.positions]


@pytest.mark.parametrize(
    ("name", "gene", "repair"),
    [
        (TP53, TP53, None),
        ("ENSG00000141510.18", TP53, "version"),
        ("ensg00000141510", TP53, "case"),
        ("ensg00000141510.2", TP53, "version"),
        ("  ENSG00000141510\t", TP53, "spaces"),
        ("GRCh38_ENSG00000141510", TP53, "prefix"),
        ("GRCh38_____ENSG00000141510.3", TP53, "prefix"),
        ("hg19_TP53", TP53, "prefix"),
        ("GRCh38-2020-A_TP53", TP53, "prefix"),
        ("GRCh38_premrna___TP53", TP53, "prefix"),
        ("ENSG00000141510_PAR_Y", TP53, "par_y"),
        ("ENSG00000141510.18_PAR_Y", TP53, "par_y"),
        ("TP53", TP53, None),
        ("tp53", TP53, "case"),
        ("C9orf72", "ENSG00000147894", None),
        ("C9ORF72", "ENSG00000147894", None),
        ("MT-ND1", "ENSG00000198888", None),
        ("ENSA", "ENSG00000143420", None),
        (b"TP53", TP53, None),
        (np.str_("TP53"), TP53, None),
    ],
)
def test_one_name(vocabulary, name, gene, repair):
    match = resolve_genes({"index": [name, GAPDH]}, vocabulary)
    assert genes(match) == [gene, GAPDH]
    assert (repair in match.n_repaired) if repair else not match.n_repaired


@pytest.mark.parametrize(
    "name", ["RP11-34P13.3", "AC090498.1", "UQCR11.1", "ENSG00000141510.", "TP53.2", "ENSG1415", "7SK--6"]
)
def test_names_that_only_look_repairable(vocabulary, name):
    assert genes(resolve_genes({"index": [name, GAPDH]}, vocabulary)) == [None, GAPDH]


@pytest.mark.parametrize("name", [None, float("nan"), "", " ", "nan", "NaN", "None", "NA", "<NA>", "null", np.nan])
def test_missing_names(vocabulary, name):
    match = resolve_genes({"index": [name, GAPDH]}, vocabulary)
    assert genes(match) == [None, GAPDH]
    assert match.n_missing == 1


def test_ids_and_symbols_may_be_mixed(vocabulary):
    match = resolve_genes({"index": [TP53, "GAPDH", f"{ACTB}.4", "cd3d", "nonsense"]}, vocabulary)
    assert genes(match) == [TP53, GAPDH, ACTB, CD3D, None]
    assert match.n_by_how == {"id": 2, "symbol": 2, "retired": 0, "alias": 0}


def test_earlier_symbols_are_aliases(vocabulary):
    match = resolve_genes({"index": ["CPAMD5", "GAPDH"]}, vocabulary)
    assert genes(match) == ["ENSG00000175899", GAPDH]
    assert match.n_by_how["alias"] == 1


def test_duplicates_are_summed(vocabulary):
    match = resolve_genes({"index": [TP53, "TP53", GAPDH, f"{TP53}.1", ACTB]}, vocabulary)
    assert genes(match) == [TP53, TP53, GAPDH, TP53, ACTB]
    assert (match.n_matched, match.n_distinct) == (5, 3)
    assert match.report([1] * 5)["genes_summed"] == 2


class TestPublishedMapping:
    """With V2 an identifier stands for what the published mapping dictionary says, upper-cased."""

    def test_equal_for_every_identifier_there_is(self, v2):
        mapping = v2.published_tables()["ensembl_mapping_dict"]
        names = [name for name in mapping if name not in ("NA", "NAN")]
        match = resolve_genes({"ensembl_id": names}, v2)
        tokens = v2.token_of
        assert genes(match) == [mapping[name] if mapping[name] in tokens else None for name in names]

    def test_a_retired_id_joins_its_gene(self, v2):
        retired = next(
            name
            for name, gene in v2.aliases.items()
            if name.startswith("ENSG") and name != gene and gene in v2.token_of
        )
        match = resolve_genes({"ensembl_id": [retired, v2.aliases[retired], GAPDH]}, v2)
        assert match.positions[0] == match.positions[1]
        assert match.n_by_how["retired"] == 1


class TestBorrowedHistory:
    """V1 knows no retired ids; those of V2 help out where the gene is not in the data itself."""

    RETIRED, CURRENT = "ENSG00000228439", "ENSG00000279170"

    def test_a_retired_id_stands_for_its_gene(self, v1):
        match = resolve_genes({"ensembl_id": [self.RETIRED, GAPDH]}, v1)
        assert genes(match) == [self.CURRENT, GAPDH]
        assert match.n_by_how["retired"] == 1

    def test_but_not_beside_the_gene_itself(self, v1):
        match = resolve_genes({"ensembl_id": [self.RETIRED, self.CURRENT, GAPDH]}, v1)
        assert genes(match) == [None, self.CURRENT, GAPDH]
        assert match.report([1, 1, 1])["genes_summed"] == 0

    def test_and_not_when_told_so(self, v1):
        match = resolve_genes({"ensembl_id": [self.RETIRED, GAPDH]}, v1, borrow=False)
        assert genes(match) == [None, GAPDH]

    def test_ids_of_v1_stay_what_they_are(self, v1):
        match = resolve_genes({"ensembl_id": v1.genes.tolist()}, v1)
        assert match.positions.tolist() == list(range(len(v1.genes)))
        assert match.n_by_how["id"] == len(v1.genes)

    def test_two_vocabularies_with_one_fingerprint_keep_their_own_symbols(self, v1):
        fields = {name: getattr(v1, name) for name in ("genes", "token_ids", "medians", "special_tokens", "input_size")}
        renamed = Vocabulary(name="x", **fields, tables=MemoryTables(medians={}, symbols={"ZZZ9": TP53}, aliases=None))
        assert renamed == v1
        assert genes(resolve_genes({"index": ["ZZZ9", GAPDH]}, v1)) == [None, GAPDH]
        assert genes(resolve_genes({"index": ["ZZZ9", GAPDH]}, renamed)) == [TP53, GAPDH]


class TestColumns:
    def test_ensembl_ids_come_before_symbols(self, vocabulary):
        match = resolve_genes({"index": SYMBOLS, "gene_symbol": SYMBOLS, "gene_ids": HUMAN}, vocabulary)
        assert (match.column, match.kind) == ("gene_ids", "ensembl")

    def test_ensembl_ids_in_the_index(self, vocabulary):
        match = resolve_genes({"gene_symbol": SYMBOLS, "index": HUMAN}, vocabulary)
        assert (match.column, match.kind) == ("index", "ensembl")

    def test_in_order_among_equals(self, vocabulary):
        match = resolve_genes({"anything": HUMAN, "index": HUMAN, "ensembl_id": HUMAN}, vocabulary)
        assert match.column == "ensembl_id"

    def test_an_unusual_column(self, vocabulary):
        columns = {"index": ["0", "1", "2", "3", "4"], "chromosome": ["17", "12", "7", "11", "X"], "MyNames": HUMAN}
        assert resolve_genes(columns, vocabulary).column == "MyNames"

    def test_a_spoiled_column_loses(self, vocabulary):
        columns = {"ensembl_id": [TP53, "", "", "", ""], "index": SYMBOLS}
        match = resolve_genes(columns, vocabulary)
        assert (match.column, match.kind, match.n_matched) == ("index", "symbol", 5)

    def test_rows_without_an_id_go_by_their_symbol(self, vocabulary):
        more = [gene for gene in vocabulary.genes[:30] if vocabulary.symbol_of(gene) != gene]
        symbols = [vocabulary.symbol_of(gene) for gene in more]
        match = resolve_genes({"ensembl_id": [*more, ""], "index": [*symbols, "CD8A"]}, vocabulary)
        assert match.column == "ensembl_id"
        assert genes(match)[-1] == "ENSG00000153563"
        assert (match.n_from_other, match.n_missing) == (1, 0)

    def test_but_not_when_the_column_was_named(self, vocabulary):
        match = resolve_genes({"ensembl_id": [*HUMAN, ""], "index": [*SYMBOLS, "CD8A"]}, vocabulary, "ensembl_id")
        assert genes(match)[-1] is None
        assert (match.n_from_other, match.n_missing) == (0, 1)

    def test_the_column_named_is_taken(self, vocabulary):
        columns = {"ensembl_id": HUMAN, "old": [ACTB] * 5, "index": SYMBOLS}
        assert genes(resolve_genes(columns, vocabulary, "old")) == [ACTB] * 5
        assert resolve_genes(columns, vocabulary, "index").kind == "symbol"

    def test_a_column_that_is_not_there(self, vocabulary):
        with pytest.raises(UnknownColumnError, match=r'"gene_idz".*gene_ids.*Did you mean "gene_ids"'):
            resolve_genes({"gene_ids": HUMAN, "index": SYMBOLS}, vocabulary, "gene_idz")

    def test_neither_inputs_nor_vocabulary_change(self, vocabulary):
        columns = {"ensembl_id": [*HUMAN, ""], "index": [*SYMBOLS, "CD8A"]}
        before = json.dumps(columns)
        resolve_genes(columns, vocabulary)
        assert json.dumps(columns) == before


class TestRefusals:
    @pytest.mark.parametrize("name", [None, "ensembl_id"])
    def test_mouse_ids(self, vocabulary, name):
        columns = {"ensembl_id": MOUSE_IDS, "gene_name": MOUSE_SYMBOLS[:5], "index": ["0", "1", "2", "3", "4"]}
        with pytest.raises(WrongSpeciesError, match=r"100% .* mouse genes .*ENSMUSG00000024798.*ortholog"):
            resolve_genes(columns, vocabulary, name)

    @pytest.mark.parametrize("name", [None, "index"])
    def test_mouse_symbols(self, vocabulary, name):
        with pytest.raises(WrongSpeciesError, match="mouse"):
            resolve_genes({"index": MOUSE_SYMBOLS}, vocabulary, name)

    @pytest.mark.parametrize("prefix", ["mm10_", "mm10___", "GRCm39_"])
    def test_mouse_assemblies(self, vocabulary, prefix):
        with pytest.raises(WrongSpeciesError, match="mouse"):
            resolve_genes({"index": [prefix + symbol for symbol in MOUSE_SYMBOLS]}, vocabulary)

    @pytest.mark.parametrize(
        ("ids", "species"),
        [
            ([f"ENSDARG{n:011d}" for n in range(5)], "zebrafish"),
            ([f"ENSRNOG{n:011d}.1" for n in range(5)], "rat"),
            ([f"ENSMUST{n:011d}" for n in range(5)], "mouse"),
            ([f"ENSABCG{n:011d}" for n in range(5)], "ENSABC"),
            (["FBgn0000008", "FBgn0000014"], "fruit fly"),
            (["MGI:87904", "MGI:95640"], "mouse"),
        ],
    )
    def test_other_species(self, vocabulary, ids, species):
        with pytest.raises(WrongSpeciesError, match=species):
            resolve_genes({"index": ids}, vocabulary)

    @pytest.mark.parametrize(
        ("ids", "kind"),
        [
            ([f"ENST{n:011d}.2" for n in range(5)], "Ensembl transcripts"),
            ([f"ENSP{n:011d}" for n in range(5)], "Ensembl proteins"),
            (["NM_000546.6", "NR_046018.2"], "RefSeq"),
            (["7157", "2597", "60"], "Entrez"),
            (["HGNC:11998", "HGNC:4141"], "HGNC"),
            (["1007_s_at", "1053_at", "AFFX-BioB-5_at"], "probes"),
            (["ILMN_1343291", "ILMN_1343295"], "probes"),
            (["cg00000029", "cg00000108"], "probes"),
        ],
    )
    @pytest.mark.parametrize("name", [None, "index"])
    def test_what_names_no_gene(self, vocabulary, ids, kind, name):
        with pytest.raises(UnsupportedGeneIdsError, match=f"100% .*{kind}"):
            resolve_genes({"index": ids}, vocabulary, name)

    def test_nothing_recognizable(self, vocabulary):
        with pytest.raises(GeneIdsNotFoundError, match=r'"foo1", "foo2", "foo3", "foo4", "foo5"\. Ensembl'):
            resolve_genes({"index": [f"foo{n}" for n in range(1, 9)]}, vocabulary)

    @pytest.mark.parametrize("columns", [{}, {"index": ["0", "1", "2"]}, {"index": ["1", "2", "3"]}])
    def test_only_row_numbers(self, vocabulary, columns):
        with pytest.raises(GeneIdsNotFoundError, match="row numbers"):
            resolve_genes(columns, vocabulary)

    def test_only_row_numbers_in_the_column_named(self, vocabulary):
        with pytest.raises(GeneIdsNotFoundError, match="row numbers"):
            resolve_genes({"index": ["0", "1", "2"]}, vocabulary, "index")

    @pytest.mark.parametrize("entry", ["", None])
    def test_only_missing_names(self, vocabulary, entry):
        with pytest.raises(GeneIdsNotFoundError, match="nothing"):
            resolve_genes({"ensembl_id": [entry] * 3}, vocabulary)

    def test_a_column_of_mouse_orthologs_beside_human_genes_is_no_reason(self, vocabulary):
        for columns in (
            {"index": SYMBOLS, "mouse_ortholog": MOUSE_IDS},
            {"gene_id": HUMAN, "mouse": MOUSE_SYMBOLS[:5]},
        ):
            assert resolve_genes(columns, vocabulary).n_matched == 5

    def test_human_genes_of_a_mixed_experiment_are_taken(self, vocabulary):
        mixed = [f"GRCh38_{s}" for s in SYMBOLS] + [f"mm10___{s}" for s in MOUSE_SYMBOLS]
        match = resolve_genes({"index": mixed}, vocabulary)
        assert genes(match)[:5] == HUMAN
        assert match.n_matched == 5
        assert match.foreign == {"mouse": 8}

    def test_symbols_in_lower_case_are_not_mouse(self, vocabulary):
        match = resolve_genes({"index": [s.lower() for s in SYMBOLS]}, vocabulary)
        assert genes(match) == HUMAN
        assert match.n_repaired == {"case": 5}


class TestShares:
    NAMES = (TP53, "GAPDH", "nonsense", "rubbish", "")
    COUNTS = np.array([30, 20, 10, 39.5, 0.5])

    def test_the_report_adds_up(self, vocabulary):
        report = resolve_genes({"index": self.NAMES}, vocabulary).report(self.COUNTS, examples=1)
        assert report["share_of_counts_matched"] == pytest.approx(0.5)
        assert report["share_of_counts_left_out"] == pytest.approx(0.5)
        assert report["share_of_counts_without_name"] == pytest.approx(0.005)
        assert report["left_out_most_counts"] == pytest.approx({"rubbish": 0.395})
        assert json.loads(json.dumps(report)) == report
        assert report["genes_read"] == report["genes_matched"] + report["genes_left_out"] == 5
        assert report["genes_without_name"] == 1

    def test_enough_is_enough(self, vocabulary):
        match = resolve_genes({"index": self.NAMES}, vocabulary)
        assert check_matched_share(match, self.COUNTS, 0.5) == pytest.approx(0.5)

    def test_too_few(self, vocabulary):
        match = resolve_genes({"index": self.NAMES}, vocabulary)
        with pytest.raises(TooFewGenesMatchedError, match=r'50\.0% .* "rubbish", "nonsense".*gene_ids='):
            check_matched_share(match, self.COUNTS, 0.51)

    def test_too_few_because_of_mouse_genes(self, vocabulary):
        match = resolve_genes({"index": [TP53, *MOUSE_IDS[:1]]}, vocabulary)
        with pytest.raises(TooFewGenesMatchedError, match="50% of the identifiers are mouse genes"):
            check_matched_share(match, [1, 99], 0.3)

    def test_too_much_without_a_name(self, vocabulary):
        match = resolve_genes({"index": [TP53, None]}, vocabulary)
        assert check_matched_share(match, [99.5, 0.5], 0.3) == pytest.approx(0.995)
        with pytest.raises(GeneIdsNotFoundError, match=r"2\.0% of the counts lie in 1 genes without"):
            check_matched_share(match, [98, 2], 0.3)

    def test_no_counts_at_all(self, vocabulary):
        match = resolve_genes({"index": [TP53, "nonsense"]}, vocabulary)
        assert check_matched_share(match, [0, 0], 0.3) == 0.0
