"""int8 by row."""

from mindformers_glm.quantization.schemes.integers import Integers


class Int8Row(Integers):
    """-127 to 127 with one scale for each row."""

    name, bits = "int8-row", 8
