"""The published argument `quantize`: low-rank updates, and the bits of the weights below them."""

from collections.abc import Mapping
from typing import Any, Literal

from geneformer.errors import OptionError, UnsupportedArgumentError
from geneformer.options._check import check_choice


def checked_quantize(quantize: Any) -> tuple[Any, Literal["full", "8bit", "4bit"]]:
    """What `quantize` asks for: a configuration of PEFT or None, and the bits of the frozen weights.

    `True` is the published four-bit setting with low-rank updates of rank 64. Weights of four bits are normal floats
    in blocks; double quantization and the arithmetic of `bnb_config` say how they are stored, not what they are.

    Raises
    ------
    OptionError
        Other keys than `peft_config` and `bnb_config`.
    UnsupportedArgumentError
        Bits without adapters, which cannot learn, or another kind of four-bit numbers.
    """
    if not quantize:
        return None, "full"
    if quantize is True:
        return _published_adapters(), "4bit"
    if not isinstance(quantize, Mapping) or not set(quantize) <= {"peft_config", "bnb_config"}:
        msg = f"quantize={quantize!r} takes a bool, or a dictionary with peft_config and bnb_config."
        raise OptionError(msg)
    adapters, stored = quantize.get("peft_config"), quantize.get("bnb_config")
    bits: Literal["full", "8bit", "4bit"] = "full"
    if stored is not None:
        bits = "4bit" if _setting(stored, "load_in_4bit") else "8bit" if _setting(stored, "load_in_8bit") else "full"
        kind = _setting(stored, "bnb_4bit_quant_type")
        if bits == "4bit" and kind not in (None, "nf4", "fp4"):
            check_choice("bnb_4bit_quant_type", kind, ("nf4",))
        if bits == "4bit" and kind == "fp4":
            msg = 'bnb_4bit_quant_type="fp4" is not supported here. Set it to "nf4", as published.'
            raise UnsupportedArgumentError(msg)
    if bits != "full" and adapters is None:
        msg = f"quantize asks for weights of {bits} without peft_config; they cannot learn. Add a peft_config."
        raise UnsupportedArgumentError(msg)
    return adapters, bits


def _setting(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _published_adapters() -> Any:
    from geneformer.models.given_adapters import peft_library

    return peft_library().LoraConfig(
        r=64, lora_alpha=128, lora_dropout=0.1, bias="none", target_modules=["query", "value"], task_type="TOKEN_CLS"
    )
