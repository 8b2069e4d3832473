"""Where results go in an AnnData object."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from geneformer import keys

if TYPE_CHECKING:
    from anndata import AnnData


def note(adata: "AnnData", key: str, provenance: Mapping[str, Any]) -> None:
    """Say in `uns` where the result in slot `key` comes from; other entries stay."""
    adata.uns[keys.UNS] = {**adata.uns.get(keys.UNS, {}), key: dict(provenance)}
