#!/usr/bin/env bash
# Cambricon's benchmark of ChatGLM2 training, on real steps of this suite:
#   bash test_benchmark.sh 11 ddp amp DATA_DIR benchmark DEVICE MODEL_DIR lora|finetune [options of ours]
# Cards: MLU_VISIBLE_DEVICES, ASCEND_RT_VISIBLE_DEVICES or num_card (1). JSON: benchmark_output/benchmark.json.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/launch_env.sh"
if [ $# -lt 8 ]; then
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m mindformers_glm cambricon-benchmark "$@"
