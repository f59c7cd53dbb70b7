"""int8 by group."""

from mindformers_glm.quantization.schemes.integers import Integers


class Int8(Integers):
    """-127 to 127, the largest number of a group of columns becomes 127."""

    name, bits, group_sizes = "int8", 8, (32, 16, 64, 128)
