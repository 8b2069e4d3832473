"""The published function `get_embs`: a network and a dataset in memory, tensors out."""

from collections.abc import Mapping
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig

from geneformer.compat.embeddings.extraction import Extraction, by_token, vector
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.padded_rows import unpadded
from geneformer.errors import CheckpointError, DatasetError, OptionError, OutOfRangeError, UnsupportedArgumentError
from geneformer.models.checkpoint import TIED, build_model
from geneformer.models.given_adapters import merge_adapters
from geneformer.models.loading import LoadedModel, recognize_vocabulary
from geneformer.options._check import check_choice, check_range
from geneformer.tasks.embedding_summaries import Statistic
from geneformer.tasks.unmarked_tokens import mark_tokens
from geneformer.vocab.checks import CLS, SPECIAL
from geneformer.vocab.vocabulary import Vocabulary

_PLAIN = ("torch.", "transformers.", "geneformer.")
"""Where networks without adapters and weights of few bits have their parts from."""

NO_TDIGEST = (
    "save_tdigest=True cannot be honored: means and medians are exact here, so there is no digest to keep. Leave it "
    "out; for other quantiles extract the embeddings without summary_stat and take them from the table."
)


def get_embs(  # noqa: PLR0913, PLR0917  the published arguments
    model: nn.Module,
    filtered_input_data: Any,
    emb_mode: str,
    layer_to_quant: int,
    pad_token_id: int,
    forward_batch_size: int,
    token_gene_dict: Mapping[int, str],
    special_token: bool = False,
    summary_stat: Statistic | None = None,
    silent: bool = False,
    save_tdigest: bool = False,
    tdigest_path: str | Path | None = None,
) -> Tensor | dict[int, list[float]]:
    """Embeddings of cells, or of genes, from a network in memory.

    Parameters
    ----------
    model
        BERT of `transformers` with any head, or a network of this package. It is left as it is, where it is; the
        embeddings are computed on the device that is found ("auto").
    filtered_input_data
        `datasets.Dataset` with `input_ids`, or a `TokenizedDataset`. Rows are taken in its order; `<pad>` at their ends
        is no token, whatever their `length` says.
    emb_mode
        "cls": state of `<cls>`. "cell": mean over the genes of each cell; special tokens do not count, and whether
        there are any is seen from the cells. "gene": states of all tokens.
    layer_to_quant
        Index into the hidden states: 0 is before the first layer, the number of layers the last one.
    pad_token_id
        Id of `<pad>` in the dictionary.
    forward_batch_size
        At most so many cells of the greatest length are read together; changes the memory needed, not the values.
    token_gene_dict
        Gene or special token of each id.
    special_token
        Changes nothing: the dictionary and the cells tell.
    summary_stat
        "mean" or "median" over the cells, in every dimension; exact, where the published package approximates.
    silent
        Show no progress bar.
    save_tdigest, tdigest_path
        There are no digests to save; see Raises.

    Returns
    -------
    Tensor
        In main memory, float32: ``(n, d)``, or ``(d,)`` with `summary_stat`; for "gene" ``(n, longest, d)`` with zeros
        behind the end of shorter cells.
    dict
        For "gene" with `summary_stat`: token ids and their embeddings as lists.

    Raises
    ------
    UnsupportedArgumentError
        `save_tdigest`.
    OptionError
        Another mode, layer or statistic.
    CheckpointError
        The network is no BERT.
    PairingError
        Cells that the network cannot read, or "cls" and cells without `<cls>`.
    """
    if save_tdigest:
        raise UnsupportedArgumentError(NO_TDIGEST)
    check_choice("emb_mode", emb_mode, ("cls", "cell", "gene"))
    check_choice("summary_stat", summary_stat, (None, "mean", "median"))
    check_range("forward_batch_size", forward_batch_size, low=1)
    _check_dictionary(token_gene_dict, pad_token_id)
    loaded = _loaded(model, token_gene_dict)
    tokens = mark_tokens(dataset_tokens(filtered_input_data, pad_token_id), loaded.vocabulary)
    cells = Extraction(tokens, loaded, _layer(layer_to_quant, loaded.n_layers), forward_batch_size, silent)
    if emb_mode != "gene":
        values_nd = cells.cells(emb_mode).values
        return torch.from_numpy(values_nd) if summary_stat is None else vector(values_nd, summary_stat)
    states = cells.states()
    if summary_stat is None:
        return torch.from_numpy(states.padded())
    ids, values = states.summaries(summary_stat)
    return by_token(ids.tolist(), values)


