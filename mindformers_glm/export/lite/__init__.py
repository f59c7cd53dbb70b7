"""MindSpore Lite as a device of the generation engine.

MindSpore and MindSpore Lite cannot be loaded into one process, and Lite 2.0 exists for Python 3.7 only: where it cannot
be imported here, it runs in a worker process under another interpreter.
"""
