"""Knobs of gene networks."""

from dataclasses import dataclass
from typing import Annotated, Literal

from geneformer.errors import OptionError
from geneformer.options._fields import Count, Layer, Options, Positive, Range, Seed, check_choice

METHODS = ("correlation", "boosting", "embedding", "attention", "perturbation")
"""Ways to infer a network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkOptions(Options):
    """Between which genes edges are looked for, how, and what they are compared with."""

    method: tuple[str, ...] = ("embedding",)
    """"embedding" (cosine of the genes' contextual embeddings, averaged over cells, without their mean and first
    component), "attention" (averaged over heads, layers and cells, in units of what the ranks of both genes make one
    expect), "perturbation" (how far a target moves when the regulator is edited, less the same for matched genes),
    "correlation" (|Pearson| of log counts) or "boosting" (importance of the regulator in boosted trees that predict
    the target). Of several, a consensus is made as well: the mean of their ranks."""

    regulators: tuple[str, ...] = ("tf",)
    """Genes that edges start from: "tf" (human transcription factors and co-factors), "all", or Ensembl ids, symbols
    and files of them. Those without a token, or in fewer than `min_cells` cells, are left out and listed."""

    targets: tuple[str, ...] = ()
    """Genes that edges lead to. By default all that are in at least `min_cells` cells."""

    pairs: tuple[str, ...] = ()
    """Pairs of regulators (`GATA4+TBX5`) that are also edited together, by "perturbation": their effect less the sum
    of both alone."""

    groupby: str | None = None
    """Column of `obs` with groups of cells: a network of each, and the edges that differ between them."""

    donor_key: str | None = None
    """Column of `obs` with donors. Intervals are then over donors, and networks without each donor are compared."""

    edit: Literal["delete", "overexpress"] = "delete"
    """What "perturbation" does to a regulator, in the cells that express it."""

    deletions: Literal["exact", "screen"] = "exact"
    """"exact" runs the network once per edited cell. "screen" estimates all deletions of a cell from a few passes."""

    layer: Layer = -1
    """Encoder layer that "embedding" and "perturbation" read, counted back from the output: 0 is the last."""

    direction: Literal["both", "to", "from"] = "both"
    """Attention that the target pays "to" the regulator, that it is paid "from" it, or the mean of "both"."""

    signed: Literal["auto", "correlation", "never"] = "auto"
    """Signs: that of the correlation for edges found by "correlation" alone ("auto"), or for all edges."""

    min_cells: Positive = 10
    """Genes in fewer cells are left out of the network, those in fewer cells of a group of the network of that group;
    so are edges that "attention" or "perturbation" read in fewer cells."""

    max_cells: Annotated[int | None, Range(low=1)] = 2000
    """Cells read of each group, drawn at random."""

    n_null: Count = 200
    """Genes that are no regulators but found as often and ranked as high, whose effects are the null of every edge. Of
    0, there are no z, p and q."""

    n_bootstrap: Count = 100
    """Draws of cells, or of donors, for the interval of every edge."""

    n_permutations: Count = 200
    """Draws of cells, or donors, between groups for edges that differ."""

    confidence: Annotated[float, Range(low=0.5, high=0.999)] = 0.95
    """Coverage of intervals."""

    max_edges: Annotated[int | None, Range(low=1)] = 100_000
    """Edges kept of each group and method, those of highest weight; tests are over all."""

    unknown: Literal["drop", "error"] = "drop"
    """Genes that cannot be used are left out with one warning that lists them; or they are an error. None left is
    always one."""

    seed: Seed = 0
    """Of every draw."""

    def _check(self) -> None:
        if not self.method:
            msg = f"No method is named. Choose among {', '.join(METHODS)}."
            raise OptionError(msg)
        for name in self.method:
            check_choice("method", name, METHODS)
        if len(set(self.method)) < len(self.method):
            msg = f"method={self.method} names a method twice. Name each once."
            raise OptionError(msg)
        if not self.regulators:
            msg = 'No regulator is named. Pass "tf", "all", or names of genes.'
            raise OptionError(msg)
        if self.pairs and "perturbation" not in self.method:
            msg = f'pairs={self.pairs} are edited together by method="perturbation" only; the method is {self.method}.'
            raise OptionError(msg)
        names = [[name.strip() for name in pair.split("+")] for pair in self.pairs]
        if any(len(pair) != 2 or pair[0] == pair[1] or not all(pair) for pair in names):
            msg = f"pairs={self.pairs} must be of two different genes each, such as GATA4+TBX5."
            raise OptionError(msg)
        if self.deletions == "screen" and (self.edit != "delete" or self.pairs):
            msg = 'deletions="screen" estimates deletions of single genes. Use edit="delete" without pairs, or "exact".'
            raise OptionError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkEvaluateOptions(Options):
    """How a network is compared with known pairs."""

    universe: Literal["truth", "all"] = "truth"
    """Candidates: "truth", genes that are a target of anything in the truth; or "all" targets of the network, where
    genes that are expressed more, or studied more, look like targets of everything."""

    min_targets: Positive = 5
    """Known targets among the candidates that a regulator needs to be judged."""

    against: str = "|Pearson|"
    """Score that all others are compared with, regulator by regulator: a baseline, or a method of the network."""

    n_null: Positive = 100
    """Truths in which every gene keeps the number of its pairs, which are otherwise random."""

    n_bootstrap: Positive = 2000
    """Draws of regulators for intervals."""

    confidence: Annotated[float, Range(low=0.5, high=0.999)] = 0.95
    """Coverage of intervals."""

    seed: Seed = 0
    """Of every draw."""
