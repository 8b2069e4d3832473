"""Tokens for a model, from counts or from a dataset folder."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from geneformer.data.dataset import TokenizedDataset
from geneformer.data.storage import read_dataset
from geneformer.engine.inference import Progress
from geneformer.errors import OptionError
from geneformer.options import TokenizeOptions
from geneformer.tasks.adata_inputs import PairedModel
from geneformer.tokenization.tokenizer import tokenize_counts


def open_tokens(
    inputs: Sequence[Path],
    model: PairedModel,
    *,
    layer: str | None = None,
    gene_ids: str | None = None,
    counts: bool = False,
    progress: Progress | None = None,
) -> TokenizedDataset:
    """Tokens of a dataset folder as they are, or of counts, made to fit the model.

    Tokens made on the way go through a temporary folder and are memory-mapped, so that memory does not grow with the
    number of cells; the folder goes when the dataset does.

    Parameters
    ----------
    inputs
        One `.dataset` folder, or files and folders of counts.
    model
        Decides vocabulary and length.
    layer, gene_ids
        Where counts and gene identifiers are.
    counts
        Also keep each token's scaled count, where tokens are made.
    progress
        Called while counts are tokenized.

    Raises
    ------
    OptionError
        Several dataset folders, or a mixture with counts.
    """
    folders = [path for path in inputs if is_dataset(path)]
    if folders and len(inputs) > 1:
        msg = f"{folders[0]} is a dataset of tokens; pass it alone, or pass counts only. Got {len(inputs)} inputs."
        raise OptionError(msg)
    if folders:
        return read_dataset(folders[0])
    options = TokenizeOptions(
        vocabulary=model.vocabulary.name, layer=layer, gene_ids=gene_ids, counts=counts, max_length=model.max_length
    )
    with tempfile.TemporaryDirectory(prefix="geneformer-") as folder:
        target = Path(folder) / "tokens.dataset"
        tokens, _ = tokenize_counts(inputs, options, output=target, vocabulary=model.vocabulary, progress=progress)
    # The files stay readable through the memory map after their names are gone.
    return tokens


def is_dataset(path: Path) -> bool:
    """Whether a folder holds tokens rather than counts, in the layout of any `datasets` release."""
    return (path / "state.json").is_file() or (path / "dataset_info.json").is_file()
