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

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar


class GeneformerWarning(UserWarning):
    """Something was repaired or looks wrong, and the work went on."""


class GeneformerError(Exception):
    """Base of every error this package raises on purpose.

    All errors of this package have this base; catch it to catch them all.

    Attributes
    ----------
    code
        Stable identifier, ``GF`` and three digits.
    """

    code = "GF000"

    def __str__(self) -> str:
        return f"{type(self).__name__} ({self.code}): {Exception.__str__(self)}"  # KeyError would show the repr


class OptionError(GeneformerError, ValueError):
    """An option holds a value it does not take.

    The message names the option, what it was given and what it takes. Options are the fields of
    `geneformer.options`, the flags of the commands, and the entries of a `--config` file.
    """

    code = "GF100"


class UnknownChoiceError(OptionError):
    """A name that is not among the choices.

    Choices are told in the message, with the nearest one to what was given. Names are spelled exactly, in the case
    that is shown.
    """

    code = "GF101"


class OutOfRangeError(OptionError):
    """A number outside its range.

    The message tells the range. Some limits come from elsewhere: a longest cell from the vocabulary, a layer from
    the model.
    """

    code = "GF102"


class UnknownOptionError(OptionError):
    """A configuration file names an option that does not exist.

    Remove the entry, or spell it as the message suggests. Options stand at the top of the file or in a table of
    their section.
    """

    code = "GF103"


class UnsupportedArgumentError(OptionError):
    """An argument of the published package that cannot be honored here.

    Leave the argument out, or use what the message names in its place.
    """

    code = "GF104"


class UnsupportedNameError(OptionError, ImportError):
    """A function of the published package that is not among those carried over.

    The message names what does the same here.
    """

    code = "GF105"


class CountsError(GeneformerError, ValueError):
    """The counts cannot be used as they are.

    The message names the file, the column or the value, and what is accepted.
    """

    code = "GF200"


class InputNotFoundError(CountsError, FileNotFoundError):
    """No such file, or a folder without a readable file.

    Check the path; a folder must hold files of a format that is read.
    """

    code = "GF201"


class UnreadableInputError(CountsError, OSError):
    """A file that is truncated, damaged, locked, or not what its name says.

    Copy or download the file again, and compare its size with that of the original. A file that opens elsewhere may
    have the wrong suffix.
    """

    code = "GF202"


class NotRawCountsError(CountsError):
    """Values that are not raw counts: normalised, logarithmised, scaled or negative.

    Give the raw counts: those of a layer with `layer=` or `--layer`, or those of `adata.raw` with `layer="raw"`.
    Values that were divided or logarithmised have lost what the ranks depend on. If they are meant to be ranked as
    they are, `accept_normalized` does that and the manifest says so.
    """

    code = "GF203"


class NonFiniteCountsError(CountsError):
    """Missing or infinite values in the matrix.

    Correct the values where they come from, or take missing ones for zero with `missing="zero"` (`--missing zero`).
    """

    code = "GF204"


class NoCellsError(CountsError):
    """No cell is left to work on.

    Look at what left the cells out: `filter_pass`, a filter of one's own, or counts without a gene of the
    vocabulary.
    """

    code = "GF205"


class FilterPassError(CountsError):
    """A ``filter_pass`` column that cannot be read as yes or no.

    Store the column as truth values, as 0 and 1, or as "True" and "False"; or remove it to keep all cells.
    """

    code = "GF206"


class InvalidTotalsError(CountsError):
    """An ``n_counts`` column with values that cannot be totals.

    Remove the column to have totals computed from the counts, or store the totals of the raw counts in it.
    """

    code = "GF207"


class UnknownColumnError(CountsError, KeyError):
    """A column, layer or slot that the input does not have.

    The message lists what there is. Names are spelled exactly.
    """

    code = "GF208"


class UnsupportedFormatError(CountsError):
    """A kind of file this package does not read.

    Convert the file to a format that the message lists.
    """

    code = "GF209"


class PlaceholderFileError(CountsError):
    """A git-lfs pointer stands where the file should be.

    Fetch the file itself with `git lfs pull`, or download it from where the folder came from.
    """

    code = "GF210"


