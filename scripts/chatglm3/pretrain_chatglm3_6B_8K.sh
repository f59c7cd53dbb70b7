#!/usr/bin/env bash
# Pretrains ChatGLM3-6B on a .bin/.idx pair at 8,192 tokens, as ModelLink's script of this name.
# Set the variables below, here or in the environment; further flags may follow on the command line.
set -euo pipefail
SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$SCRIPTS/launch_env.sh"
NPUS_PER_NODE=${NPUS_PER_NODE:-8}
CKPT_LOAD_DIR=${CKPT_LOAD_DIR:-${LOAD_CHECKPOINT_PATH:-./model_weights/chatglm3_6b_tp1pp2/}}
CKPT_SAVE_DIR=${CKPT_SAVE_DIR:-${SAVE_CHECKPOINT_PATH:-./ckpt/chatglm3-6b}}
TOKENIZER_PATH=${TOKENIZER_PATH:-./model_from_hf/chatglm3-6b-hf/}
DATA_PATH=${DATA_PATH:-./dataset/chatglm3_text_document}
TP=${TP:-1}
PP=${PP:-2}
SEQ_LEN=${SEQ_LEN:-8192}
MBS=${MBS:-1}
GBS=${GBS:-128}
TRAIN_ITERS=${TRAIN_ITERS:-2000}
choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" -m mindformers_glm modellink-train --nproc_per_node "$NPUS_PER_NODE" \
    --tensor-model-parallel-size "$TP" --pipeline-model-parallel-size "$PP" --sequence-parallel \
    --load "$CKPT_LOAD_DIR" --save "$CKPT_SAVE_DIR" --tokenizer-name-or-path "$TOKENIZER_PATH" --data-path $DATA_PATH \
    --seq-length "$SEQ_LEN" --micro-batch-size "$MBS" --global-batch-size "$GBS" --train-iters "$TRAIN_ITERS" \
    --lr 1e-6 --min-lr 1e-8 --lr-decay-style cosine --lr-warmup-fraction 0.01 --weight-decay 1e-1 --clip-grad 1.0 \
    --adam-beta1 0.9 --adam-beta2 0.95 --seed 1234 --split 969,30,1 --save-interval 10000 --fp16 --add-qkv-bias \
    --use-mcore-models --use-flash-attn --use-distributed-optimizer "$@"
