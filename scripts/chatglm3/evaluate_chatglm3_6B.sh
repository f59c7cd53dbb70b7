#!/usr/bin/env bash
# MMLU as ModelLink's script of this name asks it: 57 subjects, one token an answer.
# Set the variables below, here or in the environment; further flags may follow on the command line.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$SCRIPTS/launch_env.sh"
CHECKPOINT=${CHECKPOINT:-./model_weights/chatglm3_6b_tp2pp4/}
TOKENIZER_PATH=${TOKENIZER_PATH:-./model_from_hf/chatglm3_6b_hf/}
DATA_PATH=${DATA_PATH:-./mmlu/data/test/}
TASK=${TASK:-mmlu}
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m mindformers_glm modellink-infer --load "$CHECKPOINT" --tokenizer-name-or-path "$TOKENIZER_PATH" \
    --task "$TASK" --task-data-path "$DATA_PATH" "$@"
