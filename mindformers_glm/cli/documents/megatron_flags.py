"""Flags of Megatron and ModelLink that training scripts carry: the key of ours that each sets, or why it sets none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mindformers_glm.cli.options import number, whole


class Flag(NamedTuple):
    """A flag whose value goes unchanged to `key`."""

    name: str
    key: str
    kind: Callable[[str], Any]


SETTINGS = (
    Flag("lr", "lr_schedule.learning_rate", number(above=True)),
    Flag("weight-decay", "optimizer.weight_decay", number()),
    Flag("adam-beta1", "optimizer.beta1", number(most=1)),
    Flag("adam-beta2", "optimizer.beta2", number(most=1)),
    Flag("adam-eps", "optimizer.eps", number(above=True)),
    Flag("clip-grad", "runner_wrapper.max_grad_norm", number()),
    Flag("seed", "seed", whole(0)),
    Flag("train-iters", "runner_config.max_steps", whole()),
)
# Flags without a value, each of which sets a key to True.
SWITCHES = {
    "overlap-grad-reduce": "parallel.overlap_grad_reduce",
    "sequence-parallel": "parallel_config.use_seq_parallel",
}
# What the network must be: a flag that says something else than the weights is refused.
NETWORK = {
    "num-layers": "num_layers",
    "hidden-size": "hidden_size",
    "ffn-hidden-size": "ffn_hidden_size",
    "num-attention-heads": "num_attention_heads",
    "num-query-groups": "multi_query_group_num",
    "kv-channels": "kv_channels",
    "padded-vocab-size": "padded_vocab_size",
}
_NETWORK = "the network's own files say it"
_HERE = "always so here"
_ASCEND = "a matter of ModelLink's operators"
IGNORED_SWITCHES = {
    "use-mcore-models": _HERE,
    "group-query-attention": _NETWORK,
    "swiglu": _NETWORK,
    "add-qkv-bias": _NETWORK,
    "disable-bias-linear": _NETWORK,
    "untie-embeddings-and-output-weights": _NETWORK,
    "use-distributed-optimizer": "parallel.enable_parallel_optimizer of the YAML is on with several data ranks",
    "use-flash-attn": _ASCEND,
    "use-fused-rotary-pos-emb": _ASCEND,
    "use-fused-swiglu": _ASCEND,
    "use-fused-rmsnorm": _ASCEND,
    "use-rotary-position-embeddings": _NETWORK,
    "use-glm-rope": _NETWORK,
    "no-gradient-accumulation-fusion": _ASCEND,
    "no-masked-softmax-fusion": _ASCEND,
    "attention-softmax-in-fp32": _HERE,
    "no-load-optim": "weights alone are read from a Megatron folder",
    "no-load-rng": "weights alone are read from a Megatron folder",
    "no-save-optim": "the run's own checkpoints hold the optimizer, the Megatron folder does not",
    "no-save-rng": "the run's own checkpoints hold the random state",
    "finetune": "a run starts at step 1 from --load; resume_training goes on",
    "tokenizer-not-use-fast": "there is one tokenizer",
    "no-shared-storage": "each node builds the indices that it does not find",
    "overlap-param-gather": "weights are gathered after the update",
    "no-bias-gelu-fusion": _ASCEND,
    "recompute-activations": "recompute_config of the YAML",
    "use-cpu-initialization": _HERE,
}
IGNORED_VALUES = {
    "position-embedding-type": _NETWORK,
    "normalization": _NETWORK,
    "norm-epsilon": _NETWORK,
    "rotary-base": _NETWORK,
    "rotary-percent": _NETWORK,
    "max-position-embeddings": _NETWORK,
    "make-vocab-size-divisible-by": _NETWORK,
    "make-vocab-divisible-by": _NETWORK,
    "init-method-std": "weights are read",
    "attention-dropout": "the network's own files say it",
    "hidden-dropout": "the network's own files say it",
    "initial-loss-scale": "runner_wrapper.scale_sense of the YAML",
    "tokenizer-type": "the folder tells it",
    "tokenizer-padding-side": "labels and positions do not depend on it",
    "tokenizer-model": "--tokenizer-name-or-path names it",
    "eval-interval": "do_eval of the YAML evaluates",
    "eval-iters": "do_eval of the YAML evaluates",
    "distributed-backend": "the device has one",
    "num-workers": "rows are prepared beside the step",
    "distributed-timeout-minutes": "30 minutes",
    "nnodes": "scripts/run_distribute.sh starts several servers",
    "node_rank": "scripts/run_distribute.sh starts several servers",
    "master_addr": "scripts/run_distribute.sh starts several servers",
    "master_port": "scripts/run_distribute.sh starts several servers",
}
