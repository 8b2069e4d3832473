"""What is read from the network for a batch of cells, edited or not.

Axes: ``T`` packed tokens, ``B`` cells, ``D`` hidden, ``C`` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from geneformer.models.cell_heads import GeneformerForCells, class_probabilities
from geneformer.models.encoder import GeneformerEncoder, mean_over_genes
from geneformer.models.extensions import has_plain_attention
from geneformer.models.first_token import first_token_states
from geneformer.models.loading import LoadedModel
from geneformer.vocab.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class PerturbedModel:
    """A pretrained encoder, or a fine-tuned one whose classes are read as well.

    Attributes
    ----------
    name
        Named in errors and results.
    vocabulary
        Genes and token ids.
    encoder
        The encoder, in evaluation mode.
    classifier
        The network with its head, for shifts of class probabilities.
    temperature
        Divides its logits.
    cut
        Most tokens of a cell the classifier was trained with.
    """

    name: str
    vocabulary: Vocabulary
    encoder: GeneformerEncoder
    classifier: GeneformerForCells | None = None
    temperature: float = 1.0
    cut: int | None = None

    @classmethod
    def pretrained(cls, model: LoadedModel) -> "PerturbedModel":
        """A model without classes."""
        return cls(model.name, model.vocabulary, model.network.bert)

    @property
    def network(self) -> nn.Module:
        """What is moved to a device."""
        return self.encoder if self.classifier is None else self.classifier

    @property
    def max_length(self) -> int:
        """Longest cell the model has positions for."""
        positions = int(self.encoder.config.max_position_embeddings)
        return positions if self.cut is None else min(self.cut, positions)

    @property
    def n_layers(self) -> int:
        """Encoder layers."""
        return len(self.encoder.encoder.layer)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes whose probabilities are read."""
        return () if self.classifier is None else self.classifier.specs[0].classes


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Some cells as the network sees them.

    Attributes
    ----------
    vectors
        Embeddings of the cells, float32 ``(B, D)``.
    hidden
        States of all tokens, ``(T, D)``; None where only the first ones were computed.
    proba
        Probability of every class, float32 ``(B, C)``; None without a classifier.
    """

    vectors: Tensor
    hidden: Tensor | None = None
    proba: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Reads cells from a model.

    Attributes
    ----------
    model
        The model.
    pooling, layer
        Which embedding of a cell; see `PerturbOptions`.
    needs_genes
        Whether states of all tokens are wanted.
    special
        Ids of special tokens, on the device.
    """

    model: PerturbedModel
    pooling: str
    layer: int
    needs_genes: bool
    special: Tensor = field(repr=False)

    def read(
        self, ids_T: Tensor, lengths: Sequence[int], attention: str, *, hidden_TD: Tensor | None = None
    ) -> Reading:
        """Embeddings, states and probabilities of packed cells.

        Parameters
        ----------
        ids_T
            Token ids, end to end.
        lengths
            Tokens of every cell.
        attention
            Kernel by name.
        hidden_TD
            States after the first layer, where they are known already; may be overwritten.
        """
        encoder, start = self.model.encoder, 0 if hidden_TD is None else 1
        cu_seqlens = torch.tensor([0, *lengths], device=ids_T.device).cumsum(0)
        if hidden_TD is None:
            hidden_TD = encoder.embed_tokens(ids_T, cu_seqlens)
        stop = encoder.layers_below(self.layer)
        if self._first_is_enough(start, stop):
            hidden_TD = encoder.run_layers(hidden_TD, lengths, start=start, stop=stop - 1, attention=attention)
            layer = encoder.encoder.layer[stop - 1]
            return Reading(first_token_states(layer, hidden_TD, lengths).float())  # type: ignore[arg-type]
        hidden_TD = encoder.run_layers(hidden_TD, lengths, start=start, stop=stop, attention=attention)
        vectors_BD = self._pool(hidden_TD, ids_T, cu_seqlens)
        proba_BC = None
        if (network := self.model.classifier) is not None:
            last_TD = hidden_TD
            if stop < self.model.n_layers:
                last_TD = encoder.run_layers(hidden_TD.clone(), lengths, start=stop, attention=attention)
            logits_BC = network.heads[0](network.pool(last_TD, ids_T, cu_seqlens))
            proba_BC = class_probabilities(logits_BC, network.specs[0], self.model.temperature)
        return Reading(vectors_BD, hidden_TD, proba_BC)

    def _first_is_enough(self, start: int, stop: int) -> bool:
        """Whether the last layer is needed for the first token of each cell only."""
        wanted = self.pooling == "cls" and not self.needs_genes and self.model.classifier is None
        return wanted and has_plain_attention(self.model.encoder.config) and stop > start

    def _pool(self, hidden_TD: Tensor, ids_T: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Embeddings of the cells in float32, ``(B, D)``."""
        if self.pooling == "cls":
            return hidden_TD[cu_seqlens[:-1]].float()
        return mean_over_genes(hidden_TD, ids_T, cu_seqlens, self.special)
