"""Weights of every readable form under our names."""

import json
import shutil

import numpy as np
import pickled
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.folders import step_of
from mindformers_glm.checkpoint.load.names import NAMINGS, Kind, meaning, targets
from mindformers_glm.checkpoint.load.source import (
    official_row_order,
    read_weights,
    rearranged_row_order,
)
from mindformers_glm.errors import CheckpointError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

OFFICIAL = ("chatglm2-6b", "chatglm2-6b-32k", "chatglm3-6b", "chatglm3-6b-32k", "codegeex2-6b")
TINY = ChatGLM2Config(
    num_layers=1, hidden_size=8, num_attention_heads=2, multi_query_group_num=1, kv_channels=4, ffn_hidden_size=6,
    padded_vocab_size=11,
)  # fmt: skip


def tiny_weights(dtype=np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(dtype) for name, shape in expected_shapes(TINY).items()}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_199_tensors_map_and_back(shared, name):
    index = json.loads((shared / "data/configs" / name / "pytorch_model.bin.index.json").read_text())
    read = {official: meaning(official) for official in index["weight_map"]}
    ignored = [official for official, found in read.items() if found.kind is Kind.IGNORED]
    assert ignored == ["transformer.rotary_pos_emb.inv_freq"]
    ours = {official: found.ours for official, found in read.items() if found.kind is Kind.WEIGHT}
    assert len(ours) == 199
    shapes = expected_shapes(ChatGLM2Config())
    assert set(ours.values()) == set(shapes)
    for official, our in ours.items():
        (back,) = targets(our, NAMINGS["hf"], ChatGLM2Config())
        assert back.name == official
        assert (back.start, back.stop) == (0, shapes[our][0])
    parameters = sum(int(np.prod(shape)) for shape in shapes.values())
    assert 2 * (parameters + 32) == index["metadata"]["total_size"]


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_names_every_weight_once_and_is_read_back(naming):
    config = ChatGLM2Config()
    seen = {}
    for ours, shape in expected_shapes(config).items():
        blocks = targets(ours, NAMINGS[naming], config)
        assert blocks[0].start == 0
        assert blocks[-1].stop == shape[0]
        for index, block in enumerate(blocks):
            assert block.name not in seen
            seen[block.name] = meaning(block.name)
            assert (seen[block.name].ours, seen[block.name].part) == (ours, index)
            assert seen[block.name].parts == len(blocks)
    assert len(seen) == {"mf15": 28 * 12 + 3, "native": 28 * 11 + 3, "mcore": 28 * 11 + 3}.get(naming, 199)


def test_both_golden_forms_hold_the_same(golden):
    left, right = read_weights(golden / "hf_glm2_tiny"), read_weights(golden / "hf_glm2_tiny/bin")
    assert (left.format, right.format, left.naming, right.kind) == ("safetensors", "bin", "hf", "weights")
    assert set(left.names) == set(right.names)
    for name in left.names:
        assert left.dtype(name) == right.dtype(name) == "float16"
        np.testing.assert_array_equal(left.read(name), right.read(name))


def test_the_real_adapter_reads_completely(shared):
    source = read_weights(shared / "data/weights/chatglm3-qlora-advertisegen")
    assert (source.kind, len(source.names), source.unknown, source.ignored) == ("adapter", 56, [], {})
    for layer in range(28):
        stem = f"transformer.encoder.layers.{layer}.self_attention.query_key_value.mindpet_delta_lora_"
        assert source.shape(stem + "a") == (4, 4096)
        assert source.shape(stem + "b") == (4608, 4)
        assert np.isfinite(source.read(stem + "a")).all()


def test_the_old_adapter_names_are_the_same_adapter(golden):
    folder = golden / "mindformers_r08/lora"
    new = read_weights(folder / "tiny_lora_fp16-trainable_params.ckpt")
    old = read_weights(folder / "tiny_lora_fp16-trainable_params_tk_delta.ckpt")
    assert new.names == old.names
    for name in new.names:
        np.testing.assert_array_equal(new.read(name), old.read(name))


