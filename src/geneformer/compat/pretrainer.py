"""`GeneformerPretrainer` of the published package: masked genes, with `transformers.Trainer`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler
from transformers import DataCollatorForLanguageModeling, Trainer

from geneformer.compat.classifier_training import length_groups
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
        packed = Packed.of_lengths(np.concatenate(rows).astype(np.int32), lengths)
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        masked = mask_genes(packed, self.genes, self.mask_id, self.probability, rng)
        labels_T = np.full(len(masked.input_ids), MISSING, dtype=np.int64)
        labels_T[masked.masked] = masked.labels

        def padded(values_T: NDArray[np.int64], fill: int) -> Tensor:
            cells_T = torch.from_numpy(values_T).tensor_split(lengths.cumsum()[:-1].tolist())
            return pad_sequence(list(cells_T), batch_first=True, padding_value=fill)

        return {
            "input_ids": padded(masked.input_ids, self.pad_id),
            "attention_mask": padded(np.ones_like(labels_T), 0),
            "labels": padded(labels_T, MISSING),
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
        with `group_by_length=True`, which transformers calls `train_sampling_strategy="group_by_length"` since 5.
    mlm : Predict masked genes; False predicts every token that is shown, as `DataCollatorForLanguageModeling` does.
    mlm_probability : Chance of each gene to be selected; 80 % of these become `<mask>`, 10 % another gene.
    data_collator
        Makes padded batches with `labels` in place of that rule. `DataCollatorForLanguageModeling(
        GeneformerPreCollator(token_dictionary), mlm_probability=0.15)` is the published rule, which selects `<cls>` and
        `<eos>` as well, and puts special tokens in the place of genes.
    **trainer_kwargs : Of `transformers.Trainer`; data sets may also be a `TokenizedDataset`, or the path of one.
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
        lengths = read_pickle(example_lengths_file)
        if not isinstance(lengths, list) or not all(isinstance(length, int) for length in lengths):
            msg = f'"{example_lengths_file}" holds no list of whole numbers. Give the number of tokens of each cell.'
            raise DatasetError(msg)
        self.example_lengths = lengths
        if data_collator is None:
            rows: Any = GeneformerPreCollator(token_dictionary)
            genes = [number for token, number in rows.token_dictionary.items() if token not in SPECIAL]
            ids = {"mask_id": rows.mask_token_id, "pad_id": rows.pad_token_id}
            masked = MaskedGenes(genes, **ids, probability=mlm_probability)
            data_collator = masked if mlm else DataCollatorForLanguageModeling(rows, mlm=False)
        for name in ("train_dataset", "eval_dataset"):
            if isinstance(trainer_kwargs.get(name), (TokenizedDataset, str, Path)):
                trainer_kwargs[name] = _Rows(trainer_kwargs[name])
        if "tokenizer" in trainer_kwargs:  # its name before transformers 5
            trainer_kwargs["processing_class"] = trainer_kwargs.pop("tokenizer")
        super().__init__(*args, data_collator=data_collator, **trainer_kwargs)  # type: ignore[misc]
        self._packs = isinstance(self.model, GeneformerForMaskedLM)
        cells: Any = self.train_dataset
        if hasattr(cells, "__len__") and len(cells) != len(lengths):
            have = f"example_lengths_file has {len(lengths):,} lengths for {len(cells):,} cells"
            msg = f"{have}. Give the file that belongs to the dataset: one length per cell, in its order."
            raise DatasetError(msg)
        if self._packs and self.args.n_gpu > 1:
            msg = (
                f"This network in one process uses one device, and {self.args.n_gpu} are visible. Start the script "
                f"with `torchrun --nproc-per-node {self.args.n_gpu} SCRIPT.py`, or show the process a single device."
            )
            raise UnsupportedArgumentError(msg)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        groups = None if self.train_dataset is None else length_groups(self.args, self.example_lengths)
        return groups or super()._get_train_sampler()

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
