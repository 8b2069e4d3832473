"""Fine-tuned networks: made from a pretrained one, written to a folder, read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig

from geneformer.errors import CheckpointError
from geneformer.models.cell_heads import GeneformerForCells
from geneformer.models.checkpoint import CONFIG, WEIGHTS, read_config, read_weights
from geneformer.models.encoder import GeneformerModel
from geneformer.models.expression_head import GeneformerForExpression
from geneformer.models.finetuned_weights import load_encoder_weights
from geneformer.models.loading import LoadedModel
from geneformer.models.strategies import prepare_config
from geneformer.models.token_heads import GeneformerForGenes
from geneformer.options import FinetuneOptions

NETWORKS: dict[str, type[GeneformerModel]] = {
    network.__name__: network for network in (GeneformerForCells, GeneformerForExpression, GeneformerForGenes)
}
"""Networks by the name `config.json` gives them."""

Network = TypeVar("Network", bound=GeneformerModel)


def build_network(
    kind: type[Network], base: LoadedModel, options: FinetuneOptions, attributes: Mapping[str, Any]
) -> Network:
    """A network for a task with the encoder of a pretrained model, or one of its shape with random weights.

    Parameters
    ----------
    kind
        Class of the network.
    base
        Pretrained model; it is left as it is.
    options
        Strategy and shape; new weights come from its seed. The global random state is left alone.
    attributes
        Further entries of the configuration: heads, pooling, classes.

    Raises
    ------
    PairingError
        The pretrained weights make no sense in the shape asked for.
    """
    config = prepare_config(base.network.config, options)
    config.geneformer_vocabulary = base.vocabulary.fingerprint
    config.geneformer_special_ids = [int(i) for i in base.vocabulary.special_ids]
    for name, value in attributes.items():
        setattr(config, name, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = kind(config)
    if options.weights == "pretrained":
        load_encoder_weights(network, base.network.state_dict(), base.name)
    return network


def save_network(network: GeneformerModel, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`.

    Parameters
    ----------
    network
        A fine-tuned network.
    folder
        Made if missing; files of the same names are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to("cpu").contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    network.config.architectures = [type(network).__name__]
    (folder / CONFIG).write_text(json.dumps(network.config.to_dict(), indent=2, sort_keys=True) + "\n")


def load_network(folder: Path, kind: type[Network]) -> Network:
    """A network as `save_network` wrote it, in evaluation mode.

    Parameters
    ----------
    folder
        What to read.
    kind
        Class the network must be of.

    Raises
    ------
    CheckpointError
        Another kind of network, or weights that do not fit.
    """
    config = read_config(folder)
    found = (config.architectures or ["?"])[0]
    if found != kind.__name__:
        msg = f"{folder} holds a {found}, not a {kind.__name__}. Known are {', '.join(NETWORKS)}."
        raise CheckpointError(msg)
    return filled(kind, config, read_weights(folder), str(folder))


def filled(kind: type[Network], config: BertConfig, weights: Mapping[str, Tensor], where: str) -> Network:
    """A network with exactly the given weights, in evaluation mode.

    Parameters
    ----------
    kind
        Class of the network.
    config
        Its configuration.
    weights
        Entries by name.
    where
        Named in errors.

    Raises
    ------
    CheckpointError
        Entries missing, unknown or of another shape.
    """
    network = kind(config)
    expected = network.state_dict()
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    bent = [name for name in expected.keys() & weights.keys() if expected[name].shape != weights[name].shape]
    if missing or unknown or bent:
        msg = (
            f"{where}: the weights do not fit {CONFIG}; missing {missing[:3]}, unknown {unknown[:3]}, of another shape "
            f"{bent[:3]}. The folder is incomplete or mixed; write it again."
        )
        raise CheckpointError(msg)
    network.load_state_dict(dict(weights))
    return network.eval()
