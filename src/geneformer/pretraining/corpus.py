"""One dataset to pretrain on, from dataset folders and counts in any mixture."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from geneformer import keys
from geneformer.engine.training import join_processes
from geneformer.errors import RunMismatchError, VocabularyMismatchError, options_taken
from geneformer.files.manifest import Manifest, describe_inputs
from geneformer.files.progress import Progress
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import PretrainOptions, RuntimeOptions, TokenizeOptions
from geneformer.pretraining.start import initial_config
from geneformer.tokenization.checks import open_counts, resolve_inputs
from geneformer.tokenization.tokenizer import tokenize_counts
from geneformer.tokens.dataset import TokenizedDataset
from geneformer.tokens.storage import is_dataset, read_dataset

TOKENS = "tokens.dataset"
"""Folder, within the output, of tokens made on the way."""


def open_corpus(
    inputs: Sequence[Path],
    output: Path,
    options: PretrainOptions,
    runtime: RuntimeOptions,
    *,
    progress: Progress | None = None,
) -> tuple[TokenizedDataset, Vocabulary]:
    """Cells of all inputs, datasets before counts, and the vocabulary they share."""
    folders = [path for path in inputs if is_dataset(path)]
    counts = [path for path in inputs if not is_dataset(path)]
    vocabulary = Vocabulary.load(options.vocabulary)
    initial_config(options, vocabulary)  # what cannot be trained is refused before counts are tokenized
    parts = [read_dataset(path) for path in folders]
    if counts:
        with join_processes(runtime).main_process_first():  # the others read what the first one tokenized
            parts.append(_tokens_of(counts, output / TOKENS, options, vocabulary, progress))
    for part in parts:
        if part.vocabulary not in (None, vocabulary.fingerprint):
            msg = (
                f"{part.path} was made with vocabulary {part.vocabulary}, but this run uses {vocabulary.name} "
                f"({vocabulary.fingerprint}). Pass its vocabulary, or tokenize again."
            )
            raise VocabularyMismatchError(msg)
    if len(parts) == 1:
        return parts[0], vocabulary
    shared = set.intersection(*(set(part.table.column_names) for part in parts))
    names = [name for name in (keys.INPUT_IDS, keys.COUNTS, keys.CELL_ID, keys.SOURCE) if name in shared]
    tables = [part.table.select(names) for part in parts]
    table = pa.concat_tables(tables, promote_options="permissive")
    return TokenizedDataset(table, vocabulary=vocabulary.fingerprint), vocabulary


def _tokens_of(
    counts: list[Path], folder: Path, options: PretrainOptions, vocabulary: Vocabulary, progress: Progress | None
) -> TokenizedDataset:
    """Tokens of counts, from the folder where a run that broke off left them."""
    tokenizing = TokenizeOptions(
        vocabulary=options.vocabulary, keep=(), counts=options.contrastive_weight > 0 or options.spectral_start
    )
    if is_dataset(folder):
        _check_same_cells(counts, folder, tokenizing)
        return read_dataset(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with options_taken():
            dataset, _ = tokenize_counts(counts, tokenizing, output=folder, vocabulary=vocabulary, progress=progress)
    finally:
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    return dataset


def _check_same_cells(counts: list[Path], folder: Path, tokenizing: TokenizeOptions) -> None:
    """Refuse tokens that are there already but come from other inputs."""
    manifest = Manifest.read(folder)
    made_from = [(Path(file.path).name, file.size) for file in manifest.inputs] if manifest is not None else []
    with ExitStack() as stack:
        sources = [open_counts(path) for path in resolve_inputs(counts)]
        for source in sources:
            stack.callback(source.close)
        files = describe_inputs((file for source in sources for file in source.files), hash_limit=0)
    given = [(Path(file.path).name, file.size) for file in files]
    if made_from != given:
        msg = (
            f"{folder} holds tokens of {[name for name, _ in made_from]}, not of {[name for name, _ in given]}. Pass "
            "the same counts, or choose another output folder."
        )
        raise RunMismatchError(msg)
    if tokenizing.counts and not read_dataset(folder).has_counts:
        msg = f"{folder} holds tokens without counts, made for other options. Delete it, or choose another output."
        raise RunMismatchError(msg)
