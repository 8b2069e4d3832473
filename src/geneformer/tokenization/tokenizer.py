"""From counts to a tokenized dataset: inputs checked, ranked in order, written as they come, and reported on."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer._version import __version__
from geneformer.data.dataset import TokenizedDataset
from geneformer.data.storage import read_dataset
from geneformer.data.writing import MARKERS, DatasetWriter
from geneformer.errors import GeneformerWarning
from geneformer.options import TokenizeOptions
from geneformer.options._files import to_table
from geneformer.runs.files import check_output
from geneformer.runs.manifest import InputFile, Manifest, describe_inputs
from geneformer.tokenization.account import Account
from geneformer.tokenization.collecting import Collector
from geneformer.tokenization.preparation import Preparation, prepare
from geneformer.tokenization.report import TokenizeReport
from geneformer.tokenization.row_form import RowForm
from geneformer.tokenization.scheduling import results
from geneformer.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

Progress = Callable[[int, int], object]
"""Told after every run of cells: cells done, cells in all."""

SHARD_BYTES = 64 * 2**20
"""Size of the files of a dataset, and what a killed run loses at most."""

_HASH_LIMIT = 4 * 2**30


def tokenize_counts(
    inputs: "str | Path | AnnData | Iterable[str | Path | AnnData]",
    options: TokenizeOptions | None = None,
    *,
    output: str | Path | None = None,
    vocabulary: Vocabulary | None = None,
    overwrite: bool = False,
    resume: bool = True,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
    form: RowForm | None = None,
) -> tuple[TokenizedDataset, TokenizeReport]:
    """Rank value encodings of all cells, in the order of the inputs; and what came of them.

    Memory does not grow with the number of cells when `output` is given. Inputs are never written to.

    Parameters
    ----------
    inputs
        AnnData objects and paths of files or folders, see `open_counts`.
    options
        How to tokenize.
    output
        Dataset folder to write. In memory by default.
    vocabulary
        Vocabulary to use instead of the one that `options` names.
    overwrite
        Replace what is at `output`.
    resume
        Continue a run for `output` that was killed; it must have had the same inputs and options.
    progress
        Called as work goes on.
    shard_bytes
        Size of the files the dataset is made of.
    form
        What rows are made of, where that is not as usual.

    Raises
    ------
    CountsError
        An input cannot be used; found before any work where that is possible, and nothing is written.
    OutputError
        `output` exists, cannot be written, or belongs to another run.

    Warns
    -----
    GeneformerWarning
        Something was repaired or looks wrong; also in the report.
    """
    options = options or TokenizeOptions()
    vocabulary = vocabulary or Vocabulary.load(options.vocabulary)
    form = form or RowForm()
    job = _Job(options, vocabulary, form, progress)
    if output is not None:
        check_output(output, overwrite=overwrite, markers=MARKERS)
    with ExitStack() as stack:
        preparation = prepare(_several(inputs), vocabulary, options, stack)
        _warn(preparation.remarks)
        if output is None:
            collector = Collector(form.schema(preparation, counts=options.counts))
            report = job.run(collector, preparation)
            dataset = collector.dataset(form.fingerprint(vocabulary))
        else:
            described = _described(preparation)
            in_memory = any(ready.source.path is None for ready in preparation.sources)
            with DatasetWriter(
                output,
                counts=options.counts,
                schema=form.schema(preparation, counts=options.counts),
                identity=_identity(described, options, vocabulary, form),
                overwrite=overwrite,
                resume=resume and not in_memory and not overwrite,
                shard_bytes=shard_bytes,
            ) as writer:
                report = job.run(writer, preparation, writer.progress)
                writer.finish(_manifest(described, options, form.fingerprint(vocabulary), report))
            dataset = read_dataset(output)
    _warn(report.warnings[len(preparation.remarks) :])
    return dataset, report


class _Job:
    """One pass over the inputs."""

    def __init__(
        self, options: TokenizeOptions, vocabulary: Vocabulary, form: RowForm, progress: Progress | None
    ) -> None:
        self.options = options
        self.form = form
        self.progress = progress
        self.genes = form.genes(vocabulary)
        self.max_length = form.longest(options, vocabulary)

    def run(
        self, writer: Collector | DatasetWriter, preparation: Preparation, state: Mapping[str, Any] | None = None
    ) -> TokenizeReport:
        """Rank all cells that `state` does not have already, and hand them to the writer."""
        account = Account(preparation, self.options, self.max_length)
        if state is not None:
            account.restore(state)
        self._tell(account, preparation)
        for result in results(
            preparation, self.genes, self.options, self.max_length, source=account.source, cell=account.cell
        ):
            described = self.form.described(preparation, account.source, result)
            account.add(result)
            ranked = result.ranked
            writer.append(ranked.offsets, ranked.input_ids, described, counts=ranked.counts, progress=account.state())
            self._tell(account, preparation)
            del result, ranked, described  # before the next ones are in memory
        return account.report()

    def _tell(self, account: Account, preparation: Preparation) -> None:
        if self.progress is not None:
            self.progress(account.n_cells, preparation.n_cells)


def _several(inputs: Any) -> list[Any]:
    return [inputs] if isinstance(inputs, (str, Path)) or hasattr(inputs, "obs_names") else list(inputs)


def _warn(remarks: Iterable[str]) -> None:
    for remark in remarks:
        warnings.warn(remark, GeneformerWarning, stacklevel=3)


def _described(preparation: Preparation) -> tuple[InputFile, ...]:
    files = [file for ready in preparation.sources for file in ready.source.files]
    return describe_inputs(files, hash_limit=_HASH_LIMIT)


def _identity(
    described: tuple[InputFile, ...], options: TokenizeOptions, vocabulary: Vocabulary, form: RowForm
) -> dict[str, Any]:
    """What must be the same for a run to go on; how many workers there are does not matter."""
    chosen = asdict(options)
    del chosen["workers"]
    inputs = [[Path(file.path).name, file.size, file.sha256, file.modified] for file in described]
    return {
        "inputs": inputs,
        "options": chosen,
        "vocabulary": vocabulary.fingerprint,
        "form": form.as_dict(),
        "version": __version__,
    }


def _manifest(
    described: tuple[InputFile, ...], options: TokenizeOptions, fingerprint: str | None, report: TokenizeReport
) -> Manifest:
    return Manifest(
        task="tokenize",
        vocabulary=fingerprint,
        inputs=described,
        options=to_table(options),
        results=report.to_dict(),
    )
