"""`InSilicoPerturberStats`: statistics of perturbation runs, under its published name."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.compat.cell_states import read_cell_states
from geneformer.compat.dictionary_files import bundled_version, dictionary_path
from geneformer.compat.perturbation.files import SUFFIX, RawFile, of_content, read_folder
from geneformer.compat.perturbation.given_genes import given_genes
from geneformer.compat.perturbation.given_states import state_names
from geneformer.compat.perturbation.tables import CELL_NAME, Reading
from geneformer.compat.vocabularies import published_vocabulary
from geneformer.errors import (
    AbsentGeneError,
    GeneformerWarning,
    OptionError,
    PerturbationError,
    StateError,
    UnsupportedArgumentError,
)
from geneformer.options._check import check_choice
from geneformer.results.perturbation import GENE_SIMILARITY, SHIFT, SIMILARITY
from geneformer.runs.files import atomic_file, output_errors
from geneformer.tasks.perturbation.anchored_statistics import TOGETHER, anchored_mixture_model
from geneformer.tasks.perturbation.effect_arrays import Perturbed
from geneformer.tasks.perturbation.published_statistics import (
    NAMES,
    GenePairs,
    aggregate,
    aggregate_gene_shifts,
    goal_state_shift,
    mixture_model,
    shift_column,
    vs_null,
)
from geneformer.tasks.perturbation.statistics import aligned_values
from geneformer.tasks.perturbation.targets import gene_tokens

if TYPE_CHECKING:
    import pandas as pd

_MODES = ("goal_state_shift", "vs_null", "mixture_model", "aggregate_data", "aggregate_gene_shifts")
_FDR = 0.05

_TOKEN_DICTIONARY_FILE = dictionary_path("TOKEN_DICTIONARY_FILE")
_ENSEMBL_DICTIONARY_FILE = dictionary_path("ENSEMBL_DICTIONARY_FILE")
"""What arguments default to; the files are not read, and need not be there, as they stand for the tables of V2."""


class InSilicoPerturberStats:
    """Tests and ranks what `InSilicoPerturber` wrote, here or in the published package, of either generation.

    Parameters
    ----------
    mode
        "goal_state_shift": shifts towards the goal against those of all genes. "vs_null": similarities against those
        of another run. "mixture_model": similarities in two components, with and without impact. "aggregate_data": one
        row per cell. "aggregate_gene_shifts": one row per perturbed and affected gene.
    genes_perturbed
        "all", or the Ensembl ids that were perturbed together.
    combos
        1 for genes that were perturbed together with `anchor_gene`.
    anchor_gene
        Ensembl id. With combos=0 and "mixture_model": what perturbing this gene does to each of the others.
    cell_states_to_model
        States of the run, as for `InSilicoPerturber`.
    pickle_suffix
        End of the names of the files to read.
    model_version
        "V1" or "V2".
    token_dictionary_file, gene_name_id_dictionary_file
        Pickles with the token of each gene, and the gene of each symbol; by default those of the version.
        Dictionaries of V2, which the arguments default to, give way to model_version="V1".

    Raises
    ------
    OptionError
        A value that is not among those told.
    UnsupportedArgumentError
        Arguments that do not go together.
    UnknownGeneError
        A gene that the dictionary does not have.
    StateError
        States in another form, or a mode that needs them and has none.

    Examples
    --------
    >>> from geneformer import InSilicoPerturberStats
    >>> InSilicoPerturberStats(mode="mixture_model", model_version="V1").genes_perturbed
    'all'
    """

    def __init__(  # noqa: PLR0917
        self,
        mode: str = "mixture_model",
        genes_perturbed: str | list[str] = "all",
        combos: int = 0,
        anchor_gene: str | None = None,
        cell_states_to_model: Mapping[str, Any] | None = None,
        pickle_suffix: str = SUFFIX,
        model_version: str = "V2",
        token_dictionary_file: str | Path | None = _TOKEN_DICTIONARY_FILE,
        gene_name_id_dictionary_file: str | Path | None = _ENSEMBL_DICTIONARY_FILE,
    ) -> None:
        self.mode = mode
        self.genes_perturbed = given_genes("genes_perturbed", genes_perturbed)
        self.combos = combos
        self.anchor_gene = anchor_gene
        self.cell_states_to_model = cell_states_to_model
        self.pickle_suffix = pickle_suffix
        self.model_version = model_version
        self.token_dictionary_file = token_dictionary_file
        self.gene_name_id_dictionary_file = gene_name_id_dictionary_file
        check_choice("mode", mode, _MODES)
        check_choice("combos", combos, (0, 1))
        self._check_genes()
        states = None if cell_states_to_model is None else read_cell_states(cell_states_to_model)
        self._states = tuple(state_names(states))
        self._check_states()
        files = [token_dictionary_file, gene_name_id_dictionary_file]
        if model_version == "V1":
            files = [None if file is None or bundled_version(file) == "V2" else file for file in files]
        self._vocabulary = published_vocabulary(model_version, files[0], gene_name_id_file=files[1])
        together = [] if isinstance(self.genes_perturbed, str) else self.genes_perturbed
        self._together = frozenset(gene_tokens(together, self._vocabulary)) if together else None
        self._anchor = None if self.anchor_gene is None else gene_tokens([self.anchor_gene], self._vocabulary)[0]

    def _check_genes(self) -> None:
        genes = self.genes_perturbed
        if self.mode == "mixture_model" and genes != "all":
            msg = (
                'mode="mixture_model" compares many perturbations. For genes perturbed together, use "aggregate_data".'
            )
            raise UnsupportedArgumentError(msg)
        if self.mode == "aggregate_data" and genes == "all":
            msg = 'mode="aggregate_data" is of genes perturbed together. Pass them as genes_perturbed.'
            raise UnsupportedArgumentError(msg)
        if self.combos and self.anchor_gene is None:
            msg = "combos=1 is of genes perturbed together with another one. Name that one with anchor_gene."
            raise UnsupportedArgumentError(msg)

    def _check_states(self) -> None:
        if self.mode == "goal_state_shift" and not self._states:
            msg = 'mode="goal_state_shift" needs the states of the run. Pass cell_states_to_model.'
            raise StateError(msg)
        unused = "with states of cells" if self._states else f'in mode="{self.mode}"'
        if self.anchor_gene is not None and not self.combos and (self._states or self.mode != "mixture_model"):
            _warn(f"anchor_gene has no meaning {unused} and combos=0, and is left out.")
            self.anchor_gene = None

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
        input_data_directory
            Folder with the files of one or more runs.
        null_dist_data_directory
            Folder of the run to compare with, for "vs_null".
        output_directory
            Folder for the table; made if it is missing.
        output_prefix
            Name of the table.
        null_dict_list
            The run to compare with as dictionaries, instead of a folder.

        Raises
        ------
        InputNotFoundError
            A folder without such files.
        UnsafeFileError, UnreadableInputError, DatasetError
            A file that asks for code to be run, is damaged, or holds something else.
        StateError
            Runs with other states than those named, or with states where there must be none.
        AbsentGeneError, PerturbationError
            Runs without the effects that the mode is about.
        OutputError
            The table cannot be written.
        """
        if self.mode != "vs_null" and (null_dist_data_directory is not None or null_dict_list is not None):
            _warn(f'The run to compare with has no meaning in mode="{self.mode}", and is not read.', stacklevel=3)
        files = read_folder(input_data_directory, self.pickle_suffix)
        if self.mode == "vs_null":
            frame = self._vs_null(files, self._null_files(null_dist_data_directory, null_dict_list))
        else:
            frame = getattr(self, f"_{self.mode}")(files)
        folder = Path(output_directory)
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / f"{output_prefix}.csv", overwrite=True) as temporary:
            frame.to_csv(temporary)

    def _perturbed(self, files: Sequence[RawFile], kind: str, **how: Any) -> Perturbed:
        """Effects of the files, once it is certain that there are some of a kind."""
        perturbed = Perturbed(Reading(self._vocabulary, self._states, **how).effects(files))
        kinds = perturbed.kinds()
        if kind in kinds:
            return perturbed
        on_genes = 'emb_mode="cls_and_gene" or "cell_and_gene"'
        fix = {
            SHIFT: "Perturb with cell_states_to_model, or use another mode.",
            SIMILARITY: 'Perturb without cell_states_to_model, or use mode="goal_state_shift".',
            GENE_SIMILARITY: f"Perturb with {on_genes}.",
        }[kind]
        if how.get("anchor") is not None:
            fix = f"Perturb genes_to_perturb=[{self.anchor_gene!r}] with {on_genes}."
        found = ", ".join(f"{told} towards {perturbed.targets(SHIFT)}" if told == SHIFT else told for told in kinds)
        msg = f'mode="{self.mode}" needs effects of the kind {kind!r}; the files hold {found or "none"}. {fix}'
        raise StateError(msg) if SHIFT in {kind, *kinds} else PerturbationError(msg)

    def _null_files(self, folder: str | Path | None, dictionaries: Sequence[Mapping[Any, Any]] | None) -> list[RawFile]:
        if dictionaries is not None:
            return [of_content(told, f"null_dict_list[{place}]") for place, told in enumerate(dictionaries)]
        if folder is None:
            msg = 'mode="vs_null" needs a run to compare with. Pass null_dist_data_directory, or null_dict_list.'
            raise OptionError(msg)
        return read_folder(folder, self.pickle_suffix)

    def _vs_null(self, files: Sequence[RawFile], null_files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed, null = self._perturbed(files, SIMILARITY), self._perturbed(null_files, SIMILARITY)
        return self._named(vs_null(perturbed, aligned_values(perturbed, null, null.values(SIMILARITY)), _FDR))

    def _mixture_model(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        if not self.combos:
            return self._named(mixture_model(self._perturbed(files, SIMILARITY, anchor=self._anchor)))
        perturbed = self._perturbed(files, SIMILARITY, triples=True)
        if not len(perturbed.values(SIMILARITY, TOGETHER)):
            msg = (
                "combos=1 compares a pair with both of its genes alone, and the files hold one number per cell. "
                "Perturb with combos=1 and anchor_gene by this package, which writes all three."
            )
            raise PerturbationError(msg)
        return self._named(anchored_mixture_model(perturbed))

    def _goal_state_shift(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed = self._perturbed(files, SHIFT)
        goal, *alternates = self._states[1:]
        missing = [state for state in (goal, *alternates) if state not in perturbed.targets(SHIFT)]
        if missing:
            msg = f"The files hold no shifts towards {missing}; they hold those towards {perturbed.targets(SHIFT)}."
            raise StateError(msg)
        shifted = perturbed.values(SHIFT, goal).counts(len(perturbed)) > 0
        perturbed.keep(shifted)
        frame = goal_state_shift(perturbed, goal, alternates, _FDR)
        if self._together is None:
            return self._named(frame)
        # Of a list the published table has the means alone; the group that was asked for comes first.
        asked = self._asked(perturbed)
        columns = [shift_column(goal, is_goal=True), *(shift_column(state, is_goal=False) for state in alternates)]
        frame = frame.loc[sorted(frame.index, key=lambda row: row != asked)]
        return frame[[*columns, *NAMES, "N_Detections"]].reset_index(drop=True)

    def _aggregate_data(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed = self._perturbed(files, SIMILARITY)
        asked = self._asked(perturbed)
        perturbed.keep(perturbed.table.index == asked)
        frame = aggregate(perturbed)
        names = perturbed.cell_column(CELL_NAME).reindex(frame["cell_id"]).to_numpy()
        frame["cell_id"] = names
        known = bool(frame["cell_id"].notna().all())
        return frame[["Cosine_sim", "Gene", *(["cell_id"] if known else [])]]

    def _aggregate_gene_shifts(self, files: Sequence[RawFile]) -> "pd.DataFrame":
        perturbed = self._perturbed(files, GENE_SIMILARITY)
        return aggregate_gene_shifts(perturbed, GenePairs(perturbed))

    def _asked(self, perturbed: Perturbed) -> int:
        """Row of the genes that were asked for; their order does not matter.

        Raises
        ------
        AbsentGeneError
            No run perturbed them together.
        """
        groups = [frozenset(gene if isinstance(gene, tuple) else (gene,)) for gene in perturbed.table["Gene"]]
        if self._together not in groups:
            held = [str(genes) for genes in perturbed.table["Ensembl_ID"]]
            more = f" and {len(held) - 5} more" if len(held) > 5 else ""
            msg = (
                f"No run perturbed genes_perturbed={list(self.genes_perturbed)} together; the files hold "
                f"{', '.join(held[:5])}{more}."
            )
            raise AbsentGeneError(msg)
        return groups.index(self._together)

    def _named(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """With the id of the second gene where each was perturbed with an anchor, as it always was."""
        if self.genes_perturbed == "all":
            ids = [gene[1] if isinstance(gene, tuple) else gene for gene in frame["Ensembl_ID"]]
            frame = frame.assign(Ensembl_ID=ids)
        return frame


def _warn(message: str, stacklevel: int = 4) -> None:
    warnings.warn(message, GeneformerWarning, stacklevel=stacklevel)
