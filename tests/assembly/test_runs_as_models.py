"""A run's output folder is a model: the folder, its networks, a step of it, and the adapter in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_networks import logits_of

from mindformers_glm import AutoConfig, AutoModel, AutoTokenizer
from mindformers_glm.assembly.origin import origin_of
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.checkpoint.convert.job import open_checkpoint
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.console import main
from mindformers_glm.config import load_config
from mindformers_glm.serving.loading import load
from mindformers_glm.tasks.task import run_task

ROWS = [{"content": f"类型#裙*颜色#红色*图案#{i}", "summary": f"红色的裙子{i}。"} for i in range(8)]
CHANGES = {
    "run_mode": "finetune", "runner_config": {"batch_size": 4, "epochs": 1, "sink_mode": False},
    "model": {"model_config": {"seq_length": 64}},
    "train_dataset": {"max_source_length": 31, "max_target_length": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """A LoRA run of two steps over glm2_tiny that also saved its adapter alone."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS))
    saves = {"type": "CheckpointMointor", "prefix": "x", "save_checkpoint_steps": 1, "save_trainable_params": True}
    data = {"data_loader": {"dataset_dir": str(folder / "data.json")}, **CHANGES["train_dataset"]}
    changes = {**CHANGES, "train_dataset": data, "output_dir": str(folder / "out"), "callbacks": [saves]}
    run_task(load_config(root / "configs/tiny/run_glm2_tiny_lora.yaml", changes))
    return folder / "out"


def logits(model) -> np.ndarray:
    return logits_of(model, [[64, 5, 9, 11]])


def weights_of(model) -> dict[str, np.ndarray]:
    return {name: parameter.asnumpy() for name, parameter in model.parameters_dict().items()}


def places(run) -> dict[str, object]:
    network, states = run / "checkpoint_network", run / "checkpoint/rank_0"
    adapter = run / "checkpoint_trainable"
    return {
        "run": run,
        "network": network,
        "network of a rank": network / "rank_0",
        "network's file": next((network / "rank_0").glob("*.ckpt")),
        "states": run / "checkpoint",
        "last step": max(states.glob("*.ckpt")),
        "adapter": adapter,
        "adapter's file": next((adapter / "rank_0").glob("*.ckpt")),
    }


def test_every_part_of_a_run_is_the_model_that_was_trained(run):
    source = read_weights(run / "checkpoint_network")
    assert source.kind == "weights and adapter"
    for name, place in places(run).items():
        model = AutoModel.from_pretrained(place)
        assert model.config.pet_config["lora_rank"] > 0, name
        for weight, value in weights_of(model).items():
            np.testing.assert_array_equal(value, source.read(weight), err_msg=f"{name} {weight}")
        assert AutoConfig.from_pretrained(place).num_layers == model.config.num_layers
        assert AutoTokenizer.from_pretrained(place).encode("你好") == AutoTokenizer.from_pretrained("glm2_tiny").encode(
            "你好"
        )


def test_a_run_is_evaluated_at_the_length_of_its_base(run):
    assert AutoConfig.from_pretrained(run).seq_length == CHANGES["model"]["model_config"]["seq_length"]
    assert {name: origin_of(str(place))[:2] for name, place in places(run).items()} == dict.fromkeys(
        places(run), (512, "chatglm2")
    )


def test_an_earlier_step_is_another_model(run):
    first, last = sorted((run / "checkpoint/rank_0").glob("*.ckpt"))
    assert not np.array_equal(logits(AutoModel.from_pretrained(first)), logits(AutoModel.from_pretrained(last)))


def test_the_adapter_alone_finds_its_run_and_goes_onto_its_base(run, tmp_path):
    alone = tmp_path / "adapter.ckpt"
    alone.write_bytes(places(run)["adapter's file"].read_bytes())
    on_base = AutoModel.from_pretrained("glm2_tiny", adapter=places(run)["adapter's file"], seq_length=64)
    np.testing.assert_array_equal(logits(on_base), logits(AutoModel.from_pretrained(run)))
    assert parts_of(places(run)["adapter"]).base.weights == run / "checkpoint_network"
    with pytest.raises(Exception, match="it holds an adapter and no network"):
        AutoModel.from_pretrained(alone)


def test_the_chat_and_the_tools_take_the_folder(run, tmp_path, capsys):
    loaded = load(str(run))
    assert loaded.tokenizer.encode("你好") == AutoTokenizer.from_pretrained("glm2_tiny").encode("你好")
    opened = open_checkpoint(run)
    assert opened.exact and opened.pet_config["lora_alpha"] == loaded_alpha(run)
    words = ["merge-lora", "--base", "glm2_tiny", "--adapter", str(run / "checkpoint_trainable")]
    assert main([*words, "--output_path", str(tmp_path / "merged")]) == 0, capsys.readouterr().err
    merged = AutoModel.from_pretrained(tmp_path / "merged", compute_dtype="float32", seq_length=64)
    np.testing.assert_allclose(logits(merged), logits(AutoModel.from_pretrained(run)), atol=6e-3)


def loaded_alpha(run) -> float:
    return AutoConfig.from_pretrained(run).pet_config["lora_alpha"]


def test_run_modes_take_the_folder(root, run, tmp_path):
    shape = {"model": {"model_config": {"seq_length": 64}}, "input_data": ["你好"]}
    expected = None
    for place in (run, run / "checkpoint_trainable", max((run / "checkpoint/rank_0").glob("*.ckpt"))):
        changes = {**shape, "run_mode": "predict", "load_checkpoint": str(place), "output_dir": str(tmp_path / "o")}
        changes["save_file"] = str(tmp_path / "result.txt")
        found = run_task(load_config(root / "configs/tiny/run_glm2_tiny_lora.yaml", changes))
        expected = expected or found
        assert found == expected


def test_a_run_that_ranks_divided_is_read_whole(run, tmp_path):
    """The network of a run of two tensor ranks, as its ranks would write it."""
    from mindformers_glm.assembly.rank_state import Division, RankState
    from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt

    plain = AutoModel.from_pretrained("glm2_tiny")
    arrays = weights_of(plain)
    state = RankState(plain.config, Division(1, 2), {name: value.shape for name, value in arrays.items()})
    strategy = state.strategy(list(arrays))
    for rank in range(2):
        state.write_strategy(tmp_path / "out/strategy", list(arrays), rank)
        mine = {
            name: value[strategy.slicing(name, rank).window(name, value.shape, rank)] for name, value in arrays.items()
        }
        save_ckpt(tmp_path / f"out/checkpoint_network/rank_{rank}/x_rank_{rank}-network.ckpt", mine)
    model = AutoModel.from_pretrained(tmp_path / "out", config="glm2_tiny")
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, arrays[name])
