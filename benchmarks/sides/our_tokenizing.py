"""This package's tokenizer, from file to dataset folder."""

import argparse
import time

from geneformer.options import TokenizeOptions
from geneformer.tokenization.tokenizer import tokenize_counts
from measuring import reply


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("vocabulary")
    arguments = parser.parse_args()
    started = time.perf_counter()
    options = TokenizeOptions(vocabulary=arguments.vocabulary)
    dataset, report = tokenize_counts(arguments.input, options, output=arguments.output)
    reply(seconds=time.perf_counter() - started, cells=len(dataset), warnings=report.warnings)


if __name__ == "__main__":
    main()
