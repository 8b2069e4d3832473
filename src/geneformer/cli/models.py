"""`geneformer models`, `vocabulary`, `verify`, `explain`: what there is, and what a result or a code says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geneformer.cli._options import flag, output_option, with_options
from geneformer.cli._output import Outcome, Rows

if TYPE_CHECKING:
    from geneformer.genes.vocabulary import Vocabulary

NAME = typer.Argument(metavar="[NAME]", help="Model to describe; all names are listed without one.", show_default=False)


@with_options(
    "models",
    "models mini",
)
def models(
    name: Annotated[str | None, NAME] = None,
    *,
    convert: Annotated[Path | None, flag("Folder with pickled weights to convert.", "--convert", metavar="DIR")] = None,
    output: Annotated[Path | None, output_option("DIR", "Folder for the converted weights.")] = None,
    overwrite: Annotated[bool, flag("Replace a checkpoint that is there.", "--overwrite")] = False,
) -> Outcome:
    """List models, describe one, or convert old weights."""
    from geneformer.errors import OptionError
    from geneformer.files.atomic import atomic_folder
    from geneformer.models.hub import ARCHITECTURES, BUNDLED, CONFIG, find_folder, list_models

    if convert is not None:
        if output is None:
            msg = "--convert needs --output DIR, the folder for the converted weights."
            raise OptionError(msg)
        with atomic_folder(output, overwrite=overwrite, markers=(CONFIG,)) as folder:
            from geneformer.models.loading import convert_pickled

            convert_pickled(convert, folder)
        return Outcome(f"Checkpoint in {output}", [("Converted", str(convert))], {"output": str(output)})
    if name is not None:
        find_folder(name)
        from geneformer.models.loading import load_model

        loaded = load_model(name)
        config = loaded.network.config
        rows: Rows = [
            ("Folder", loaded.folder),
            ("Layers", config.num_hidden_layers),
            ("Hidden size", config.hidden_size),
            ("Attention heads", config.num_attention_heads),
            ("Feed-forward size", config.intermediate_size),
            ("Positions", loaded.max_length),
            ("Parameters", loaded.network.num_parameters()),
            ("Vocabulary", f"{loaded.vocabulary.name} ({loaded.vocabulary.fingerprint})"),
        ]
        return Outcome(f"Model {name}", rows, {label: str(value) for label, value in rows})
    listed: Rows = []
    for model in list_models():
        shape = ARCHITECTURES.get(model)
        size = f"{shape.layers} layers, hidden size {shape.hidden}, vocabulary {shape.vocabulary}" if shape else ""
        listed.append((model, f"{size or 'see the hub'} ({'bundled' if model in BUNDLED else 'from the hub'})"))
    return Outcome("Models", listed, {"models": list_models()})


@with_options(
    "vocabulary V2 --gene ISG15,ENSG00000187608",
    "vocabulary V1 -o my-vocabulary",
)
def vocabulary(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="V1 (gc30M), V2 (gc104M), or a folder with a vocabulary or published pickles."
        ),
    ] = "V1",
    *,
    gene: Annotated[
        list[str] | None,
        flag("Genes to look up, by Ensembl id or symbol: GENE,GENE or a file.", "--gene", metavar="GENES"),
    ] = None,
    output: Annotated[Path | None, output_option("DIR", "Folder to write the vocabulary to.")] = None,
    overwrite: Annotated[bool, flag("Replace a vocabulary that is there.", "--overwrite")] = False,
) -> Outcome:
    """Show a vocabulary, look up genes in it, or write it to a folder."""
    from geneformer.genes.lists import named_genes
    from geneformer.genes.vocabulary import Vocabulary

    loaded = Vocabulary.load(name)
    data: dict[str, Any] = {
        "name": loaded.name,
        "genes": len(loaded.genes),
        "special_tokens": dict(loaded.special_tokens),
        "tokens": loaded.size,
        "input_size": loaded.input_size,
        "fingerprint": loaded.fingerprint,
    }
    rows: Rows = [
        ("genes", len(loaded.genes)),
        ("special tokens", ", ".join(loaded.special_tokens)),
        ("tokens in all", loaded.size),
        ("tokens of a cell at most", loaded.input_size),
        ("fingerprint", loaded.fingerprint),
    ]
    if gene:
        data["looked_up"] = {asked: _look_up(loaded, asked) for asked in named_genes(gene)}
        rows += [(asked, _described(entry)) for asked, entry in data["looked_up"].items()]
    if output is not None:
        loaded.save(output, overwrite=overwrite)
        data["output"] = str(output)
        rows.append(("written to", output))
    return Outcome(f"Vocabulary {loaded.name}", rows, data)


@with_options(
    "verify embedded.h5ad",
    "verify cells.dataset --json",
)
def verify(
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder, .parquet or .h5ad that this program made.", show_default=False),
    ],
) -> Outcome:
    """Check that inputs, model and files of a result are those it was made from."""
    from geneformer.errors import ProvenanceError
    from geneformer.files.manifest import UNCHANGED, compare_with_manifest
    from geneformer.inference.tables import read_manifest

    manifest = read_manifest(output)
    states = compare_with_manifest(output, manifest)
    wrong = [
        f"{name} ({state})"
        for part in ("inputs", "outputs")
        for name, state in states[part].items()
        if state != UNCHANGED
    ]
    if wrong:
        msg = f'"{output}" is not what was made, or not from what is there now: {", ".join(wrong)}. Make it again.'
        raise ProvenanceError(msg)
    rows: Rows = [("made by", f"{manifest.task} of geneformer {manifest.versions['geneformer']}")]
    rows += [(name, state) for part in ("inputs", "outputs") for name, state in states[part].items()]
    rows += [(library, state) for library, state in states["versions"].items() if state != UNCHANGED]
    if not states["inputs"]:
        rows.append(("inputs", "none recorded: the cells were in memory, or an earlier version did not record them"))
    return Outcome(f"{output} is as it was made", rows, {**states, "task": manifest.task})


@with_options(
    "explain GF203",
    "explain GF203 --json",
)
def explain(code: Annotated[str, typer.Argument(metavar="CODE", help="Such as GF203.", show_default=False)]) -> Outcome:
    """Tell what a code of an error means, and what mends it."""
    from geneformer import errors

    head, what, mend, names = errors.explain(code).split("\n\n")
    data = {"code": head.split()[0], "error": head.split()[1], "meaning": what, "remedy": mend}
    return Outcome(head, [("Meaning", what), ("Remedy", mend), ("Error", names)], data)


def _look_up(vocabulary: "Vocabulary", name: str) -> dict[str, Any] | None:
    from geneformer.genes.lookup import find_genes

    place = int(find_genes([name], vocabulary)[0])
    if place < 0:
        return None
    gene = str(vocabulary.genes[place])
    return {
        "gene": gene,
        "symbol": vocabulary.symbol_of(gene),
        "token": vocabulary.token_of[gene],
        "median": float(vocabulary.medians[place]),
    }


def _described(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "not in the vocabulary"
    return f"{entry['gene']} ({entry['symbol']}), token {entry['token']}, nonzero median {entry['median']:.3f}"
