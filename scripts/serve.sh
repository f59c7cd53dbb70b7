#!/usr/bin/env bash
# Starts one server a device and vllm-router in front of them; SIGTERM or Ctrl-C drains all. A server that dies is started again.
#   bash serve.sh MODEL_OR_CONFIG [FIRST,END] [PORT] [OPTIONS OF mindformers-glm serve ...]
#   bash serve.sh configs/glm3/run_glm3_6b.yaml 0,8 8000 --api_key_file keys.txt
# [0,8] are devices 0 to 7. One device needs no router. Servers listen at 127.0.0.1 from PORT + 1 on, the router at HOST (127.0.0.1).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch_env.sh"

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

[ $# -ge 1 ] || usage
model=$1 devices=${2:-0,1} port=${3:-8000}
shift $(($# < 3 ? $# : 3))
devices=${devices#[} devices=${devices%]}
first=${devices%,*} end=${devices#*,}
read_number FIRST "$first"
first=$NUMBER
read_number END "$end" "$MAX_LOCAL"
end=$NUMBER
[ "$end" -gt "$first" ] || fail "devices: got '$devices'. Write FIRST,END with END above FIRST: 0,8 are eight devices"
read_number PORT "$port" 65535
port=$NUMBER
choose_python
host=${HOST:-127.0.0.1} count=$((end - first))
if [ "$count" -gt 1 ]; then
    command -v vllm-router >/dev/null || fail "vllm-router is not installed: pip install 'mindformers_glm[router]'"
fi

# A server that dies is noticed within a second, and asked again two seconds after its last failure; a request that failed
# there is tried at most three times more, a second apart at most.
ROUTER_OPTIONS=(--health-check-interval-secs 1 --health-failure-threshold 1 --health-success-threshold 1
    --cb-timeout-duration-secs 2 --retry-max-retries 3 --retry-max-backoff-ms 1000)

pids=()
stop() {
    trap '' TERM INT
    kill -TERM "${pids[@]}" 2>/dev/null || true
    wait
    exit 0
}
trap stop TERM INT

# One server, started again when it ends by itself; it drains when this shell is told to stop.
keep() {
    local device=$1 own=$2 pid="" stopping=""
    shift 2
    trap 'stopping=1; [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null || true' TERM
    trap '' INT
    while [ -z "$stopping" ]; do
        DEVICE_ID=$device "$PYTHON" -m mindformers_glm serve --model "$model" --port "$own" "$@" &
        pid=$!
        while kill -0 "$pid" 2>/dev/null; do wait "$pid" || status=$?; done
        [ -n "$stopping" ] || { echo "serve.sh: the server of device $device ended (${status:-0}); started again" >&2; sleep 1; }
    done
}

if [ "$count" -eq 1 ]; then
    keep "$first" "$port" --host "$host" "$@" &
    pids=($!)
else
    urls=()
    for ((device = first; device < end; device++)); do
        own=$((port + 1 + device - first))
        keep "$device" "$own" --host 127.0.0.1 "$@" &
        pids+=($!)
        urls+=("http://127.0.0.1:$own")
    done
    vllm-router --worker-urls "${urls[@]}" --policy "${ROUTER_POLICY:-cache_aware}" "${ROUTER_OPTIONS[@]}" \
        --host "$host" --port "$port" --prometheus-port "${ROUTER_PROMETHEUS_PORT:-29000}" &
    pids+=($!)
fi
wait
