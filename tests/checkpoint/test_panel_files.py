"""Integers that lie in their files in the order of the kernels: the same numbers for everybody who reads them."""

import logging
import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from tiny_networks import logits_of, tiny_config

from mindformers_glm import AutoModel
from mindformers_glm.assembly.adapter_base import check_base
from mindformers_glm.assembly.engine import held_engine, load_held
from mindformers_glm.assembly.held import HeldNetwork
from mindformers_glm.assembly.parts import parts_of
from mindformers_glm.assembly.random_held import random_network
from mindformers_glm.checkpoint.convert import save_directory
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.convert.run import run_plan
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli.quantize import main as quantize
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.ops.kernels import library
from mindformers_glm.ops.panels import to_panels

TINY, PROMPT = "glm2_tiny", [5, 77, 301, 9, 12]
QKV = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
HEAD = "transformer.output_layer.weight"


@pytest.fixture(scope="module", params=[4, 8])
def folders(request, tmp_path_factory):
    """A model of integers in rows, and the same in panels."""
    place = tmp_path_factory.mktemp("panels")
    rows, panels = place / "rows", place / "panels"
    quantize(["--checkpoint", TINY, "--bits", str(request.param), "--output_path", str(rows)])
    run_plan(plan_job(rows, panels, "ours-panels"))
    return rows, panels


def test_whoever_reads_them_gets_rows(folders):
    rows, panels = map(read_weights, folders)
    assert panels.names == rows.names
    for name in rows.names:
        assert (panels.dtype(name), panels.shape(name)) == (rows.dtype(name), rows.shape(name))
        assert panels.read_bits(name).tobytes() == rows.read_bits(name).tobytes(), name
        assert panels.mapped(name) is None or panels.panels(name) is None
    some = np.concatenate([part.copy() for part in panels.blocks(QKV, 5, 39)])
    assert some.tobytes() == rows.read_bits(QKV)[5:39].tobytes()


def test_they_lie_in_the_file_as_kernels_read_them(folders):
    rows, panels = map(read_weights, folders)
    held = [name for name in panels.names if panels.panels(name) is not None]
    assert QKV in held and QKV + "_scale" in held and HEAD in held
    assert not [name for name in held if "embedding" in name or "norm" in name]
    for name in held:
        found = panels.panels(name)
        assert found.ctypes.data % 64 == 0 and not found.flags.writeable
        assert found.tobytes() == to_panels(rows.read_bits(name)).tobytes(), name


def test_converting_back_gives_the_file_that_was(folders, tmp_path):
    rows, panels = folders
    run_plan(plan_job(panels, tmp_path / "again", "ours"))
    assert (tmp_path / "again/model.safetensors").read_bytes() == (rows / "model.safetensors").read_bytes()


def test_quantising_writes_them_at_once(folders, tmp_path):
    bits = "8" if read_weights(folders[0]).dtype(QKV) == "int8" else "4"
    quantize(["--checkpoint", TINY, "--bits", bits, "--to", "ours-panels", "--output_path", str(tmp_path / "out")])
    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.skipif(library.library() is None, reason="no kernels")
def test_a_network_computes_from_them_where_they_lie(folders):
    told = []
    for folder in folders:
        held = load_held(str(folder))
        engine = held_engine(held, {})
        found = engine.submit(PROMPT, GenerationConfig(max_new_tokens=12, do_sample=False)).results()[0]
        score = engine.score(PROMPT, [[7, 8, 9]])[0]
        told.append((found.ids, score.logprobs.tobytes()))
        engine.close()
        assert not held.slots[QKV].bits.flags.writeable  # nothing was copied
        assert held.slots[QKV].is_in_panels == (folder == folders[1])
    assert told[0] == told[1]


