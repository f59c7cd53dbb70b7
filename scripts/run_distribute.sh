#!/usr/bin/env bash
# Runs a task on the devices of this server that a rank table lists:
#   bash run_distribute.sh RANK_TABLE_FILE CONFIG_PATH DEVICE_RANGE RUN_STATUS                            one server
#   bash run_distribute.sh RANK_TABLE_FILE CONFIG_PATH DEVICE_RANGE RUN_STATUS RANK_SIZE                  several
#   bash run_distribute.sh RANK_TABLE_FILE CONFIG_PATH DEVICE_RANGE predict [RANK_SIZE] PREDICT_DATA
# Options of run_mindformer.py may follow after --. Where the device target is CPU, local processes start through
# msrun; RANK_TABLE_FILE may then be `none`. Results and logs (output/log/rank_R/mindformer.log) lie in the folder of the
# call. RANK_SIZE may be a product, 8*12. Ctrl-C ends every rank.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch_env.sh"

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
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
count=${#arguments[@]}
[ "$count" -ge 4 ] && [ "$count" -le 6 ] || usage
table=${arguments[0]}
config=$(realpath -m "${arguments[1]}")
status=${arguments[3]}
require_file CONFIG_PATH "$config"
parse_range "${arguments[2]}"
require_status "$status"
[ "$count" -lt 6 ] || [ "$status" = predict ] || fail "six arguments (RANK_SIZE and PREDICT_DATA) are for predict only"

local_size=$((END - START))
rank_size=$local_size first_rank=0 first_device=$START prompt=()
if { [ "$count" -eq 5 ] && [ "$status" != predict ]; } || [ "$count" -eq 6 ]; then # several servers: the range counts ranks
    read_number RANK_SIZE "${arguments[4]}"
    rank_size=$NUMBER first_rank=$START first_device=0
    [ "$END" -le "$rank_size" ] || fail "RANK_SIZE: got $rank_size, and DEVICE_RANGE goes up to $END"
fi
if [ "$status" = predict ] && [ "$count" -ge 5 ]; then # one word whatever it holds, even a leading dash
    prompt=("--predict_data=${arguments[$((count - 1))]}")
fi

choose_python
read_settings "$PWD/output" "$config" ${options[@]+"${options[@]}"}
export LOG_MF_PATH=${LOG_MF_PATH:-$OUTPUT/log} RANK_SIZE=$rank_size
log="$LOG_MF_PATH/rank_{rank}/mindformer.log"
task=("$ENTRY" --config "$config" --use_parallel True --run_mode "$status" --output_dir "$OUTPUT"
    ${prompt[@]+"${prompt[@]}"} ${options[@]+"${options[@]}"})

pairs=""
for ((i = 0; i < local_size; i++)); do
    pairs+="${pairs:+,}$((first_rank + i)):$((first_device + i))"
done

if [ "$TARGET" != CPU ]; then
    require_file RANK_TABLE_FILE "$table"
    RANK_TABLE_FILE=$(realpath "$table")
    export RANK_TABLE_FILE
    "$PYTHON" "$ROOT/tools/check_hccl.py" "$RANK_TABLE_FILE" --rank_size "$rank_size" --ranks "$pairs" --quiet ||
        fail "RANK_TABLE_FILE: $table does not fit this job"
    write_env "$LOG_MF_PATH/env.log"
    exec "$PYTHON" "$SCRIPTS/supervise.py" ranks --ranks "$pairs" --log "$log" -- "$PYTHON" "${task[@]}"
fi

[ "$table" = none ] || require_file RANK_TABLE_FILE "$table"
share_cores "$local_size"
unset DEVICE_ID RANK_ID RANK_TABLE_FILE
write_env "$LOG_MF_PATH/env.log"
if [ "$rank_size" -eq 1 ]; then
    exec "$PYTHON" "$SCRIPTS/supervise.py" ranks --ranks 0:0 --log "$log" -- "$PYTHON" "${task[@]}"
fi
if [ -n "${MASTER_PORT:-}" ]; then
    read_number MASTER_PORT "$MASTER_PORT" 65535
    MASTER_PORT=$NUMBER
fi
cluster=("--worker_num=$rank_size" "--local_worker_num=$local_size" --join=True "--log_dir=$OUTPUT/msrun_log")
if [ "$local_size" -lt "$rank_size" ]; then # the first server of the table leads
    [ $((first_rank % local_size)) -eq 0 ] || fail "DEVICE_RANGE: ${arguments[2]} is not a multiple of $local_size ranks"
    address=${MASTER_ADDR:-}
    if [ -z "$address" ] && [ "$table" != none ]; then
        address=$("$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["server_list"][0]["server_id"])' "$table")
    fi
    [ -n "$address" ] || fail "name the first server's address in a rank table or in MASTER_ADDR"
    cluster+=("--master_addr=$address" "--master_port=${MASTER_PORT:-8118}" "--node_rank=$((first_rank / local_size))")
else
    cluster+=("--master_port=${MASTER_PORT:-$(free_port)}")
fi
exec "$PYTHON" "$SCRIPTS/supervise.py" msrun --first_rank "$first_rank" --workers "$local_size" \
    --log_dir "$OUTPUT/msrun_log" --log "$log" -- "${cluster[@]}" "${task[@]}"
