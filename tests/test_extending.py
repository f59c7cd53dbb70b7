"""The recipes of docs/extending.md, followed as they stand: each program in a plug-in, all of them in one run."""

from __future__ import annotations

import json
import re

import forked
import pytest
import yaml

SMALL = {
    "num_layers": 1, "hidden_size": 32, "ffn_hidden_size": 48, "kv_channels": 8, "num_attention_heads": 4,
    "seq_length": 64, "checkpoint_name_or_path": "",
}  # fmt: skip


ONE_RUN = ("optimizer", "schedule", "callback", "metric", "data")
PARROT = """
import json, shutil, sys
from pathlib import Path

sys.path.insert(0, "mine")
import recipe_family, recipe_format, recipe_scheme, recipe_task
from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.evaluation.benchmarks import evaluate
from mindformers_glm.generation.generate import engine_of
from mindformers_glm.models.family import FAMILIES
from mindformers_glm.tokenizers import ChatGLM3Tokenizer, Message, Renderer

official = Path(sys.argv[1])
shutil.copytree(official, "parrot")
given = json.loads((official / "config.json").read_text())
plain = AutoModel.from_pretrained(official, rope_method="base", seq_length=64)
given["model_type"], given["depth"] = "parrot", given.pop("num_layers")
Path("parrot/config.json").write_text(json.dumps(given))
model = AutoModel.from_pretrained("parrot", rope_method="base", seq_length=64)
ids = [3, 4, 5]
same = model.generate(ids, max_new_tokens=4, do_sample=False)[0].tolist()
assert same == plain.generate(ids, max_new_tokens=4, do_sample=False)[0].tolist()
assert FAMILIES.of_config(given).chat_format == "parrot" and FAMILIES.default().name == "chatglm2"
tokenizer = ChatGLM3Tokenizer(sys.argv[2], chat_format="parrot")
example = Renderer(tokenizer).example([Message("user", "你好"), Message("assistant", "你好")])
hello = tokenizer.encode("你好", add_special_tokens=False)
assert example.labels[-len(hello) - 1 :] == [*hello, 2], example
tiny = [kind.from_pretrained("glm2_tiny") for kind in (AutoModel, AutoTokenizer)]
found = evaluate(engine_of(tiny[0]), tiny[1], ["echo"])["results"]["echo"]
assert 0 <= found["acc,none"] <= 1 and found["alias"] == "echo", found
small = AutoModel.from_pretrained("glm2_tiny", quantization_scheme="int8-power")
assert small.config.quantization_bit == 8 and small.generate(ids, max_new_tokens=2)[0].shape == (5,)
print("told", found)
"""


KERNEL = """
import sys

import mindspore as ms
import numpy as np

sys.path.insert(0, "beside")
import recipe_kernel
from mindformers_glm import runtime
from mindformers_glm.ops.kernels.operators import use_formulas

runtime.set_up()
x = ms.Tensor(np.linspace(-5, 5.1, 3 * 7).reshape(3, 7).astype(np.float32))
cell, formula = recipe_kernel.HardSwish(), recipe_kernel.HardSwish()
use_formulas(formula)
assert cell.kernel_fits(x) and not formula.kernel_fits(x) and recipe_kernel.LIBRARY.parent.name == "beside"
np.testing.assert_allclose(cell(x).asnumpy(), formula(x).asnumpy(), rtol=1e-6, atol=1e-6)
found, wanted = (ms.grad(one)(x).asnumpy() for one in (cell, formula))  # of the sum of what it gives
np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
again = recipe_kernel.compiled("beside/recipe_kernel.cpp")
assert again == recipe_kernel.LIBRARY
print("told", again.name)
"""