def test_extra_entries_are_recognised(golden):
    folder = golden / "mindformers_r08/training"
    converted = read_weights(folder / "converted_style_all_fp16.ckpt")
    assert list(converted.ignored) == ["transformer.rotary_pos_emb.inv_freq"]
    cached = read_weights(folder / "saved_from_use_past_network.ckpt")
    assert len(cached.ignored) == 4
    assert all("key-value cache" in reason for reason in cached.ignored.values())
    trained = read_weights(folder / "full/output/checkpoint")
    assert (len(trained.names), len(trained.state), trained.unknown) == (17, 38, [])
    assert trained.read_state("global_step").tolist() == [8]


@pytest.mark.parametrize("prefix", ["module.", "network.", "base_model.model.", ""])
def test_common_prefixes_are_taken_off(tmp_path, prefix):
    weights = tiny_weights()
    save_ckpt(tmp_path / "x.ckpt", {prefix + name: array for name, array in weights.items()})
    source = read_weights(tmp_path / "x.ckpt")
    assert source.names == list(weights)


def test_paged_and_managed_caches_and_wrapper_counters():
    layer = "transformer.encoder.layers.3.self_attention."
    for name in (layer + "kvcache_mgr.key_past", layer + "paged_attention_mgr.value_cache", "x.key_past"):
        assert meaning(name).kind is Kind.IGNORED
    for name in (
        "scale_sense",
        "current_iterator_step",
        "adam_v." + layer + "dense.weight",
        "accu_grads.x",
        "epoch_num",
    ):
        assert meaning(name).kind is Kind.STATE
    for name in ("lm.weight", layer + "wq.mindpet_delta_lora_a", "model.layers.0.self_attn.k_norm.weight"):
        assert meaning(name).kind is Kind.UNKNOWN


def split_weights() -> dict[str, np.ndarray]:
    """The tiny weights as MindFormers 1.5 keeps them apart."""
    split = {}
    for name, array in tiny_weights().items():
        for block in targets(name, NAMINGS["mf15"], TINY):
            split[block.name] = array[block.start : block.stop]
    return split


def test_parts_are_joined(tmp_path):
    save_ckpt(tmp_path / "x.ckpt", split_weights())
    source = read_weights(tmp_path / "x.ckpt")
    assert source.naming == "mf15"
    for name, array in tiny_weights().items():
        assert source.shape(name) == array.shape
        np.testing.assert_array_equal(source.read(name), array)
        blocks = [block.copy() for block in source.blocks(name, 1, len(array) - 1, block_bytes=12)]
        np.testing.assert_array_equal(np.concatenate(blocks), array[1:-1].reshape(-1))


def test_a_missing_part_is_named(tmp_path):
    split = split_weights()
    del split["transformer.encoder.layers.0.self_attention.wk.weight"]
    save_ckpt(tmp_path / "x.ckpt", split)
    with pytest.raises(CheckpointError, match="query_key_value.weight"):
        read_weights(tmp_path / "x.ckpt")


def test_rearranged_rows(tmp_path):
    block = np.arange(16, dtype=np.float32).reshape(8, 2)
    evens_first = rearranged_row_order(block, 4)
    np.testing.assert_array_equal(evens_first[:, 0] / 2, [0, 2, 1, 3, 4, 6, 5, 7])
    np.testing.assert_array_equal(official_row_order(evens_first, 4), block)
    np.testing.assert_array_equal(official_row_order(evens_first[:, 0], 4), block[:, 0])
    weights = tiny_weights()
    for suffix in ("weight", "bias"):  # query has 8 rows, key 4, value 4
        name = f"transformer.encoder.layers.0.self_attention.query_key_value.{suffix}"
        fused = weights[name]
        weights[name] = np.concatenate(
            [rearranged_row_order(fused[:8], 4), rearranged_row_order(fused[8:12], 4), fused[12:]]
        )
    save_ckpt(tmp_path / "x.ckpt", weights)
    source = read_weights(tmp_path / "x.ckpt", rearranged=TINY)
    for name, array in tiny_weights().items():
        np.testing.assert_array_equal(source.read(name), array)