class GeneIdsNotFoundError(CountsError):
    """Nothing in the gene table looks like identifiers of the vocabulary.

    Put Ensembl ids or symbols into the index of `var` or into a column, and name that column with `gene_ids=`.
    """

    code = "GF221"


class WrongSpeciesError(CountsError):
    """Gene identifiers of a species the vocabulary does not cover.

    Use counts of human genes, or map the genes to their human orthologs first.
    """

    code = "GF222"


class TooFewGenesMatchedError(CountsError):
    """Too small a share of the counts lies in genes the vocabulary knows.

    Look at the identifiers that the message shows. Name another column with `gene_ids=`, or lower `min_matched=` if
    only a panel of genes was measured.
    """

    code = "GF223"


class UnsupportedGeneIdsError(CountsError):
    """Transcript, protein, Entrez or probe identifiers.

    Sum the counts of transcripts or probes to genes, and name genes by Ensembl ids (ENSG...) or symbols.
    """

    code = "GF224"


class PairingError(GeneformerError, ValueError):
    """Vocabulary, model and tokens do not belong together.

    Use the vocabulary, the model and the tokens that were made for each other; the message names them.
    """

    code = "GF300"


class VocabularyMismatchError(PairingError):
    """Tokens of one vocabulary met a model of another.

    Tokenize the counts again with the vocabulary of the model.
    """

    code = "GF301"


class UnknownVocabularyError(PairingError):
    """Which vocabulary was used cannot be determined.

    Pass the vocabulary by its name ("V1", "V2") or folder.
    """

    code = "GF302"


class InvalidVocabularyError(PairingError):
    """A vocabulary that contradicts itself or is incomplete.

    The message names the entry. Save the vocabulary again, or get the published files again.
    """

    code = "GF303"


class UnknownModelError(PairingError):
    """No model of that name and no folder at that path.

    `geneformer models` lists the names. A folder is given by its path, a repository of the hub as "owner/name".
    """

    code = "GF304"


class CheckpointError(PairingError):
    """A checkpoint that is incomplete, damaged or of another architecture.

    Get the folder again, whole: a configuration and its weights. Of a configuration only entries about the network
    are read; those that name code to load never are.
    """

    code = "GF305"


class SequenceTooLongError(PairingError):
    """Cells with more tokens than the model has positions.

    Tokenize with a smaller `max_length`, or keep the highest ranked genes with `truncate`.
    """

    code = "GF306"


class ConversionNeededError(PairingError):
    """Weights in a format that is only read on explicit conversion.

    `geneformer models --convert FOLDER -o NEW_FOLDER` turns pickled weights into safetensors once. It reads tensors
    and nothing else.
    """

    code = "GF307"


class DatasetError(PairingError):
    """A tokenized dataset that is incomplete, damaged or lacks a needed column.

    Make the dataset again with `geneformer tokenize`, or copy its whole folder again.
    """

    code = "GF308"


class OutputError(GeneformerError, OSError):
    """Results cannot go where they were sent.

    Free some space, choose a folder you may write to, or another name; the message says which. No output goes over,
    into or around an input.
    """

    code = "GF400"


class OutputExistsError(OutputError, FileExistsError):
    """Something is there already and was not to be overwritten.

    Choose another name, allow the replacement with `--overwrite` (`overwrite=True`), or go on with a half-finished
    run by `--resume`. A folder that was not made by this package is never replaced.
    """

    code = "GF401"


class RunMismatchError(OutputError):
    """A half-finished run was made from other inputs or options.

    Repeat the command that the run was started with; the message says what differs. `--overwrite` starts over.
    """

    code = "GF402"


class RunLockedError(OutputError):
    """Another process is working on the same output.

    Wait for the other process to end, or write elsewhere. The lock is freed when that process ends, however it
    ends.
    """

    code = "GF403"


class ProvenanceError(OutputError):
    """A result is not what was made, or its inputs have changed since.

    Make the result again from the inputs as they are now, or get back the inputs it was made from.
    """

    code = "GF404"


