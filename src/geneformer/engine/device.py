"""The only file that names hardware; everything else receives a device or asks here."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from geneformer.errors import DeviceUnavailableError, PlacementError

KINDS = ("cuda", "npu", "mps", "xpu")
"""Kinds of accelerators that arguments of other libraries name."""

_SAFE_SHARE = 0.8


def resolve_device(requested: str | torch.device = "auto") -> torch.device:
    """The device to work on."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if requested == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        msg = f'device={requested!r} is not a device. Use "auto", "cpu"{_suggest(accelerator)}.'
        raise DeviceUnavailableError(msg) from error
    has_no_index = device.type == "cpu" or (device.type == "meta" and not isinstance(requested, str))
    present = has_no_index or (accelerator is not None and device.type == accelerator.type)
    count = torch.accelerator.device_count() if present and accelerator is not None else 1
    if not present or (not has_no_index and (device.index or 0) >= count):
        msg = f'device={str(requested)!r} is not available here. Use "auto", "cpu"{_suggest(accelerator)}.'
        raise DeviceUnavailableError(msg)
    return device


def _suggest(accelerator: torch.device | None) -> str:
    return f' or "{accelerator.type}"' if accelerator is not None else " (no accelerator was found)"


def list_devices() -> list[torch.device]:
    """The CPU, and every accelerator."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if accelerator is None else torch.accelerator.device_count()
    return [torch.device("cpu"), *(torch.device(accelerator.type, number) for number in range(count) if accelerator)]


def describe_device(device: torch.device) -> str:
    """Name of a device, as far as PyTorch knows it."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    module = getattr(torch, device.type, None)
    name = getattr(module, "get_device_name", None)
    return str(name(device)) if name is not None else device.type


def working_dtypes(device: torch.device) -> list[str]:
    """Arithmetic in which a small matrix product on the device is right, the exact one first."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 64, 64, generator=generator)
    working = []
    for dtype, tolerance in ((torch.float32, 0.05), (torch.bfloat16, 0.5), (torch.float16, 0.1)):
        try:
            product = (left.to(device, dtype) @ right.to(device, dtype)).cpu().float()
        except (RuntimeError, NotImplementedError, TypeError):
            continue
        if torch.allclose(product, left @ right, rtol=0, atol=tolerance):
            working.append(str(dtype).removeprefix("torch."))
    return working


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on the device now; ``None`` where it cannot be asked."""
    if device.type == "cpu":
        return _free_host_memory()
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    module = getattr(torch, device.type, None)
    if module is None or not hasattr(module, "mem_get_info"):
        return None
    return int(module.mem_get_info(device)[0])


def _free_host_memory() -> int | None:
    """Memory the operating system could hand out, within the limit of a container."""
    available = None
    try:
        with open("/proc/meminfo") as lines:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in lines)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:  # noqa: PTH123
            return min(available, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):
        return available


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run on instructions of their own."""
    if device.type == "cpu":
        flags = torch.backends.cpu.get_cpu_capability()
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        return flags.startswith("AVX512") and bool(supported or tiles)
    module = getattr(torch, device.type, None)
    asked = getattr(module, "is_bf16_supported", None)
    return bool(asked()) if asked is not None else False


def has_varlen_kernel(device: torch.device) -> bool:
    """Whether PyTorch's variable-length attention kernel runs here."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def has_float64(device: torch.device) -> bool:
    """Whether sums in double precision run here."""
    return device.type in ("cpu", "cuda")


def can_pin_memory(device: torch.device) -> bool:
    """Whether host memory can be pinned for copies to the device."""
    if device.type == "cpu":
        return False
    try:
        torch.empty(1).pin_memory()
    except RuntimeError:
        return False
    return True


def verify_placement(model: nn.Module, device: torch.device) -> None:
    """Check that every parameter is where it was sent; a device without a number is the current one of its kind."""
    placed = {name: parameter.device for name, parameter in model.named_parameters()}
    current = next((place.index for place in placed.values() if place.type == device.type), None)
    index = current if device.index is None else device.index
    stray = [name for name, place in placed.items() if place.type != device.type or (place.index or 0) != (index or 0)]
    if stray:
        msg = f"{len(stray)} parameters are not on {device}, among them {stray[0]}. Move the whole model with .to()."
        raise PlacementError(msg)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn every device's way of running out of memory into `MemoryError`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if any(text in str(error).lower() for text in ("out of memory", "can't allocate memory", "alloc_cpu")):
            raise MemoryError(str(error)) from error
        raise


def release_memory(device: torch.device) -> None:
    """Give cached blocks back after memory ran out."""
    module = getattr(torch, device.type, None)
    release = getattr(module, "empty_cache", None)
    if release is not None:
        release()


def safe_memory(device: torch.device) -> int | None:
    """The part of the free memory a batch may plan with."""
    free = free_memory(device)
    return None if free is None else int(free * _SAFE_SHARE)


def resolve_dtype(requested: str, device: torch.device, *, training: bool = False) -> torch.dtype:
    """Data type of the matrix products."""
    if requested != "auto":
        dtype: torch.dtype = getattr(torch, requested)
        return dtype
    if training and device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32


def resolve_attention(dtype: torch.dtype, device: torch.device) -> str:
    """Name of the attention kernel for arithmetic and device, outside training."""
    if dtype == torch.float32:
        return "sdpa"
    if device.type == "cpu":
        return "rounded"
    return "varlen" if has_varlen_kernel(device) else "sdpa"


def resolve_training_attention(dropout: float, device: torch.device) -> str:
    """Name of the attention kernel for training with some dropout on the attention weights."""
    return "blocked" if dropout and device.type == "cpu" else "sdpa"
