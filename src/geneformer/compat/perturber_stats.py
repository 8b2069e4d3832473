"""`InSilicoPerturberStats`: statistics of perturbation runs, under its published name."""

import logging
import warnings
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from geneformer import errors
from geneformer.compat.cells import read_cell_states
from geneformer.compat.dictionaries import dictionary_path, files_of, only_in_v1, published_vocabulary
from geneformer.compat.options import Version, check_arguments
from geneformer.compat.perturber import given_genes
from geneformer.compat.perturber_files import CELL, SUFFIX, RawFile, highest_perturbed, of_content, read_raw_folder
from geneformer.files.atomic import atomic_file
from geneformer.genes.vocabulary import Vocabulary
from geneformer.perturbation import statistics
from geneformer.perturbation.effects import (
    EXACT,
    GENE_SIMILARITY,
    SHIFT,
    SIMILARITY,
    PerturbationEffects,
    Perturbed,
    mean_by,
)
from geneformer.perturbation.plan import gene_tokens

if TYPE_CHECKING:
    import pandas as pd

_logger = logging.getLogger(__name__)

_FDR = 0.05

_TOKEN_DICTIONARY_FILE = dictionary_path("TOKEN_DICTIONARY_FILE")
_ENSEMBL_DICTIONARY_FILE = dictionary_path("ENSEMBL_DICTIONARY_FILE")
"""What arguments default to; the files are not read, and need not be there, as they stand for the tables of V2."""


