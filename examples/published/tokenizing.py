"""Loom files to a dataset of tokens, with what is known about the cells.

    python examples/published/tokenizing.py DATA OUT

OUT/pbmc.dataset    tokens; columns input_ids, cell_type, organ, length, cell_id
"""

import argparse
from pathlib import Path

from geneformer import TranscriptomeTokenizer


def main(data: Path, out: Path) -> None:
    """Tokenize the blood cells, and call the column `individual` by another name."""
    tokenizer = TranscriptomeTokenizer({"cell_type": "cell_type", "individual": "organ"}, nproc=16)
    tokenizer.tokenize_data(data / "loom", out, "pbmc", file_format="loom")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args()
    main(chosen.data, chosen.out)
