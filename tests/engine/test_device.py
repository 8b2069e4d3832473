"""Devices and arithmetic: what is found, what is refused, what is asked of PyTorch."""

from types import SimpleNamespace

import pytest
import torch

from geneformer.engine import device as devices
from geneformer.engine.device import (
    can_pin_memory,
    free_memory,
    has_fast_bfloat16,
    memory_errors,
    resolve_attention,
    resolve_device,
    resolve_dtype,
    resolve_training_attention,
    safe_memory,
    verify_placement,
)
from geneformer.errors import DeviceUnavailableError, PlacementError

CPU = torch.device("cpu")


def test_auto_is_the_accelerator_or_the_cpu():
    assert resolve_device("auto") == (torch.accelerator.current_accelerator(check_available=True) or CPU)
    assert resolve_device("cpu") == CPU
    assert resolve_device(torch.device("meta")).type == "meta"
    with pytest.raises(DeviceUnavailableError, match="'meta' is not available"):
        resolve_device("meta")  # nothing is computed there


def test_auto_takes_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("xpu"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert resolve_device("auto").type == "xpu"
    assert resolve_device("xpu:1").index == 1
    with pytest.raises(DeviceUnavailableError, match=r"'xpu:2' is not available.*\"cpu\" or \"xpu\""):
        resolve_device("xpu:2")


@pytest.mark.parametrize("requested", ["gpu", "cpu:", "", "cudaa:0", "hpu", "xpu"])
def test_what_is_not_there_is_refused(requested, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)
    with pytest.raises(DeviceUnavailableError, match=r"\(GF501\).*\"auto\", \"cpu\".*no accelerator"):
        resolve_device(requested)


def test_memory_is_told_for_the_cpu_and_not_for_the_unknown():
    free = free_memory(CPU)
    assert free is None or free > 2**20
    assert safe_memory(CPU) is None or safe_memory(CPU) > 2**19
    assert free_memory(torch.device("meta")) is None
    assert safe_memory(torch.device("meta")) is None


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4096 kB\n"}
    files |= {"/sys/fs/cgroup/memory.max": "3000000\n", "/sys/fs/cgroup/memory.current": "1000000\n"}
    for number, (name, text) in enumerate(files.items()):
        path = tmp_path / str(number)
        path.write_text(text)
        files[name] = path
    monkeypatch.setattr(devices, "open", lambda name: files[name].open(), raising=False)
    assert free_memory(CPU) == 2_000_000
    files["/sys/fs/cgroup/memory.max"].write_text("max\n")
    assert free_memory(CPU) == 4096 * 1024


@pytest.mark.parametrize(
    ("capability", "bf16", "tiles", "fast"),
    [
        ("AVX2", False, False, False),
        ("AVX512", False, False, False),
        ("AVX512", True, False, True),
        ("AVX512", False, True, True),
        ("AVX2", True, True, False),
    ],
)
def test_bfloat16_needs_instructions_of_its_own(monkeypatch, capability, bf16, tiles, fast):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    assert has_fast_bfloat16(CPU) is fast
    assert resolve_dtype("auto", CPU) is (torch.bfloat16 if fast else torch.float32)
    assert resolve_dtype("auto", CPU, training=True) is torch.float32


def test_the_names_asked_of_pytorch_exist():
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
    assert isinstance(torch.backends.cpu.get_cpu_capability(), str)


@pytest.mark.parametrize(
    ("device", "dropout", "kernel"), [("cpu", 0.0, "sdpa"), ("cpu", 0.1, "blocked"), ("meta", 0.1, "sdpa")]
)
def test_training_with_attention_dropout_on_a_cpu_takes_the_kernel_that_has_it(device, dropout, kernel):
    assert resolve_training_attention(dropout, torch.device(device)) == kernel


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_dtype_asked_for_is_taken(name):
    assert resolve_dtype(name, CPU) is getattr(torch, name)
    assert resolve_attention(getattr(torch, name), CPU) == ("sdpa" if name == "float32" else "rounded")


def test_memory_of_a_cpu_is_free_and_not_pinned():
    assert free_memory(CPU) > 0
    assert not can_pin_memory(CPU)


def test_a_stray_parameter_is_found():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    verify_placement(network, CPU)
    network[1].to("meta")
    with pytest.raises(PlacementError, match=r"2 parameters are not on cpu, among them 1\.weight"):
        verify_placement(network, CPU)


class Placed:
    """A network whose parameters are on devices that this machine need not have."""

    def __init__(self, *devices):
        self.devices = devices

    def named_parameters(self):
        return [(f"weight{i}", SimpleNamespace(device=torch.device(name))) for i, name in enumerate(self.devices)]


def test_a_parameter_on_another_device_of_the_same_kind_is_found():
    verify_placement(Placed("cuda:1", "cuda:1"), torch.device("cuda:1"))
    verify_placement(Placed("cuda:1", "cuda:1"), torch.device("cuda"))  # the current one
    verify_placement(Placed("cpu"), torch.device("cpu:0"))
    with pytest.raises(PlacementError, match="1 parameters are not on cuda:1, among them weight0"):
        verify_placement(Placed("cuda:0", "cuda:1"), torch.device("cuda:1"))
    with pytest.raises(PlacementError, match="1 parameters are not on cuda, among them weight1"):
        verify_placement(Placed("cuda:0", "cuda:1"), torch.device("cuda"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 2.00 GiB"),
        RuntimeError("NPU out of memory. Tried to allocate"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("numpy"),
    ],
)
def test_every_way_of_running_out_of_memory_is_a_memory_error(error):
    with pytest.raises(MemoryError), memory_errors():
        raise error


def test_a_real_allocation_that_is_too_large_is_a_memory_error():
    with pytest.raises(MemoryError), memory_errors():
        torch.empty(2**55)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        raise RuntimeError("shape mismatch")
