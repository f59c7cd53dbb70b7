"""Adapters by name: one base in memory, each request answered by the adapter that it names."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from server_process import ServerProcess

from mindformers_glm.adapters.lora import DELTA, add_lora
from mindformers_glm.assembly.adapted import adapted
from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.model_files import read_config
from mindformers_glm.config.names import ASSETS
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.generate import MindSporeEngine
from mindformers_glm.models.build import build_model
from mindformers_glm.serving.loading import load

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


def test_adapters_come_and_go_while_the_server_runs(folders):
    words = ("-m", "mindformers_glm", "serve", "--model", "glm2_tiny", "--port", "0", "--admin_key", "boss")
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
