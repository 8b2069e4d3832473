"""`geneformer vocabulary`: what a vocabulary holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome

if TYPE_CHECKING:
    from geneformer.vocab.vocabulary import Vocabulary

NAME = typer.Argument(
    metavar="NAME", help="V1 (gc30M), V2 (gc104M), or a folder with a vocabulary or published pickles."
)
GENE = typer.Option("--gene", help="Gene to look up, by Ensembl id or symbol. May be repeated.", show_default=False)
OUTPUT = typer.Option("--output", "-o", metavar="DIR", help="Folder to write the vocabulary to.", show_default=False)
OVERWRITE = typer.Option("--overwrite", help="Replace a vocabulary that is there.")


@with_options()
def vocabulary(
    name: Annotated[str, NAME] = "V1",
    *,
    gene: Annotated[list[str] | None, GENE] = None,
    output: Annotated[Path | None, OUTPUT] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
) -> Outcome:
    """Show a vocabulary, look up genes in it, or write it to a folder."""
    from geneformer.vocab.vocabulary import Vocabulary

    found = Vocabulary.load(name)
    data: dict[str, Any] = {
        "name": found.name,
        "genes": len(found.genes),
        "special_tokens": dict(found.special_tokens),
        "tokens": found.size,
        "input_size": found.input_size,
        "fingerprint": found.fingerprint,
    }
    rows: list[tuple[str, object]] = [
        ("genes", len(found.genes)),
        ("special tokens", ", ".join(found.special_tokens)),
        ("tokens in all", found.size),
        ("tokens of a cell at most", found.input_size),
        ("fingerprint", found.fingerprint),
    ]
    if gene:
        data["looked_up"] = {asked: _look_up(found, asked) for asked in gene}
        rows += [(asked, _told(entry)) for asked, entry in data["looked_up"].items()]
    if output is not None:
        found.save(output, overwrite=overwrite)
        data["output"] = str(output)
        rows.append(("written to", output))
    return Outcome(f"Vocabulary {found.name}", rows, data)


def _look_up(vocabulary: "Vocabulary", asked: str) -> dict[str, Any] | None:
    gene = vocabulary.aliases.get(asked.strip().upper())
    if gene is None or gene not in vocabulary.token_of:
        return None
    return {
        "gene": gene,
        "symbol": vocabulary.symbol_of(gene),
        "token": vocabulary.token_of[gene],
        "median": float(vocabulary.medians[vocabulary.position_of[gene]]),
    }


def _told(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "not in the vocabulary"
    return f"{entry['gene']} ({entry['symbol']}), token {entry['token']}, nonzero median {entry['median']:.3f}"
