"""The formulas of the network, each in one Cell or function that a device kernel may replace.

A Cell here has no parameters. `X` is the formula with the gradient that MindSpore derives; `XWithGradient` is the same
with a gradient of its own, which is faster and keeps fewer activations. Layers use the latter: there, and in `Matmul`,
`HeadCrossEntropy` and `CausalAttention`, a kernel of the compiled library replaces the formula on a CPU that has one,
where numbers are float32 and shapes static (kernels/operators.py; GLM_KERNELS=off keeps the formulas). Layers that
MindSpore recomputes in graph mode use `X` and no kernels: MindSpore's recompute pass takes the operators of a
hand-written gradient for operators of the forward pass, and makes a graph with cycles (on a CPU train/layered.py
recomputes layers instead). On Ascend, `X`, `XWithGradient` and `CausalAttention` are MindSpore's operators for Ascend
where these fit (ascend.py): unverified, there was no device to run them on.
"""
