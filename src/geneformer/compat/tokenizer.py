"""`TranscriptomeTokenizer`: counts in loom, h5ad or zarr files to a dataset of tokens."""

import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from geneformer import errors, keys
from geneformer.compat.dictionaries import dictionary_path, ranking_vocabulary
from geneformer.compat.options import Positive, Version, check_arguments
from geneformer.files import require
from geneformer.files.atomic import make_folder
from geneformer.files.progress import progress_bar
from geneformer.genes.lookup import INDEX
from geneformer.genes.vocabulary import BUNDLED, Vocabulary
from geneformer.options import TokenizeOptions
from geneformer.options._fields import Range, check_choice, check_range, some_of
from geneformer.tokenization.tokenizer import RowForm, tokenize_counts

if TYPE_CHECKING:
    from datasets import Dataset

    from geneformer.tokens.dataset import TokenizedDataset

_logger = logging.getLogger(__name__)

FileFormat = Literal["loom", "h5ad", "zarr"]
FORMATS = ("loom", "h5ad", "zarr")
Tokenized = tuple[list[Any], dict[str, list[Any]] | None, list[Any]]
"""Tokens of each cell, metadata by column, and scaled counts of each cell where they are kept."""

_GENE_MEDIAN_FILE = dictionary_path("GENE_MEDIAN_FILE")
_TOKEN_DICTIONARY_FILE = dictionary_path("TOKEN_DICTIONARY_FILE")
_ENSEMBL_MAPPING_FILE = dictionary_path("ENSEMBL_MAPPING_FILE")
"""What arguments default to; the files are not read, and need not be there, as they stand for the tables of V2."""

_OWN_COLUMNS = (keys.INPUT_IDS, keys.COUNTS, keys.LENGTH)
_LOW_SHARE = 0.3
"""Share of the counts in genes of the vocabulary below which something is probably wrong."""


