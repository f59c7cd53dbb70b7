"""Adapters by name: one base in memory, each request answered by the adapter that it names."""

from __future__ import annotations

import concurrent.futures
import json

import httpx
import numpy as np
import pytest
from mindspore import Tensor
from server_process import ServerProcess

from mindformers_glm.adapters.lora import DELTA, add_lora
from mindformers_glm.assembly.adapted import adapted
from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.config import load_config
from mindformers_glm.config.names import ASSETS
from mindformers_glm.errors import CheckpointError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.generate import MindSporeEngine, attach
from mindformers_glm.models.build import build_model
from mindformers_glm.serving.loading import load
from mindformers_glm.tasks.task import run_task

TINY = ASSETS / "glm2_tiny"
PET = {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 8, "target_modules": ".*query_key_value*"}
pytestmark = pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason="glm2_tiny's weights are missing")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two LoRA over glm2_tiny in peft's form."""
    found = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"adapter{seed}")
        model = add_lora(build_model(read_config(TINY / "config.yaml")[0]), PET)
        random = np.random.default_rng(seed)
        arrays = {
            parameter.name: random.normal(0, 0.3, parameter.shape).astype(np.float32)
            for parameter in model.get_parameters()
            if DELTA in parameter.name
        }
        save_ckpt(folder / "lora.ckpt", arrays)
        run_plan(plan_job(folder / "lora.ckpt", folder / "peft", "peft", config=TINY / "config.yaml", lora_alpha=8))
        found.append(str(folder / "peft"))
    return found


def test_an_adapter_shares_its_base_and_says_what_a_network_of_its_own_says(folders):
    base = load("glm2_tiny")
    network = adapted(base.network, folders[0])
    own = dict(base.network.parameters_and_names())
    shared = {path for path, parameter in network.parameters_and_names() if parameter is own.get(path)}
    assert shared == set(own)
    prompt = base.tokenizer.encode("\u4f60\u597d")

    def tokens(engine):
        return engine.submit(prompt, GenerationConfig(max_new_tokens=6)).results()[0].ids

    before = tokens(base.engine)
    assert tokens(MindSporeEngine(network)) == tokens(load("glm2_tiny", adapter=folders[0]).engine) != before
    assert tokens(base.engine) == before


@pytest.fixture(scope="module")
def run(root, folders, tmp_path_factory):
    """What a LoRA run of two steps over glm2_tiny leaves behind."""
    folder = tmp_path_factory.mktemp("run")
    rows = [{"content": f"类型#裙*颜色#红色*图案#{i}", "summary": f"红色的裙子{i}。"} for i in range(8)]
    (folder / "data.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    data = {"data_loader": {"dataset_dir": str(folder / "data.json")}, "max_source_length": 31, "max_target_length": 32}
    changes = {
        "run_mode": "finetune",
        "runner_config": {"batch_size": 4, "epochs": 1, "sink_mode": False},
        "model": {"model_config": {"seq_length": 64}},
        "train_dataset": data,
        "output_dir": str(folder / "out"),
        "callbacks": [{"type": "CheckpointMointor", "prefix": "x", "save_checkpoint_steps": 1}],
    }
    run_task(load_config(root / "configs/tiny/run_glm2_tiny_lora.yaml", changes))
    return folder / "out"


@pytest.mark.slow
def test_a_run_is_an_adapter_on_the_base_that_it_was_trained_on(run, folders):
    base = load("glm2_tiny")
    table = base.network.parts.table
    before = table.asnumpy().copy()
    network = adapted(base.network, run)
    weights = load(str(run)).network.parameters_dict()
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), weights[parameter.name].asnumpy())
    np.testing.assert_array_equal(table.asnumpy(), before)
    changed = before.copy()
    changed[-1] += 1  # one row, not the first
    table.set_data(Tensor(changed))
    with pytest.raises(CheckpointError, match="differs from the base"):
        adapted(base.network, run)
    tuned = load(str(run))  # it has an adapter itself: others stand on the weights beneath it
    number = attach(tuned.engine, adapted(tuned.network, folders[0]))
    prompt, config = tuned.tokenizer.encode("你好"), GenerationConfig(max_new_tokens=6)
    found = tuned.engine.submit(prompt, config, adapter=number).results()[0].ids
    assert found == load("glm2_tiny", adapter=folders[0]).engine.submit(prompt, config).results()[0].ids


