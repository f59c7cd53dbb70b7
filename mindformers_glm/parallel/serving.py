"""What a served network needs on each device, by formulas: weights, the cache of keys and values, time of a token.

A token of one answer reads every weight once, so it takes at least their bytes over the memory's bandwidth; a long
prompt is bound by computing, 2 operations for each weight and token.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mindformers_glm.parallel.memory import GB, Grid, part_of

# Bytes of a number in the matrices of the layers, in the head, in the table. Integers carry a float16 scale for 32 of
# them (w8a8: for a row, which is nothing); quantisation leaves the head at 8 bits and the table as it was.
_FORMS = {
    "float16": (2.0, 2.0, 2.0),
    "w8a8": (1.0, 2.0, 2.0),
    "int8": (1.0 + 2 / 32, 1.0 + 2 / 32, 2.0),
    "int4": (0.5 + 2 / 32, 1.0 + 2 / 32, 2.0),
}
_WHOLE = ("w8a8", "int8", "int4")  # integers are not divided among processes
_CACHE_BYTES = 2  # of float16 on a device; the CPU's kernels also keep scales and tell their own size (glm_block_bytes)


class Served(NamedTuple):
    """One way to serve: bytes of weights on a device, bytes of one token in its cache, seconds."""

    form: str
    tp: int
    weights: float
    token: float
    seconds_a_token: float
    seconds_a_prompt: float  # of 1,024 tokens

    def tokens_that_fit(self, gigabytes: float, reserved: float) -> int:
        """Tokens of all conversations together in what is left; 0 where the weights alone do not fit."""
        return max(0, int((gigabytes - reserved) * GB - self.weights) // int(self.token))


def ways(config: Any, devices: int, *, flops: float, memory: float) -> Iterator[Served]:
    """Every way for so many devices: float16 on 1, 2, 4, 8 of them, integers on one. `memory`: bytes a second."""
    for form, (matrix, head, table) in _FORMS.items():
        for tp in (1, 2, 4, 8):
            if devices % tp or (tp > 1 and form in _WHOLE):
                continue
            part = part_of(config, Grid(tp=tp), 0, config.num_layers)
            in_head = config.padded_vocab_size * config.hidden_size / tp
            weights = part.table * table + (part.matrices - in_head) * matrix + in_head * head
            weights += 2 * (part.small + part.norms)
            kept = max(config.num_kv_heads / tp, 1)  # every rank has one pair of heads at least
            token = config.num_layers * 2 * kept * config.kv_channels * _CACHE_BYTES
            read = weights - part.table * table  # a token reads one row of the table
            yield Served(form, tp, weights, token, read / memory, 2 * 1024 * part.matrices / flops)