@dataclass(eq=False, repr=False)
class TranscriptomeTokenizer:
    """Ranks the genes of every cell by count over corpus median and writes their tokens.

    Genes that stand for the same one are summed, however they are spelled, entries of zero are no tokens, and inputs
    are only read. A cell without a gene of the vocabulary gets no row.

    Parameters
    ----------
    custom_attr_name_dict : Columns that describe cells and are carried along: name in the input to name in the dataset.
    nproc, chunk_size : Threads that rank cells side by side, and cells read at a time; how, not what.
    model_input_size : Most tokens of a cell, special tokens included.
    special_token : Put `<cls>` first and `<eos>` last.
    collapse_gene_ids : Map identifiers by the mapping dictionary; columns of one gene are summed in any case.
    use_h5ad_index : Gene identifiers are the index of `var`, in h5ad and zarr files, instead of its `ensembl_id`.
    keep_counts : Also write `counts`: each token's count scaled to 10,000 per cell.
    model_version : "V2"; or "V1", with its own dictionaries, 2,048 tokens and no special ones, whatever was given.
    gene_median_file, token_dictionary_file, gene_mapping_file
        Dictionaries as pickles, read without running anything; no mapping file for identifiers that are genes.
    """

    custom_attr_name_dict: Mapping[str, str] | None = None
    nproc: Positive = 1
    chunk_size: Positive = 512
    model_input_size: Annotated[int, Range(low=3)] = 4096
    special_token: bool = True
    collapse_gene_ids: bool = True
    use_h5ad_index: bool = False
    keep_counts: bool = False
    model_version: Version = "V2"
    gene_median_file: str | Path = _GENE_MEDIAN_FILE
    token_dictionary_file: str | Path = _TOKEN_DICTIONARY_FILE
    gene_mapping_file: str | Path | None = _ENSEMBL_MAPPING_FILE

    def __post_init__(self) -> None:
        vars(self).update(check_arguments(type(self), vars(self)))
        if self.model_version == "V1":
            if self.model_input_size not in (2048, 4096):
                _logger.warning('model_version="V1" has an input size of 2048; %d is not used.', self.model_input_size)
            self.model_input_size, self.special_token = 2048, False
        self.custom_attr_name_dict = _checked_columns(self.custom_attr_name_dict)
        self._vocabulary = ranking_vocabulary(
            self.model_version,
            self.token_dictionary_file,
            self.gene_median_file,
            self.gene_mapping_file,
            collapse=self.collapse_gene_ids,
        )
        if self.special_token and self._vocabulary.cls_id is None:
            msg = "The token dictionary has no <cls> and <eos>. Set special_token=False, or add them."
            raise errors.UnsupportedArgumentError(msg)
        if not self.special_token and self._vocabulary.cls_id is not None:
            _logger.warning("Cells get no special tokens, although the token dictionary has <cls> and <eos>.")

    @cached_property
    def gene_token_dict(self) -> dict[str, int]:
        """Token of each gene and of the special tokens."""
        return self._vocabulary.published_tables()["token_dictionary"]

    @cached_property
    def gene_median_dict(self) -> dict[str, float]:
        """Nonzero median of each gene."""
        return self._vocabulary.published_tables()["gene_median_dictionary"]

    @cached_property
    def gene_mapping_dict(self) -> dict[str, str]:
        """Gene with a token that each identifier stands for."""
        mapping = self._vocabulary.published_tables()["ensembl_mapping_dict"]
        return {name: gene for name, gene in mapping.items() if gene in self._vocabulary.token_of}

    @property
    def gene_keys(self) -> list[str]:
        """Keys of the token dictionary."""
        return list(self.gene_token_dict)

    @property
    def genelist_dict(self) -> dict[str, bool]:
        """True for each key of the token dictionary."""
        return dict.fromkeys(self.gene_token_dict, True)

    def tokenize_data(
        self,
        data_directory: str | Path,
        output_directory: str | Path,
        output_prefix: str,
        file_format: FileFormat = "loom",
        input_identifier: str = "",
        use_generator: bool = False,
    ) -> None:
        """Tokenize the files of a folder into `<output_directory>/<output_prefix>.dataset`.

        Files are taken in the order of their names and cells in the order of the files. Columns are `input_ids`,
        `counts` if kept, the custom attributes, `length`, and `cell_id`, unless an attribute is called so. Cells are
        written as they come, so that memory does not grow with their number. A dataset that is there is replaced.

        Parameters
        ----------
        data_directory : Folder with the files; folders within it are not searched.
        output_directory, output_prefix : Folder, made if missing, and name of the dataset before `.dataset`.
        file_format : "loom", "h5ad" or "zarr": the suffix of the files.
        input_identifier : Text that names of files must contain.
        use_generator : How, not what: rows are always streamed to the disk.
        """
        files = input_files(data_directory, file_format, input_identifier)
        output = make_folder(output_directory) / f"{output_prefix.removesuffix('.dataset')}.dataset"
        form = RowForm(
            names=self.custom_attr_name_dict or {},
            id_type=self._id_type,
            special_tokens=self.special_token,
            max_length=self.model_input_size,
            names_vocabulary=self._vocabulary in map(Vocabulary.load, BUNDLED),
        )
        self._tokenize(files, file_format, form, output=output)

    def tokenize_files(
        self, data_directory: str | Path, file_format: FileFormat = "loom", input_identifier: str = ""
    ) -> Tokenized:
        """Tokens of all cells of the files `tokenize_data` takes, in memory, not cut and without special tokens.

        Returns
        -------
        tokenized_cells : Token ids of each cell, each ``(length,)``.
        cell_metadata : Values of the custom attributes by column of the dataset; None without attributes.
        counts_cells : Scaled count of each token; empty unless `keep_counts`.
        """
        return self._in_memory(input_files(data_directory, file_format, input_identifier), file_format)

    def tokenize_anndata(
        self, adata_file_path: str | Path, target_sum: float = 10_000, file_format: Literal["h5ad", "zarr"] = "h5ad"
    ) -> Tokenized:
        """Tokens of all cells of one h5ad or zarr file, as `tokenize_files` returns them.

        Counts, if kept, are scaled to `target_sum`; tokens do not depend on it.
        """
        check_choice("file_format", file_format, FORMATS[1:])
        path: Any = adata_file_path
        if not isinstance(path, str | os.PathLike):
            msg = (
                f"adata_file_path is a {type(path).__name__}. Give the path of a file; for cells in memory "
                "there is geneformer.pp.tokenize(adata)."
            )
            raise errors.OptionError(msg)
        return self._in_memory([Path(path)], file_format, target_sum)

    def tokenize_loom(
        self, loom_file_path: str | Path, target_sum: float = 10_000, file_format: Literal["loom"] = "loom"
    ) -> Tokenized:
        """Tokens of all cells of one loom file, which is not changed; see `tokenize_anndata`."""
        check_choice("file_format", file_format, FORMATS[:1])
        return self._in_memory([Path(loom_file_path)], file_format, target_sum)

    def create_dataset(
        self,
        tokenized_cells: list[Any],
        cell_metadata: Mapping[str, list[Any]] | None,
        counts_cells: list[Any],
        use_generator: bool = False,
        keep_uncropped_input_ids: bool = False,
    ) -> "Dataset":
        """A dataset of cells that `tokenize_files` returned: cut to the input size and framed by special tokens.

        Parameters
        ----------
        tokenized_cells, cell_metadata, counts_cells : What `tokenize_files` returned.
        use_generator : Makes no difference.
        keep_uncropped_input_ids : Also keep `input_ids_uncropped` and `length_uncropped`.
        """
        genes = RowForm(special_tokens=self.special_token).genes(self._vocabulary)
        first, last = ([] if token is None else [token] for token in (genes.cls_id, genes.eos_id))
        room = self.model_input_size - len(first) - len(last)
        kind = np.dtype(self._id_type)
        ids = [np.concatenate([first, np.asarray(cell)[:room], last]).astype(kind) for cell in tokenized_cells]
        columns = {keys.INPUT_IDS: pa.array(ids, pa.list_(pa.from_numpy_dtype(kind)))}
        if self.keep_counts:
            counts = [np.pad(np.asarray(cell, np.float64)[:room], (len(first), len(last))) for cell in counts_cells]
            columns[keys.COUNTS] = pa.array(counts, pa.list_(pa.float64()))
        columns |= {name: pa.array(values) for name, values in (cell_metadata or {}).items()}
        columns[keys.LENGTH] = pa.array(map(len, ids), pa.int64())
        if keep_uncropped_input_ids:
            uncropped = [np.asarray(cell, kind) for cell in tokenized_cells]
            columns[f"{keys.INPUT_IDS}_uncropped"] = pa.array(uncropped, columns[keys.INPUT_IDS].type)
            columns[f"{keys.LENGTH}_uncropped"] = pa.array(map(len, tokenized_cells), pa.int64())
        dataset: Dataset = require("datasets", "create_dataset", extra="published").Dataset(pa.table(columns))
        return dataset

    @property
    def _id_type(self) -> Literal["int16", "int32"]:
        """Published type of token ids in datasets."""
        return "int16" if self._vocabulary == Vocabulary.load("V1") else "int32"

    def _in_memory(self, files: list[Path], file_format: str, target_sum: float = 10_000) -> Tokenized:
        check_range("target_sum", target_sum, above=0)
        names = self.custom_attr_name_dict
        form = RowForm(names=names or {}, special_tokens=False, max_length=self._vocabulary.size)
        dataset = self._tokenize(files, file_format, form)
        packed = dataset.gather(range(len(dataset)), counts=self.keep_counts)
        spans = [slice(*packed.cu_seqlens[row : row + 2]) for row in range(len(dataset))]
        counts = [] if packed.counts is None else [packed.counts[span] * (target_sum / 10_000) for span in spans]
        metadata = {name: dataset.table.column(name).to_pylist() for name in names.values()} if names else None
        return [packed.input_ids[span] for span in spans], metadata, counts

    def _tokenize(
        self, files: list[Path], file_format: str, form: RowForm, output: Path | None = None
    ) -> "TokenizedDataset":
        """Tokens of some files; values that are no counts are ranked too, as published, but not without a word."""
        options = TokenizeOptions(
            gene_ids=INDEX if self.use_h5ad_index and file_format != "loom" else keys.ENSEMBL_ID,
            keep=tuple(self.custom_attr_name_dict or ()),
            counts=self.keep_counts,
            min_matched=0.0,
            chunk_size=self.chunk_size,
            workers=min(self.nproc, os.cpu_count() or 1),
        )
        for file in files:
            _logger.info("Tokenizing %s", file)
        tokenize = partial(
            tokenize_counts, files, output=output, vocabulary=self._vocabulary, overwrite=True, form=form
        )
        with errors.options_taken(), progress_bar("Tokenizing", unit="cells") as update:
            try:
                dataset, report = tokenize(options, progress=update)
            except errors.NotRawCountsError as error:
                dataset, report = tokenize(replace(options, accept_normalized=True), progress=update)
                warnings.warn(
                    f"Values that are no counts were ranked. {Exception.__str__(error)}", errors.GeneformerWarning, 3
                )
        for name, value in report.rows():
            _logger.info("%s: %s", name, value)
        if report.n_empty:
            _logger.warning("%s cells have no gene of the vocabulary and get no row.", f"{report.n_empty:,}")
        for source in report.sources:
            if source.n_written and source.matched_share < _LOW_SHARE:
                share, path = source.matched_share, source.path
                msg = f'Only {share:.1%} of the counts of "{path}" lie in genes of the vocabulary.'
                warnings.warn(msg, errors.GeneformerWarning, stacklevel=3)
        return dataset


