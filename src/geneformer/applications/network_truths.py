"""Known pairs of regulators and targets: read from what collections hold, and named as the genes of a network."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.errors import (
    DatasetError,
    UnknownColumnError,
    UnreadableInputError,
    UnsupportedFormatError,
    reason_of,
)
from geneformer.files import check_file
from geneformer.genes.lists import GMT, read_gmt
from geneformer.genes.lookup import known_names, look_up
from geneformer.genes.vocabulary import Vocabulary
from geneformer.options._fields import as_path, some_of

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "source": ("source", "tf", "regulator", "transcription_factor", "tf_name"),
    "target": ("target", "gene", "target_gene", "target_name"),
}
"""Columns with known pairs, as collections name them; in any case."""

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def read_pairs(path: Path) -> "pd.DataFrame":
    """A table of pairs as it is: .csv, .tsv, .txt (also .gz), .parquet; or sets in .gmt, one regulator's each.

    The name of a set begins with that of its regulator; several sets of one regulator are put together.
    """
    import pandas as pd

    check_file(path)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == GMT and path.suffix.lower() == GMT:
        pairs = [(name.split()[0], gene.partition(",")[0]) for name, genes in read_gmt(path).items() for gene in genes]
        return pd.DataFrame(pairs, columns=["source", "target"]).drop_duplicates(ignore_index=True)
    if suffix not in SEPARATORS and path.suffix.lower() != ".parquet":
        accepted = ", ".join((*SEPARATORS, ".parquet", GMT))
        msg = f'"{path}" ends in "{path.suffix}". Pairs of genes are read from {accepted} files; tables also as .gz.'
        raise UnsupportedFormatError(msg)
    try:
        table: pd.DataFrame = (
            pd.read_csv(path, sep=SEPARATORS[suffix], keep_default_na=False, na_values=[""])
            if suffix in SEPARATORS
            else pd.read_parquet(path)
        )
    except (OSError, ValueError, EOFError) as error:  # of pandas and of pyarrow, both are kinds of ValueError
        msg = f'"{path}" cannot be read as a table: {reason_of(error)}. Copy or download the file again.'
        raise UnreadableInputError(msg) from error
    return table


def known_truth(truth: "pd.DataFrame | str | Path") -> "pd.DataFrame":
    """Columns `source` and `target` of known pairs, each pair once.

    Raises
    ------
    UnknownColumnError
        No column of regulators or of targets.
    DatasetError
        No pair.
    """
    import pandas as pd

    where = "The truth" if isinstance(truth, pd.DataFrame) else f'"{truth}"'
    table = truth if isinstance(truth, pd.DataFrame) else read_pairs(as_path("truth", truth, "a table of pairs"))
    lower = {str(column).strip().lower(): column for column in table.columns}
    chosen = {}
    for name, spellings in NAMES.items():
        found = [lower[spelling] for spelling in spellings if spelling in lower]
        if not found:
            msg = (
                f"{where} has no column {name!r}; it has {some_of(map(str, table.columns))}. Known pairs are in "
                f"columns source and target (also {', '.join((*NAMES['source'][1:3], NAMES['target'][1]))})."
            )
            raise UnknownColumnError(msg)
        chosen[name] = table[found[0]]
    texts = {name: column.astype(str).str.strip() for name, column in pd.DataFrame(chosen).dropna().items()}
    pairs = pd.DataFrame(texts).drop_duplicates(ignore_index=True)
    if pairs.empty:
        msg = f"{where} has no pair of genes. Give a line for each: regulator and target."
        raise DatasetError(msg)
    return pairs


def named_as(truth: "pd.DataFrame", genes: Iterable[str]) -> "pd.DataFrame":
    """Known pairs under the names of a network, whichever identifiers, aliases or cases both use."""
    import pandas as pd

    known = known_names(Vocabulary.load("V1"))

    def keys_of(names: Sequence[str]) -> list[Any]:
        match = look_up("names", names, known)
        return [name.upper() if place < 0 else int(place) for name, place in zip(names, match.positions, strict=True)]

    own = list(dict.fromkeys(map(str, genes)))
    name_of: dict[Any, str] = {}
    for name, key in zip(own, keys_of(own), strict=True):
        name_of.setdefault(key, name)
    theirs = pd.unique(truth[["source", "target"]].to_numpy().ravel()).tolist()
    renamed = {name: name_of.get(key, name) for name, key in zip(theirs, keys_of(theirs), strict=True)}
    return pd.DataFrame({name: truth[name].map(renamed) for name in NAMES}).drop_duplicates(ignore_index=True)
