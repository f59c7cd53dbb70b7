"""Rank 1 comes 40 seconds late to an exchange, as after writing a large checkpoint. argv: folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from mindformers_glm import runtime
from mindformers_glm.parallel.collectives import sum_over
from mindformers_glm.parallel.mesh import Axis

runtime.set_up({"device_target": "CPU"}, use_parallel=True)
everybody = Axis("all", (0, 1), runtime.rank())
sum_over(everybody, np.ones(1))
time.sleep(40 * runtime.rank())
total = sum_over(everybody, np.ones(1))
Path(sys.argv[1], f"{runtime.rank()}.txt").write_text(str(float(total[0])))
