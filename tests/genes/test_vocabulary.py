"""Vocabularies of one's own: made, saved, loaded, handed to workers, refused when they contradict themselves."""

import json
import pickle

import numpy as np
import pytest

from geneformer.errors import (
    InvalidVocabularyError,
    OutputExistsError,
    PlaceholderFileError,
    UnknownVocabularyError,
)
from geneformer.genes.vocabulary import MemoryTables, Vocabulary

GENES = ["ENSG00000000005", "ENSG00000000003", "ENSG00000000419"]


def make(**changes):
    fields = {
        "name": "mine",
        "genes": GENES,
        "token_ids": [3, 2, 4],
        "medians": [1.5, 0.1, 7.0],
        "special_tokens": {"<pad>": 0, "<mask>": 1},
        "input_size": 16,
        "tables": MemoryTables(
            medians={"ENSG00000000457": 2.0}, symbols={"Tspan6": GENES[1], "TNMD": GENES[0]}, aliases=None
        ),
    }
    return Vocabulary(**(fields | changes))


def test_genes_are_in_the_order_of_their_ids():
    vocabulary = make()
    assert vocabulary.genes.tolist() == [GENES[1], GENES[0], GENES[2]]
    assert vocabulary.token_ids.tolist() == [2, 3, 4]
    assert vocabulary.medians.tolist() == [0.1, 1.5, 7.0]
    assert vocabulary.gene_of.tolist() == ["<pad>", "<mask>", GENES[1], GENES[0], GENES[2]]
    assert vocabulary.token_ids.dtype == np.int32


def test_special_tokens():
    vocabulary = make(token_ids=[5, 4, 6], special_tokens={"<eos>": 3, "<cls>": 2, "<mask>": 1, "<pad>": 0})
    assert (vocabulary.pad_id, vocabulary.mask_id, vocabulary.cls_id, vocabulary.eos_id) == (0, 1, 2, 3)
    assert vocabulary.special_ids.tolist() == [0, 1, 2, 3]
    assert make().cls_id is None
    assert make().eos_id is None


def test_nothing_can_be_changed():
    vocabulary = make()
    with pytest.raises(AttributeError):
        vocabulary.name = "other"
    for values in (
        vocabulary.genes,
        vocabulary.token_ids,
        vocabulary.medians,
        vocabulary.gene_of,
        vocabulary.special_ids,
    ):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = values[1]
    for mapping in (vocabulary.token_of, vocabulary.special_tokens, vocabulary.symbols, vocabulary.aliases):
        with pytest.raises(TypeError):
            mapping["x"] = 1


def test_the_caller_keeps_the_arrays_handed_in():
    medians = np.array([1.5, 0.1, 7.0])
    make(medians=medians)
    medians[0] = 2.0


