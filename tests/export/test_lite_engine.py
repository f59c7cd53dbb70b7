"""Exported networks in the real MindSpore Lite 2.0.0 against the same networks in MindSpore."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from tiny_networks import hf_network, random_network
from waiting import has_ended

from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.errors import CheckpointError, DeviceError
from mindformers_glm.export.export import export_model
from mindformers_glm.export.lite.engine import open_lite
from mindformers_glm.export.lite.interpreter import find_python
from mindformers_glm.export.plan import ExportPlan
from mindformers_glm.generation import GenerationConfig, MindSporeEngine, generate
from mindformers_glm.tokenizers import ChatGLM2Tokenizer

PROMPTS = [[5, 17, 23, 9], [7, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73], [11, 80]]
GREEDY = GenerationConfig(max_new_tokens=32)


def plan(folder, **options):
    return ExportPlan(
        prefill=folder / "net_prefill_seq64", increment=folder / "net_inc_seq64", **{"dynamic": True, **options}
    )


def ids(engine, prompts, config=GREEDY):
    return [result.ids for result in generate(engine, prompts, config)]


def all_logits(engine, row):
    cache = engine.network.new_cache(1)
    return engine.network.forward(np.asarray([row], np.int32), np.asarray([len(row)]), cache, np.arange(len(row)))


def assert_same(model, lite, prompts=PROMPTS):
    """32 greedy tokens for prompts of three lengths, together and alone, and logits within 1e-3."""
    ours = MindSporeEngine(model)
    expected = ids(ours, prompts)
    assert ids(lite.engine, prompts) == expected
    assert [ids(lite.engine, [prompt])[0] for prompt in prompts] == expected
    row = prompts[1] + expected[1]
    np.testing.assert_allclose(all_logits(lite.engine, row), all_logits(ours, row), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, lite_python):
    """A random network, its export, and the export opened."""
    folder, model = tmp_path_factory.mktemp("tiny"), random_network()
    export_model(model, plan(folder))
    with open_lite(folder, lite_python=lite_python, threads=1, max_num_seqs=4) as lite:
        yield model, folder, lite


@pytest.mark.parametrize("name", ["hf_glm2_tiny", "hf_glm3_tiny"])
@pytest.mark.slow_where(lambda name: name == "hf_glm2_tiny")
def test_golden_models(golden, tmp_path, lite_python, name):
    model = hf_network(golden / name, param_init_type="float32", compute_dtype="float32")
    export_model(model, plan(tmp_path))
    with open_lite(tmp_path, lite_python=lite_python, threads=1) as lite:
        assert_same(model, lite)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form", ["chat_1m", "chat_hf", "edge_1_5b", "edge_4b", "glm4_9b_0414", "glm4_32b_0414", "chatglm3_128k"]
)
@pytest.mark.parametrize("yarn", [False, True], ids=["plain", "yarn"])
def test_golden_models_of_the_glm4_family(golden, tmp_path, lite_python, form, yarn):
    """Greedy tokens in Lite are those that transformers' own network gave; with YaRN, those of this one."""
    folder, types = golden / "glm4" / form, {"param_init_type": "float32", "compute_dtype": "float32"}
    scaling = {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 16}} if yarn else {}
    model = AutoModel.from_pretrained(folder, seq_length=160, **types, **scaling)
    export_model(model, plan(tmp_path))
    inputs = [case["input_ids"] for case in json.loads((folder / "meta.json").read_text())["cases"][:2]]
    with open_lite(tmp_path, lite_python=lite_python, threads=1) as lite:
        assert_same(model, lite, [*inputs, [4, 6, 600]])
        if not yarn:
            config = GenerationConfig(max_new_tokens=48, eos_token_id=[])
            expected = np.load(folder / "expected.npz")
            for place, found in enumerate(ids(lite.engine, inputs, config)):
                assert found == expected[f"greedy_{place}"][len(inputs[place]) :].tolist()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """glm2_tiny, its tokenizer, and its export with weights in one file."""
    folder = tmp_path_factory.mktemp("shipped")
    model, tokenizer = AutoModel.from_pretrained("glm2_tiny"), AutoTokenizer.from_pretrained("glm2_tiny")
    export_model(model, plan(folder, shared_weights=True), tokenizer=tokenizer)
    return model, tokenizer, folder


def test_glm2_tiny_with_its_tokenizer(shipped, lite_python):
    model, tokenizer, folder = shipped
    texts = ["你好", "类型#裙*颜色#红色*风格#复古", "推荐一款上衣，白色的，适合夏天穿"]
    with open_lite(folder, lite_python=lite_python, threads=1) as lite:
        assert_same(model, lite, [tokenizer.encode(text) for text in texts])
        assert lite.tokenizer.decode(lite.tokenizer.encode("你好"), skip_special_tokens=True) == "你好"
        assert 2 in lite.engine.defaults.stop_ids


