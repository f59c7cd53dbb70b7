"""Sparse W8A8: all but 1.1 % of a layer's numbers fit into 4 bits, so that they can be compressed."""

from mindformers_glm.quantization.schemes.w8a8 import W8A8


class W8A8Sparse(W8A8):
    """W8A8 with a coarser scale (ops/w8a8.py, `sparse`); quantization/sparse.py compresses it."""

    name, is_sparse = "w8a8-sparse", True