def test_fingerprint_follows_the_entries_and_nothing_else():
    plain = make()
    assert plain.fingerprint == make(name="other").fingerprint
    assert plain == make(name="other")
    order = [2, 0, 1]
    shuffled = make(
        genes=[GENES[i] for i in order],
        token_ids=[[3, 2, 4][i] for i in order],
        medians=[[1.5, 0.1, 7.0][i] for i in order],
    )
    assert plain.fingerprint == shuffled.fingerprint
    changed = [
        make(medians=[1.5, 0.1, 7.000000000000001]),
        make(token_ids=[2, 3, 4]),
        make(input_size=17),
        make(genes=["ENSG00000000006", *GENES[1:]]),
        make(token_ids=[5, 4, 6], special_tokens={"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3}),
    ]
    assert len({plain.fingerprint, *(v.fingerprint for v in changed)}) == 6


def test_fingerprint_is_as_documented():
    import hashlib

    text = (
        "geneformer vocabulary 1\ninput_size 16\n0 <pad>\n1 <mask>\n"
        f"2 {GENES[1]} {(0.1).hex()}\n3 {GENES[0]} {(1.5).hex()}\n4 {GENES[2]} {(7.0).hex()}\n"
    )
    assert make().fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    vocabulary = make()
    vocabulary.save(tmp_path / "mine")
    loaded = Vocabulary.load(tmp_path / "mine")
    assert loaded == vocabulary
    assert loaded.name == "mine"
    assert loaded.published_tables() == vocabulary.published_tables()
    assert loaded.aliases["TSPAN6"] == GENES[1]
    assert loaded.symbol_of(GENES[1]) == "Tspan6"
    assert loaded.published_tables()["gene_median_dictionary"]["ENSG00000000457"] == 2.0


def test_a_bundled_one_survives_saving_whole(tmp_path):
    vocabulary = Vocabulary.load("V2")
    vocabulary.save(tmp_path / "copy")
    loaded = Vocabulary.load(str(tmp_path / "copy"))
    assert loaded == vocabulary
    assert loaded.published_tables() == vocabulary.published_tables()


def test_saving_never_replaces_what_is_no_vocabulary(tmp_path):
    make().save(tmp_path / "mine")
    with pytest.raises(OutputExistsError):
        make().save(tmp_path / "mine")
    make(input_size=32).save(tmp_path / "mine", overwrite=True)
    assert Vocabulary.load(tmp_path / "mine").input_size == 32
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputExistsError):
        make().save(tmp_path / "notes", overwrite=True)


def test_workers_get_the_same_vocabulary():
    for vocabulary in (make(), Vocabulary.load("V1")):
        _ = vocabulary.token_of, vocabulary.aliases
        assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary


def test_bundled_ones_are_loaded_once():
    assert Vocabulary.load("V1") is Vocabulary.load("V1")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"genes": [GENES[0], GENES[0], GENES[2]]}, GENES[0]),
        ({"genes": [GENES[0], GENES[0].lower(), GENES[2]]}, "ensg00000000005"),
        ({"genes": ["", *GENES[1:]]}, "''"),
        ({"genes": [None, *GENES[1:]]}, "None"),
        ({"genes": [" A", *GENES[1:]]}, "' A'"),
        ({"genes": ["A\n3 B 0x1", *GENES[1:]]}, "0x1"),
        ({"genes": GENES[:2]}, "2 genes"),
        ({"genes": [], "token_ids": [], "medians": []}, "no genes"),
        ({"token_ids": [3, 3, 4]}, f"id 3 to .*{GENES[1]}"),
        ({"token_ids": [3, 1, 4]}, "<mask>"),
        ({"token_ids": [3, 2, 5]}, f"{GENES[2]}.* leaves out 4"),
        ({"token_ids": [3, 2, -1]}, f"{GENES[2]}.* the id -1"),
        ({"token_ids": [3, 2, 4.5]}, "whole number"),
        ({"medians": [0.0, 0.1, 7.0]}, f"{GENES[0]}.* median 0.0"),
        ({"medians": [-1.0, 0.1, 7.0]}, "median -1.0"),
        ({"medians": [1.0, float("nan"), 7.0]}, f"{GENES[1]}.* median nan"),
        ({"medians": [1.0, 2.0, float("inf")]}, "median inf"),
        ({"special_tokens": {"<pad>": 1, "<mask>": 0}}, "<pad> the id 1"),
        ({"special_tokens": {"<pad>": 0}, "token_ids": [1, 2, 3]}, "<mask>"),
        ({"special_tokens": {"<pad>": 0, "<mask>": 1, "<cls>": 5}}, "both or neither"),
        ({"special_tokens": {"<pad>": 0, "<mask>": 1, "<sep>": 5}}, "<sep>"),
        ({"input_size": 2}, "input size of 2"),
        ({"input_size": "2048"}, "'2048'"),
    ],
)
def test_contradictions_are_refused_by_name(changes, named):
    with pytest.raises(InvalidVocabularyError, match=named):
        make(**changes)


@pytest.mark.parametrize("name", ["v1", "V3", "gc30M", "no/such/folder"])
def test_unknown_names_list_the_choices(name):
    with pytest.raises(UnknownVocabularyError, match="V1, V2"):
        Vocabulary.load(name)


def test_the_nearest_name_is_offered():
    with pytest.raises(UnknownVocabularyError, match='Did you mean "V1"'):
        Vocabulary.load("v1")


def test_a_folder_without_a_vocabulary(tmp_path):
    with pytest.raises(UnknownVocabularyError, match="neither"):
        Vocabulary.load(tmp_path)