def _checked_columns(names: Mapping[str, str] | None) -> dict[str, str] | None:
    """Custom attributes as given, once it is certain that each gets a column of its own."""
    if names is None:
        return None
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for pair in names.items() for name in pair):
        msg = f"custom_attr_name_dict={names!r}: it takes a dictionary of column in the input to column in the dataset."
        raise errors.OptionError(msg)
    written = list(names.values())
    wrong = [name for name in written if name in _OWN_COLUMNS or written.count(name) > 1]
    if wrong:
        msg = (
            f'custom_attr_name_dict calls a column "{wrong[0]}", as another one is called. Choose another name for it.'
        )
        raise errors.OptionError(msg)
    return dict(names)


_LEFTOVER = "__dedup"
"""Ends the name of a copy that the published package writes next to a loom file and may leave behind."""


def input_files(folder: str | Path, file_format: str, identifier: str = "") -> list[Path]:
    """Files in the order of their names, without the copies that an interrupted run left behind."""
    check_choice("file_format", file_format, FORMATS)
    folder = Path(folder)
    if not folder.is_dir():
        msg = f'There is no folder "{folder}". Give the folder that holds the .{file_format} files.'
        raise errors.InputNotFoundError(msg)
    pattern = f"*{identifier}*.{file_format}" if identifier else f"*.{file_format}"
    files = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    copies = [f for f in files if f.stem.endswith(_LEFTOVER) and f.with_stem(f.stem.removesuffix(_LEFTOVER)).exists()]
    if copies:
        _logger.warning("Left out, because they are copies of other files here: %s", _names(copies))
        files = [path for path in files if path not in copies]
    if not files:
        msg = f'The folder "{folder}" holds no {pattern}; it holds {_names(folder.iterdir())}.'
        raise errors.InputNotFoundError(msg)
    return files


def _names(paths: Iterable[Path]) -> str:
    return some_of(sorted(path.name for path in paths), 8) or "nothing"


def rank_genes(gene_vector: ArrayLike, gene_tokens: ArrayLike) -> NDArray[Any]:
    """Tokens, ``(g,)``, by descending value, ``(g,)``: count over median. Equal values keep their order."""
    ranked: NDArray[Any] = np.asarray(gene_tokens)[np.argsort(-np.asarray(gene_vector), kind="stable")]
    return ranked


def tokenize_cell(gene_vector: ArrayLike, gene_tokens: ArrayLike) -> NDArray[Any]:
    """Tokens of the genes with a value other than zero, by descending value; see `rank_genes`."""
    values = np.asarray(gene_vector)
    present = values != 0
    return rank_genes(values[present], np.asarray(gene_tokens)[present])