@dataclass(eq=False, repr=False)
class InSilicoPerturberStats:
    """Tests and ranks what `InSilicoPerturber` wrote, here or in the published package, of either generation.

    Parameters
    ----------
    mode
        "goal_state_shift": shifts towards the goal against those of all genes. "vs_null": similarities against those
        of another run. "mixture_model": similarities in two components, with and without impact. "aggregate_data": one
        row per cell. "aggregate_gene_shifts": one row per perturbed and affected gene.
    genes_perturbed : "all", or the Ensembl ids that were perturbed together.
    combos : 1 for genes that were perturbed together with `anchor_gene`.
    anchor_gene : Ensembl id. With combos=0 and "mixture_model": what perturbing this gene does to each of the others.
    cell_states_to_model : States of the run, as for `InSilicoPerturber`.
    pickle_suffix : End of the names of the files to read.
    model_version : "V1" or "V2". Left at "V2", a run of V1 is recognized by tokens that V2 does not have.
    token_dictionary_file, gene_name_id_dictionary_file
        Pickles with the token of each gene, and the gene of each symbol; by default those of the version.
        Dictionaries of V2, which the arguments default to, give way to model_version="V1".

    Examples
    --------
    >>> from geneformer import InSilicoPerturberStats
    >>> InSilicoPerturberStats(mode="mixture_model", model_version="V1").genes_perturbed
    'all'
    """

    mode: Literal["goal_state_shift", "vs_null", "mixture_model", "aggregate_data", "aggregate_gene_shifts"] = (
        "mixture_model"
    )
    genes_perturbed: str | list[str] = "all"
    combos: Literal[0, 1] = 0
    anchor_gene: str | None = None
    cell_states_to_model: Mapping[str, Any] | None = None
    pickle_suffix: str = SUFFIX
    model_version: Version = "V2"
    token_dictionary_file: str | Path | None = _TOKEN_DICTIONARY_FILE
    gene_name_id_dictionary_file: str | Path | None = _ENSEMBL_DICTIONARY_FILE

    def __post_init__(self) -> None:
        self.genes_perturbed = given_genes("genes_perturbed", self.genes_perturbed)
        check_arguments(type(self), vars(self))
        together = self.genes_perturbed if isinstance(self.genes_perturbed, list) else []
        if self.mode == ("mixture_model" if together else "aggregate_data"):
            takes = '"all"; for genes perturbed together use "aggregate_data"' if together else "a list of genes"
            msg = f'mode="{self.mode}" takes genes_perturbed={takes}.'
            raise errors.UnsupportedArgumentError(msg)
        if self.combos and self.anchor_gene is None:
            msg = "combos=1 is of genes perturbed together with another one. Name that one with anchor_gene."
            raise errors.UnsupportedArgumentError(msg)
        states = self.cell_states_to_model
        self._states = () if states is None else tuple(read_cell_states(states).by_name)
        if self.mode == "goal_state_shift" and not self._states:
            msg = 'mode="goal_state_shift" needs the states of the run. Pass cell_states_to_model.'
            raise errors.StateError(msg)
        if self.anchor_gene is not None and not self.combos and (self._states or self.mode != "mixture_model"):
            where = "with states of cells" if self._states else f'in mode="{self.mode}"'
            _warn(f"anchor_gene has no meaning {where} and combos=0, and is left out.")
            self.anchor_gene = None
        tokens, names = files_of(self.model_version, self.token_dictionary_file, self.gene_name_id_dictionary_file)
        self._vocabulary = published_vocabulary(self.model_version, tokens, gene_name_id_file=names)
        self._together = frozenset(gene_tokens(together, self._vocabulary)) if together else None
        self._anchor = None if self.anchor_gene is None else gene_tokens([self.anchor_gene], self._vocabulary)[0]

    def get_stats(
        self,
        input_data_directory: str | Path,
        null_dist_data_directory: str | Path | None,
        output_directory: str | Path,
        output_prefix: str,
        null_dict_list: Sequence[Mapping[Any, Any]] | None = None,
    ) -> None:
        """Write `<output_prefix>.csv` with the published columns, in the published order.

        Parameters
        ----------
        input_data_directory : Folder with the files of one or more runs.
        null_dist_data_directory, null_dict_list : For "vs_null": folder of the run to compare with, or its content.
        output_directory, output_prefix : Folder for the table, made if it is missing, and name of the table.
        """
        if self.mode != "vs_null" and (null_dist_data_directory is not None or null_dict_list is not None):
            _warn(f'The run to compare with has no meaning in mode="{self.mode}", and is not read.', stacklevel=3)
        files = read_raw_folder(input_data_directory, self.pickle_suffix)
        if self._vocabulary == published_vocabulary("V2") and only_in_v1(highest_perturbed(files)):
            _logger.warning("%s holds a run of V1, and is read as such.", input_data_directory)
            as_such = replace(self, model_version="V1")
            return as_such.get_stats(
                input_data_directory, null_dist_data_directory, output_directory, output_prefix, null_dict_list
            )
        if self.mode == "vs_null":
            frame = self._vs_null(files, self._null_files(null_dist_data_directory, null_dict_list))
        else:
            frame = getattr(self, f"_{self.mode}")(files)
        with atomic_file(Path(output_directory) / f"{output_prefix}.csv", overwrite=True, parents=True) as temporary:
            frame.to_csv(temporary)
        return None

    def _perturbed(self, files: Sequence[RawFile], kind: str, **how: Any) -> Perturbed:
        """Effects of the files, once it is certain that there are some of a kind."""
        perturbed = Perturbed(RawEffects(self._vocabulary, self._states, **how).read(files))
        kinds = perturbed.kinds()
        if kind in kinds:
            return perturbed
        on_genes = '`InSilicoPerturber(emb_mode="cls_and_gene")` or "cell_and_gene"'
        fix = {
            SHIFT: "Perturb with cell_states_to_model, or use another mode.",
            SIMILARITY: 'Perturb without cell_states_to_model, or use mode="goal_state_shift".',
            GENE_SIMILARITY: f"Perturb with {on_genes}.",
        }[kind]
        if how.get("anchor") is not None:
            fix = f"Perturb {self.anchor_gene!r} alone with {on_genes}."
        held = ", ".join(f"{held} towards {perturbed.targets(SHIFT)}" if held == SHIFT else held for held in kinds)
        msg = f'mode="{self.mode}" needs effects of the kind {kind!r}; the files hold {held or "none"}. {fix}'
        raise errors.StateError(msg) if SHIFT in {kind, *kinds} else errors.PerturbationError(msg)

    def _null_files(self, folder: str | Path | None, dictionaries: Sequence[Mapping[Any, Any]] | None) -> list[RawFile]:
        if dictionaries is not None:
            return [of_content(raw, f"null_dict_list[{place}]") for place, raw in enumerate(dictionaries)]
        if folder is None:
            msg = 'mode="vs_null" needs a run to compare with. Pass null_dist_data_directory, or null_dict_list.'
            raise errors.OptionError(msg)
        return read_raw_folder(folder, self.pickle_suffix)

    def _vs_null(self, files: Sequence[RawFile], null_files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed, null = self._perturbed(files, SIMILARITY), self._perturbed(null_files, SIMILARITY)
        same = statistics.aligned_values(perturbed, null, null.values(SIMILARITY))
        return self._named(statistics.vs_null(perturbed, same, _FDR))

    def _mixture_model(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        if not self.combos:
            return self._named(statistics.mixture_model(self._perturbed(files, SIMILARITY, anchor=self._anchor)))
        perturbed = self._perturbed(files, SIMILARITY, triples=True)
        if not len(perturbed.values(SIMILARITY, TOGETHER)):
            msg = (
                "combos=1 takes pairs and their genes alone; the files hold one number per cell. Perturb with combos=1."
            )
            raise errors.PerturbationError(msg)
        return self._named(anchored_mixture_model(perturbed))

    def _goal_state_shift(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed = self._perturbed(files, SHIFT)
        goal, *alternates = self._states[1:]
        missing = [state for state in (goal, *alternates) if state not in perturbed.targets(SHIFT)]
        if missing:
            msg = f"The files hold no shifts towards {missing}; they hold those towards {perturbed.targets(SHIFT)}."
            raise errors.StateError(msg)
        shifted = perturbed.values(SHIFT, goal).counts(len(perturbed)) > 0
        perturbed.keep(shifted)
        frame = statistics.goal_state_shift(perturbed, goal, alternates, _FDR)
        if self._together is None:
            return self._named(frame)
        # Of a list the published table has the means alone; the group that was asked for comes first.
        asked = self._asked(perturbed)
        columns = [statistics.shift_column(state, is_goal=state == goal) for state in (goal, *alternates)]
        frame = frame.loc[sorted(frame.index, key=lambda row: row != asked)]
        return frame[[*columns, *statistics.NAMES, "N_Detections"]].reset_index(drop=True)

    def _aggregate_data(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed = self._perturbed(files, SIMILARITY)
        asked = self._asked(perturbed)
        perturbed.keep(perturbed.table.index == asked)
        frame = statistics.aggregate(perturbed)
        frame["cell_id"] = perturbed.cell_column(CELL_NAME).reindex(frame["cell_id"]).to_numpy()
        are_named = bool(frame["cell_id"].notna().all())
        return frame[["Cosine_sim", "Gene", *(["cell_id"] if are_named else [])]]

    def _aggregate_gene_shifts(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed = self._perturbed(files, GENE_SIMILARITY)
        return statistics.aggregate_gene_shifts(perturbed, statistics.GenePairs(perturbed))

    def _asked(self, perturbed: Perturbed) -> int:
        """Row of the genes that were asked for; their order does not matter."""
        groups = [frozenset(gene if isinstance(gene, tuple) else (gene,)) for gene in perturbed.table["Gene"]]
        if self._together not in groups:
            held = ", ".join(str(genes) for genes in perturbed.table["Ensembl_ID"][:5])
            msg = (
                f"No run perturbed genes_perturbed={list(self.genes_perturbed)} together; the files hold {held} and "
                f"{max(len(groups) - 5, 0)} more."
            )
            raise errors.AbsentGeneError(msg)
        return groups.index(self._together)

    def _named(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """With the id of the second gene where each was perturbed with an anchor, as it always was."""
        if self.genes_perturbed == "all":
            ids = [gene[1] if isinstance(gene, tuple) else gene for gene in frame["Ensembl_ID"]]
            frame = frame.assign(Ensembl_ID=ids)
        return frame


ANCHOR, ALONE, TOGETHER = _TRIPLE = ("anchor", "alone", "together")
"""Targets of the three similarities of a gene: of its anchor alone, of the gene alone, of both."""

CELL_NAME = "name"
"""Column of the cells with what they are called, where that is known; files may call two cells the same."""


@dataclass(slots=True)
class RawEffects:
    """Raw numbers of published files on their way to one table of effects."""

    vocabulary: Vocabulary
    states: tuple[str, ...] = ()
    triples: bool = False
    anchor: int | None = None
    _entries: list[tuple[str, str, str, int]] = field(default_factory=list)  # genes, kind, target, how many numbers
    _values: "array[float]" = field(default_factory=lambda: array("d"))
    _cells: "array[int]" = field(default_factory=lambda: array("q"))  # of each number
    _cell_names: list[str | None] = field(default_factory=list)
    _tokens: dict[str, int] = field(default_factory=dict)  # of each gene

    def read(self, files: Iterable[RawFile]) -> PerturbationEffects:
        """Everything the files hold, as one run."""
        for file in files:
            first = len(self._entries)
            for state, entries in file.by_state.items():
                for (perturbed, affected), values in entries.items():
                    if values:
                        self._add(file, state, perturbed, affected, values)
            # The first numbers of all entries of a file are of the same cell, and so on.
            widest = max((n for *_, n in self._entries[first:]), default=0)
            is_named = file.cell_ids is not None and len(file.cell_ids) == widest
            self._cell_names.extend(file.cell_ids if file.cell_ids and is_named else [None] * widest)
        return self._effects()

    def _add(self, file: RawFile, state: Any, perturbed: Any, affected: Any, values: Sequence[Any]) -> None:
        """One entry of a file."""
        if self.anchor is not None:
            if perturbed != self.anchor or affected == CELL:
                return
            perturbed, affected = affected, CELL
        genes = self._gene_names(perturbed, file)
        if affected != CELL:
            self._append(file, genes, GENE_SIMILARITY, self._gene_names(affected, file), values)
        elif state is not None:
            self._append(file, genes, SHIFT, str(state), values)
        elif not isinstance(values[0], tuple | list):
            self._append(file, genes, SIMILARITY, "", values)
        else:  # of old: a number for every state, or three for a gene and its anchor
            targets = self.states or _TRIPLE
            if any(len(value) != len(targets) for value in values):
                what = "states" if self.states else "numbers of an anchor:"
                msg = (
                    f"{file.name} holds {len(values[0])} numbers per cell, which does not fit the {len(targets)} "
                    f"{what} {', '.join(targets)}. Pass the cell_states_to_model of the run, with the same alternates."
                )
                raise errors.StateError(msg)
            for target, column in zip(targets, zip(*values, strict=True), strict=True):
                if self.states:
                    self._append(file, genes, SHIFT, target, column)
                elif self.triples or target == TOGETHER:
                    self._append(file, genes, SIMILARITY, target if self.triples else "", column)

    def _append(self, file: RawFile, genes: str, kind: str, target: str, values: Sequence[Any]) -> None:
        try:
            self._values.extend(map(float, values))
        except (TypeError, ValueError) as error:
            msg = f"{file.name} holds values that are no numbers: {values[0]!r}. Make the file again."
            raise errors.DatasetError(msg) from error
        n, first_cell = len(values), len(self._cell_names)
        self._cells.extend(range(first_cell, first_cell + n))
        self._entries.append((genes, kind, target, n))

    def _gene_names(self, tokens: Any, file: RawFile) -> str:
        """Genes of one token or of several, joined by +."""
        vocabulary, names = self.vocabulary, []
        for token in tokens if isinstance(tokens, tuple) else (tokens,):
            number = int(token) if isinstance(token, Integral) else -1
            if not 0 <= number < vocabulary.size:
                msg = (
                    f"{file.name} has the token {token!r}, which is none of the {vocabulary.size:,} of vocabulary "
                    f"{vocabulary.name}. Pass the model_version or token_dictionary_file of the run."
                )
                raise errors.VocabularyMismatchError(msg)
            name = str(vocabulary.gene_of[number])
            self._tokens[name] = number
            names.append(name)
        return "+".join(names)

    def _effects(self) -> PerturbationEffects:
        vocabulary, n = self.vocabulary, len(self._values)
        cells = pa.array([str(number) for number in range(len(self._cell_names))], pa.string())
        names, kinds, targets, counts = zip(*self._entries, strict=True) if self._entries else ((),) * 4
        genes = _repeated(names, counts)
        columns = {
            "cell_id": pa.DictionaryArray.from_arrays(pa.array(np.asarray(self._cells, np.int32)), cells),
            "perturbation": genes,
            "genes": genes,
            "edit": _repeated([""], [n]),
            "effect": _repeated(kinds, counts),
            "target": _repeated(targets, counts),
            "value": pa.array(np.asarray(self._values)),
            "method": _repeated([EXACT], [n]),
        }
        gene_table = {
            "gene": pa.array(list(self._tokens), pa.string()),
            "symbol": pa.array([vocabulary.symbol_of(gene) for gene in self._tokens], pa.string()),
            "token": pa.array(list(self._tokens.values()), pa.int32()),
        }
        cell_table = pa.table({"cell_id": cells, CELL_NAME: pa.array(self._cell_names, pa.string())})
        provenance = {"vocabulary": vocabulary.name, "vocabulary_fingerprint": vocabulary.fingerprint}
        return PerturbationEffects(pa.table(columns), cell_table, pa.table(gene_table), {}, provenance)


def _repeated(entries: Sequence[str], counts: Sequence[int]) -> pa.DictionaryArray:
    """Each text as often as its count says, stored once."""
    encoded = pa.array(entries, pa.string()).dictionary_encode()
    codes = np.repeat(np.asarray(encoded.indices), np.asarray(counts, dtype=np.int64))
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), encoded.dictionary)


def anchored_mixture_model(perturbed: Perturbed) -> "pd.DataFrame":
    """Genes split into those with and without impact by what they do together with the anchor."""
    n = len(perturbed)
    anchor, alone, together = (perturbed.values(SIMILARITY, target) for target in (ANCHOR, ALONE, TOGETHER))
    if not len(anchor) == len(alone) == len(together) or not np.array_equal(alone.group, together.group):
        msg = (
            f"{len(together):,} effects of pairs, {len(alone):,} of genes alone and {len(anchor):,} of the anchor "
            "alone: all three are needed of every cell. Run the perturbations with the anchor again."
        )
        raise errors.PerturbationError(msg)
    means = together.means(n)
    impact = statistics.Impact(means)
    sums = anchor.value + alone.value - 1
    table = perturbed.table[statistics.NAMES].copy()
    table["Anchor_shift"] = anchor.means(n)
    table["Test_token_shift"] = alone.means(n)
    table["Sum_of_indiv_shifts"] = mean_by(sums, together.group, n)
    table["Combo_shift"] = means
    table["Combo_minus_sum_shift"] = mean_by(together.value - sums, together.group, n)
    table["Impact_component"] = impact.of(means)
    table["Impact_component_percent"] = 100 * mean_by(impact.of(together.value).astype(float), together.group, n)
    table["N_Detections"] = together.counts(n)
    return table.sort_values(["Impact_component", "Combo_minus_sum_shift"], ascending=[False, True])


def _warn(message: str, stacklevel: int = 4) -> None:
    warnings.warn(message, errors.GeneformerWarning, stacklevel=stacklevel)