@pytest.mark.skipif(library.library() is None, reason="no kernels")
def test_weights_beside_an_adapter_are_compared_in_rows(folders):
    held = load_held(str(folders[1]))
    check_base(held.slots, read_weights(folders[0]))
    held.slots[QKV + "_scale"].bits = held.slots[QKV + "_scale"].bits[::-1].copy()
    with pytest.raises(CheckpointError, match="differs from the base's"):
        check_base(held.slots, read_weights(folders[0]))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_an_embedding_beside_an_adapter_is_compared_whatever_its_type(tmp_path, kind):
    held = random_network(tiny_config(quantization_bit=8, embedding_type=kind, ffn_hidden_size=64))
    table = held.weights().table.weight.name
    assert held.slots[table].dtype == kind
    save_file({table: held.slots[table].floats()}, tmp_path / "same.safetensors")
    save_file({table: held.slots[table].floats() * np.float32(1.5)}, tmp_path / "other.safetensors")
    check_base(held.slots, read_weights(tmp_path / "same.safetensors"))
    with pytest.raises(CheckpointError, match="differs from the base's"):
        check_base(held.slots, read_weights(tmp_path / "other.safetensors"))


def test_a_network_of_mindspore_has_the_same_numbers(folders):
    ids = np.array([PROMPT], np.int32)
    one, other = (logits_of(AutoModel.from_pretrained(folder, compute_dtype="float32"), ids) for folder in folders)
    assert np.array_equal(one, other)


def test_floats_have_no_panels(tmp_path):
    with pytest.raises(ConfigError, match=r"has floats.*quantize"):
        plan_job(TINY, tmp_path / "out", "ours-panels")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("official/glm2_int4", "--scheme official-int4 --to ours-panels"),
        ("official/glm3_int8", "--scheme official-int8 --to ours-panels"),
        ("gptq/glm2_g32", "gptq int4 weights: take .* --to ours-panels"),
        ("w8a8/glm2/ascendv1", "W8A8 layers, which panels do not hold"),
    ],
)
def test_integers_that_are_read_as_floats_name_the_way(shared, tmp_path, name, fix):
    with pytest.raises(ConfigError, match=fix) as caught:
        plan_job(shared / "golden/quantisation" / name, tmp_path / "out", "ours-panels")
    assert "has floats" not in str(caught.value)


