#!/usr/bin/env bash
# A Megatron folder of ChatGLM3-6B as a Hugging Face folder, SAVE_DIR/mg2hg, as ModelLink's script of this name.
# Set the variables below, here or in the environment; further flags may follow on the command line.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$SCRIPTS/launch_env.sh"
LOAD_DIR=${LOAD_DIR:-./model_weights/chatglm3_6b_tp1pp2/}
SAVE_DIR=${SAVE_DIR:-./model_from_hf/chatglm3_6b_hf/} # the original folder, with config.json and tokenizer.model
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" "$ROOT/tools/checkpoint/convert_ckpt.py" --model-type GPT --loader megatron --saver megatron \
    --save-model-type save_huggingface_chatglm3 --target-tensor-parallel-size 1 --target-pipeline-parallel-size 1 \
    --load-dir "$LOAD_DIR" --save-dir "$SAVE_DIR" --add-qkv-bias "$@"
