"""`geneformer doctor`: what this machine and this installation can do, and what mends what they cannot."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from geneformer._version import __version__
from geneformer.cli._options import with_options
from geneformer.cli._output import Outcome, Rows

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "geneformer"

CORE = ("torch", "transformers", "anndata", "scanpy", "scikit-learn", "numpy")
"""Libraries whose versions are listed; of others only those that do not fit."""

COLLECTIONS = ("all", "demo")
"""Extras that only put others together."""

GOLDEN = ((-1.433388, 0.345817, 0.141188), (-1.186408, 0.442906, -0.016499), (-1.244689, 0.227349, 0.215326))
"""First numbers of what `mini` makes of the first three bundled cells, in float32."""

TOLERANCE = 1e-4
"""Kernels and libraries differ by rounding, about 1e-6 here."""

LITTLE_SPACE = 2 * 2**30
"""Bytes below which a published model may not fit into the cache."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    remedy: str = ""
    fails: bool = False

    def __str__(self) -> str:
        return self.found + (f". {self.remedy}" if self.remedy else "")


@with_options("doctor", "doctor --json")
def doctor() -> Outcome:
    """Check versions, devices, extras, caches and the bundled model of this installation."""
    checks = [*_versions(), *_extras(), *_machine(), *_caches(), _bundled_model()]
    failed = [check.name for check in checks if check.fails]
    title = f"Not in order: {', '.join(failed)}" if failed else "All in order"
    data = {"healthy": not failed, "checks": [asdict(check) for check in checks]}
    rows: Rows = [(f"! {check.name}" if check.fails else check.name, check) for check in checks]
    return Outcome(title, rows, data, failed=bool(failed))


def _versions() -> Iterator[Check]:
    """The package, Python and the libraries it needs, against what is supported."""
    yield Check(NAME, f"{__version__} in {Path(__file__).parent.parent}")
    try:
        supported = metadata.metadata(NAME)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        remedy = "It runs from a folder; what it needs is not known. Install it: pip install -e ."
        yield Check("Python", platform.python_version(), remedy)
        return
    yield _version_check("Python", platform.python_version(), supported, "Install another Python")
    for needed in sorted(_needed(""), key=lambda one: (one.name not in CORE, one.name)):
        found = _installed(needed.name)
        check = _version_check(
            needed.name, found, str(needed.specifier), f'pip install "{needed.name}{needed.specifier}"'
        )
        if needed.name in CORE or check.fails:
            yield check


def _version_check(name: str, found: str | None, supported: str, remedy: str) -> Check:
    from packaging.specifiers import SpecifierSet

    if found is not None and SpecifierSet(supported).contains(found, prereleases=True):
        return Check(name, f"{found} ({supported})")
    return Check(name, f"{found or 'missing'}, {supported} is needed", remedy, fails=True)


def _needed(extra: str) -> "list[Requirement]":
    """What the package needs, or what one of its extras adds."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in metadata.requires(NAME) or ()]
    marked = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]
    return [one for one in marked if ("extra" in str(one.marker)) == bool(extra)]


def _installed(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> Iterator[Check]:
    """Which extras are complete, and the command that completes the others."""
    try:
        extras = [name for name in metadata.metadata(NAME).get_all("Provides-Extra") or () if name not in COLLECTIONS]
    except metadata.PackageNotFoundError:
        return
    for extra in extras:
        missing = [one.name for one in _needed(extra) if one.name != NAME and _installed(one.name) is None]
        found = f"without {', '.join(missing)}" if missing else "installed"
        yield Check(f"extra {extra}", found, f'If you need it: pip install "{NAME}[{extra}]"' if missing else "")


def _machine() -> Iterator[Check]:
    """Processors, memory, and every device with the arithmetic that works on it."""
    import torch

    from geneformer.engine.device import describe_device, free_memory, list_devices, working_dtypes

    yield Check("processors", f"{os.cpu_count()}, PyTorch uses {torch.get_num_threads()} threads")
    free = free_memory(torch.device("cpu"))
    yield Check("memory", "not known" if free is None else f"{free / 2**30:.1f} GiB free")
    for device in list_devices():
        working = working_dtypes(device)
        found = f"{describe_device(device)}: {', '.join(working) or 'nothing'}"
        remedy = (
            ""
            if working
            else "Matrix products fail on it: driver and PyTorch may not fit. `geneformer embed --device cpu` works."
        )
        yield Check(f"device {device}", found, remedy, fails=not working)


def _caches() -> Iterator[Check]:
    """Where models and dictionaries are kept, with the space there."""
    from huggingface_hub import constants, try_to_load_from_cache

    from geneformer.files import cache_folder
    from geneformer.models.hub import CONFIG, HUB

    hub = Path(constants.HF_HUB_CACHE)
    for name, folder, variable in (("cache", cache_folder(), "GENEFORMER_CACHE"), ("model cache", hub, "HF_HOME")):
        place = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(place).free
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            remedy = f"Set {variable} to a folder you may write to."
            yield Check(name, f"{folder} is not writable", remedy, fails=True)
        else:
            remedy = f"Models may not fit. Set {variable} to a folder with more space." if free < LITTLE_SPACE else ""
            yield Check(name, f"{folder}, {free / 2**30:.1f} GiB free", remedy)
    here = [
        name
        for name, one in HUB.items()
        if isinstance(try_to_load_from_cache(one.repository, f"{one.subfolder}/{CONFIG}", revision=one.revision), str)
    ]
    yield Check("published models", f"{', '.join(here) or 'none'} in the cache; others are downloaded when named")


def _bundled_model() -> Check:
    """Whether counts become the embeddings that they should."""
    import numpy as np

    from geneformer import keys, tl
    from geneformer.datasets import pbmc3k
    from geneformer.errors import GeneformerError

    reinstall = f"Install it again: `pip install --force-reinstall --no-deps {NAME}`"
    try:
        cells = pbmc3k()[: len(GOLDEN)].copy()
        tl.embed(cells, model="mini", device="cpu", dtype="float32", progress=False)
    except (GeneformerError, OSError) as error:
        return Check("model mini", f"does not run: {error}", reinstall, fails=True)
    off = float(np.abs(cells.obsm[keys.EMBEDDING][:, : len(GOLDEN[0])] - np.array(GOLDEN)).max())
    if not off <= TOLERANCE:
        found = f"its embeddings are off by {off:.2g} at most"
        return Check("model mini", found, f"{reinstall}; or install the versions of constraints.txt", fails=True)
    return Check("model mini", f"three cells are embedded as they should be, to {off:.0e}")