class DeviceError(GeneformerError, RuntimeError):
    """The machine cannot do what was asked.

    The message says what the machine lacks, and what works on it.
    """

    code = "GF500"


class DeviceUnavailableError(DeviceError):
    """The device asked for is not here.

    Leave `device` at "auto", or name a device that is there.
    """

    code = "GF501"


class PlacementError(DeviceError):
    """A parameter is not on the device it was moved to.

    A part of the model stayed on another device. Move the whole model, and do not move parts afterwards.
    """

    code = "GF502"


class DeviceMemoryError(DeviceError, MemoryError):
    """Not even one cell fits into the memory of the device.

    Lower `tokens_per_batch`, cut long cells, or use a smaller model or another device.
    """

    code = "GF503"


class TrainingError(GeneformerError, RuntimeError):
    """Training cannot go on.

    Lower the learning rate where a loss is no longer finite; what was written before is kept.
    """

    code = "GF504"


class UnsafeFileError(GeneformerError, ValueError):
    """A file that asks for code to be run while it is read.

    Do not open the file by other means unless you trust who made it. Ask for the data in another format.
    """

    code = "GF601"


class LabelError(GeneformerError, ValueError):
    """Labels, or what cells are split by, cannot be used as they are.

    The message names the column and the value.
    """

    code = "GF700"


class ConstantLabelError(LabelError):
    """One class only: there is nothing to tell apart.

    Choose a column with two classes or more, or cells of more than one class.
    """

    code = "GF701"


class MissingLabelError(LabelError):
    """No cell has a label.

    Choose a column that has labels in these cells. Empty, None and NaN count as missing.
    """

    code = "GF702"


class RareClassError(LabelError):
    """Too few cells, or groups such as donors, of a class for what was asked.

    Leave rare classes out with `rare_below`, choose a smaller held-out share, or add cells. Where each donor has one
    class, use fewer parts (`valid=0`), or `cross_validate` over the donors.
    """

    code = "GF703"


class UnknownClassError(LabelError):
    """A class that was never learnt, or is not among those named.

    Use the classes that the message lists; others can only be predicted after learning them.
    """

    code = "GF704"


class LeakageError(LabelError):
    """Cells of one group, such as a donor, would be on two sides of a split.

    Split by the column of the groups (`groups=`), so that no donor is on two sides; `allow_leakage` accepts it as
    it is.
    """

    code = "GF705"


class UnknownIdError(LabelError, KeyError):
    """A split names an id that no cell has.

    Correct the list; ids are compared as text.
    """

    code = "GF706"


class GeneListError(LabelError):
    """A list of genes to learn from: unknown genes, genes in two classes, or too few.

    Correct the names, or leave unknown ones out with `unknown_genes="drop"`. A gene belongs to one class.
    """

    code = "GF711"


class NotFittedError(GeneformerError, ValueError, AttributeError):
    """An estimator that has learnt nothing yet was asked for what it learnt.

    Call `fit` first, or load a fitted model.
    """

    code = "GF721"


class NonFiniteValuesError(GeneformerError, ValueError):
    """Missing or infinite values in what a model computed: logits, probabilities, embeddings.

    Look at the cell that is named. Such values come from a damaged model, from training that diverged, or from
    arithmetic of too few bits: try `dtype="float32"`.
    """

    code = "GF722"


class PerturbationError(GeneformerError, ValueError):
    """What is to be perturbed, or what it is compared with, cannot be used as it is.

    The message names the perturbation, the cell or the state.
    """

    code = "GF800"


class UnknownGeneError(PerturbationError):
    """A gene that the vocabulary does not have.

    Name genes by Ensembl id or symbol; `geneformer vocabulary V1 --gene NAME` looks one up.
    """

    code = "GF801"


class AbsentGeneError(PerturbationError):
    """A gene that none, or too few, of the cells have.

    Choose cells that express the gene, lower `min_cells`, or overexpress it.
    """

    code = "GF802"


class StateError(PerturbationError):
    """States that are unknown, empty or the same.

    Use the states that the message lists; start, goal and alternates must differ.
    """

    code = "GF803"


