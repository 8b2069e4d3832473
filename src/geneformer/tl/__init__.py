"""Tools: models applied to AnnData objects, results in their slots."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geneformer.tl._annotate import annotate
    from geneformer.tl._attention import attention
    from geneformer.tl._classify import classify
    from geneformer.tl._embed import embed
    from geneformer.tl._network import network
    from geneformer.tl._network_uses import evaluate_network, network_roles, regulons, save_network
    from geneformer.tl._perturb import perturb, rank_perturbations
    from geneformer.tl._predict_masked import predict_masked

_HOMES = {"rank_perturbations": "_perturb"} | dict.fromkeys(
    ("evaluate_network", "network_roles", "regulons", "save_network"), "_network_uses"
)

__all__ = [
    "annotate",
    "attention",
    "classify",
    "embed",
    "evaluate_network",
    "network",
    "network_roles",
    "perturb",
    "predict_masked",
    "rank_perturbations",
    "regulons",
    "save_network",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        function = getattr(import_module(f"{__name__}.{_HOMES.get(name, f'_{name}')}"), name)
        globals()[name] = function  # the next access does not come here
        return function
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
