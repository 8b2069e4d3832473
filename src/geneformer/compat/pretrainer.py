"""`GeneformerPretrainer` of the published package: masked genes, with `transformers.Trainer`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler
from transformers import DataCollatorForLanguageModeling, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from geneformer.compat.classifier_training import is_grouped_by_length
from geneformer.compat.collators import GeneformerPreCollator
from geneformer.engine.device import resolve_training_attention
from geneformer.errors import DatasetError, UnsupportedArgumentError
from geneformer.files.pickles import read_pickle
from geneformer.genes.vocabulary import SPECIAL
from geneformer.models.heads import GeneformerForMaskedLM
from geneformer.models.losses import MISSING
from geneformer.options._fields import check_range
from geneformer.tokens.dataset import Packed, TokenizedDataset, mask_genes
from geneformer.tokens.storage import read_dataset


class MaskedGenes:
    """A collator that hides genes, and never a special token, in padded batches."""

    def __init__(self, genes: Sequence[int], *, mask_id: int, pad_id: int, probability: float) -> None:
        self.genes = np.asarray(genes, dtype=np.int64)
        self.mask_id, self.pad_id, self.probability = mask_id, pad_id, probability

    def __call__(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `labels`, ``(B, L)``."""
        rows = [np.asarray(cell["input_ids"], dtype=np.int64) for cell in cells]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        packed = Packed(np.concatenate(rows).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        masked = mask_genes(packed, self.genes, self.mask_id, self.probability, rng)
        labels_T = np.full(len(masked.input_ids), MISSING, dtype=np.int64)
        labels_T[masked.masked] = masked.labels
        ends = lengths.cumsum()[:-1].tolist()
        columns = {
            "input_ids": (masked.input_ids, self.pad_id),
            "attention_mask": (np.ones_like(labels_T), 0),
            "labels": (labels_T, MISSING),
        }
        return {
            name: pad_sequence(
                list(torch.from_numpy(values_T).tensor_split(ends)), batch_first=True, padding_value=fill
            )
            for name, (values_T, fill) in columns.items()
        }


def pack(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A padded batch as this package's networks take it: `input_ids`, `cu_seqlens`, `masked`, `labels`."""
    filled_BL = batch["attention_mask"].bool()
    lengths = filled_BL.sum(1)
    labels_T = batch["labels"][filled_BL]
    masked = (labels_T != MISSING).nonzero()[:, 0]
    return {
        "input_ids": batch["input_ids"][filled_BL],
        "cu_seqlens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
        "masked": masked,
        "labels": labels_T[masked],
    }


class GeneformerPretrainer(Trainer):
    """Pretrain an encoder on masked genes.

    It is a `transformers.Trainer` for `transformers.BertForMaskedLM`, and for the network of this package
    (`geneformer.models.heads.GeneformerForMaskedLM`), which reads the same cells without padding. Both write
    checkpoints that the other opens.

    Parameters
    ----------
    *args : Of `transformers.Trainer`: model, training arguments.
    token_dictionary : Id of every token, by gene or special token.
    example_lengths_file
        Pickle with the number of tokens of each cell, in the order of the dataset. Cells of like length share a batch
        where the training arguments ask for it: `group_by_length=True` before transformers 5,
        `train_sampling_strategy="group_by_length"` since.
    mlm : Predict masked genes; False predicts every token that is shown, as `DataCollatorForLanguageModeling` does.
    mlm_probability
        Chance of each gene to be selected. Of those selected 80 % become `<mask>`, 10 % another gene, 10 % stay.
    data_collator
        Makes padded batches with `labels` in place of that rule. `DataCollatorForLanguageModeling(
        GeneformerPreCollator(token_dictionary), mlm_probability=0.15)` is the published rule, which selects `<cls>` and
        `<eos>` as well, and puts special tokens in the place of genes.
    **trainer_kwargs
        Further arguments of `transformers.Trainer`. `train_dataset` and `eval_dataset` may also be a
        `TokenizedDataset`, or the path of one.

    Raises
    ------
    DatasetError : Not one length for each cell.
    InvalidVocabularyError : The token dictionary has no `<pad>` or no `<mask>`.
    UnsupportedArgumentError : The network of this package in one process with several devices.
    """

    def __init__(
        self,
        *args: Any,
        token_dictionary: Mapping[str, int],
        example_lengths_file: str | Path,
        mlm: bool = True,
        mlm_probability: float = 0.15,
        data_collator: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        check_range("mlm_probability", mlm_probability, above=0.0, high=1.0)
        self.token_dictionary = token_dictionary
        self.example_lengths = _read_lengths(example_lengths_file)
        if data_collator is None:
            data_collator = _collator(token_dictionary, mlm_probability if mlm else None)
        for name in ("train_dataset", "eval_dataset"):
            if isinstance(trainer_kwargs.get(name), (TokenizedDataset, str, Path)):
                trainer_kwargs[name] = _Rows(trainer_kwargs[name])
        super().__init__(*args, data_collator=data_collator, **trainer_kwargs)  # type: ignore[misc]
        self._packs = isinstance(self.model, GeneformerForMaskedLM)
        cells: Any = self.train_dataset
        n_cells = len(cells) if hasattr(cells, "__len__") else None
        if n_cells is not None and n_cells != len(self.example_lengths):
            msg = (
                f"example_lengths_file has {len(self.example_lengths):,} lengths for {n_cells:,} cells. Give the file "
                "that belongs to the dataset: one length per cell, in its order."
            )
            raise DatasetError(msg)
        if self._packs and self.args.n_gpu > 1:
            msg = (
                f"This network in one process uses one device, and {self.args.n_gpu} are visible. Start the script "
                f"with `torchrun --nproc-per-node {self.args.n_gpu} SCRIPT.py`, or show the process a single device."
            )
            raise UnsupportedArgumentError(msg)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        if not is_grouped_by_length(self.args) or self.train_dataset is None:
            return super()._get_train_sampler()
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(batch, lengths=self.example_lengths)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared = super()._prepare_inputs(inputs)
        if not self._packs:
            return prepared
        model: nn.Module = self.model  # type: ignore[assignment]
        dropout = getattr(model.config, "attention_probs_dropout_prob", 0.0)
        kernel = resolve_training_attention(dropout, self.args.device) if model.training else "sdpa"
        return {**pack(prepared), "attention": kernel}


class _Rows(Dataset[dict[str, Any]]):
    """Rows of a tokenized dataset, as `datasets` gives them."""

    def __init__(self, cells: TokenizedDataset | str | Path) -> None:
        self.cells = cells if isinstance(cells, TokenizedDataset) else read_dataset(cells)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Tokens of a cell."""
        return {"input_ids": self.cells[row]}


def _collator(token_dictionary: Mapping[str, int], probability: float | None) -> Any:
    """Masked genes; without a probability, everything that is shown."""
    rows = GeneformerPreCollator(token_dictionary)
    if probability is None:
        return DataCollatorForLanguageModeling(rows, mlm=False)  # type: ignore[arg-type]
    genes = [number for token, number in rows.token_dictionary.items() if token not in SPECIAL]
    return MaskedGenes(genes, mask_id=rows.mask_token_id, pad_id=rows.pad_token_id, probability=probability)


def _read_lengths(path: str | Path) -> list[int]:
    """Tokens of each cell."""
    lengths = read_pickle(path)
    if not isinstance(lengths, list) or not all(isinstance(length, int) for length in lengths):
        msg = f'"{path}" holds no list of whole numbers. Give a pickle with the number of tokens of each cell.'
        raise DatasetError(msg)
    return lengths
