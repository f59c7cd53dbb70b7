"""The formulas of the network, each in one Cell or function that a device kernel may replace.

A Cell here has no parameters. `X` is the formula with the gradient that MindSpore derives; `XWithGradient` is the same
with a gradient of its own, faster and with less to keep, and is what layers use: there, and in `Matmul`,
`HeadCrossEntropy` and `CausalAttention`, a kernel of the compiled library takes the formula's place where there is one
for the CPU, numbers are float32 and shapes fixed (kernels/operators.py; GLM_KERNELS=off keeps the formulas). Layers
that MindSpore recomputes in graph mode use `X` and no such kernels: its recompute pass takes the operators of a hand-
written gradient for forward ones and makes a graph with cycles (on a CPU train/layered.py computes layers again). On
Ascend, `X`, `XWithGradient` and `CausalAttention` are MindSpore's operators for Ascend where these fit (ascend.py):
unverified, there was no device to run them on.
"""
