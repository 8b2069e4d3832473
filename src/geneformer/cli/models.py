"""`geneformer models`: the models there are, what one is, and old weights made safe."""

from pathlib import Path
from typing import Annotated

import typer

from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome

NAME = typer.Argument(metavar="[NAME]", help="Model to describe; all names are listed without one.", show_default=False)
CONVERT = typer.Option("--convert", metavar="DIR", help="Folder with pickled weights to convert.", show_default=False)
OUTPUT = typer.Option("--output", "-o", metavar="DIR", help="Folder for the converted weights.", show_default=False)


@with_options()
def models(
    name: Annotated[str | None, NAME] = None,
    *,
    convert: Annotated[Path | None, CONVERT] = None,
    output: Annotated[Path | None, OUTPUT] = None,
) -> Outcome:
    """List models, describe one, or convert old weights."""
    from geneformer.errors import OptionError
    from geneformer.models.architectures import ARCHITECTURES
    from geneformer.models.checkpoint import convert_pickled
    from geneformer.models.loading import BUNDLED, list_models, load_model
    from geneformer.runs.files import check_output

    if convert is not None:
        if output is None:
            msg = "--convert needs --output DIR, the folder for the converted weights."
            raise OptionError(msg)
        convert_pickled(convert, check_output(output))
        return Outcome(f"Checkpoint in {output}", [("Converted", str(convert))], {"output": str(output)})
    if name is not None:
        loaded = load_model(name)
        config = loaded.network.config
        rows: list[tuple[str, object]] = [
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
    listed: list[tuple[str, object]] = []
    for known in list_models():
        shape = ARCHITECTURES.get(known)
        size = f"{shape.layers} layers, hidden size {shape.hidden}, vocabulary {shape.vocabulary}" if shape else ""
        listed.append((known, f"{size or 'see the hub'} ({'bundled' if known in BUNDLED else 'from the hub'})"))
    return Outcome("Models", listed, {"models": list_models()})
