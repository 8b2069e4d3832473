"""Pictures that commands draw beside their results, and the map that goes into the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from geneformer.cli._options import Flags, flag
from geneformer.cli._output import Rows
from geneformer.errors import OptionError, UnknownColumnError, UnknownGeneError
from geneformer.options._fields import nearest

if TYPE_CHECKING:
    from anndata import AnnData

    from geneformer.inference.slots import Origin, Slots


def picture(text: str) -> Any:
    """The flag of a picture that is drawn as well."""
    return flag(f"Also draw {text}: .png, .pdf, .svg.", metavar="FILE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures(Flags):
    """Pictures of the embedding of the cells that a command writes."""

    umap: Annotated[Path | None, picture("a map of the cells")] = None
    heatmap: Annotated[Path | None, picture("a clustered heatmap")] = None
    color: Annotated[
        list[str] | None,
        flag("Column of obs that colors the pictures, one that the command adds, or a gene for the map; several."),
    ] = None

    @property
    def paths(self) -> dict[str, Path]:
        """Files that are asked for, by their kind."""
        return given_pictures(umap=self.umap, heatmap=self.heatmap)

    def check(self, *, overwrite: bool) -> None:
        """Refuse pictures that cannot be drawn or written, before anything is computed."""
        if self.color and not self.paths:
            msg = f"--color {self.color[0]} colors pictures, and none is asked for. Add --umap FILE or --heatmap FILE."
            raise OptionError(msg)
        check_pictures(self.paths, overwrite=overwrite)

    def check_number(self, n_cells: int) -> None:
        """Refuse a map of too few cells, before they are embedded."""
        from geneformer.pl._embedding import check_enough

        if self.umap is not None:
            check_enough(n_cells)

    def expressed(self, columns: Sequence[str], origin: "Origin | None") -> dict[str, Any]:
        """Log-normalized expression of the genes to color by; what is no gene and no column is refused."""
        found: dict[str, Any] = {}
        for name in self.color or ():
            if name in columns:
                continue
            try:
                found[name] = {} if origin is None else origin.expression(name)
            except UnknownGeneError:
                found[name] = {}
            if not len(found[name]):
                msg = f"No column or gene {name!r} to color by; the cells have {list(columns)}.{nearest(name, columns)}"
                raise UnknownColumnError(msg)
        return found

    def with_map(self, slots: "Slots", basis: str, origin: "Origin | None") -> "Slots":
        """The slots with the coordinates of a map of one of them, if one is asked for; NaN where that is NaN."""
        import numpy as np

        from geneformer import keys
        from geneformer.pl._embedding import umap_layout

        if self.umap is None:
            return slots
        values = np.asarray(slots.obsm[basis])
        coordinates = np.full((len(values), 2), np.nan, dtype=np.float32)
        has_values = np.isfinite(values).all(axis=1)
        coordinates[has_values] = umap_layout(values[has_values])
        slot = keys.MAP if origin is None else origin.map_slot
        return replace(slots, obsm={**slots.obsm, slot: coordinates})

    def draw(
        self,
        adata: "AnnData",
        slots: "Slots",
        basis: str,
        origin: "Origin | None",
        color: Sequence[str] = (),
        sure: Sequence[str] = (),
        *,
        genes: Mapping[str, Any] | None = None,
    ) -> None:
        """Draw cells that slots are added to, colored by the columns asked for or else by those given.

        Maps are drawn by the columns in `sure` as well, and by the expression of genes.
        """
        if not self.paths:
            return
        from geneformer import keys, pl

        slots.into(adata)
        adata.uns |= {} if origin is None else origin.colors
        chosen = list(self.color or (name for name in color if name in adata.obs))
        for name, values in (genes or {}).items():
            adata.obs[name] = values
        if self.umap is not None:
            slot = keys.MAP if origin is None else origin.map_slot
            pl.embedding(adata, color=[*chosen, *sure] or None, basis=slot, save=self.umap)
        if self.heatmap is not None:
            pl.heatmap(
                adata,
                groupby=[name for name in chosen if name not in (genes or {})] or None,
                basis=basis,
                save=self.heatmap,
            )


def given_pictures(**paths: Path | None) -> dict[str, Path]:
    """The pictures that are asked for, by their kind, under the names that they get."""
    asked = {kind: path for kind, path in paths.items() if path is not None}
    if not asked:
        return {}
    from geneformer.pl._figures import with_suffix

    return {kind: with_suffix(path) for kind, path in asked.items()}


def check_pictures(paths: Mapping[str, Path], *, overwrite: bool) -> None:
    """Refuse pictures of a kind that is not drawn, or in places that cannot be written."""
    from geneformer.files.atomic import check_output
    from geneformer.pl._figures import check_save

    for path in paths.values():
        check_save(path)
        check_output(path, overwrite=overwrite)


def picture_rows(paths: Mapping[str, Path]) -> Rows:
    """Lines of a closing table that say where pictures are."""
    return [(f"Picture ({kind})", str(path)) for kind, path in paths.items()]
