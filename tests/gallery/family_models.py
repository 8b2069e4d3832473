"""Model folders and adapters: what a configuration may claim, and what weights may hold."""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import geneformer
from gallery.model_folders import adapters, model
from gallery.rows import ACCEPTED, Row, call


def _load(folder):
    return geneformer.load_model(folder)


def _load_adapted(folder):
    from geneformer.compat.networks import load_plain_network

    return type(load_plain_network("Pretrained", 0, folder, "eval")).__name__


def _embed_adapted(folder):
    from geneformer.compat.networks import published_model

    return published_model(folder)


def _filled(value):
    def change(weights):
        for entry in weights.values():
            entry.fill(value)

    return change


def _first(value):
    def change(weights):
        weights["bert.embeddings.word_embeddings.weight"][0, 0] = value

    return change


def _kind(kind):
    return lambda weights: {name: entry.astype(kind) for name, entry in weights.items()}


def _wrapped(prefix):
    return lambda weights: {f"{prefix}{name}": entry for name, entry in weights.items()}


def _in_parts(where="{}"):
    def make(folder: Path) -> Path:
        path = model()(folder)
        weights = load_file(path / "model.safetensors")
        (path / "model.safetensors").unlink()
        places = {}
        for number in (0, 1):
            name = f"model-0000{number + 1}-of-00002.safetensors"
            save_file(dict(list(weights.items())[number::2]), path / name, metadata={"format": "pt"})
            places |= {entry: where.format(name) for entry in list(weights)[number::2]}
        (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return path

    return make


def _in_parts_elsewhere(folder: Path) -> Path:
    path = _in_parts("../others/{}")(folder)
    (folder / "others").mkdir()
    for part in path.glob("model-*"):
        shutil.move(part, folder / "others" / part.name)
    return path


def _twice(folder: Path) -> Path:
    path = model()(folder) / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    name = "bert.embeddings.LayerNorm.bias"
    header = data[8 : 8 + length].rstrip().removesuffix(b"}") + f',"{name}":{json.dumps(entries[name])}}}'.encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return path.parent


def _pickled_adapters(folder: Path) -> Path:
    path = adapters()(folder)
    (path / "adapter_model.safetensors").unlink()
    (path / "adapter_model.bin").write_bytes(b"cos\nmkdir\n(S'ran'\ntR.")
    return path


DEEP = '{"a":' * 100_000

REFUSED = {
    "a billion layers": {"num_hidden_layers": 10**9},
    "a hundred thousand layers": {"num_hidden_layers": 100_000},
    "a hidden size of 10^12": {"hidden_size": 10**12},
    "a vocabulary of 10^18": {"vocab_size": 10**18},
    "a negative epsilon": {"layer_norm_eps": -1},
    "a dropout of 7": {"hidden_dropout_prob": 7},
    "a dropout that is no number": {"attention_probs_dropout_prob": float("nan")},
    "an activation BERT does not have": {"hidden_act": "laplace"},
    "an activation that is compiled when it is loaded": {"hidden_act": "xielu"},
    "an activation that is a list": {"hidden_act": ["relu"]},
    "padding by the token of a gene": {"pad_token_id": 5},
    "padding by a truth value": {"pad_token_id": True},
    "classes in a list": {"id2label": ["a", "b"]},
    "classes by text": {"id2label": {"a": "b"}},
    "a fingerprint that is a number": {"geneformer_vocabulary": 7},
    "an architecture that is a number": {"architectures": [3]},
    "another kind of model": {"model_type": "llama"},
    "a decoder": {"is_decoder": True},
    "an output that is not tied": {"tie_word_embeddings": False},
}
MIXED = {
    "more layers than the weights have": {"num_hidden_layers": 900},
    "a hidden size the weights do not have": {"hidden_size": 4096},
    "an inner size the weights do not have": {"intermediate_size": 99_999},
    "more positions than the weights have": {"max_position_embeddings": 4096},
}
IGNORED = {
    "another attention": {"attn_implementation": "flash_attention_2"},
    "an attention from the hub": {"attn_implementation": "someone/kernel"},
    "an attention from the hub, by its other name": {"_attn_implementation": "someone/kernel"},
    "an attention by its internal name": {"_attn_implementation_internal": "someone/kernel"},
    "classes to load from modules": {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True},
    "kernels": {"use_kernels": True, "kernel_config": {"a": "b"}},
    "a type of numbers there is not": {"dtype": "float99"},
    "a function as a type of numbers": {"torch_dtype": "compile"},
    "quantization": {"quantization_config": {"quant_method": "bogus"}},
    "pieces in the feed-forward part": {"chunk_size_feed_forward": 7},
    "experts": {"experts_implementation": "someone/kernel"},
}

ROWS = [
    Row("as published", model(), ACCEPTED, act=call(_load), why="the plain case"),
    *(Row(name, model(**entries), "GF305", next(iter(entries)), act=call(_load))
      for name, entries in REFUSED.items()),
    *(Row(name, model(**entries), "GF305", ("config.json", "incomplete or mixed"), act=call(_load))
      for name, entries in MIXED.items()),
    *(Row(name, model(**entries), ACCEPTED, act=call(_load), why="such entries are not read: nothing here needs them")
      for name, entries in IGNORED.items()),
    Row("a configuration nested too deeply", model(text=DEEP), "GF305", "not valid JSON", act=call(_load)),
    Row("a configuration that is a list", model(text="[]"), "GF305", "JSON object", act=call(_load)),
    Row("weights that are not finite", model(_first(np.nan)), "GF305", "not finite", act=call(_load)),
    Row("weights too large to compute with", model(_filled(3e38)), "GF305", "beyond", act=call(_load)),
    Row("one weight too large to compute with", model(_first(1e38)), "GF305", "beyond", act=call(_load)),
    Row("whole numbers for weights", model(_kind(np.int64)), "GF305", "floating point", act=call(_load)),
    Row("truth values for weights", model(_kind(bool)), "GF305", "floating point", act=call(_load)),
    Row("an entry of the weights stands twice", _twice, "GF305", "twice", act=call(_load)),
    Row("weights under the name of a compiled module", model(_wrapped("_orig_mod.")), ACCEPTED, act=call(_load),
        why="the name of a wrapper says nothing about the weights"),
    Row("weights under the name of a distributed module", model(_wrapped("module.")), ACCEPTED, act=call(_load),
        why="the name of a wrapper says nothing about the weights"),
    Row("weights in two files", _in_parts(), ACCEPTED, act=call(_load), why="their index says where which are"),
    Row("parts of weights outside the folder", _in_parts_elsewhere, "GF305", "parts", act=call(_load)),
    Row("no name of a model", lambda _: "", "GF304", "names no model", act=call(_load)),
    Row("None for a model", lambda _: None, "GF304", "names no model", act=call(_load)),
    Row("a name of ten thousand letters", lambda _: "x" * 10_000, "GF304", "known name", act=call(_load)),
    Row("a name with a zero byte", lambda _: "mi\0ni", "GF304", "names no model", act=call(_load)),
    Row("adapters", adapters(), ACCEPTED, act=call(_embed_adapted), why="the plain case"),
    Row("adapters, as a network of transformers", adapters(), ACCEPTED, act=call(_load_adapted), why="the plain case"),
    *(Row(f"{name} ({way})", adapters(**entries), code, says, act=call(act), why=why)
      for name, entries, code, says, why in (
          ("adapters that name a module", {"megatron_core": "evil", "megatron_config": {"a": 1}}, "GF305", "megatron",
           ""),
          ("adapters with a class to import", {"auto_mapping": {"parent_library": "evil", "base_model_class": "M"}},
           ACCEPTED, (), "the entry is not read: it would only choose a class by itself"),
          ("adapters of a kind there is not", {"peft_type": "EVIL"}, "GF305", "peft_type", ""),
          ("adapters with entries nobody knows", {"frobnicate": 7}, "GF305", "frobnicate", ""),
          ("a rank that is a text", {"r": "two"}, "GF305", "no number", ""),
          ("a rank below one", {"r": -1}, "GF305", "positive", ""),
          ("adapters for no layer", {"target_modules": ["zzz"]}, "GF305", "zzz", ""),
          ("adapters for a model that is not there", {"base_model_name_or_path": "gone"}, "GF304", "gone", ""),
      ) for way, act in (("embedding", _embed_adapted), ("network", _load_adapted))),
    Row("adapters in a pickle", _pickled_adapters, "GF305", "adapter_model.safetensors", act=call(_load_adapted)),
]  # fmt: skip
