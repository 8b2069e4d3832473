"""What may be kept in few bits, and where."""

import sys
from types import SimpleNamespace

import pytest
import torch

from geneformer.compat.networks import check_low_bit
from geneformer.errors import DeviceError, MissingExtraError, UnknownChoiceError

pytestmark = pytest.mark.contract

ACCELERATOR = torch.device("cuda")


def test_full_precision_runs_everywhere(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for device in (torch.device("cpu"), ACCELERATOR):
        check_low_bit("full", device)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_cpu_is_refused_with_or_without_the_library(bits, monkeypatch):
    for library in (None, SimpleNamespace(supported_torch_devices={"cuda", "cpu"})):
        monkeypatch.setitem(sys.modules, "bitsandbytes", library)
        with pytest.raises(DeviceError, match=f'bits="{bits}".*on a CPU.*"full"'):
            check_low_bit(bits, torch.device("cpu"))


def test_without_the_library_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="pip install bitsandbytes"):
        check_low_bit("4bit", ACCELERATOR)


def test_a_device_the_library_does_not_know_is_refused(monkeypatch):
    library = SimpleNamespace(supported_torch_devices={"xpu", "hpu", "cpu"})
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    check_low_bit("4bit", torch.device("xpu"))
    with pytest.raises(DeviceError, match=r'device "cuda": bitsandbytes has kernels for hpu, xpu\.'):
        check_low_bit("4bit", ACCELERATOR)


def test_another_precision_is_refused():
    with pytest.raises(UnknownChoiceError, match='Choose "full", "8bit", "4bit"'):
        check_low_bit("2bit", ACCELERATOR)
