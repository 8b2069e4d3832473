#!/bin/sh
# Every benchmark but the screening, which needs the Kang data, one after the other, on a machine that does nothing else.
# About thirty-six minutes on two cores.
# Count matrices can be given (.h5ad); without them the bundled PBMC3k is used.
set -eu
here=$(dirname "$0")
python=${PYTHON:-"$here/../.venv/bin/python"}
"$python" "$here/tokenizing.py" "$@"
"$python" "$here/tokenizing_parts.py" "$@"
"$python" "$here/embedding.py"
"$python" "$here/attention_parts.py"
"$python" "$here/perturbation.py"
"$python" "$here/pretraining.py"
"$python" "$here/finetuning.py"
