"""Whether a device computes what the suite means: every operator, layer, step, exchange and export at small size.

`mindformers-glm conformance` runs the checks of `checks/` on a device, in processes of their own, beside float64
formulas in NumPy (reference.py) and numbers recorded on a CPU. `mindformers-glm doctor` examines the machine.
Nothing here has run on an Ascend device: the kit exists so that somebody who has one can tell us.
"""