def _loaded(model: nn.Module, token_gene_dict: Mapping[int, str]) -> LoadedModel:
    """The encoder of a network, with the vocabulary that fits it."""
    config = getattr(model, "config", None)
    if not isinstance(config, BertConfig):
        msg = f"The model is a {type(model).__name__}, not a BERT. Load a model folder first."
        raise CheckpointError(msg)
    where = Path(type(model).__name__)
    weights = {name: value.detach() for name, value in _plain(model).state_dict().items() if name not in TIED}
    network, has_head = build_model(copy(config), weights, where.name)
    return LoadedModel(where.name, where, network, _vocabulary(token_gene_dict, config, where), has_head)


def _plain(model: Any) -> nn.Module:
    """The network with BERT's own weights: a copy where there are adapters, or weights of few bits."""
    network: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    if all(type(module).__module__.startswith(_PLAIN) for module in network.modules()):
        return network
    network = deepcopy(network)
    merge_adapters(network)
    return network


def _vocabulary(token_gene_dict: Mapping[int, str], config: BertConfig, where: Path) -> Vocabulary:
    """The vocabulary of a dictionary, or that of the model where the dictionary is of another one."""
    if len(token_gene_dict) != config.vocab_size:
        return recognize_vocabulary(config, where, None)
    special = {name: int(token) for token, name in token_gene_dict.items() if name in SPECIAL}
    genes = {int(token): name for token, name in token_gene_dict.items() if name not in SPECIAL}
    for bundled in map(Vocabulary.load, ("V1", "V2")):
        if len(genes) == len(bundled.genes) and {name: token for token, name in genes.items()} == bundled.token_of:
            return bundled
    return Vocabulary(
        name="token_gene_dict",
        genes=list(genes.values()),  # type: ignore[arg-type]
        token_ids=list(genes),  # type: ignore[arg-type]
        medians=[1.0] * len(genes),  # type: ignore[arg-type]
        special_tokens=special,
        input_size=4096 if CLS in special else 2048,
    )


def dataset_tokens(data: Any, pad_id: int = 0) -> TokenizedDataset:
    """The cells of a `datasets.Dataset`, in its order, without padding.

    Raises
    ------
    DatasetError
        Something else, or a dataset without tokens.
    """
    if isinstance(data, TokenizedDataset):
        return data
    if not hasattr(data, "with_format"):
        msg = f"The data is a {type(data).__name__}. Give a datasets.Dataset, as `load_from_disk` returns it."
        raise DatasetError(msg)
    return unpadded(data.with_format("arrow")[:], pad_id)


def _layer(index: int, n_layers: int) -> int:
    """A layer counted back from the output, from its index into the hidden states."""
    if isinstance(index, bool) or not isinstance(index, int) or not -n_layers - 1 <= index <= n_layers:
        msg = f"layer_to_quant={index!r} is out of range. The model has {n_layers} layers: it takes 0 to {n_layers}."
        raise OutOfRangeError(msg)
    return index - n_layers if index >= 0 else index + 1


def _check_dictionary(token_gene_dict: Any, pad_token_id: int) -> None:
    if not isinstance(token_gene_dict, Mapping) or any(isinstance(token, str) for token in token_gene_dict):
        found = "gene to id" if isinstance(token_gene_dict, Mapping) else type(token_gene_dict).__name__
        msg = (
            f"token_gene_dict ({found}) takes the gene of each id. Turn the dictionary of TOKEN_DICTIONARY_FILE round: "
            "{token: gene for gene, token in dictionary.items()}."
        )
        raise OptionError(msg)
    if token_gene_dict.get(pad_token_id, "<pad>") != "<pad>":
        msg = f"pad_token_id={pad_token_id} is {token_gene_dict[pad_token_id]} in the dictionary. Give that of <pad>."
        raise OptionError(msg)
