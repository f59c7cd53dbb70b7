"""int4 by group."""

from mindformers_glm.quantization.schemes.integers import Integers


class Int4(Integers):
    """-8 to 7: the largest number of a group becomes -8, or is cut where that loses less (ops/quantized.py)."""

    name, bits, group_sizes = "int4", 4, (32, 16, 64, 128)
