"""Kernels for the CPU: C++ sources, how they are compiled, and the library that is loaded.

Everything works without them too, with the formulas of ops/.
"""
