#!/usr/bin/env bash
# A Hugging Face folder of ChatGLM3-6B as a Megatron folder, as ModelLink's script of this name.
# Set the variables below, here or in the environment; further flags may follow on the command line.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$SCRIPTS/launch_env.sh"
LOAD_DIR=${LOAD_DIR:-./model_from_hf/chatglm3_6b_hf/}
SAVE_DIR=${SAVE_DIR:-./model_weights/chatglm3_6b_tp1pp2/}
TOKENIZER_MODEL=${TOKENIZER_MODEL:-$LOAD_DIR/tokenizer.model}
TP=${TP:-1}
PP=${PP:-2}
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" "$ROOT/tools/checkpoint/convert_ckpt.py" --model-type GPT --loader chatglm3_hf --saver megatron \
    --target-tensor-parallel-size "$TP" --target-pipeline-parallel-size "$PP" --load-dir "$LOAD_DIR" \
    --save-dir "$SAVE_DIR" --tokenizer-model "$TOKENIZER_MODEL" --add-qkv-bias "$@"