class TestDamagedFolders:
    @pytest.fixture
    def folder(self, tmp_path):
        make().save(tmp_path / "mine")
        return tmp_path / "mine"

    def meta(self, folder, **changes):
        path = folder / "vocabulary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def test_edited_entries_contradict_the_fingerprint(self, folder):
        self.meta(folder, input_size=32)
        with pytest.raises(InvalidVocabularyError, match="fingerprint"):
            Vocabulary.load(folder)
        self.meta(folder, fingerprint=None)
        assert Vocabulary.load(folder).input_size == 32

    def test_damaged_json(self, folder):
        (folder / "vocabulary.json").write_text("{")
        with pytest.raises(InvalidVocabularyError, match=r"vocabulary\.json"):
            Vocabulary.load(folder)

    @pytest.mark.parametrize("changes", [{"format": 2}, {"special_tokens": [0, 1]}])
    def test_another_format(self, folder, changes):
        self.meta(folder, **changes)
        with pytest.raises(InvalidVocabularyError):
            Vocabulary.load(folder)

    def test_missing_and_truncated_tables(self, folder):
        genes = folder / "genes.parquet"
        genes.write_bytes(genes.read_bytes()[:100])
        with pytest.raises(InvalidVocabularyError, match=r"genes\.parquet"):
            Vocabulary.load(folder)
        genes.unlink()
        with pytest.raises(InvalidVocabularyError, match=r"genes\.parquet"):
            Vocabulary.load(folder)

    @pytest.mark.parametrize(
        ("rows", "named"),
        [
            ({"gene": ["A", "B"], "token_id": [2, 3], "median": [1.0, None]}, '"B" the median nan'),
            ({"gene": ["A", "A"], "token_id": [2, 3], "median": [1.0, 1.0]}, '"A" twice'),
            ({"gene": ["A", "B"], "token_id": ["x", "y"], "median": [1.0, 1.0]}, "cannot be read"),
            ({"gene": ["A", "B"], "token_id": [2, 3]}, "median"),
        ],
    )
    def test_wrong_rows(self, folder, rows, named):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(rows), folder / "genes.parquet")
        with pytest.raises(InvalidVocabularyError, match=named):
            Vocabulary.load(folder)

    def test_a_symbol_listed_twice(self, folder):
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"symbol": ["X", "X"], "gene": GENES[:2]}), folder / "symbols.parquet")
        with pytest.raises(InvalidVocabularyError, match='"X" twice'):
            _ = Vocabulary.load(folder).symbols


class TestPublishedFolders:
    @pytest.fixture
    def write(self, tmp_path):
        def write(tag="", **changes):
            tokens = {"<pad>": 0, "<mask>": 1} | {g: np.int16(i + 2) for i, g in enumerate(sorted(GENES))}
            tables = {
                "token_dictionary": tokens,
                "gene_median_dictionary": {g: np.float64(0.1 + i) for i, g in enumerate(sorted(GENES))},
                "gene_name_id_dict": {"TNMD": GENES[0]},
                "ensembl_mapping_dict": {g: g for g in sorted(GENES)},
            }
            for name, table in (tables | changes).items():
                if table is not None:
                    (tmp_path / f"{name}{tag}.pkl").write_bytes(pickle.dumps(table))
            return tmp_path

        return write

    def test_read_as_they_are(self, write):
        folder = write()
        vocabulary = Vocabulary.load(folder)
        assert vocabulary.genes.tolist() == sorted(GENES)
        assert vocabulary.medians.tolist() == [0.1, 1.1, 2.1]
        assert vocabulary.input_size == 2048
        assert vocabulary.tables.aliases is None
        for name, table in vocabulary.published_tables().items():
            assert table == pickle.loads((folder / f"{name}.pkl").read_bytes())

    def test_without_names_and_mapping(self, write):
        vocabulary = Vocabulary.load(write(gene_name_id_dict=None, ensembl_mapping_dict=None))
        assert vocabulary.aliases == {g: g for g in GENES}

    def test_one_of_several(self, write):
        write("_a")
        folder = write("_b", token_dictionary={"<pad>": 0, "<mask>": 1, GENES[0]: 2})
        with pytest.raises(UnknownVocabularyError, match=r"token_dictionary_a\.pkl.*token_dictionary_b\.pkl"):
            Vocabulary.load(folder)
        assert Vocabulary.load(folder / "token_dictionary_b.pkl").genes.tolist() == [GENES[0]]

    def test_a_gene_without_a_median(self, write):
        folder = write(gene_median_dictionary={GENES[0]: 1.0, GENES[1]: 2.0})
        with pytest.raises(InvalidVocabularyError, match=GENES[2]):
            Vocabulary.load(folder)

    @pytest.mark.parametrize("table", [["a"], {1: 2}, {"a": "b"}])
    def test_other_contents(self, write, table):
        with pytest.raises(InvalidVocabularyError, match="token_dictionary"):
            Vocabulary.load(write(token_dictionary=table))

    def test_a_pointer(self, write):
        folder = write()
        (folder / "gene_median_dictionary.pkl").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(PlaceholderFileError):
            Vocabulary.load(folder)

    def test_a_file_that_is_no_dictionary(self, tmp_path):
        (tmp_path / "genes.csv").write_text("gene\n")
        with pytest.raises(UnknownVocabularyError, match=r"genes\.csv"):
            Vocabulary.load(tmp_path / "genes.csv")