class GroupTooLargeError(PerturbationError):
    """More genes at once than a cell has room for.

    Perturb fewer genes at once, or use a model with more positions.
    """

    code = "GF804"


class MissingExtraError(GeneformerError, ImportError):
    """An optional library is not installed.

    Install the library, or the extra that the message names, such as `pip install "geneformer[train]"`.
    """

    code = "GF901"


def reason_of(error: BaseException) -> str:
    """What a library says is wrong, without the name of the file, with which the message begins."""
    if isinstance(error, GeneformerError):
        return Exception.__str__(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return error.strerror
    return str(error)


_TAKEN: ContextVar[Mapping[str, str] | None] = ContextVar("options_taken", default=None)


@contextmanager
def options_taken(**names: str) -> Iterator[None]:
    """Options of tokenizing that a function takes which needs tokens, with their names there, for messages."""
    outer = _TAKEN.get()
    token = _TAKEN.set(names if outer is None else {key: outer[name] for key, name in names.items() if name in outer})
    try:
        yield
    finally:
        _TAKEN.reset(token)


def option(name: str, value: object) -> str:
    """An option of tokenizing in a message, as flag and keyword of what was called, or as a call of its own."""
    taken = _TAKEN.get()
    called = name if taken is None else taken.get(name)
    return tokenizing(**{name: value}) if called is None else f"{_flag(called, value)} ({_keyword(called, value)})"


def tokenizing(**options: object) -> str:
    """How counts are tokenized with some options, for messages of what does not take them itself."""
    flags = " ".join(_flag(name, value) for name, value in options.items())
    keywords = ", ".join(_keyword(name, value) for name, value in options.items())
    return f"`geneformer tokenize {flags}` (`gf.pp.tokenize({keywords})`)"


def _flag(name: str, value: object) -> str:
    from shlex import quote

    return "--" + name.replace("_", "-") + ("" if value is True else f" {quote(str(value))}")


def _keyword(name: str, value: object) -> str:
    return f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}"


def errors_by_code() -> dict[str, type[GeneformerError]]:
    """Every error by its code, in the order of the codes."""
    found, waiting = {}, [GeneformerError]
    while waiting:
        error = waiting.pop()
        found[error.code] = error
        waiting += [kind for kind in error.__subclasses__() if kind.__module__ == __name__]
    return dict(sorted(found.items()))


def described(error: type[GeneformerError]) -> tuple[str, str]:
    """What is wrong when an error is raised, and what mends it."""
    what, _, rest = inspect.cleandoc(error.__doc__ or "").partition("\n\n")
    return what, " ".join(rest.partition("\n\n")[0].split())


def explain(code: str) -> str:
    """What a code of an error means, and what mends it.

    Parameters
    ----------
    code
        Such as "GF203", as it stands in the message.

    Raises
    ------
    UnknownChoiceError
        There is no such code.

    Examples
    --------
    >>> import geneformer as gf
    >>> gf.explain("GF210").split()[:2]
    ['GF210', 'PlaceholderFileError']
    """
    known = errors_by_code()
    asked = str(code).strip().upper()
    asked = asked if asked.startswith("GF") else f"GF{asked}"
    if asked not in known:
        msg = f"There is no code {code!r:.80}. Codes are {', '.join(known)}."
        raise UnknownChoiceError(msg)
    error = known[asked]
    what, mend = described(error)
    kinds = [base.__name__ for base in error.__mro__[1:] if base not in (BaseException, object)]
    names = f"In Python: geneformer.errors.{error.__name__}, a {', '.join(kinds)}."
    return "\n\n".join([f"{asked} {error.__name__}", what, mend, names])


def reference() -> str:
    """All codes as a page in Markdown."""
    lines = [
        "# Errors",
        "",
        "Every refusal is an error with a code that stays the same. `geneformer explain GF203`, or",
        '`gf.explain("GF203")`, prints its entry. In Python the classes stand in `geneformer.errors`; those of',
        "one family share a base, and all of them share `GeneformerError`.",
        "",
    ]
    for code, error in errors_by_code().items():
        what, mend = described(error)
        lines += [f"## {code} {error.__name__}", "", what, "", mend, ""]
    return "\n".join(lines)
