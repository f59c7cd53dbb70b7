"""Adapters as other settings of MindFormers left them: rows are put back in order, what nothing can hold is refused."""

import json

import numpy as np
import pytest

from mindformers_glm.checkpoint.convert import run_plan
from mindformers_glm.checkpoint.convert.inspection import inspect_checkpoint
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load import load_into
from mindformers_glm.checkpoint.load.model_files import Storage
from mindformers_glm.checkpoint.load.resolve import resolve
from mindformers_glm.checkpoint.load.source import official_row_order, read_weights
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.build import build_model
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

CONFIG = ChatGLM2Config(
    num_layers=1, hidden_size=8, num_attention_heads=2, multi_query_group_num=1, kv_channels=4, ffn_hidden_size=6,
    padded_vocab_size=11, param_init_type="float32", compute_dtype="float32",
    pet_config={"pet_type": "lora", "lora_rank": 2, "lora_alpha": 4, "target_modules": "query_key_value|dense_h_to_4h"},
)  # fmt: skip
ATTENTION = "transformer.encoder.layers.0.self_attention."
LAYER, MLP = ATTENTION + "query_key_value.mindpet_delta_lora_", "transformer.encoder.layers.0.mlp.dense_h_to_4h."
FUSED = Storage(use_rearrange_rope=True)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {**expected_shapes(CONFIG), LAYER + "a": (2, 8), LAYER + "b": (16, 2)}
    shapes |= {MLP + "mindpet_delta_lora_a": (2, 8), MLP + "mindpet_delta_lora_b": (12, 2)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def yaml(tmp_path):
    path = tmp_path / "net.yml"
    values = CONFIG.model_dump(mode="json", exclude_defaults=True)
    path.write_text(json.dumps({"model": {"model_config": {"type": "ChatGLM2Config", **values}}}))
    return path


def test_rows_of_an_adapter_follow_those_of_its_layer(tmp_path, arrays, yaml):
    save_ckpt(tmp_path / "plain.ckpt", arrays)
    job = {"config": yaml, "write_storage": FUSED}
    run_plan(plan_job(tmp_path / "plain.ckpt", tmp_path / "mf/x.ckpt", "mindformers-1.5", **job))
    stored = read_weights(tmp_path / "mf/x.ckpt")
    got = stored.read(LAYER + "b")
    np.testing.assert_array_equal(official_row_order(got[:8], 4), arrays[LAYER + "b"][:8])
    assert not np.array_equal(got[:8], arrays[LAYER + "b"][:8])
    np.testing.assert_array_equal(got[12:], arrays[LAYER + "b"][12:])
    source = resolve(tmp_path / "mf/x.ckpt").read()
    for name, array in arrays.items():
        np.testing.assert_array_equal(source.read(name), array, err_msg=name)
        blocks = [block.copy() for block in source.blocks(name, 0, len(array), block_bytes=12)]
        np.testing.assert_array_equal(np.concatenate(blocks), array.reshape(-1))


def test_an_adapter_alone_is_put_back_too(tmp_path, arrays, yaml):
    save_ckpt(tmp_path / "x.ckpt", {name: array for name, array in arrays.items() if "lora" in name})
    run_plan(plan_job(tmp_path / "x.ckpt", tmp_path / "y.ckpt", "mindformers-1.5", config=yaml, write_storage=FUSED))
    (tmp_path / "y.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config.*rows"):  # the file does not tell the channels of a head
        plan_job(tmp_path / "y.ckpt", tmp_path / "z.ckpt", "mindformers", read_storage=FUSED)
    run_plan(plan_job(tmp_path / "y.ckpt", tmp_path / "z.ckpt", "mindformers", config=yaml, read_storage=FUSED))
    for name in (LAYER + "a", LAYER + "b"):
        np.testing.assert_array_equal(read_weights(tmp_path / "z.ckpt").read(name), arrays[name])


def test_a_joined_adapter_has_no_place_beside_separate_layers(tmp_path, arrays, yaml):
    save_ckpt(tmp_path / "x.ckpt", arrays)
    with pytest.raises(CheckpointError, match="LoRA of query_key_value.*--qkv_concat True"):
        plan_job(tmp_path / "x.ckpt", tmp_path / "y.ckpt", "mindformers-1.5", config=yaml)
    without = {name: array for name, array in arrays.items() if not name.startswith(LAYER)}
    save_ckpt(tmp_path / "x.ckpt", without)
    with pytest.raises(CheckpointError, match="LoRA of dense_h_to_4h.*--mlp_concat True"):
        plan_job(tmp_path / "x.ckpt", tmp_path / "y.ckpt", "mindformers-1.5", config=yaml)


def separate_adapters() -> dict[str, np.ndarray]:
    blocks = {"wq": 8, "wk": 4, "wv": 4}
    return {
        f"{ATTENTION}{name}.mindpet_delta_lora_{letter}": np.ones((2, 8) if letter == "a" else (rows, 2), np.float32)
        for name, rows in blocks.items()
        for letter in "ab"
    }


def projected_prefix(stem: str, trans: str) -> dict[str, np.ndarray]:
    table = "embedding.weight" if trans == "trans" else "mindpet_delta_ptuning2_embedding.embedding_table"
    trained = {f"{stem}{trans}.{i}.{kind}": np.ones((3, 3), np.float32) for i in (0, 2) for kind in ("weight", "bias")}
    return {stem + table: np.ones((5, 8), np.float32), **trained}


REFUSED = [
    (separate_adapters(), "LoRA on 3 separate layers .*wq.*concat: True"),
    (projected_prefix("transformer.prefix_encoder.", "trans"), "projected prefix .*prefix_projection"),
    (projected_prefix("prefix_encoder.", "mindpet_delta_ptuning2_trans"), "projected prefix .*prefix_projection"),
]


@pytest.mark.parametrize(("adapter", "message"), REFUSED, ids=["lora", "official prefix", "MindFormers prefix"])
@pytest.mark.parametrize("with_base", [True, False])
def test_what_no_network_holds_is_one_clear_error(tmp_path, arrays, yaml, adapter, message, with_base):
    base = {name: array for name, array in arrays.items() if "lora" not in name}
    path = tmp_path / "x.ckpt"
    save_ckpt(path, {**(base if with_base else {}), **adapter})
    model = build_model(CONFIG)
    before = {p.name: p.asnumpy().copy() for p in model.get_parameters()}
    calls = [
        lambda: load_into(model, read_weights(path)),
        lambda: load_into(model, read_weights(path), new_adapter=True),
        lambda: plan_job(path, tmp_path / "y.ckpt", "mindformers"),
        lambda: plan_job(path, tmp_path / "y.ckpt", "mindformers", config=yaml),
    ]
    for call in calls:
        with pytest.raises(CheckpointError, match=message) as found:
            call()
        assert "\n" not in str(found.value)
    for parameter in model.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
    problems = inspect_checkpoint(path, config=yaml).problems
    assert any("separate layers" in problem or "projected prefix" in problem for problem in problems), problems


def test_a_partial_load_takes_the_base_and_says_what_it_left(tmp_path, arrays):
    base = {name: array for name, array in arrays.items() if "lora" not in name}
    save_ckpt(tmp_path / "x.ckpt", {**base, **separate_adapters()})
    model = build_model(CONFIG.model_copy(update={"pet_config": None}))
    report = load_into(model, read_weights(tmp_path / "x.ckpt"), partial=True)
    assert sorted(report.loaded) == sorted(base)
    assert len(report.surplus) == 6


def test_unknown_names_alone_are_no_checkpoint(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", {"resnet.conv1.weight": np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match="no weights of ChatGLM2/3"):
        plan_job(tmp_path / "x.ckpt", tmp_path / "y.ckpt", "mindformers")
