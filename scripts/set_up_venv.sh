#!/usr/bin/env bash
# Makes the virtual environment that the Makefile works in, with Python 3.11 or 3.10, and installs this project there.
# Usage: scripts/set_up_venv.sh VENV [EXTRAS]     PYTHON=/path/to/python names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=$1
extras=${2:-dev}
stamp="$venv/.installed-$extras"

asked=${MINDFORMERS_GLM_LANG:-${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}}
say() { # ENGLISH CHINESE
    case $asked in zh*) printf '%s\n' "$2" ;; *) printf '%s\n' "$1" ;; esac
}

follow() { # what pip says, as one line for each step: what is fetched, how large it is, since when
    local line count=0
    while IFS= read -r line; do
        case $line in
            "Collecting "*)
                count=$((count + 1))
                line=${line#Collecting }
                line=${line%% *}
                [ -t 1 ] && printf '\r\033[K   %3d s  %3d  %s' "$SECONDS" "$count" "$line"
                ;;
            *Downloading*" MB)"* | *"Using cached"*" MB)"*)
                [ -t 1 ] && printf '\r\033[K'
                printf '   %3d s  %s\n' "$SECONDS" "${line#"${line%%[![:space:]]*}"}"
                ;;
            "Installing collected packages:"*)
                [ -t 1 ] && printf '\r\033[K'
                say "   $(printf %3d "$SECONDS") s  unpacking $count packages" "   $(printf %3d "$SECONDS") s  解压安装 $count 个包"
                ;;
        esac
    done
}

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
        say "Making $venv with $("$python" --version)" "用 $("$python" --version) 建立 $venv"
        "$python" -m venv "$venv"
    fi
    say "Installing packages into $venv, once (MindSpore is 800 MB on x86-64: minutes on a slow line); all of it: $venv/install.log" \
        "把软件包安装到 $venv，只需一次（MindSpore 在 x86-64 上有 800 MB，网络慢时要几分钟）；完整记录：$venv/install.log"
    if ! "$venv/bin/python" -m pip install --progress-bar off --disable-pip-version-check --editable ".[$extras]" 2>&1 |
        tee "$venv/install.log" | follow; then
        tail -n 15 "$venv/install.log" >&2
        say "error: the installation failed; its last lines are above. Mend the cause (network, disk), and start again" \
            "错误：安装失败，最后几行见上。请排除原因（网络、磁盘）后再次运行" >&2
        exit 1
    fi
    touch "$stamp"
    say "   $(printf %3d "$SECONDS") s  installed" "   $(printf %3d "$SECONDS") s  安装完成"
fi
"$venv/bin/python" scripts/own_kernels.py || true   # quick when nothing has changed; says so where there is no compiler
