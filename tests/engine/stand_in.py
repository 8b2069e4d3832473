"""A stand-in accelerator, in Python alone: host memory under the name of another device.

PyTorch keeps one backend, PrivateUse1, for devices it does not know. Here it gets a name, a device guard, and one
kernel for all operations: it relabels the tensors as tensors of the CPU (through DLPack; they share their memory),
lets the CPU do the work, and relabels what comes out. As on a real accelerator, tensors of two devices do not mix.

Run as a script, it embeds cells and trains for one step on the stand-in and on the CPU, and prints how far they differ.
"""

import ctypes
import json
import sys
from pathlib import Path

import torch
from torch.utils import _pytree, backend_registration

NAME = "standin"
HOST, OTHER = 1, 12  # DLPack's numbers for the CPU and for devices it has no name for
CROSSING = {"aten::_copy_from", "aten::copy_"}

_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype = ctypes.c_void_p
_address.argtypes = [ctypes.py_object, ctypes.c_char_p]

seen: set[str] = set()
"""Operations that were run."""


class Module(backend_registration._DummyBackendModule):
    """What `torch.standin` is."""

    def synchronize(self, *_) -> None:
        """Nothing runs on its own."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """What autocast may use."""
        return [torch.bfloat16, torch.float16]


def relabel(tensor: torch.Tensor, kind: int) -> torch.Tensor:
    """The same memory as a tensor of another device."""
    capsule = torch._C._to_dlpack(tensor)
    place = _address(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)
    ctypes.c_int32.from_address(place).value = kind
    with torch.inference_mode(False):
        return torch._C._from_dlpack(capsule)


def run_on_host(operation, *args, **kwargs):
    """Do any operation on the CPU."""
    name = operation._schema.name
    seen.add(name)
    lent = {}

    def inward(value):
        if isinstance(value, torch.Tensor) and value.device.type == NAME:
            host = relabel(value, HOST) if value.numel() else torch.empty(value.shape, dtype=value.dtype)
            lent[id(host)] = value, host
            return host
        if isinstance(value, torch.Tensor) and value.dim() and name not in CROSSING:
            message = f"{name}: expected all tensors on {NAME}, found one on {value.device}"
            raise RuntimeError(message)
        if isinstance(value, torch.UntypedStorage) and value.device.type == NAME:
            memory = (ctypes.c_byte * value.nbytes()).from_address(value.data_ptr())
            return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    def outward(value):
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in lent:
            own, host = lent[id(value)]
            if own.data_ptr() != host.data_ptr():
                own.data = relabel(host, OTHER)
            return own
        asked = kwargs.get("device")
        return value if asked is not None and torch.device(asked).type == "cpu" else relabel(value, OTHER)

    host_args, host_kwargs = _pytree.tree_map(inward, (args, kwargs))
    if name == "aten::_copy_from":
        host_args[1].copy_(host_args[0])
        return args[1]
    return _pytree.tree_map(outward, operation(*host_args, **host_kwargs))


def register() -> torch.library.Library:
    """Make the device known; it lasts as long as what is returned."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(run_on_host, "PrivateUse1")
    return library


def difference(one, other) -> float:
    """Largest difference of two sets of tensors, on the CPU."""
    return max(float((one[name].cpu() - other[name].cpu()).abs().max()) for name in one)


def embed_on(device: str, tokens, pooling: str):
    """Embeddings, and where the weights were."""
    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.inference.embedding import embed
    from geneformer.models.loading import LoadedModel
    from geneformer.options import EmbedOptions, RuntimeOptions
    from golden import tiny_model

    model = LoadedModel("tiny", Path(), tiny_model("V1"), Vocabulary.load("V1"), True)
    result = embed(tokens, model, EmbedOptions(pooling=pooling), RuntimeOptions(device=device, dtype="float32"))
    return result.values, str(next(model.network.bert.parameters()).device)


def train_on(device: str, tokens, folder: Path):
    """Weights after one optimizer step, where they are, and the history of the run."""
    import numpy as np

    from geneformer.genes.vocabulary import Vocabulary
    from geneformer.models.heads import GeneformerForMaskedLM
    from geneformer.options import PretrainOptions, RuntimeOptions
    from geneformer.pretraining.run import MaskedBatches, _trainer
    from golden import tiny_config

    options = PretrainOptions(max_steps=1, tokens_per_batch=300, logging_steps=1, save_steps=1, eval_steps=1)
    batches = MaskedBatches(tokens, np.arange(len(tokens)), Vocabulary.load("V1"), 40, options, views=False)
    torch.manual_seed(0)
    config = tiny_config("V1")
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = GeneformerForMaskedLM(config)
    runtime = RuntimeOptions(device=device, progress=False)
    trainer = _trainer(model, batches, batches, 1, output=folder, options=options, runtime=runtime, progress=None)
    trainer.train()
    saved = sorted(path.name for path in folder.glob("checkpoints/*/*"))
    return model.state_dict(), str(next(model.parameters()).device), trainer.state.log_history[0]["loss"], saved


def main(folder: Path) -> None:
    """Everything on both devices."""
    from geneformer.engine.device import resolve_device
    from small_cells import short_tokens

    library = register()
    tokens = short_tokens(cells=6)
    device = resolve_device("auto")
    told = {"device": str(device)}
    for pooling in ("mean", "gene"):
        ours, where = embed_on("auto", tokens, pooling)
        theirs, _ = embed_on("cpu", tokens, pooling)
        told[pooling] = {"where": where, "difference": float(abs(ours - theirs).max())}
    weights, where, loss, saved = train_on("standin", tokens, folder / "standin")
    host_weights, host_where, host_loss, _ = train_on("cpu", tokens, folder / "cpu")
    told["training"] = {"where": where, "host": host_where, "losses": [loss, host_loss], "saved": saved}
    told["training"]["difference"] = difference(weights, host_weights)
    told["operations"] = sorted(seen)
    sys.stdout.write(json.dumps(told) + "\n")
    del library


if __name__ == "__main__":
    main(Path(sys.argv[1]))
