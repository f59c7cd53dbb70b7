#!/usr/bin/env bash
# Makes the virtual environment that the Makefile works in, with Python 3.11 or 3.10, and installs this project there.
# Usage: scripts/set_up_venv.sh VENV [EXTRAS]     PYTHON=/path/to/python names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$1
extras=${2:-dev}
stamp="$venv/.installed-$extras"

fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.10 python3 "$HOME"/.pyenv/versions/3.1[01].*/bin/python /usr/local/bin/python3.1[01]; do
        if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then
            command -v "$candidate"
            return
        fi
        if [ "$candidate" = "${PYTHON:-}" ]; then
            echo "PYTHON=$candidate is not a Python 3.10 or 3.11 with the venv module" >&2
            return 1
        fi
    done
    echo "No Python 3.10 or 3.11 with the venv module was found: install one (Debian: python3.11-venv), or call make PYTHON=/path/to/python3.11" >&2
    return 1
}

if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
    python=$(find_python)
    if [ ! -x "$venv/bin/python" ] || ! fits "$venv/bin/python"; then
        echo "Making $venv with $("$python" --version)"
        "$python" -m venv "$venv"
    fi
    echo "Installing packages into $venv (MindSpore is 300 MB: minutes on a slow line, once)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    touch "$stamp"
fi
"$venv/bin/python" mindformers_glm/ops/kernels/build.py || true   # quick when nothing has changed; says so where there is no compiler
