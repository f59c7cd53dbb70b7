#!/usr/bin/env bash
# Runs a task on one device: bash run_standalone.sh CONFIG_PATH DEVICE_ID RUN_STATUS [-- --option value ...]
# Log: scripts/mf_standalone/mindformer.log. Output: scripts/mf_standalone/output, or where output_dir says.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch_env.sh"

usage() {
    echo "Usage: bash run_standalone.sh [CONFIG_PATH] [DEVICE_ID] [RUN_STATUS]   (then: -- options of run_mindformer.py)" >&2
    exit 2
}

options=()
arguments=()
while [ $# -gt 0 ]; do
    if [ "$1" = -- ]; then
        shift
        options=("$@")
        break
    fi
    arguments+=("$1")
    shift
done
[ ${#arguments[@]} -eq 3 ] || usage
config=$(realpath -m "${arguments[0]}")
require_file CONFIG_PATH "$config"
read_number DEVICE_ID "${arguments[1]}" "$MAX_LOCAL"
device=$NUMBER
require_status "${arguments[2]}"

choose_python
folder=$SCRIPTS/mf_standalone
mkdir -p "$folder"
read_settings "$folder/output" "$config" ${options[@]+"${options[@]}"}
log=$folder/mindformer.log
[ -z "${LOG_MF_PATH:-}" ] || log=$LOG_MF_PATH/rank_0/mindformer.log
export LOG_MF_PATH=${LOG_MF_PATH:-$OUTPUT/log} DEVICE_ID=$device RANK_SIZE=1
write_env "$folder/env.log"
exec "$PYTHON" "$SCRIPTS/supervise.py" ranks --ranks "0:$device" --log "$log" -- \
    "$PYTHON" "$ENTRY" --config "$config" --use_parallel False --run_mode "${arguments[2]}" --device_id "$device" \
    --output_dir "$OUTPUT" ${options[@]+"${options[@]}"}