NEXT_MINDSPORE = """
import sys, types

import mindspore.ops.functional as functional

moved = types.ModuleType("mindspore.ops.shapes")
moved.is_sequence_value_unknown = functional.is_sequence_value_unknown
sys.modules["mindspore.ops.shapes"] = moved
del functional.is_sequence_value_unknown
from mindformers_glm.mindspore_private import missing

assert missing() == ["is_sequence_value_unknown: mindspore.ops.functional.is_sequence_value_unknown"], missing()
sys.path.insert(0, "beside")
import recipe_mindspore

assert missing() == []
from mindformers_glm import AutoModel, AutoTokenizer

model, tokenizer = (kind.from_pretrained("glm2_tiny") for kind in (AutoModel, AutoTokenizer))
ids = model.generate(tokenizer.encode("类型#上衣"), max_new_tokens=4, do_sample=False)[0]
print("told", len(ids))
"""


@pytest.fixture
def place(root, tmp_path):
    """A folder with the programs of the document in mine/, its YAML for a smaller network, and rows."""
    text = (root / "docs/extending.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```(python|cpp) (\w+)\n(.*?)^```", text, re.M | re.S)
    assert {name for _, name, _ in programs} == {*ONE_RUN, "format", "family", "task", "kernel", "mindspore", "scheme"}
    for folder in ("mine", "beside"):
        (tmp_path / folder).mkdir()
    for kind, name, program in programs:
        suffix = {"python": "py", "cpp": "cpp"}[kind]
        folder = "beside" if name in ("kernel", "mindspore") else "mine"  # the rest is what register_path reads
        (tmp_path / folder / f"recipe_{name}.{suffix}").write_text(program, encoding="utf-8")
    config = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", text, re.M | re.S).group(1))
    config["base_config"] = str(root / config["base_config"])
    config |= {
        "model": {"model_config": SMALL},
        "load_checkpoint": "",
        "allow_random_weights": True,
        "run_mode": "train",
    }
    config["runner_config"] = {"batch_size": 4, "epochs": 1, "sink_mode": False}
    config["train_dataset"] |= {"max_source_length": 31, "max_target_length": 32}
    config["eval_dataset"] |= {"max_source_length": 48, "max_target_length": 16}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    rows = [{"ask": f"红色的裙子{i}", "reply": "好看。"} for i in range(8)] + [{"ask": "没有回答"}]
    (tmp_path / "rows.json").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )
    return tmp_path


def test_the_recipes_work_together(root, place):
    done = forked.run([root / "run_mindformer.py", "--config", "run.yaml"], cwd=place)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    losses = [float(loss) for loss in re.findall(r"step \d: lowest loss ([\d.]+)", done.stdout)]
    assert len(losses) == 2 and losses[1] <= losses[0]
    history = [json.loads(line) for line in (place / "output/loss_history.jsonl").read_text().splitlines()]
    assert [row["learning_rate"] for row in history] == pytest.approx([1e-4, 5e-5])
    assert re.search(r"line 9: .*reply", done.stdout)
    network = next((place / "output/checkpoint_network").glob("rank_0/*.ckpt"))
    words = ["--config", "run.yaml", "--run_mode", "eval", "--load_checkpoint", str(network)]
    done = forked.run([root / "run_mindformer.py", *words], cwd=place)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"metric: \{'length ratio': [\d.]+\}", done.stdout)


def test_a_family_its_chat_format_and_a_benchmark(root, shared, place):
    (place / "parrot.py").write_text(PARROT, encoding="utf-8")
    vocabulary = root / "mindformers_glm/assets/glm2_tiny/tokenizer.model"
    done = forked.run([place / "parrot.py", shared / "golden/hf_glm3_tiny", vocabulary], cwd=place)
    assert done.returncode == 0 and "told" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("program", [KERNEL, NEXT_MINDSPORE], ids=["kernel", "next MindSpore"])
def test_a_kernel_and_the_next_mindspore(place, program):
    (place / "follow.py").write_text(program, encoding="utf-8")
    done = forked.run([place / "follow.py"], cwd=place)
    assert done.returncode == 0 and "told" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_document_names_what_exists(root):
    text = (root / "docs/extending.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`([a-z_/]+\.py)`", text)):
        assert (root / name).exists() or (root / "mindformers_glm" / name).exists(), name
