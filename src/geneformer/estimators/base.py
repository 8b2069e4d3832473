"""What all estimators share: a pretrained model to start from, options by keyword, and the machine to run on."""

import dataclasses
from pathlib import Path
from typing import Any

from geneformer._version import __version__
from geneformer.errors import NotFittedError, UnknownOptionError
from geneformer.models.loading import LoadedModel, load_model
from geneformer.options import FinetuneOptions, RuntimeOptions
from geneformer.options._check import nearest
from geneformer.vocab.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True)
class Pairing:
    """What tokens for a fine-tuned network depend on.

    Attributes
    ----------
    name
        Named in errors.
    vocabulary
        Genes and ids.
    max_length
        Most tokens of a cell.
    """

    name: str
    vocabulary: Vocabulary
    max_length: int


class Estimator:
    """Base of the estimators: options come as objects or field by field, by keyword.

    Parameters
    ----------
    model
        Name, checkpoint folder or hub repository of the pretrained model.
    vocabulary
        Needed only where the checkpoint does not tell its own.
    *groups
        Options objects to start from.
    **changes
        Single fields of any of them.

    Raises
    ------
    UnknownOptionError
        A keyword that is a field of none of them.
    """

    kind: str
    """Name of the estimator in the folders it writes."""

    def __init__(self, model: str | Path, vocabulary: Any, groups: dict[str, Any], changes: dict[str, Any]) -> None:
        self.model = model
        self.vocabulary = vocabulary
        for name, options in spread_options(groups, changes).items():
            setattr(self, name, options)
        self._base: LoadedModel | None = None

    finetuning: FinetuneOptions
    runtime: RuntimeOptions

    def base(self) -> LoadedModel:
        """The pretrained model, loaded once."""
        if self._base is None:
            self._base = load_model(self.model, vocabulary=self.vocabulary)
        return self._base

    @property
    def provenance(self) -> dict[str, Any]:
        """Where predictions come from: for `uns`, for files."""
        pairing: Pairing = self._fitted("_pairing")
        return {
            "model": str(self.model),
            "vocabulary": pairing.vocabulary.name,
            "vocabulary_fingerprint": pairing.vocabulary.fingerprint,
            "geneformer_version": __version__,
        }

    def _fitted(self, name: str) -> Any:
        """An attribute that `fit` sets.

        Raises
        ------
        NotFittedError
            `fit` has not been called.
        """
        value = getattr(self, name, None)
        if value is None:
            msg = f"This {type(self).__name__} has learnt nothing yet. Call fit first, or load a saved one."
            raise NotFittedError(msg)
        return value


def spread_options(groups: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Options objects with single fields changed; one that several have, such as the seed, in all of them.

    Raises
    ------
    UnknownOptionError
        A field of none of them.
    """
    fields = {name: {field.name for field in dataclasses.fields(options)} for name, options in groups.items()}
    known = sorted(set().union(*fields.values()))
    unknown = [name for name in changes if name not in known]
    if unknown:
        msg = f"{unknown[0]!r} is not an option. Options are {', '.join(known)}.{nearest(unknown[0], known)}"
        raise UnknownOptionError(msg)
    return {
        name: dataclasses.replace(options, **{key: value for key, value in changes.items() if key in fields[name]})
        for name, options in groups.items()
    }