@pytest.mark.parametrize(
    "changes",
    [
        {"compute_dtype": "float16", "param_init_type": "float16"},
        {"pet_config": {"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8}},
        {"pet_config": {"pet_type": "ptuning2", "pre_seq_len": 3}},
        {"multi_query_attention": False, "rmsnorm": False, "add_bias_linear": True},
    ],
    ids=["float16", "lora", "prefix", "layer_norm"],
)
@pytest.mark.slow
def test_variants(tmp_path, lite_python, changes):
    model = random_network(**changes)
    export_model(model, plan(tmp_path))
    with open_lite(tmp_path, lite_python=lite_python, threads=1) as lite:
        if changes.get("compute_dtype") == "float16":  # Lite computes it in float32 on x86
            ours = all_logits(MindSporeEngine(model), PROMPTS[1])
            np.testing.assert_allclose(all_logits(lite.engine, PROMPTS[1]), ours, atol=0.05, rtol=0.05)
        else:
            assert_same(model, lite)


def test_many_lengths_leave_the_process_whole(tiny):
    """Lite 2.0 frees its caller's memory after a change of lengths when an input of the graph is reshaped."""
    model, _, lite = tiny
    network, rng, starts = lite.engine.network, np.random.default_rng(3), lite.engine.runner.starts
    for _ in range(120):
        rows, width = rng.integers(1, 4), rng.integers(1, 30)
        cache = network.new_cache(int(rows))
        tokens = rng.integers(3, 101, (rows, width)).astype(np.int32)
        logits = network.forward(tokens, np.full(rows, width), cache, rng.integers(0, rows * width, rng.integers(1, 9)))
        assert np.isfinite(logits).all()
    assert lite.engine.runner.starts == starts
    assert_same(model, lite)


def test_scores_beams_and_conversations(tiny):
    model, _, lite = tiny
    ours = MindSporeEngine(model)
    for a, b in zip(lite.engine.score([5, 6], [[7], [8, 9, 10]]), ours.score([5, 6], [[7], [8, 9, 10]]), strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
        assert a.is_greedy == b.is_greedy
    beams = GenerationConfig(max_new_tokens=8, num_beams=3)
    assert ids(lite.engine, PROMPTS, beams) == ids(ours, PROMPTS, beams)
    first = lite.engine.submit(PROMPTS[1], GREEDY, reuse_prefix=True).results()[0].ids
    longer = PROMPTS[1] + first + [5, 9]
    again = lite.engine.submit(longer, GenerationConfig(max_new_tokens=8), reuse_prefix=True).results()[0].ids
    assert [again] == ids(ours, [longer], GenerationConfig(max_new_tokens=8))


def test_a_killed_worker_is_started_again(tiny):
    model, _, lite = tiny
    expected, runner = ids(MindSporeEngine(model), PROMPTS), lite.engine.runner
    os.kill(runner.pid, signal.SIGKILL)
    starts = runner.starts
    assert ids(lite.engine, PROMPTS) == expected
    assert runner.starts == starts + 1


def test_a_worker_killed_between_tokens_has_taken_nothing_with_it(tiny):
    model, _, lite = tiny
    expected, got = ids(MindSporeEngine(model), PROMPTS[:1])[0], []
    for token in lite.engine.submit(PROMPTS[0], GREEDY):
        got.append(token.choice.token)
        if len(got) == 10:
            os.kill(lite.engine.runner.pid, signal.SIGKILL)
    assert got == expected


def test_closing_leaves_no_process(tmp_path, lite_python, tiny):
    with open_lite(tiny[1], lite_python=lite_python, threads=1) as lite:
        pid = lite.engine.runner.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_unsuitable_files_and_interpreters(tmp_path, lite_python, tiny):
    with pytest.raises(CheckpointError, match="no such file"):
        open_lite(tmp_path / "absent.mindir", lite_python=lite_python)
    (tmp_path / "foreign.mindir").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="no manifest"):
        open_lite(tmp_path / "foreign.mindir", lite_python=lite_python)
    with pytest.raises(DeviceError, match="no such program"):
        open_lite(tiny[1], lite_python="/nowhere/python3.7")


def test_a_mindir_of_another_generation(tmp_path, lite_python):
    export_model(random_network(num_layers=1), plan(tmp_path, for_lite_2_0=False))
    with pytest.raises(CheckpointError, match="version 3, and MindSpore Lite 2.0.0 reads version 1") as caught:
        open_lite(tmp_path, lite_python=lite_python)
    assert "\n" not in str(caught.value)


def test_what_lite_says_is_in_the_error(tiny, lite_python):
    runner = tiny[2].engine.runner
    path = str(tiny[1] / "net_prefill_seq64.mindir")
    with pytest.raises(DeviceError, match="mind ir version") as caught:
        runner.load("other", path, {"target": "cpu", "context": {"thread_num": 1}, "config_path": ""})
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_refused_before_lite_sees_it(tiny, tmp_path, lite_python):
    folder = shutil.copytree(tiny[1], tmp_path / "copy")
    file = folder / "net_seq64_v1.mindir"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256"):
        open_lite(folder, lite_python=lite_python)


def test_a_tokenizer_of_another_model(shipped, lite_python, glm2_vocab):
    with pytest.raises(CheckpointError, match="the tokenizer has 64,"):
        open_lite(shipped[2], lite_python=lite_python, tokenizer=ChatGLM2Tokenizer(glm2_vocab))


def test_the_worker_ends_with_a_killed_parent(tiny, lite_python, tmp_path, root):
    script = (
        "import sys; from mindformers_glm.export.lite.process import Worker; w = Worker(sys.argv[1]); w.about(); "
        "print(w.pid, flush=True); import signal; signal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, lite_python], stdout=subprocess.PIPE, text=True, cwd=root)
    pid = int(parent.stdout.readline().split()[-1])
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    assert has_ended(pid), "the worker outlived its parent"


def test_lite_is_found_by_itself(lite_python, monkeypatch):
    monkeypatch.setenv("MINDFORMERS_GLM_LITE_PYTHON", lite_python)
    assert find_python() == lite_python
