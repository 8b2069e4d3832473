"""A worker process: reads runs of cells to rank from the standard input, writes results to the standard output."""

import json
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from geneformer.errors import GeneformerError, GeneformerWarning
from geneformer.options import TokenizeOptions
from geneformer.tokenization.lengths import max_length_of
from geneformer.tokenization.preparation import prepare
from geneformer.tokenization.units import rank_unit
from geneformer.tokenization.worker_pool import write_result
from geneformer.vocab.vocabulary import Vocabulary


def main() -> None:
    """Serve one file until the input ends."""
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    try:
        _serve(json.loads(incoming.readline()), incoming, outgoing)
    except GeneformerError as error:
        message = {"error": type(error).__name__, "message": error.args[0]}
        outgoing.write(json.dumps(message).encode() + b"\n")
        outgoing.flush()


def _serve(task: dict[str, Any], incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    fields = {**task["options"], "vocabulary": task["vocabulary"]}
    fields["keep"] = None if fields["keep"] is None else tuple(fields["keep"])
    options = TokenizeOptions(**fields)
    vocabulary = Vocabulary.load(task["vocabulary"])
    with ExitStack() as stack, warnings.catch_warnings():
        # The process that started this one has warned already.
        warnings.simplefilter("ignore", GeneformerWarning)
        prepared = prepare([Path(task["path"])], vocabulary, options, stack).sources[0]
        for line in incoming:
            start, stop = json.loads(line)
            result = rank_unit(prepared, vocabulary, options, max_length_of(options, vocabulary), (start, stop))
            write_result(outgoing, result)


if __name__ == "__main__":
    main()
