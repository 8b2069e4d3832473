"""What `--help` shows: flags and commands under headings, and examples at the end, where a shell leaves the eye."""

from collections.abc import Iterable, Mapping
from typing import Any

from typer.core import TyperCommand

WIDTH = {"max_content_width": 100}
"""Settings of a command whose help takes the width of a terminal, up to where lines are long to read."""

CELLS, MODEL, RESULTS, OWN, MACHINE, REST = (
    "Cells",
    "Model",
    "Results",
    "Options",
    "Machine",
    "Command line",
)
"""Headings that many commands have; those of options classes stand between the last three."""

FLAGS = {
    CELLS: (
        "reference",
        "label",
        "groups",
        "counts_layer",
        "reference_layer",
        "gene_ids",
        "accept_normalized",
        "ids",
    ),
    MODEL: ("model", "vocabulary", "revision"),
    RESULTS: (
        "output",
        "umap",
        "heatmap",
        "confusion",
        "calibration",
        "plot",
        "differential",
        "color",
        "overwrite",
        "resume",
    ),
    REST: ("config", "json", "progress"),
}
"""Where flags stand that commands declare themselves; others are "Options"."""

FIELDS: Mapping[str, Mapping[str, str]] = {
    "AnnotateOptions": {"": "Labels"},
    "AttentionOptions": {"per": "Attention"},
    "ClassifyOptions": {"max_cells": "Classes"},
    "EmbedOptions": {"pooling": "Embedding"},
    "ExpressionOptions": {"": "Expression"},
    "FinetuneOptions": {
        "strategy": "What is trained",
        "weights": "Network",
        "class_weights": "Loss",
        "contrastive_weight": "Contrastive term",
        "epochs": "Training",
    },
    "GeneClassifyOptions": {"": "Classes of genes"},
    "MultiTaskOptions": {"": "Tasks"},
    "NetworkEvaluateOptions": {"": "Comparison"},
    "NetworkOptions": {
        "method": "Edges",
        "groupby": "Which cells, and how they are drawn",
        "edit": "What is read",
        "min_cells": "Statistics",
    },
    "PerturbOptions": {
        "genes": "Perturbations",
        "pooling": "Embedding",
        "start": "States",
        "gene_effects": "Effects",
        "max_cells": "Which cells, in what order",
    },
    "PredictOptions": {"genes": "Masked genes"},
    "PretrainOptions": {
        "architecture": "Network",
        "mask_probability": "What is learnt",
        "epochs": "Training",
        "held_out": "Held-out cells and checkpoints",
    },
    "RankOptions": {"mode": "Statistics"},
    "RegressOptions": {"": "Numbers"},
    "RuntimeOptions": {"device": MACHINE},
    "SearchOptions": {"": "Search"},
    "SplitOptions": {"": "Split"},
    "TokenizeOptions": {"": "Tokens"},
}
"""By options class, the heading from a field on; an empty name is the first."""


def heading_of(flag: str) -> str:
    """Where a flag stands that a command declares itself."""
    return next((heading for heading, names in FLAGS.items() if flag in names), OWN)


def headings_of(options: type, fields: Iterable[str]) -> dict[str, str]:
    """Where the flag of each field of an options class stands."""
    begins = FIELDS.get(options.__name__, {})
    heading, headings = begins.get("", options.__name__.removesuffix("Options")), {}
    for name in fields:
        heading = headings[name] = begins.get(name, heading)
    return headings


class Command(TyperCommand):
    """A command whose flags stand under headings, and whose epilog is lines of examples."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write what the command takes, what most calls need first."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], CELLS: [], MODEL: [], RESULTS: [], OWN: []}
        last: dict[str, list[tuple[str, str]]] = {MACHINE: [], REST: []}
        for parameter in self.get_params(ctx):
            heading = getattr(parameter, "rich_help_panel", None) or REST
            if parameter.param_type_name == "argument":
                heading = "Arguments"
            if record := parameter.get_help_record(ctx):
                (last if heading in last else sections).setdefault(heading, []).append(record)
        for heading, records in (sections | last).items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples as they are typed."""
        write_examples((self.epilog or "").splitlines(), formatter)


def write_examples(lines: Iterable[str], formatter: Any) -> None:
    """A section of command lines, which are not wrapped."""
    if lines := list(lines):
        with formatter.section("Examples"):
            for line in lines:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def write_commands(sections: Mapping[str, Iterable[str]], summaries: Mapping[str, str], formatter: Any) -> None:
    """Names of commands with what each does, whole, under headings; those under none come last."""
    placed = {name for names in sections.values() for name in names}
    width = max(map(len, summaries))
    for heading, names in {**sections, "More": [name for name in summaries if name not in placed]}.items():
        rows = [(name.ljust(width), summaries[name]) for name in names if name in summaries]
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)
