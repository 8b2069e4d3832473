"""The environment of the published recipe: the `transformers` version its package pins, apart from ours."""

import os
import subprocess
import sys
from pathlib import Path

from measuring import versions

TRANSFORMERS = "4.46.0"
PACKAGES = ("torch", f"transformers=={TRANSFORMERS}", "numpy", "safetensors", "datasets==3.6.0")
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


def default_folder() -> Path:
    """Where the environment is kept between runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return (
        cache
        / "geneformer-benchmarks"
        / f"transformers-{TRANSFORMERS}-python-{sys.version_info[0]}.{sys.version_info[1]}"
    )


def published_python(folder: Path | None = None) -> Path:
    """Python of that environment; made or completed where packages are missing. PyTorch is the same as ours."""
    folder = folder or default_folder()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = folder / ".ready"
    packages = " ".join(PACKAGES)
    if not ready.exists() or ready.read_text(encoding="utf-8") != packages:
        print(f"Making the environment of the published recipe in {folder} ...")
        if not ready.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS]
        subprocess.run([*pip, *PACKAGES], check=True)
        ready.write_text(packages, encoding="utf-8")
    return python


def published_versions(python: Path) -> str:
    """Versions of what decides its speed."""
    code = "import torch, transformers, numpy; print(torch.__version__, transformers.__version__, numpy.__version__)"
    done = subprocess.run([python, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    torch, transformers, numpy = done.stdout.split()
    return f"torch {torch}, transformers {transformers}, numpy {numpy}"


def versions_of_both(python: Path) -> dict[str, str]:
    """Versions of what decides the speed of either side."""
    own = ", ".join(f"{k} {v}" for k, v in versions("torch", "transformers", "numpy").items())
    return {"published recipe": published_versions(python), "geneformer": own}
