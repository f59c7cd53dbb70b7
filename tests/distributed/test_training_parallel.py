"""Several processes: data, tensor and optimizer parallel training gives the numbers of one process."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest

from mindformers_glm.registry import OPTIMIZERS

sys.path.insert(0, str(Path(__file__).parent))
from against_one import check_files, compare, load  # noqa: E402
from launched import run  # noqa: E402
from optimizer_resume import DIVISIONS  # noqa: E402


@pytest.mark.dist
@pytest.mark.parametrize(
    ("reference", "variants"),
    [
        ("dp=1,layers=1", ("tp=2,layers=1", "dp=2,sharded,layers=1")),
        pytest.param("dp=1", ("dp=2,accumulate=2", "tp=2", "dp=2,sharded"), marks=pytest.mark.slow),
    ],
    ids=["one layer", "two layers"],
)
def test_two_processes_equal_one(tmp_path, reference, variants):
    """Twenty steps: two data ranks (accumulating), two tensor ranks, two data ranks with divided state."""
    run(tmp_path, 2, reference, *variants)
    for variant in variants:
        compare(tmp_path, reference, variant)
        check_files(tmp_path, variant)
    divided = load(tmp_path, variants[-1])
    table = "adam_m.transformer.embedding.embedding_table"
    assert [rank[table].shape[0] for rank in divided] == [52, 52]
    first = load(tmp_path, reference)[0]["losses"]
    assert first[-1] < first[0]


@pytest.mark.dist
@pytest.mark.slow
def test_sums_during_and_after_the_backward_pass_are_the_same(tmp_path):
    """Losses, norms, weights and optimizer state, bit for bit."""
    forms = [f"{form},steps=5" for form in ("dp=2", "dp=2,sharded", "dp=2,zero=2", "dp=2,zero=2,accumulate=2", "cp=2")]
    run(tmp_path, 2, *forms, *(f"{form},late" for form in forms), timeout=1200)
    for form in forms:
        for early, late in zip(load(tmp_path, form), load(tmp_path, f"{form},late"), strict=True):
            assert set(early) == set(late)
            assert all(value.tobytes() == late[name].tobytes() for name, value in early.items()), form


@pytest.mark.dist
@pytest.mark.slow
def test_two_stages_equal_one(tmp_path):
    """Four micro batches, both schedules, tied embeddings; layers not equal on the stages."""
    variants = ("pp=2,accumulate=4", "pp=2,accumulate=2,scheduler=gpipe,layers=3,tied")
    references = ("dp=1,accumulate=4", "dp=1,accumulate=2,layers=3,tied")
    run(tmp_path, 2, *references, *variants, timeout=1200)
    for reference, variant in zip(references, variants, strict=True):
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_divided_sequences_equal_one(tmp_path):
    """Context parallel (each rank half of every sequence); tensor ranks that divide rows between their layers."""
    variants = ("cp=2,bias,accumulate=2", "cp=2,recompute", "tp=2,rows,bias,accumulate=2", "tp=2,rows,recompute,lora")
    references = ("dp=1,bias,accumulate=2", "dp=1,recompute", "dp=1,bias,accumulate=2", "dp=1,recompute,lora")
    run(tmp_path, 2, *dict.fromkeys(references), *variants, timeout=1200)
    for reference, variant in zip(references, variants, strict=True):
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_divided_gradients_and_weights_equal_one(tmp_path):
    """ZeRO 2 and 3 with two replicas, without accumulation; recomputed, tied, DoRA's lengths of divided rows."""
    variants = ("dp=2,zero=2", "dp=2,zero=3", "dp=2,zero=3,recompute,tied", "dp=2,zero=3,dora")
    references = ("dp=1", "dp=1", "dp=1,recompute,tied", "dp=1,dora")
    run(tmp_path, 2, *dict.fromkeys(references), *variants, timeout=1200)
    for reference, variant in zip(references, variants, strict=True):
        compare(tmp_path, reference, variant)
        if "dora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_tensor_ranks_share_groups_adapters_and_biases(tmp_path):
    """One key-value group on two ranks, LoRA on every layer, biases: gradients that need completing."""
    pairs = [(f"dp=1,{options}", f"tp=2,{options}") for options in ("groups=1,bias,steps=6", "groups=1,lora,steps=6")]
    run(tmp_path, 2, *(variant for pair in pairs for variant in pair))
    for reference, variant in pairs:
        compare(tmp_path, reference, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_every_switch_of_the_family_is_divided(tmp_path):
    """Whole rotary, tied table, no qkv bias; sandwich norms, YaRN: tensors, stages, rows, sequences, ZeRO, adapters."""
    pairs = {
        "tp=2,edge,steps=6": "dp=1,edge,steps=6",
        "tp=2,rows,edge,groups=4,steps=6": "dp=1,edge,groups=4,steps=6",
        "pp=2,accumulate=2,edge,steps=6": "dp=1,accumulate=2,edge,steps=6",
        "cp=2,edge,steps=6": "dp=1,edge,steps=6",
        "tp=2,sandwich,groups=1,steps=6": "dp=1,sandwich,groups=1,steps=6",
        "tp=2,rows,sandwich,steps=6": "dp=1,sandwich,steps=6",
        "pp=2,accumulate=2,sandwich,steps=6": "dp=1,accumulate=2,sandwich,steps=6",
        "dp=2,zero=3,sandwich,steps=6": "dp=1,sandwich,steps=6",
        "cp=2,sandwich,steps=6": "dp=1,sandwich,steps=6",
        "tp=2,sandwich,lora,steps=6": "dp=1,sandwich,lora,steps=6",
    }
    run(tmp_path, 2, *dict.fromkeys(pairs.values()), *pairs, timeout=2400)
    for variant, reference in pairs.items():
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_four_processes_equal_one(tmp_path):
    """Two by two, four tensor ranks on two key-value groups, and both with divided state or adapters."""
    variants = ("dp=2,tp=2", "tp=4", "dp=2,tp=2,sharded", "dp=4,sharded", "dp=2,tp=2,zero=2", "dp=2,tp=2,zero=3")
    run(tmp_path, 4, "dp=1", *variants, timeout=2400)
    for variant in variants:
        compare(tmp_path, "dp=1", variant)
        check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_four_processes_in_stages_equal_one(tmp_path):
    """Two stages of two tensor or data ranks, four stages, and what divides weights or sequences within a stage."""
    pairs = {
        "pp=2,tp=2,accumulate=2": "dp=1,accumulate=2",
        "pp=2,dp=2,accumulate=2": "dp=1,accumulate=2",
        "pp=2,dp=2,zero=3,accumulate=2,tied": "dp=1,accumulate=2,tied",
        "pp=2,cp=2,accumulate=2": "dp=1,accumulate=2",
        "pp=2,tp=2,rows,accumulate=2,lora": "dp=1,accumulate=2,lora",
        "pp=4,accumulate=4,layers=5": "dp=1,accumulate=4,layers=5",
        "pp=2,tp=2,accumulate=2,edge": "dp=1,accumulate=2,edge",
        "pp=2,tp=2,accumulate=2,sandwich": "dp=1,accumulate=2,sandwich",
        "dp=2,cp=2,zero=3": "dp=1",
    }
    run(tmp_path, 4, *dict.fromkeys(pairs.values()), *pairs, timeout=2400)
    for variant, reference in pairs.items():
        compare(tmp_path, reference, variant)
        if "lora" not in variant:
            check_files(tmp_path, variant)


@pytest.mark.dist
@pytest.mark.slow
def test_every_form_reads_what_every_other_wrote(tmp_path):
    """All ordered pairs: every weight and moment of a state that is known, bit for bit."""
    run(tmp_path, 2, script="resume_pairs.py", timeout=1200)
    for rank in range(2):
        found = json.loads((tmp_path / f"pairs.{rank}.json").read_text())
        assert set(found) == {f"{one}>{other}" for one, other in itertools.permutations(DIVISIONS, 2)}
        assert {pair: names for pair, names in found.items() if names} == {}


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_goes_on_in_another_division(tmp_path):
    """Bit for bit in the same one, as one process in another: stages, sequences, tensors, gradients and weights."""
    pairs = ["stages:weights", "weights:sequence", "sequence:rows", "tp:stages", "gradients:one"]
    run(tmp_path, 2, *(f"AdamW:{pair}" for pair in pairs), script="optimizer_resume.py", timeout=3000)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(found) == len(pairs)
        assert all(one["same"] for one in found.values()), found
        assert max(one["other"] for one in found.values()) < 1e-5, found


@pytest.mark.dist
@pytest.mark.slow
def test_every_optimizer_resumes_in_two_processes(tmp_path):
    """Stopped in the middle: bit for bit in the same division, as one process in another (rows for columns)."""
    names = sorted({OPTIMIZERS.get(name).__name__ for name in OPTIMIZERS.names()} - {"Lamb", "AdaFactor"})
    run(tmp_path, 2, *names, script="optimizer_resume.py", timeout=3000)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert sorted(found) == names
        assert all(one["same"] for one in found.values()), found
        assert max(one["other"] for one in found.values()) < 1e-5, found
