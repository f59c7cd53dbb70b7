# What the three launch scripts share: the interpreter, the folders and variables that users of MindFormers know. Sourced.
# shellcheck shell=bash
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
ENTRY=${MF_ENTRY:-$ROOT/run_mindformer.py}
MAX_LOCAL=1024

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 2
}

# PYTHON, an activated environment, the one that `make` creates, or the first python there is.
choose_python() {
    local candidate=${PYTHON:-}
    if [ -z "$candidate" ] && [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
        candidate=$ROOT/.venv/bin/python
    fi
    [ -n "$candidate" ] || candidate=$(command -v python || command -v python3) || fail "no python on PATH; run make venv"
    command -v "$candidate" >/dev/null || fail "PYTHON=$candidate is not there"
    PYTHON=$(command -v "$candidate")
    "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("mindspore") and u.find_spec("yaml")))' ||
        fail "$PYTHON has no MindSpore: activate the environment that has, or name its python in PYTHON"
    PATH=$(cd "$(dirname "$PYTHON")" && pwd):$PATH # msrun starts `python`
    export PATH
}

require_file() { [ -f "$2" ] || fail "$1: got '$2', which is not a file"; }

require_status() {
    case $1 in
        train | finetune | eval | predict) ;;
        *) fail "RUN_STATUS: got '$1'. Use train, finetune, eval or predict" ;;
    esac
}

# Sets NUMBER from digits or factors of digits: 96, or 8*12 as documents write 12 servers of 8 devices. At most MAX.
read_number() {
    local name=$1 text=${2// /} max=${3:-1000000} factor pattern='^[0-9]+([*][0-9]+)*$'
    [[ $text =~ $pattern ]] || fail "$name: got '$2'. Write a number (12 servers of 8 devices: 96, or 8*12)"
    NUMBER=1
    for factor in ${text//[*]/ }; do
        factor=${factor#"${factor%%[!0]*}"}
        [ ${#factor} -le 7 ] || fail "$name: got '$2'. Use at most $max"
        NUMBER=$((NUMBER * ${factor:-0}))
        [ "$NUMBER" -le "$max" ] || fail "$name: got '$2'. Use at most $max"
    done
}

# Sets START and END from "[start,end]": the end is not included, whatever the closing bracket.
parse_range() {
    local text=${1// /} pattern='^\[([0-9]+),([0-9]+)[])]$'
    [[ $text =~ $pattern ]] || fail "DEVICE_RANGE: got '$1'. Write [0,8]: first device, and the one after the last"
    local end=${BASH_REMATCH[2]}
    read_number "DEVICE_RANGE '$1'" "${BASH_REMATCH[1]}"
    START=$NUMBER
    read_number "DEVICE_RANGE '$1'" "$end"
    END=$NUMBER
    [ "$START" -lt "$END" ] || fail "DEVICE_RANGE: got '$1'. The first device must be smaller than the end, $END"
    [ $((END - START)) -le "$MAX_LOCAL" ] || fail "DEVICE_RANGE: got '$1'. One server runs at most $MAX_LOCAL processes"
}

# Sets TARGET and the output folder: an option, the YAML file, the environment or the given default, in this order.
read_settings() {
    local default=$1 config=$2 settings
    shift 2
    settings=$("$PYTHON" "$SCRIPTS/read_setting.py" "$config" "$@") || exit 2
    TARGET=$(sed -n 1p <<<"$settings")
    OUTPUT=$(sed -n 2p <<<"$settings")
    OUTPUT=${OUTPUT:-${LOCAL_DEFAULT_PATH:-$default}}
    mkdir -p "$OUTPUT" || fail "cannot write to $OUTPUT"
    OUTPUT=$(cd "$OUTPUT" && pwd)
    export LOCAL_DEFAULT_PATH=$OUTPUT
    export CHECKPOINT_DOWNLOAD_FOLDER=${CHECKPOINT_DOWNLOAD_FOLDER:-$PWD/checkpoint_download}
    export CHECKPOINT_SAVE_FOLDER=${CHECKPOINT_SAVE_FOLDER:-$PWD/checkpoint_save}
    export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONUNBUFFERED=1 GLOG_v=${GLOG_v:-3}
    ulimit -u unlimited 2>/dev/null || true
}

# Variables that decide how a process behaves, for a report; nothing secret.
write_env() {
    mkdir -p "$(dirname "$1")"
    env | grep -E '^(RANK|DEVICE|MS_|HCCL|ASCEND|LOCAL_DEFAULT|LOG_MF|CHECKPOINT|GLOG|PYTHONPATH|LD_LIBRARY|OMP_)' | sort >"$1" || true
}

free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# CPU cores for each of N processes on this machine.
share_cores() { export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + $1 - 1) / $1))}; }
