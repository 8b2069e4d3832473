"""`geneformer explain`: what a code of an error means."""

from typing import Annotated

import typer

from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome


@with_options()
def explain(code: Annotated[str, typer.Argument(metavar="CODE", help="Such as GF203.", show_default=False)]) -> Outcome:
    """Tell what a code of an error means, and what mends it."""
    from geneformer import errors

    head, what, mend, names = errors.explain(code).split("\n\n")
    data = {"code": head.split()[0], "error": head.split()[1], "meaning": what, "remedy": mend}
    return Outcome(head, [("Meaning", what), ("Remedy", mend), ("Error", names)], data)
