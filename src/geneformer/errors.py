"""Errors, one class per thing that can be wrong; every message says what, where, what is accepted and the fix.

::

    GeneformerError
    ├─ OptionError ............... GF1xx  a knob was set to something it does not take
    ├─ CountsError ............... GF2xx  the matrix, its cells or its genes
    ├─ PairingError .............. GF3xx  vocabulary, model and tokens do not belong together
    ├─ OutputError ............... GF4xx  where results go
    ├─ DeviceError ............... GF5xx  the machine
    ├─ UnsafeFileError ........... GF6xx  a file asks for code to be run
    ├─ LabelError ................ GF7xx  what is to be learnt: labels, the split, lists of genes
    ├─ PerturbationError ......... GF8xx  what is to be perturbed: genes, cells, states
    └─ MissingExtraError ......... GF901  an optional library is not installed
"""


class GeneformerWarning(UserWarning):
    """Something was repaired or looks wrong, and the work went on."""


class GeneformerError(Exception):
    """Base of every error this package raises on purpose.

    Attributes
    ----------
    code
        Stable identifier, ``GF`` and three digits.
    """

    code = "GF000"

    def __str__(self) -> str:
        return f"{type(self).__name__} ({self.code}): {Exception.__str__(self)}"  # KeyError would show the repr


class OptionError(GeneformerError, ValueError):
    """An option holds a value it does not take."""

    code = "GF100"


class UnknownChoiceError(OptionError):
    """A name that is not among the choices."""

    code = "GF101"


class OutOfRangeError(OptionError):
    """A number outside its range."""

    code = "GF102"


class UnknownOptionError(OptionError):
    """A configuration file names an option that does not exist."""

    code = "GF103"


class UnsupportedArgumentError(OptionError):
    """An argument of the published package that cannot be honored here."""

    code = "GF104"


class UnsupportedNameError(OptionError, ImportError):
    """A function of the published package that is not among those carried over."""

    code = "GF105"


class CountsError(GeneformerError, ValueError):
    """The counts cannot be used as they are."""

    code = "GF200"


class InputNotFoundError(CountsError, FileNotFoundError):
    """No such file, or a folder without a readable file."""

    code = "GF201"


class UnreadableInputError(CountsError, OSError):
    """A file that is truncated, damaged, locked, or not what its name says."""

    code = "GF202"


class NotRawCountsError(CountsError):
    """Values that are not raw counts: normalised, logarithmised, scaled or negative."""

    code = "GF203"


class NonFiniteCountsError(CountsError):
    """Missing or infinite values in the matrix."""

    code = "GF204"


class NoCellsError(CountsError):
    """No cell is left to work on."""

    code = "GF205"


class FilterPassError(CountsError):
    """A ``filter_pass`` column that cannot be read as yes or no."""

    code = "GF206"


class InvalidTotalsError(CountsError):
    """An ``n_counts`` column with values that cannot be totals."""

    code = "GF207"


class UnknownColumnError(CountsError, KeyError):
    """A column, layer or slot that the input does not have."""

    code = "GF208"


class UnsupportedFormatError(CountsError):
    """A kind of file this package does not read."""

    code = "GF209"


class PlaceholderFileError(CountsError):
    """A git-lfs pointer stands where the file should be."""

    code = "GF210"


class GeneIdsNotFoundError(CountsError):
    """Nothing in the gene table looks like identifiers of the vocabulary."""

    code = "GF221"


class WrongSpeciesError(CountsError):
    """Gene identifiers of a species the vocabulary does not cover."""

    code = "GF222"


class TooFewGenesMatchedError(CountsError):
    """Too small a share of the counts lies in genes the vocabulary knows."""

    code = "GF223"


class UnsupportedGeneIdsError(CountsError):
    """Transcript, protein, Entrez or probe identifiers."""

    code = "GF224"


class PairingError(GeneformerError, ValueError):
    """Vocabulary, model and tokens do not belong together."""

    code = "GF300"


class VocabularyMismatchError(PairingError):
    """Tokens of one vocabulary met a model of another."""

    code = "GF301"


