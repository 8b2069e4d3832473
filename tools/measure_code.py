"""How the package is built, in figures: `python tools/measure_code.py [FOLDER ...]`, each a folder of Python sources.

Prints one table with a column per folder: files, lines and what they are made of, names defined more than once, modules
with a single importer. `--executed` counts the package's files that a call runs instead (needs the package installed).
"""

import ast
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = ast.Module | ast.ClassDef | Function


def measure(folder: Path) -> dict[str, str]:
    """Figures of all sources below a folder."""
    files = sorted(path for path in folder.rglob("*.py") if "tests" not in path.relative_to(folder).parts)
    kinds: Counter[str] = Counter()
    sizes, functions, classes = [], [], 0
    defined: defaultdict[str, set[str]] = defaultdict(set)
    importers: defaultdict[str, set[str]] = defaultdict(set)
    modules = {module_name(path, folder) for path in files}
    texts = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        kinds_here = lines_by_kind(text, tree)
        kinds += kinds_here
        sizes.append(sum(kinds_here.values()))
        texts.append(code_lines(text, tree))
        functions += [node for node in ast.walk(tree) if isinstance(node, Function)]
        classes += sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree))
        module = module_name(path, folder)
        for name in defined_names(tree):
            defined[name].add(module)
        for target in imported_modules(tree, modules, folder.name):
            importers[target].add(module)
    lines = sum(kinds.values())
    lengths = [node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno]
    single = [m for m in modules if len(importers[m] - {m}) == 1]
    return {
        "files": f"{len(files):,}",
        "lines": f"{lines:,}",
        "logic lines": f"{kinds['logic']:,} ({kinds['logic'] / lines:.0%})",
        "docstrings": f"{kinds['docstring'] / lines:.1%}",
        "imports": f"{kinds['import'] / lines:.1%}",
        "comment lines": f"{kinds['comment'] / lines:.1%}",
        "median file": f"{statistics.median(sizes):.0f}",
        "largest file": f"{max(sizes):,}",
        "functions": f"{len(functions):,}",
        "median function": f"{statistics.median(lengths):.0f}",
        "functions of <= 5 lines": f"{sum(n <= 5 for n in lengths):,}",
        "functions > 60 lines": f"{sum(n > 60 for n in lengths):,}",
        "classes": f"{classes:,}",
        "lines in runs of 6 that stand twice": f"{repeated(texts):.1%}",
        "module-level names defined in several modules": f"{sum(len(homes) > 1 for homes in defined.values()):,}",
        "modules with one importer": f"{len(single):,}",
    }


def module_name(path: Path, folder: Path) -> str:
    parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def lines_by_kind(text: str, tree: ast.Module) -> Counter[str]:
    """Each line counted once: blank, comment, docstring, import, signature, error or logic."""
    lines = text.splitlines()
    kind = ["blank" if not line.strip() else "comment" if line.strip().startswith("#") else "logic" for line in lines]

    def mark(node: ast.stmt, name: str, stop: int | None = None) -> None:
        for i in range(node.lineno - 1, node.end_lineno if stop is None else stop):
            kind[i] = name if name == "docstring" or kind[i] == "logic" else kind[i]

    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            mark(node, "import")
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "msg"):
            mark(node, "error")
        elif isinstance(node, Function):
            mark(node, "signature", node.body[0].lineno - 1)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            mark(node, "docstring")
    return Counter(kind)


def defined_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name) and target.id != "__all__")


def imported_modules(tree: ast.Module, modules: set[str], package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules else str(node.module)


def code_lines(text: str, tree: ast.Module) -> list[str]:
    """Lines without blanks, comments, docstrings, imports and lone punctuation."""
    skipped = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [
        " ".join(line.split())
        for i, line in enumerate(text.splitlines(), 1)
        if i not in skipped and re.search(r"\w", line) and not line.strip().startswith("#")
    ]


def repeated(texts: list[list[str]], window: int = 6) -> float:
    """Share of code lines that lie in a run of `window` lines which stands at least twice, letter for letter."""
    places: defaultdict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for f, lines in enumerate(texts):
        for i in range(len(lines) - window + 1):
            places[tuple(lines[i : i + window])].append((f, i))
    hit = {(f, i + k) for runs in places.values() if len(runs) > 1 for f, i in runs for k in range(window)}
    return len(hit) / max(sum(map(len, texts)), 1)


def executed(call: Callable[[], object], package: Path) -> set[str]:
    """Files of the package in which a function ran during a call."""
    files: set[str] = set()

    def note(frame, event, _argument):  # type: ignore[no-untyped-def]
        if event == "call" and frame.f_code.co_name != "<module>":
            files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {str(Path(f).relative_to(package)) for f in files if f.startswith(str(package))}


def count_executed() -> None:
    """Print the files that some calls run, on a few cells with `mini`; each is made once before, to load libraries."""
    import tempfile
    import warnings

    import geneformer as gf
    from geneformer import cli, datasets

    warnings.simplefilter("ignore")
    package = Path(gf.__file__).parent
    adata = datasets.pbmc3k()
    adata = adata[adata.obs["cell_type"] != "unassigned"][:120].copy()
    few, genes = adata[:10], ["CD3D", "LYZ"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cells.h5ad"
        adata.write_h5ad(file)

        def tokenize_from_shell() -> None:
            out = Path(folder) / f"{len(list(Path(folder).iterdir()))}.dataset"
            sys.argv = ["geneformer", "tokenize", str(file), "-o", str(out), "--no-progress"]
            try:
                cli.main()
            except SystemExit as stop:
                if stop.code:
                    raise

        def fit(baselines: str) -> Callable[[], object]:
            options = {"model": "mini", "max_steps": 2, "baselines": baselines, "rare_below": 9, "progress": False}
            return lambda: gf.CellClassifier(**options).fit(adata, "cell_type")  # type: ignore[arg-type]

        calls: dict[str, Callable[[], object]] = {
            "gf.tl.embed(adata)": lambda: gf.tl.embed(few.copy(), model="mini", progress=False),
            "CellClassifier.fit, no baselines": fit("none"),
            "CellClassifier.fit, cheap baselines": fit("cheap"),
            "gf.tl.perturb, two genes": lambda: gf.tl.perturb(few.copy(), genes=genes, model="mini", progress=False),
            "geneformer tokenize": tokenize_from_shell,
        }
        for name, call in calls.items():
            call()
            files = executed(call, package)
            print(f"{name}: {len(files)} files")
            print("   " + " ".join(sorted(files)))


def main() -> None:
    if sys.argv[1:] == ["--executed"]:
        count_executed()
        return
    folders = [Path(argument) for argument in sys.argv[1:]] or [Path(__file__).parents[1] / "src" / "geneformer"]
    columns = [measure(folder) for folder in folders]
    rows = [["", *(folder.name for folder in folders)], ["---"] + ["--:"] * len(folders)]
    rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
