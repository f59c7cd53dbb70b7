"""The full circle of a small GLM-4-0414, by commands: its folder, LoRA on conversations with tools, merged, and out
again: to transformers' own class with equal logits, and through MindIR to MindSpore Lite with equal tokens."""

from __future__ import annotations

import json
import shutil

import forked
import lite_environment
import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Tensor

from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.tokenizers import Renderer

pytest.importorskip("tiktoken")
TOOL = {"name": "weather", "description": "weather of a city", "parameters": {"type": "object", "properties": {}}}
TALK = [
    {"from": "human", "value": "北京天气"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
    {"from": "observation", "value": "晴"},
    {"from": "gpt", "value": "今天晴。"},
]
MESSAGES = [{"role": "user", "content": "北京天气"}]
FLOATS = {"compute_dtype": "float32", "param_init_type": "float32"}
BASE = "configs/tiny/run_glm4_0414_tiny_lora.yaml"
pytestmark = pytest.mark.usefixtures("graph")


@pytest.fixture(scope="module")
def graph():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)


def command(cwd, *words):
    done = forked.run(["-m", "mindformers_glm", *words], cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def circle(golden, shared, root, tmp_path_factory):
    """The folder of a run, and of its merged weights in transformers' form."""
    place = tmp_path_factory.mktemp("circle")
    shutil.copytree(golden / "glm4/glm4_9b_0414", place / "hf", ignore=shutil.ignore_patterns("*.npz", "yarn", "peft*"))
    ranks = (shared / "data/tokenizer/glm-4-9b/tokenizer.model").read_bytes().splitlines(keepends=True)
    (place / "hf/tokenizer.model").write_bytes(b"".join(ranks[:600]))  # the special tokens follow, as in the golden
    rows = [{"conversations": TALK, "tools": json.dumps([TOOL])} for _ in range(12)]
    (place / "talks.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    given = json.loads((place / "hf/config.json").read_text())
    shape = {
        "num_layers": given["num_hidden_layers"],
        "hidden_size": given["hidden_size"],
        "ffn_hidden_size": given["intermediate_size"],
        "num_attention_heads": given["num_attention_heads"],
        "multi_query_group_num": given["num_key_value_heads"],
        "kv_channels": given["head_dim"],
        "padded_vocab_size": given["vocab_size"],
        "eos_token_id": given["eos_token_id"],
        "pad_token_id": given["pad_token_id"],
        "seq_length": 256,
        **FLOATS,
    }
    tokenizer = {"type": "ChatGLM4Tokenizer", "vocab_file": str(place / "hf")}
    own = {
        "base_config": str(root / BASE),
        "load_checkpoint": str(place / "hf"),
        "model": {"model_config": shape},
        "processor": {"tokenizer": tokenizer},
        "train_dataset": {"tokenizer": tokenizer, "max_seq_length": 256},
        "eval_dataset": {"tokenizer": tokenizer, "max_seq_length": 256},
        "do_eval": False,
        "runner_config": {"epochs": 3, "batch_size": 2},
        "lr_schedule": {"learning_rate": 1e-2},
    }
    (place / "run.yaml").write_text(yaml.safe_dump(own))
    command(place, "run", "--config", "run.yaml", "--train_dataset_dir", "talks.jsonl")
    losses = [json.loads(line) for line in (place / "output/loss_history.jsonl").read_text().splitlines()]
    assert losses[-1]["loss"] < losses[0]["loss"] - 0.5
    command(place, "merge-lora", "--base", "output", "--output_path", "merged", "--to", "transformers")
    own |= {"run_mode": "export", "load_checkpoint": str(place / "merged")}
    own["model"]["model_config"]["pet_config"] = None
    own["infer"] = {
        "prefill_model_path": "lite/net_prefill_seq256.mindir",
        "increment_model_path": "lite/net_inc_seq256.mindir",
        "infer_seq_length": 256,
        "dynamic": True,
    }
    (place / "export.yaml").write_text(yaml.safe_dump(own))
    return place


def ours(circle):
    model = AutoModel.from_pretrained(circle / "merged", seq_length=256, **FLOATS)
    return model, AutoTokenizer.from_pretrained(circle / "merged")


@pytest.mark.slow
def test_the_merged_folder_is_the_model_of_the_run(circle):
    written = json.loads((circle / "merged/config.json").read_text())
    assert written["model_type"] == "glm4" and written["architectures"] == ["Glm4ForCausalLM"]
    model, tokenizer = ours(circle)
    assert tokenizer.chat_format == "glm4_0414"
    prompt = Tensor([Renderer(tokenizer).prompt(MESSAGES, tools=[TOOL])], ms.int32)
    merged, base = model(prompt).asnumpy(), AutoModel.from_pretrained(circle / "hf", seq_length=256, **FLOATS)
    adapted = AutoModel.from_pretrained(circle / "output", **FLOATS)(prompt).asnumpy()
    assert np.abs(merged - adapted).max() < 0.1 < np.abs(merged - base(prompt).asnumpy()).max()  # bfloat16 files


@pytest.mark.slow
def test_mindir_and_lite_give_equal_tokens(circle):
    python = lite_environment.require()
    command(circle, "export", "--config_path", "export.yaml")
    from mindformers_glm.export.lite.engine import open_lite
    from mindformers_glm.generation import GenerationConfig, MindSporeEngine, generate

    model, tokenizer = ours(circle)
    prompts = [Renderer(tokenizer).prompt(MESSAGES, tools=[TOOL]), tokenizer.encode("今天")]
    config = GenerationConfig(max_new_tokens=32, eos_token_id=[])
    expected = [one.ids for one in generate(MindSporeEngine(model), prompts, config)]
    with open_lite(circle / "lite", lite_python=python, threads=1) as lite:
        assert [one.ids for one in generate(lite.engine, prompts, config)] == expected
        assert lite.tokenizer.decode(expected[0]) == tokenizer.decode(expected[0])


@pytest.mark.oracle
def test_transformers_own_class_gives_equal_logits(circle):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    official = transformers.AutoModelForCausalLM.from_pretrained(circle / "merged", dtype=torch.float32).eval()
    assert type(official).__name__ == "Glm4ForCausalLM"
    model, _ = ours(circle)
    ids = np.random.default_rng(0).integers(0, 600, (2, 40))
    with torch.no_grad():
        expected = official(torch.tensor(ids)).logits.numpy()
    got = model(Tensor(ids, ms.int32)).asnumpy()
    assert np.abs(got - expected).max() < 1e-4 * max(1.0, np.abs(expected).max() / 10)
    greedy = official.generate(torch.tensor(ids[:1]), max_new_tokens=24, do_sample=False, eos_token_id=[]).tolist()
    (found,) = model.generate(ids[:1], max_new_tokens=24, do_sample=False, eos_token_id=[])
    assert [found.tolist()] == greedy
