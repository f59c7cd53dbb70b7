"""The formulas of the network, each behind one Cell or function that a device kernel may replace.

A Cell here has no parameters. `X` is the formula with the gradient that MindSpore derives; `XByHand` is the same with a
gradient of its own, faster and with less to keep, and is what layers use. Layers that are recomputed in graph mode
use `X`: MindSpore's recompute pass takes the operators of a hand-written gradient for forward ones and ties circles.
"""
