"""Knobs of the machine, shared by every task."""

from dataclasses import dataclass
from typing import Literal

from geneformer.options._check import check_choice, check_range

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeOptions:
    """Where and how a model runs; never changes what is computed beyond rounding."""

    device: str = "auto"
    """"auto" (the accelerator if there is one, else the CPU) or a PyTorch device such as "cpu" or "cuda:1"."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the matrix products. "auto" takes bfloat16 where the device has instructions for it."""

    tokens_per_batch: int | None = None
    """Tokens in one forward pass. By default as many as the free memory allows, halved when it runs out."""

    progress: bool = True
    """Show a progress bar; where there is no terminal, a line a minute."""

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, DTYPES)
        check_range("tokens_per_batch", self.tokens_per_batch, low=1)
