"""What serving needs, by formulas: weights of ChatGLM3-6B, their division, the cache, the planner's table."""

from __future__ import annotations

import pytest

from mindformers_glm.cli import plan_memory
from mindformers_glm.config.names import CONFIGS_DIR
from mindformers_glm.errors import ConfigError
from mindformers_glm.parallel.memory import GB, count_parameters
from mindformers_glm.parallel.serving import ways

SIX = CONFIGS_DIR / "glm3/run_glm3_6b.yaml"


@pytest.fixture(scope="module")
def config():
    return plan_memory.read_job(SIX)[1]


def table(config, devices=8):
    return {(one.form, one.tp): one for one in ways(config, devices, flops=1e14, memory=1e12)}


def test_float16_weights_are_two_bytes_for_each_number(config):
    found = table(config)
    assert found["float16", 1].weights == 2 * sum(count_parameters(config)) == 2 * 6_243_584_000
    whole = found["float16", 1].weights
    for tp in (2, 4, 8):
        assert whole / tp <= found["float16", tp].weights < whole / tp * 1.001
        assert found["float16", tp].seconds_a_token < found["float16", tp // 2].seconds_a_token


def test_integers_take_less_and_stay_whole(config):
    found = table(config)
    assert {tp for form, tp in found if form != "float16"} == {1}
    sizes = [found[form, 1].weights for form in ("int4", "w8a8", "int8", "float16")]
    assert sizes == sorted(sizes) and sizes[0] < 0.35 * sizes[3]


def test_the_cache_of_a_token(config):
    found = table(config)
    assert found["float16", 1].token == 28 * 2 * 2 * 128 * 2
    assert found["float16", 2].token == found["float16", 8].token == 28 * 2 * 128 * 2  # a pair of heads at least
    one = found["float16", 1]
    assert one.tokens_that_fit(10, 2) == 0
    assert one.tokens_that_fit(32, 2) == (30 * GB - int(one.weights)) // (28 * 2 * 2 * 128 * 2)
    assert ("float16", 2) not in table(config, devices=1)


def test_the_planner_prints_the_ways(capsys):
    plan_memory.main(["--config", str(SIX), "--serve", "--devices", "2", "--gb", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| weights | devices | weights GB |")
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["float16", "float16", "w8a8", "int8", "int4"]
    with pytest.raises(ConfigError, match="Name the configuration"):
        plan_memory.main(["--serve"])
