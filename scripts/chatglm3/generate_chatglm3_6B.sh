#!/usr/bin/env bash
# Generates three ways from a Megatron folder, as ModelLink's script of this name.
# Set the variables below, here or in the environment; further flags may follow on the command line.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$SCRIPTS/launch_env.sh"
CHECKPOINT=${CHECKPOINT:-./model_weights/chatglm3_6b_tp1pp2/}
TOKENIZER_PATH=${TOKENIZER_PATH:-./model_from_hf/chatglm3_6b_hf/}
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m mindformers_glm modellink-infer --load "$CHECKPOINT" --tokenizer-name-or-path "$TOKENIZER_PATH" "$@"
