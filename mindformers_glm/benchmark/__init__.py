"""How fast this machine trains and runs a ChatGLM2-shaped network, beside what the machine could do and beside others.

`python -m mindformers_glm.benchmark train|prefill|decode|ops|start|chart`; docs/speed.md says what figures mean.
Every figure comes from a process of its own (worker.py), so that no run warms or slows another.
"""
