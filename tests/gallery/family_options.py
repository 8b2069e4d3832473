"""Options by keyword and by file: numbers out of range, empty texts, files that are not what they should be."""

import math
from pathlib import Path

from gallery.rows import ACCEPTED, Row, call
from geneformer import options
from geneformer.options._fields import read_options
from geneformer.options.finetuning import read_space


def make(kind, **values):
    return call(lambda _: getattr(options, kind)(**values))


def file(text, name="options.toml"):
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return Path(name)

    return write


def _folder(folder: Path) -> Path:
    (folder / "options.toml").mkdir()
    return Path("options.toml")


PRETRAIN, FINETUNE = "PretrainOptions", "FinetuneOptions"
READ = call(lambda path: read_options(path, options.FinetuneOptions))
SPACE = call(read_space)

ROWS = [
    Row("options as they are", lambda _: None, ACCEPTED, act=make(FINETUNE), why="the plain case"),
    *(Row(f"{name}={value!r} of {kind}", lambda _: None, "GF102", name, act=make(kind, **{name: value}))
      for kind, name, value in (
          (PRETRAIN, "max_steps", 0),
          (PRETRAIN, "max_steps", -5),
          (PRETRAIN, "max_steps", 10**18),
          (PRETRAIN, "logging_steps", 0),
          (PRETRAIN, "eval_steps", 0),
          (PRETRAIN, "save_steps", -1),
          (PRETRAIN, "max_length", 10**9),
          (PRETRAIN, "max_length", 0),
          (PRETRAIN, "learning_rate", 1e30),
          (PRETRAIN, "learning_rate", math.inf),
          (PRETRAIN, "weight_decay", math.nan),
          (PRETRAIN, "mask_probability", 1.0),
          (PRETRAIN, "seed", 2**70),
          (PRETRAIN, "epochs", 0),
          (FINETUNE, "learning_rate", 1e10),
          (FINETUNE, "learning_rate", math.inf),
          (FINETUNE, "learning_rate", -1),
          (FINETUNE, "epochs", 1e300),
          (FINETUNE, "epochs", math.inf),
          (FINETUNE, "epochs", math.nan),
          (FINETUNE, "epochs", "3"),
          (FINETUNE, "epochs", True),
          (FINETUNE, "max_steps", 0),
          (FINETUNE, "seed", 2**70),
          (FINETUNE, "seed", -1),
          (FINETUNE, "contrastive_weight", math.inf),
          (FINETUNE, "max_length", 10**12),
          ("SplitOptions", "seed", 2**70),
          ("SearchOptions", "timeout", math.inf),
          ("RankOptions", "fdr", math.nan),
          ("RankOptions", "permutations", 0),
          ("PerturbOptions", "dose", math.nan),
          ("TokenizeOptions", "max_length", 10**12),
          ("TokenizeOptions", "workers", 0),
          ("RuntimeOptions", "tokens_per_batch", 0),
      )),
    *(Row(f"an empty {name} of {kind}", lambda _: None, "GF100", f"{name} is empty", act=make(kind, **{name: ""}))
      for kind, name in (
          (PRETRAIN, "architecture"),
          (PRETRAIN, "vocabulary"),
          ("TokenizeOptions", "vocabulary"),
          ("TokenizeOptions", "layer"),
          ("TokenizeOptions", "gene_ids"),
          ("ClassifyOptions", "separator"),
          ("RankOptions", "donor"),
          ("SearchOptions", "metric"),
          ("SearchOptions", "study"),
          ("SearchOptions", "storage"),
          ("PerturbOptions", "anchor"),
          ("PerturbOptions", "state_key"),
          ("RuntimeOptions", "device"),
      )),
    Row("a file that sets an option", file("epochs = 3"), ACCEPTED, "3.0", act=READ),
    Row("a file nested too deeply", file("a = " + "[" * 100_000), "GF100", "cannot be read", act=READ),
    Row("a manifest nested too deeply", file('{"a":' * 100_000, "m.json"), "GF100", "cannot be read", act=READ),
    Row("a manifest that is a list", file("[]", "m.json"), "GF100", "no options", act=READ),
    Row("a file of other bytes", file(b"\xff\xfe\x00"), "GF100", "cannot be read", act=READ),
    Row("a folder for a file", _folder, "GF100", "cannot be read", act=READ),
    Row("an option nobody knows", file("epoch = 3"), "GF103", "epochs", act=READ),
    Row("a text for a number", file('epochs = "3"'), "GF100", "a number", act=READ),
    Row("a truth value for a number", file("epochs = true"), "GF100", "a number", act=READ),
    Row("an option twice", file("epochs = 3\nepochs = 4"), "GF100", "cannot be read", act=READ),
    Row("a search nested too deeply", file("a = " + "[" * 100_000), "GF100", "cannot be read", act=SPACE),
    Row("a search that is a number", file("space = 3"), "GF100", act=SPACE),
]  # fmt: skip
