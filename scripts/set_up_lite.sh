#!/usr/bin/env bash
# Makes .venv-lite with MindSpore Lite 2.0.0, which exists for Python 3.7 only, and tells where its Python is.
# Usage: scripts/set_up_lite.sh [VENV]     LITE_BASE_PYTHON=/path/to/python3.7 names the interpreter.
# Exit status 3: there is no Python 3.7 on this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${1:-.venv-lite}
stamp="$venv/.installed"

fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 7))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${LITE_BASE_PYTHON:+"$LITE_BASE_PYTHON"} python3.7 "$HOME"/.pyenv/versions/3.7.*/bin/python /usr/local/bin/python3.7; do
        if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "no Python 3.7 with the venv module on this machine (pyenv install 3.7, or LITE_BASE_PYTHON=/path): no MindSpore Lite" >&2
    return 3
}

mkdir -p "$venv"
exec 9>"$venv/.lock"
if command -v flock >/dev/null 2>&1; then
    flock 9 # two test runs may come here at once
fi
if [ ! -e "$stamp" ]; then
    python=$(find_python)
    echo "Making $venv with $("$python" --version) and MindSpore Lite 2.0.0" >&2
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check mindspore-lite==2.0.0 "numpy>=1.17,<1.22" >&2
    "$venv/bin/python" -c 'import mindspore_lite' >&2
    touch "$stamp"
fi
case $venv in /*) echo "$venv/bin/python" ;; *) echo "$PWD/$venv/bin/python" ;; esac
