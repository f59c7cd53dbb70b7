"""Kernels for the CPU: C++ sources, how they are compiled, and the library that is loaded.

Everything works without them, on the formulas of the modules above.
"""
