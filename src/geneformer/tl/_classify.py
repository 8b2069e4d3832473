"""`gf.tl.classify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from geneformer.files.progress import progress_bar
from geneformer.finetuning.estimator import matched_in
from geneformer.finetuning.estimators import CellClassifier
from geneformer.finetuning.predictions import class_slots
from geneformer.inference.cells import open_cells
from geneformer.options._fields import as_path
from geneformer.tl._embed import writable

if TYPE_CHECKING:
    from anndata import AnnData


def classify(
    adata: "AnnData",
    classifier: "CellClassifier | str | Path",
    *,
    unknown_below: float | None = None,
    counts_layer: str | None = None,
    gene_ids: str | None = None,
    accept_normalized: bool = False,
    key_added: str | None = None,
    copy: bool = False,
) -> "AnnData | None":
    """Classes of all cells from a fitted classifier.

    Parameters
    ----------
    adata
        Raw counts of cells by genes; no labels are needed.
    classifier
        A fitted `CellClassifier`, or the folder of a saved one.
    unknown_below
        Cells whose best probability is lower are called "unknown"; as fitted by default.
    counts_layer, gene_ids
        Layer with the raw counts ("raw" for `adata.raw`; `X` by default); column of `var` with the gene identifiers
        ("index" for the row names; found automatically by default).
    accept_normalized
        Rank values that are no raw counts, such as counts corrected for ambient RNA.
    key_added
        Slot of the result; `geneformer_<label>` by default.
    copy
        Return a copy instead of writing into `adata`.

    Returns
    -------
    AnnData or None
        With `copy=True`. Sets:

        `.obs[key_added]` : categorical
            Class, "unknown" where none is probable enough or the cell has no known gene.
        `.obs[key_added + "_probability"]` : float
            Calibrated probability of that class.
        `.obsm[key_added + "_proba"]` : DataFrame, ``(n_obs, C)``
            Probability of every class.
        `.uns["geneformer"][key_added]`
            Model, vocabulary, classes, options, and which cells and genes were read (`geneformer.keys.MATCHED`).

    Raises
    ------
    CountsError
        The counts or gene identifiers cannot be used.
    CheckpointError
        The folder holds no classifier.

    Examples
    --------
    >>> import geneformer as gf
    >>> from geneformer.datasets import pbmc3k
    >>> adata = pbmc3k()
    >>> adata = adata[adata.obs["cell_type"] != "unassigned"][:200].copy()
    >>> classifier = gf.CellClassifier(max_steps=2, baselines="none", rare_below=9, progress=False)
    >>> classifier = classifier.fit(adata, "cell_type")
    >>> gf.tl.classify(adata, classifier)
    >>> adata.obsm["geneformer_cell_type_proba"].shape == (200, len(classifier.classes_))
    True
    """
    fitted: Any = classifier
    if not isinstance(classifier, CellClassifier):
        fitted = CellClassifier.load(as_path("classifier", classifier, "a fitted CellClassifier or the folder of one"))
    adata = writable(adata, copy=copy)
    with progress_bar("Classifying", shown=fitted.runtime.progress):
        cells = open_cells(
            adata, fitted.pairing, counts_layer=counts_layer, gene_ids=gene_ids, accept_normalized=accept_normalized
        )
        proba = fitted.predict_proba(cells)
    predicted = fitted.name_classes(proba, unknown_below)
    slots = class_slots(
        label=fitted.label_,
        classes=fitted.classes_,
        predicted=predicted,
        proba=proba,
        provenance=fitted.provenance | matched_in(cells),
        key_added=key_added,
    )
    slots.into(adata)
    return adata if copy else None
