"""Every test of this folder starts in graph mode on the CPU."""

from mindspore_modes import graph_mode, mode, pynative  # noqa: F401
