"""One run in several processes that a launcher started: who writes, and what all of them go by."""

import os
from typing import Any, TypeVar

from geneformer.errors import UnsupportedArgumentError

Value = TypeVar("Value")


def check_launched(master_addr: str, master_port: str) -> None:
    """Refuse to spread over devices from within one process.

    With a single device there is nothing to spread over, and within processes that `torchrun` or `accelerate launch`
    started, training is spread over them.

    Raises
    ------
    UnsupportedArgumentError
        Several devices, but a single process.
    """
    import torch

    devices = torch.accelerator.device_count()
    if devices <= 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    msg = (
        f"distributed_training=True, and there are {devices} devices but one process. Processes are started by a "
        f"launcher here: run the same script with `torchrun --nproc-per-node {devices} --master-addr {master_addr} "
        f"--master-port {master_port} SCRIPT.py` or `accelerate launch SCRIPT.py`; or leave the argument out to train "
        "on one device."
    )
    raise UnsupportedArgumentError(msg)


def is_first() -> bool:
    """Whether this process writes the files."""
    return int(os.environ.get("RANK", "0")) == 0


def agreed(value: Value) -> Value:
    """The value that the first process has; all have come this far when it is returned."""
    if not _spread():
        return value
    shared: list[Any] = [value]
    _group().broadcast_object_list(shared, src=0)
    agreed_on: Value = shared[0]
    return agreed_on


def _group() -> Any:
    import torch.distributed

    return torch.distributed


def _spread() -> bool:
    group = _group()
    return bool(group.is_available() and group.is_initialized() and group.get_world_size() > 1)
