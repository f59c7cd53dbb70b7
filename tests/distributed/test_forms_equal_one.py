"""Twenty steps of every form, clipped and accumulated, against one process: losses within 1e-5, weights too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from against_one import check_files, compare  # noqa: E402
from launched import run  # noqa: E402

TWO = ("pp=2", "dp=2,zero=2", "dp=2,zero=3", "cp=2", "tp=2,rows")
FOUR = ("pp=2,tp=2", "pp=2,dp=2", "dp=2,tp=2,zero=2", "dp=2,tp=2,zero=3")
KINDS = {"AdamW": "accumulate=2", "LoRA": "accumulate=2,lora"}
pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.mark.parametrize("kernels", ["auto", "off"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("processes", "forms"), [(2, TWO), (4, FOUR)], ids=["two", "four"])
def test_twenty_steps_are_those_of_one_process(tmp_path, processes, forms, kind, kernels):
    reference = f"dp=1,{KINDS[kind]}"
    variants = [f"{form},{KINDS[kind]}" for form in forms]
    run(tmp_path, processes, reference, *variants, timeout=1200, GLM_KERNELS=kernels)
    for variant in variants:
        compare(tmp_path, reference, variant)
        if kind == "AdamW":
            check_files(tmp_path, variant)
