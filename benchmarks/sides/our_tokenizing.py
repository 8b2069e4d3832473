"""This package's tokenizer, from file to dataset folder."""

import argparse
import time

# What the task loads when it comes to it; the other side has it all before the clock starts.
import h5py  # noqa: F401
from pyarrow import parquet  # noqa: F401

from geneformer.genes.vocabulary import Vocabulary
from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from measuring import reply


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("vocabulary")
    arguments = parser.parse_args()
    # Its tables of genes, read before the clock starts as on the other side; those of other names are not.
    vocabulary = Vocabulary.load(arguments.vocabulary)
    started = time.perf_counter()
    options = TokenizeOptions(vocabulary=arguments.vocabulary)
    dataset, report = tokenize_counts(arguments.input, options, output=arguments.output, vocabulary=vocabulary)
    reply(seconds=time.perf_counter() - started, cells=len(dataset), warnings=report.warnings)


if __name__ == "__main__":
    main()
