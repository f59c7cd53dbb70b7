#!/usr/bin/env bash
# Starts a task through msrun, without a rank table. EXECUTE_ORDER is one quoted text, "run_mindformer.py --config ...":
#   bash msrun_launcher.sh EXECUTE_ORDER [WORKER_NUM]
#   bash msrun_launcher.sh EXECUTE_ORDER WORKER_NUM MASTER_PORT LOG_DIR JOIN CLUSTER_TIME_OUT
#   bash msrun_launcher.sh EXECUTE_ORDER WORKER_NUM LOCAL_WORKER MASTER_ADDR MASTER_PORT NODE_RANK LOG_DIR JOIN CLUSTER_TIME_OUT
# JOIN True waits for the end and returns the exit status of the job; JOIN False leaves it running in the background.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch_env.sh"

usage() {
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

suffix=${MF_LOG_SUFFIX:+_$MF_LOG_SUFFIX}
workers=8 local_workers="" address=127.0.0.1 port=8118 node=0 log_dir=output/msrun_log join=True timeout=7200
case $# in
    1) ;;
    2) workers=$2 ;;
    6) workers=$2 port=$3 log_dir=$4 join=$5 timeout=$6 ;;
    9) workers=$2 local_workers=$3 address=$4 port=$5 node=$6 log_dir=$7 join=$8 timeout=$9 ;;
    *) usage ;;
esac
local_workers=${local_workers:-$workers}
read_number WORKER_NUM "$workers"
workers=$NUMBER
read_number LOCAL_WORKER "$local_workers" "$MAX_LOCAL"
local_workers=$NUMBER
read_number MASTER_PORT "$port" 65535
port=$NUMBER
read_number NODE_RANK "$node"
node=$NUMBER
read_number CLUSTER_TIME_OUT "$timeout"
timeout=$NUMBER
[ "$local_workers" -ge 1 ] && [ $(((node + 1) * local_workers)) -le "$workers" ] ||
    fail "WORKER_NUM $workers, LOCAL_WORKER $local_workers and NODE_RANK $node do not fit together"
case $join in
    True | true) join=True ;;
    False | false) join=False ;;
    *) fail "JOIN: got '$join'. Use True or False" ;;
esac
case $1 in
    run_mindformer.py*) order="$(printf %q "$ENTRY")${1#run_mindformer.py}" ;;
    *) order=$1 ;;
esac

choose_python
log_dir=$(realpath -m "$log_dir$suffix")
mkdir -p "$log_dir"
export LOG_MF_PATH=${LOG_MF_PATH:-$PWD/output/log$suffix} PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 GLOG_v=${GLOG_v:-3}
if [ "${PLOG_REDIRECT_TO_OUTPUT:-False}" = True ]; then
    export ASCEND_PROCESS_LOG_PATH=$PWD/output/plog$suffix
fi
unset RANK_ID DEVICE_ID RANK_TABLE_FILE
command=("$PYTHON" "$SCRIPTS/supervise.py" msrun --first_rank "$((node * local_workers))" --workers "$local_workers"
    --log_dir "$log_dir" --log "$log_dir/worker_{rank}.log" --order "$order" --
    "--worker_num=$workers" "--local_worker_num=$local_workers" "--master_addr=$address" "--master_port=$port"
    "--node_rank=$node" "--log_dir=$log_dir" --join=True "--cluster_time_out=$timeout")
[ "$join" = False ] || exec "${command[@]}"
setsid "${command[@]}" >"$log_dir/launcher.log" 2>&1 </dev/null &
echo "started in the background: log $log_dir/launcher.log; kill $! ends every rank"
