"""Make the vocabularies that ship with the package from the published dictionaries, or check them against these.

    python tools/make_vocabularies.py FOLDER            write src/geneformer/genes/assets and the digests the tests use
    python tools/make_vocabularies.py FOLDER --check    only compare, entry by entry

FOLDER holds the pickles as published (`*_gc30M.pkl` for V1, `*_gc104M.pkl` for V2); without it the environment variable
GENEFORMER_PUBLISHED_DICTIONARIES says where they are. They are interpreted by `geneformer.files.pickles`, not loaded.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from geneformer.files.pickles import read_pickle
from geneformer.genes.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "src" / "geneformer" / "vocab" / "assets"
DIGESTS = ROOT / "tests" / "data" / "published_dictionaries.json"
TAGS = {"V1": "gc30M", "V2": "gc104M"}
TABLES = ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict")


def digest(table: Mapping[str, str | int | float]) -> str:
    """SHA-256 of a dictionary: one JSON list per entry, sorted by key, floats in hexadecimal."""
    rows = ((key, value.hex() if isinstance(value, float) else value) for key, value in sorted(table.items()))
    return hashlib.sha256("".join(f"{json.dumps(row)}\n" for row in rows).encode()).hexdigest()


def published(folder: Path, name: str) -> dict[str, dict]:
    """The four published dictionaries of a vocabulary."""
    return {table: read_pickle(folder / f"{table}_{TAGS[name]}.pkl") for table in TABLES}


def make(folder: Path) -> None:
    """Write the assets and the digests."""
    digests = {}
    for name, tag in TAGS.items():
        found = Vocabulary.load(folder / f"token_dictionary_{tag}.pkl")
        dataclasses.replace(found, name=name).save(ASSETS / name, overwrite=True)
        digests[name] = {
            table: {"entries": len(entries), "sha256": digest(entries)}
            for table, entries in published(folder, name).items()
        }
    DIGESTS.write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def check(folder: Path) -> list[str]:
    """A line per dictionary that differs from the published one; exact in keys, values and order."""
    wrong = []
    for name in TAGS:
        shipped = Vocabulary.load(name).published_tables()
        for table, entries in published(folder, name).items():
            same = list(shipped[table].items()) == list(entries.items())
            sys.stdout.write(f"{name} {table}: {len(entries):,} entries, {'equal' if same else 'DIFFERENT'}\n")
            if not same:
                wrong.append(f"{name} {table}")
    return wrong


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("GENEFORMER_PUBLISHED_DICTIONARIES"))
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    if options.folder is None:
        parser.error("give the folder with the published dictionaries")
    folder = Path(options.folder)
    if not options.check:
        make(folder)
    return 1 if check(folder) else 0


if __name__ == "__main__":
    sys.exit(main())