def test_official_integers_become_panels_as_they_are(shared, tmp_path):
    folder = str(shared / "golden/quantisation/official/glm2_int4")
    words = ["--checkpoint", folder, "--scheme", "official-int4", "--output_path"]
    quantize([*words, str(tmp_path / "panels"), "--to", "ours-panels"])
    quantize([*words, str(tmp_path / "rows")])
    panels, rows = read_weights(tmp_path / "panels"), read_weights(tmp_path / "rows")
    assert panels.panels(QKV) is not None and panels.read_bits(QKV).tobytes() == rows.read_bits(QKV).tobytes()
    official = read_weights(folder)
    halves = official.halves(QKV)(0, official.shape(QKV)[0])
    assert panels.read_bits(QKV).tobytes() == halves.tobytes()


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((4, 4), "float32"), ((5, 7), "uint8"), ((16, 32), "uint8"), ((17, 6), "int8"), ((16,), "int8"), ((0, 4), "int8")],
)
def test_a_file_whose_panels_are_no_integers_is_damaged(tmp_path, shape, kind):
    save_file({"transformer.final_panels": np.zeros(shape, kind)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no integer weight in panels"):
        read_weights(tmp_path)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("form", ["ours", "ours-panels"])
def test_another_type_of_floats_leaves_integers_and_scales_as_they_are(folders, tmp_path, form, dtype):
    rows, _ = folders
    run_plan(plan_job(rows, tmp_path / "out", form, dtype=dtype))
    old, new = read_weights(rows), read_weights(tmp_path / "out")
    for name in (QKV, QKV + "_scale", HEAD + "_scale"):
        assert new.dtype(name) == old.dtype(name) and new.read_bits(name).tobytes() == old.read_bits(name).tobytes()
    norm = "transformer.encoder.final_layernorm.weight"
    assert new.dtype(norm) == {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]


def saved(folder, form, **changes):
    """A random network of integers, as a folder of ours and as one of another form: both."""
    held = random_network(tiny_config(quantization_bit=8, quantization_group_size=16, ffn_hidden_size=64, **changes))
    arrays = {tensor.name: tensor.asnumpy() for tensor in held.slots.values()}
    save_directory(folder / "ours", arrays, held.config)
    run_plan(plan_job(folder / "ours", folder / form, form, lora_alpha=8))
    return folder / "ours", folder / form


def test_scales_of_another_type_are_float16_in_panels(tmp_path):
    held = random_network(tiny_config(quantization_bit=8, quantization_group_size=16, ffn_hidden_size=64))
    arrays = {name: slot.floats() if name.endswith("_scale") else slot.asnumpy() for name, slot in held.slots.items()}
    save_directory(tmp_path / "out", arrays, held.config, form="ours-panels")
    scale = held.slots[QKV + "_scale"].asnumpy()
    assert read_weights(tmp_path / "out").read_bits(QKV + "_scale").tobytes() == scale.tobytes()


@pytest.mark.parametrize("form", ["ours", "ours-panels"])
def test_an_adapter_beside_integers_is_written_into_the_configuration(tmp_path, form):
    lora = {"pet_type": "lora", "lora_rank": 2, "lora_alpha": 8, "target_modules": ".*query_key_value.*"}
    rows, _ = saved(tmp_path, "ours-panels", pet_config=lora)
    stated = yaml.safe_load((rows / "config.yaml").read_text(encoding="utf-8"))
    assert stated["model"]["model_config"].pop("pet_config")
    (rows / "config.yaml").write_text(yaml.safe_dump(stated), encoding="utf-8")
    run_plan(plan_job(rows, tmp_path / "again", form, lora_alpha=8))
    held = load_held(str(tmp_path / "again"))
    assert held.config.adapter.lora_rank == 2
    wanted = read_weights(rows)
    for name in (name for name in wanted.names if "lora" in name or name == QKV + "_scale"):
        assert read_weights(tmp_path / "again").read_bits(name).tobytes() == wanted.read_bits(name).tobytes()


@pytest.mark.parametrize("shard_bytes", [1 << 30, 4000])
def test_one_odd_tensor_moves_no_other_out_of_its_place(tmp_path, shard_bytes):
    rows, _ = saved(tmp_path, "ours-panels")
    run_plan(plan_job(rows, tmp_path / "out", "ours-panels", shard_size=shard_bytes))
    assert (len(list((tmp_path / "out").glob("*.safetensors"))) > 2) == (shard_bytes == 4000)
    source = read_weights(tmp_path / "out")
    stored = [name for name in source.names if source.pieces(name)[0].file.panels.get(source.pieces(name)[0].name)]
    moved = [name for name in stored if source.panels(name) is None]
    assert source.shape(HEAD)[0] == 101 and len(stored) == 18 and set(moved) <= {HEAD, HEAD + "_scale"}
    for name in stored:
        assert source.read_bits(name).tobytes() == read_weights(rows).read_bits(name).tobytes()


@pytest.mark.parametrize("form", ["ours", "mindformers"])
def test_a_tensor_of_another_length_than_its_table_says_is_not_written(tmp_path, form):
    plan = plan_job(TINY, tmp_path / ("out.ckpt" if form == "mindformers" else "out"), form)
    first = plan.files[0].tensors[0]
    plan.files[0].tensors[0] = first._replace(shape=(first.shape[0] + 1, *first.shape[1:]))
    with pytest.raises(CheckpointError, match="bytes instead of"):
        run_plan(plan)
    assert not plan.out.exists()


def test_whoever_packs_again_is_told(folders, tmp_path, caplog):
    moved = shutil.copytree(folders[1], tmp_path / "moved", copy_function=shutil.copyfile)
    content = (moved / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length] + b" " * 8
    (moved / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    with caplog.at_level(logging.INFO):
        held = load_held(str(moved))
    assert not held.slots[QKV].is_in_panels and "not aligned to 64 bytes" in caplog.text
    assert held.slots[QKV].asnumpy().tobytes() == read_weights(folders[0]).read_bits(QKV).tobytes()


def test_rows_after_panels_are_read_as_rows(folders):
    rows, panels = folders
    held = load_held(str(panels))
    assert held.slots[QKV].is_in_panels
    held.load(read_weights(rows))
    assert not held.slots[QKV].is_in_panels
    held.load(read_weights(panels))
    fresh = HeldNetwork(held.config)
    for network in (held, fresh):
        network.load(parts_of(TINY).base.read())
    assert not held.slots[QKV].is_in_panels
    assert held.slots[QKV].asnumpy().tobytes() == fresh.slots[QKV].asnumpy().tobytes()