class UnknownVocabularyError(PairingError):
    """Which vocabulary was used cannot be determined."""

    code = "GF302"


class InvalidVocabularyError(PairingError):
    """A vocabulary that contradicts itself or is incomplete."""

    code = "GF303"


class UnknownModelError(PairingError):
    """No model of that name and no folder at that path."""

    code = "GF304"


class CheckpointError(PairingError):
    """A checkpoint that is incomplete, damaged or of another architecture."""

    code = "GF305"


class SequenceTooLongError(PairingError):
    """Cells with more tokens than the model has positions."""

    code = "GF306"


class ConversionNeededError(PairingError):
    """Weights in a format that is only read on explicit conversion."""

    code = "GF307"


class DatasetError(PairingError):
    """A tokenized dataset that is incomplete, damaged or lacks a needed column."""

    code = "GF308"


class OutputError(GeneformerError, OSError):
    """Results cannot go where they were sent."""

    code = "GF400"


class OutputExistsError(OutputError, FileExistsError):
    """Something is there already and was not to be overwritten."""

    code = "GF401"


class RunMismatchError(OutputError):
    """A half-finished run was made from other inputs or options."""

    code = "GF402"


class RunLockedError(OutputError):
    """Another process is working on the same output."""

    code = "GF403"


class ProvenanceError(OutputError):
    """A result is not what was made, or its inputs have changed since."""

    code = "GF404"


class DeviceError(GeneformerError, RuntimeError):
    """The machine cannot do what was asked."""

    code = "GF500"


class DeviceUnavailableError(DeviceError):
    """The device asked for is not here."""

    code = "GF501"


class PlacementError(DeviceError):
    """A parameter is not on the device it was moved to."""

    code = "GF502"


class DeviceMemoryError(DeviceError, MemoryError):
    """Not even one cell fits into the memory of the device."""

    code = "GF503"


class TrainingError(GeneformerError, RuntimeError):
    """Training cannot go on."""

    code = "GF504"


class UnsafeFileError(GeneformerError, ValueError):
    """A file that asks for code to be run while it is read."""

    code = "GF601"


class LabelError(GeneformerError, ValueError):
    """Labels, or what cells are split by, cannot be used as they are."""

    code = "GF700"


class ConstantLabelError(LabelError):
    """One class only: there is nothing to tell apart."""

    code = "GF701"


class MissingLabelError(LabelError):
    """No cell has a label."""

    code = "GF702"


class RareClassError(LabelError):
    """Too few cells of a class for what was asked."""

    code = "GF703"


class UnknownClassError(LabelError):
    """A class that was never learnt, or is not among those named."""

    code = "GF704"


class LeakageError(LabelError):
    """Cells of one group, such as a donor, would be on two sides of a split."""

    code = "GF705"


class UnknownIdError(LabelError, KeyError):
    """A split names an id that no cell has."""

    code = "GF706"


class GeneListError(LabelError):
    """A list of genes to learn from: unknown genes, genes in two classes, or too few."""

    code = "GF711"


class NotFittedError(GeneformerError, ValueError, AttributeError):
    """An estimator that has learnt nothing yet was asked for what it learnt."""

    code = "GF721"


class NonFiniteValuesError(GeneformerError, ValueError):
    """Missing or infinite values in what a model computed: logits, probabilities, embeddings."""

    code = "GF722"


class PerturbationError(GeneformerError, ValueError):
    """What is to be perturbed, or what it is compared with, cannot be used as it is."""

    code = "GF800"


class UnknownGeneError(PerturbationError):
    """A gene that the vocabulary does not have."""

    code = "GF801"


class AbsentGeneError(PerturbationError):
    """A gene that none, or too few, of the cells have."""

    code = "GF802"


class StateError(PerturbationError):
    """States that are unknown, empty or the same."""

    code = "GF803"


class GroupTooLargeError(PerturbationError):
    """More genes at once than a cell has room for."""

    code = "GF804"


class MissingExtraError(GeneformerError, ImportError):
    """An optional library is not installed."""

    code = "GF901"