def test_a_tensor_that_is_there_twice_is_an_error(tmp_path):
    name = "transformer.encoder.final_layernorm.weight"
    save_ckpt(tmp_path / "x.ckpt", {name: np.ones(3), "module." + name: np.ones(3)})
    with pytest.raises(CheckpointError, match="a second time"):
        read_weights(tmp_path / "x.ckpt")


def shard(folder, names_of_shards: dict[str, list[str]]) -> None:
    weights, table = tiny_weights(), {}
    for file, names in names_of_shards.items():
        save_file({name: weights[name] for name in names}, folder / file)
        table.update(dict.fromkeys(names, file))
    index = {"metadata": {}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_with_index(tmp_path):
    names = list(tiny_weights())
    shard(tmp_path, {"a.safetensors": names[:4], "b.safetensors": names[4:]})
    assert set(read_weights(tmp_path).names) == set(names)
    assert set(read_weights(tmp_path / "model.safetensors.index.json").names) == set(names)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="1 of 2 shards are missing: b.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ("{", "something else than JSON"),
        ("[]", "not an index"),
        ('{"weight_map": {"a": "../b.bin"}}', "outside its folder"),
    ],
)
def test_damaged_indexes(tmp_path, index, fault):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=fault):
        read_weights(tmp_path)


def test_a_tensor_that_the_shards_lack_is_named(tmp_path):
    names = list(tiny_weights())
    shard(tmp_path, {"a.safetensors": names[:4], "b.safetensors": names[4:]})
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["extra.weight"] = "a.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="extra.weight"):
        read_weights(tmp_path)


def test_rank_folders_and_newest_step_as_numbers(tmp_path):
    for step in (500, 1000, 999):
        for rank in (0, 1):
            folder = tmp_path / f"rank_{rank}"
            folder.mkdir(exist_ok=True)
            weights = {name: array + step + rank for name, array in tiny_weights().items()}
            save_ckpt(folder / f"glm2_rank_{rank}-1_{step}.ckpt", weights)
    name = "transformer.encoder.final_layernorm.weight"
    for rank in (0, 1):
        got = read_weights(tmp_path, rank=rank).read(name)
        np.testing.assert_array_equal(got, tiny_weights()[name] + 1000 + rank)
    with pytest.raises(CheckpointError, match="no rank_2"):
        read_weights(tmp_path, rank=2)
    assert step_of(tmp_path / "CKP-12_345.ckpt") == (12, 345)
    assert step_of(tmp_path / "CKP-network.ckpt") is None


def test_base_and_adapter_side_by_side(tmp_path, golden):
    folder = golden / "mindformers_r08"
    shutil.copy(folder / "model_fp16/tiny_fp16.ckpt", tmp_path / "base.ckpt")
    shutil.copy(folder / "lora/tiny_lora_fp16-trainable_params.ckpt", tmp_path / "lora.ckpt")
    source = read_weights(tmp_path)
    assert (source.kind, len(source.names)) == ("weights and adapter", 21)


def test_places_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_weights(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no weights in this folder"):
        read_weights(tmp_path)
    (tmp_path / "x.ckpt").mkdir()
    with pytest.raises(CheckpointError):
        read_weights(tmp_path)


def test_prefix_tables_of_both_worlds(tmp_path):
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    pickled.save(tmp_path / "pytorch_model.bin", {"transformer.prefix_encoder.embedding.weight": table})
    official = read_weights(tmp_path / "pytorch_model.bin")
    ours = "prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table"
    save_ckpt(tmp_path / "x.ckpt", {ours: table, "prefix_encoder.mindpet_delta_ptuning2_prefix": np.arange(3)})
    mindformers = read_weights(tmp_path / "x.ckpt")
    assert official.names == mindformers.names == [ours]
    assert official.kind == mindformers.kind == "adapter"
    np.testing.assert_array_equal(official.read(ours), mindformers.read(ours))


def test_reading_agrees_with_the_safetensors_package(golden):
    theirs = load_file(golden / "hf_glm3_tiny/model.safetensors")
    source = read_weights(golden / "hf_glm3_tiny")
    for official, array in theirs.items():
        found = meaning(official)
        if found.kind is Kind.WEIGHT:
            np.testing.assert_array_equal(source.read(found.ours), array)
