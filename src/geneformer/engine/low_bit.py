"""Whether a device can keep frozen weights in 8 or 4 bits."""

import torch

from geneformer.errors import DeviceError
from geneformer.models.low_bit import low_bit_library
from geneformer.options._check import check_choice


def check_low_bit(bits: str, device: torch.device) -> None:
    """Refuse, before any work, a precision that the device or this installation does not have.

    Parameters
    ----------
    bits
        "full", "8bit" or "4bit"; "full" runs everywhere.
    device
        Where the network will run.

    Raises
    ------
    UnknownChoiceError
        Another precision.
    DeviceError
        A CPU, or an accelerator that bitsandbytes has no kernels for.
    MissingExtraError
        bitsandbytes is not installed.
    """
    check_choice("bits", bits, ("full", "8bit", "4bit"))
    if bits == "full":
        return
    if device.type == "cpu":
        msg = f'bits="{bits}" saves memory on an accelerator; on a CPU it only loses speed. Leave bits at "full".'
        raise DeviceError(msg)
    known = getattr(low_bit_library(), "supported_torch_devices", None)
    if known is not None and device.type not in known:
        msg = (
            f'bits="{bits}" cannot run on device "{device}": bitsandbytes has kernels for '
            f'{", ".join(sorted(set(known) - {"cpu"}))}. Leave bits at "full", or use one of these.'
        )
        raise DeviceError(msg)
