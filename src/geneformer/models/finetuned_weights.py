"""A pretrained encoder's weights in a network that is to be fine-tuned, and may have more parts than it."""

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from geneformer.errors import CheckpointError
from geneformer.models.encoder import GeneformerEncoder, GeneformerModel

_PREFIX = "bert."
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_DISTANCES = "attention.self.distance_embedding.weight"
_POSITIONS = "embeddings.position_embeddings.weight"


def load_encoder_weights(network: GeneformerModel, base_state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Copy a pretrained encoder into `network.bert`; returns the names of parameters that stay as initialized.

    New may be: bottleneck adapters, one layer on top, and the pooler. Heads and the pooler of the pretrained state are
    passed over where the network has none.

    Parameters
    ----------
    network
        Network with an encoder `bert`; written in place.
    base_state
        Entries of the pretrained network by name, those of the encoder with the prefix `bert.`.
    where
        Named in errors.

    Raises
    ------
    CheckpointError
        Relative positions on one side and absolute ones on the other; entries missing, of another shape, or that the
        network has no place for.
    """
    pretrained = {name.removeprefix(_PREFIX): x for name, x in base_state.items() if name.startswith(_PREFIX)}
    pretrained = {name: value for name, value in pretrained.items() if not name.endswith("position_ids")}
    # Of `.state_dict()` the tensors share memory with the parameters, so that copying into them is loading.
    own: dict[str, Tensor] = cast(GeneformerEncoder, network.bert).state_dict()
    _check_positions(pretrained, own, where)
    new = [name for name in own if name not in pretrained]
    missing = [name for name in new if not _may_be_new(name, _n_layers(pretrained))]
    unknown = [name for name in pretrained if name not in own and not name.startswith("pooler.")]
    if missing or unknown:
        msg = (
            f"{where}: the pretrained encoder does not fit this network; missing {missing[:3]}, without a place "
            f"{unknown[:3]}. Build the network with the configuration of the checkpoint."
        )
        raise CheckpointError(msg)
    known = own.keys() & pretrained.keys()
    for name in (name for name in own if name in known):
        if own[name].shape != pretrained[name].shape:
            msg = (
                f"{where}: {_PREFIX}{name} has shape {tuple(pretrained[name].shape)}, the network calls for "
                f"{tuple(own[name].shape)}. Build the network with the configuration of the checkpoint."
            )
            raise CheckpointError(msg)
    with torch.no_grad():
        for name in known:
            own[name].copy_(pretrained[name])
    return tuple(_PREFIX + name for name in new)


def _n_layers(names: Mapping[str, Tensor]) -> int:
    """Layers of an encoder, from the names of its parameters."""
    return 1 + max((int(found[1]) for name in names if (found := _LAYER.match(name))), default=-1)


def _may_be_new(name: str, n_layers: int) -> bool:
    """Whether a network may have a parameter that an encoder of so many layers does not."""
    found = _LAYER.match(name)
    on_top = found is not None and n_layers > 0 and int(found[1]) == n_layers
    return on_top or ".adapter." in name or name.startswith("pooler.")


def _check_positions(pretrained: Mapping[str, Tensor], own: Mapping[str, Tensor], where: str) -> None:
    """Both sides must tell positions in the same way."""
    kinds = [
        "relative" if any(name.endswith(_DISTANCES) for name in names) else "absolute" if _POSITIONS in names else ""
        for names in (pretrained, own)
    ]
    if all(kinds) and kinds[0] != kinds[1]:
        msg = (
            f"{where} has {kinds[0]} positions and its states rely on them; the network has {kinds[1]} ones. Start "
            f'from weights="random", or from an encoder pretrained with {kinds[1]} positions.'
        )
        raise CheckpointError(msg)