@pytest.mark.slow
def test_a_run_with_adapters_in_four_bits_answers_all_at_once(run, folders):
    """`serve --model RUN --adapter a=.. --adapter b=.. --quantization_bit 4`: one batch, each its own answer."""
    words = ("-m", "mindformers_glm", "serve", "--model", str(run), "--served_model_name", "run", "--port", "0")
    server = ServerProcess(
        *words, "--adapter", f"a={folders[0]}", "--adapter", f"b={folders[1]}", "--quantization_bit", "4"
    )
    try:
        with httpx.Client(base_url=server.address, timeout=120) as http:

            def say(asked):
                model, prompt = asked
                body = {"model": model, "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
                return http.post("/v1/completions", json=body).json()["choices"][0]["text"]

            asked = [(model, prompt) for prompt in ("你好", "类型#裙", "一") for model in ("run", "a", "b")]
            alone = [say(one) for one in asked]
            assert len(set(alone[:3])) == 3
            with concurrent.futures.ThreadPoolExecutor(9) as pool:
                for _ in range(5):
                    assert list(pool.map(say, asked)) == alone
            body = {"model": "a", "prompt": "你好", "echo": True, "logprobs": 1, "max_tokens": 0}
            told = [
                http.post("/v1/completions", json={**body, "model": model}).json()["choices"][0]["logprobs"]
                for model in ("run", "a", "b")
            ]
            assert len({str(one["token_logprobs"]) for one in told}) == 3
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("bits", [None, pytest.param("8", marks=pytest.mark.slow)])
def test_adapters_come_and_go_while_the_server_runs(folders, bits):
    words = ("-m", "mindformers_glm", "serve", "--model", "glm2_tiny", "--port", "0", "--admin_key", "boss")
    words += ("--quantization_bit", bits) if bits else ()
    server = ServerProcess(*words, "--adapter", f"law={folders[0]}")
    try:
        admin = {"Authorization": "Bearer boss"}
        with httpx.Client(base_url=server.address, timeout=120) as http:

            def say(model):
                body = {"model": model, "prompt": "\u4f60\u597d", "max_tokens": 8, "temperature": 0}
                reply = http.post("/v1/completions", json=body)
                return reply.json()["choices"][0]["text"] if reply.status_code == 200 else reply.status_code

            base, law = say("glm2_tiny"), say("law")
            assert base != law and say("shop") == 404
            asked = {"lora_name": "shop", "lora_path": folders[1]}
            assert http.post("/v1/load_lora_adapter", json=asked).status_code == 401
            assert http.post("/v1/load_lora_adapter", json=asked, headers=admin).status_code == 200
            assert say("shop") not in (base, law) and [say("glm2_tiny"), say("law")] == [base, law]
            again = http.post("/v1/load_lora_adapter", json=asked, headers=admin)
            assert again.json()["error"]["code"] == "adapter_exists"
            nowhere = {"lora_name": "none", "lora_path": folders[1] + "-not"}
            fault = http.post("/v1/load_lora_adapter", json=nowhere, headers=admin)
            assert fault.status_code == 400 and fault.json()["error"]["param"] == "lora_path"
            gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "law"}, headers=admin)
            assert gone.status_code == 200 and say("law") == 404 and say("glm2_tiny") == base
            base_gone = http.post("/v1/unload_lora_adapter", json={"lora_name": "glm2_tiny"}, headers=admin)
            assert base_gone.status_code == 404
    finally:
        assert server.stop() == 0
