"""Pretraining: where it goes, what it reads, and how long."""

from pathlib import Path

from gallery.inputs import h5ad
from gallery.rows import ACCEPTED, Row, command
from gallery.token_folders import tokens

SMALL = '{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, \
"intermediate_size": 16, "hidden_act": "relu", "max_position_embeddings": 64}'


def pretrain(*more):
    return command(
        "pretrain", "{}", "-o", "out", "--architecture", "config.json", "--device", "cpu", "--no-progress", *more
    )


def _also(make, *others):
    def made(folder: Path) -> Path:
        (folder / "config.json").write_text(SMALL)
        for other in others:
            other(folder)
        return make(folder)

    return made


def _with(change):
    def ids(rows):
        import pyarrow as pa

        change(rows)
        return pa.array(rows)

    return _also(tokens(ids))


def _first(token):
    return lambda rows: rows[0].__setitem__(3, token)


def _shorten(length):
    return lambda rows: rows.__setitem__(0, rows[0][:length])


ONCE = pretrain("--max-steps", "1")

ROWS = [
    Row("tokens", _also(tokens()), ACCEPTED, act=ONCE, why="the plain case", writes=("out",)),
    Row("an output that is a file", _also(tokens(), lambda folder: (folder / "out").write_text("mine")), "GF401",
        "is a file", act=ONCE),
    Row("counts, and an output that is a file", _also(h5ad(), lambda folder: (folder / "out").write_text("mine")),
        "GF401", "is a file", act=ONCE),
    Row("a negative token", _with(_first(-1)), "GF308", "token id -1", act=ONCE),
    Row("a token beyond the vocabulary", _with(_first(10**6)), "GF308", "token id 1000000", act=ONCE),
    Row("a cell of one gene", _with(_shorten(1)), ACCEPTED, act=ONCE, writes=("out",),
        why="it is masked like any other, and teaches how common the gene is"),
    Row("an empty cell", _with(_shorten(0)), ACCEPTED, act=ONCE, writes=("out",),
        why="nothing of it is masked, so it teaches nothing"),
    Row("more tokens than the architecture has positions", _also(tokens()), ACCEPTED,
        "of each cell 64 tokens are read", act=pretrain("--max-steps", "1", "--max-length", "4096"), writes=("out",)),
    Row("a learning rate that is too high", _also(tokens()), "GF102", "learning_rate",
        act=pretrain("--learning-rate", "1e30")),
    Row("steps without end", _also(tokens()), "GF102", "max_steps", act=pretrain("--max-steps", str(10**18))),
    Row("no resumable run", _also(tokens()), "GF402", "no training checkpoint", act=pretrain("--resume")),
]  # fmt: skip
