"""Conversions: bit-exact round trips, the plan, refusal."""

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from conversions import TINY, assert_same, job, tiny_arrays
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.convert import run_plan, save_directory
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.convert.verify import verify
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.model_files import Storage, model_files, read_config
from mindformers_glm.checkpoint.load.names import is_adapter
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.glm.weights import expected_shapes

SPLIT = Storage(qkv_concat=False, mlp_concat=False, use_rearrange_rope=False)
REARRANGED = SPLIT._replace(use_rearrange_rope=True)
FUSED_REARRANGED = Storage(use_rearrange_rope=True)


@pytest.mark.parametrize("kind", ["hf_glm2_tiny", "hf_glm2_tiny/bin", "hf_glm3_tiny"])
def test_official_to_ours_to_official_gives_the_same_files(golden, tmp_path, kind):
    source = golden / kind
    job(source, tmp_path / "ours", "ours", shard_size="3MB")
    assert_same(source, tmp_path / "ours")
    job(tmp_path / "ours", tmp_path / "hf", "hf")
    wanted = load_file(golden / kind.partition("/")[0] / "model.safetensors")
    got = load_file(tmp_path / "hf/model.safetensors")
    assert set(got) == set(wanted)  # the rotary frequencies as well
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        assert got[name].tobytes() == array.tobytes(), name
    official = json.loads((source / "config.json").read_text())
    written = json.loads((tmp_path / "hf/config.json").read_text())
    for key in ("num_layers", "hidden_size", "kv_channels", "padded_vocab_size", "seq_length", "model_type"):
        assert written[key] == official[key]


@pytest.mark.parametrize(
    ("form", "storage"),
    [
        ("mindformers", None),
        ("mindformers-1.2", None),
        ("mindformers-1.5", None),
        ("mindformers-1.5", SPLIT),
        ("mindformers-1.5", REARRANGED),
        ("mindformers-1.5", FUSED_REARRANGED),
    ],
)
def test_official_to_every_mindformers_generation_and_back(golden, tmp_path, form, storage):
    source = golden / "hf_glm2_tiny"
    job(source, tmp_path / "x.ckpt", form, write_storage=storage)
    names = set(ms.load_checkpoint(str(tmp_path / "x.ckpt")))
    embedding = "embedding_table" if form == "mindformers" else "embedding_weight"
    assert f"transformer.embedding.{embedding}" in names
    split = form == "mindformers-1.5" and storage != FUSED_REARRANGED
    assert ("transformer.encoder.layers.1.self_attention.wk.bias" in names) is split
    assert ("transformer.encoder.layers.1.mlp.dense_right.weight" in names) is split
    job(tmp_path / "x.ckpt", tmp_path / "ours", "ours")  # the YAML beside the file tells how rows lie
    assert_same(source, tmp_path / "ours")
    if storage is not None and storage.use_rearrange_rope:
        name = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
        plain = read_weights(tmp_path / "x.ckpt")
        assert not np.array_equal(plain.read_bits(name), read_weights(source).read_bits(name))


def test_rearranged_query_rows_are_evens_then_odds(golden, tmp_path):
    job(golden / "hf_glm2_tiny", tmp_path / "x.ckpt", "mindformers-1.5", write_storage=REARRANGED)
    theirs = ms.load_checkpoint(str(tmp_path / "x.ckpt"))
    fused = read_weights(golden / "hf_glm2_tiny").read(
        "transformer.encoder.layers.0.self_attention.query_key_value.weight"
    )
    query = fused[:32].reshape(4, 8, 32)
    wanted = np.concatenate([query[:, 0::2], query[:, 1::2]], axis=1).reshape(32, 32)
    got = theirs["transformer.encoder.layers.0.self_attention.wq.weight"].asnumpy()
    np.testing.assert_array_equal(got, wanted)
    value = theirs["transformer.encoder.layers.0.self_attention.wv.weight"].asnumpy()
    np.testing.assert_array_equal(value, fused[48:])


@pytest.mark.parametrize("case", ["model_fp16", "model_fp32"])
def test_mindformers_checkpoints_to_ours_and_back(golden, tmp_path, case):
    source = next((golden / "mindformers_r08" / case).glob("*.ckpt"))
    config = next((golden / "mindformers_r08" / case).glob("*.yaml"))
    job(source, tmp_path / "ours", "ours", config=config)
    job(tmp_path / "ours", tmp_path / "back.ckpt", "mindformers")
    theirs = ms.load_checkpoint(str(source))
    ours = ms.load_checkpoint(str(tmp_path / "back.ckpt"))
    assert set(theirs) == set(ours)
    for name, value in theirs.items():
        assert value.asnumpy().tobytes() == ours[name].asnumpy().tobytes()


def test_a_training_checkpoint_gives_its_weights_and_says_what_was_left_out(golden, tmp_path):
    source = golden / "mindformers_r08/training/full/output/checkpoint"
    plan = plan_job(source, tmp_path / "x.ckpt", "mindformers")
    assert len(plan.left_out) == 38
    run_plan(plan)
    assert_same(source, tmp_path / "x.ckpt")


@pytest.mark.parametrize("kind", ["hf_glm2_tiny", "hf_glm3_tiny"])
def test_peft_to_ours_to_peft(golden, tmp_path, kind):
    source = golden / kind / "peft_lora"
    job(source, tmp_path / "ours", "ours", config=golden / kind / "config.json")
    assert model_files(tmp_path / "ours").config.pet_config["lora_alpha"] == 32
    job(source, tmp_path / "x.ckpt", "mindformers")
    assert all("mindpet_delta" in name for name in ms.load_checkpoint(str(tmp_path / "x.ckpt")))
    wanted = load_file(source / "adapter_model.safetensors")
    official = json.loads((source / "adapter_config.json").read_text())
    for step in (tmp_path / "ours", tmp_path / "x.ckpt"):
        out = tmp_path / f"peft_{step.stem}"
        job(step, out, "peft", lora_alpha=32 if step.suffix else None)
        got = load_file(out / "adapter_model.safetensors")
        assert set(got) == set(wanted)
        for name, array in wanted.items():
            assert got[name].tobytes() == array.tobytes()
        written = json.loads((out / "adapter_config.json").read_text())
        for key in ("peft_type", "r", "lora_alpha", "target_modules", "bias", "task_type", "fan_in_fan_out"):
            assert written[key] == official[key], key


def test_the_real_adapter_to_mindformers_and_back(shared, tmp_path):
    source = shared / "data/weights/chatglm3-qlora-advertisegen"
    job(source, tmp_path / "x.ckpt", "mindformers")
    job(tmp_path / "x.ckpt", tmp_path / "peft", "peft", lora_alpha=32)
    assert_same(source, tmp_path / "peft")
    left = (source / "adapter_model.safetensors").read_bytes()
    right = load_file(tmp_path / "peft/adapter_model.safetensors")
    assert len(right) == 56
    assert sum(array.nbytes for array in right.values()) < len(left)


def test_alpha_is_asked_for_where_no_file_has_it(golden, tmp_path):
    source = golden / "mindformers_r08/lora/tiny_lora_fp16-trainable_params.ckpt"
    with pytest.raises(CheckpointError, match="alpha is in no file.*--lora_alpha"):
        plan_job(source, tmp_path / "x", "peft")
    plan_job(source, tmp_path / "x", "peft", lora_alpha=16)


def test_prefix_tables_pass_between_the_worlds(tmp_path):
    ours = "prefix_encoder.mindpet_delta_ptuning2_embedding.embedding_table"
    table = np.random.default_rng(0).standard_normal((5, 2 * 2 * 2 * 4)).astype(np.float32)
    save_ckpt(tmp_path / "x.ckpt", {ours: table})
    yaml = tmp_path / "net.yaml"
    yaml.write_text("model: {model_config: {type: ChatGLM2Config, num_layers: 2, pre_seq_len: 5}}")
    job(tmp_path / "x.ckpt", tmp_path / "hf", "hf", config=yaml)
    got = load_file(tmp_path / "hf/model.safetensors")
    assert list(got) == ["transformer.prefix_encoder.embedding.weight"]
    assert json.loads((tmp_path / "hf/config.json").read_text())["pre_seq_len"] == 5
    job(tmp_path / "hf", tmp_path / "back.ckpt", "mindformers")
    assert_same(tmp_path / "x.ckpt", tmp_path / "back.ckpt")


def test_the_names_of_transformers_itself(ours, tmp_path):
    job(ours, tmp_path / "glm", "transformers")
    config = json.loads((tmp_path / "glm/config.json").read_text())
    assert (config["model_type"], config["head_dim"], config["num_key_value_heads"]) == ("glm", 4, 2)
    job(tmp_path / "glm", tmp_path / "back", "ours")
    assert_same(ours, tmp_path / "back")
    assert model_files(tmp_path / "back").config == model_files(ours).config


def test_networks_that_transformers_has_not(tmp_path):
    other = TINY.model_copy(update={"rmsnorm": False})
    arrays = {n: np.zeros(s, np.float32) for n, s in expected_shapes(other).items()}
    save_directory(tmp_path / "x", arrays, other)
    with pytest.raises((CheckpointError, ConfigError), match="transformers|GlmForCausalLM"):
        job(tmp_path / "x", tmp_path / "y", "transformers")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(("dtype", "full"), [("fp16", "float16"), ("bf16", "bfloat16"), ("float32", "float32")])
def test_types(ours, tmp_path, dtype, full):
    from mindformers_glm.checkpoint.formats.dtypes import convert as cast

    out = job(ours, tmp_path / "x", "ours", dtype=dtype)
    source = read_weights(out)
    for name, array in tiny_arrays().items():
        assert source.dtype(name) == full
        assert source.read(name).tobytes() == cast(array, full).tobytes()


def test_a_widened_half_comes_back(golden, tmp_path):
    job(golden / "hf_glm2_tiny", tmp_path / "wide", "ours", dtype="fp32")
    job(tmp_path / "wide", tmp_path / "half", "ours", dtype="fp16")
    assert_same(golden / "hf_glm2_tiny", tmp_path / "half")


def test_numbers_that_are_not_finite_or_too_large(tmp_path):
    arrays = tiny_arrays()
    arrays["transformer.encoder.final_layernorm.weight"][2] = np.nan
    with pytest.raises(CheckpointError, match="final_layernorm.weight holds numbers that are not finite"):
        save_directory(tmp_path / "x", arrays, TINY)
    arrays["transformer.encoder.final_layernorm.weight"][2] = 1e6
    with pytest.raises(CheckpointError, match="final_layernorm.weight has numbers too large for float16"):
        save_directory(tmp_path / "x", arrays, TINY, dtype="float16")
    assert not (tmp_path / "x").exists()
    save_directory(tmp_path / "x", arrays, TINY, dtype="bfloat16")


def test_weights_that_do_not_fit_the_configuration(tmp_path):
    arrays = tiny_arrays()
    del arrays["transformer.output_layer.weight"]
    arrays["transformer.encoder.final_layernorm.weight"] = np.ones(3, np.float32)
    with pytest.raises(CheckpointError, match="1 of wrong shape: .*1 missing: transformer.output_layer.weight"):
        save_directory(tmp_path / "x", arrays, TINY)


def test_the_plan_writes_nothing(ours, tmp_path):
    plan = plan_job(ours, tmp_path / "x", "hf", dtype="fp16", shard_size=2000)
    lines = list(plan.lines())
    assert lines[0].startswith(f"output {tmp_path / 'x'} (hf), 18 tensors")
    assert len(plan.files) > 1
    assert sum(file.size for file in plan.files) == plan.size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_shards_have_an_index_that_others_can_follow(ours, tmp_path):
    out = job(ours, tmp_path / "x", "hf", shard_size=2000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    arrays = tiny_arrays()
    assert len(set(index["weight_map"].values())) > 2
    for name, file in index["weight_map"].items():
        if "inv_freq" not in name:
            ours_name = name.replace("word_embeddings.weight", "embedding_table")
            np.testing.assert_array_equal(load_file(out / file)[name], arrays[ours_name])


def test_our_folder_is_complete_and_verified(tmp_path, glm2_vocab):
    from pathlib import Path

    wide = TINY.model_copy(update={"padded_vocab_size": 65024})
    arrays = {n: np.ones(s, np.float16) for n, s in expected_shapes(wide).items()}
    out = save_directory(tmp_path / "x", arrays, wide, tokenizer=Path(glm2_vocab).parent)
    assert {"config.yaml", "manifest.json", "model.safetensors", "tokenizer.model"} <= {p.name for p in out.iterdir()}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["versions"]["mindformers_glm"]
    assert set(manifest["files"]) == {path.name for path in out.iterdir()} - {"manifest.json"}
    assert verify(out).faults == []
    assert read_config(out / "config.yaml")[0].padded_vocab_size == 65024


def test_verify_finds_every_change(ours):
    for name in json.loads((ours / "manifest.json").read_text())["files"]:
        data = (ours / name).read_bytes()
        for bad in (data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
            (ours / name).write_bytes(bad)
            assert any(name in fault for fault in verify(ours).faults)
        (ours / name).unlink()
        assert any(f"{name}: missing" in fault for fault in verify(ours).faults)
        (ours / name).write_bytes(data)
    assert verify(ours).faults == []
    (ours / "notes.txt").write_text("mine")
    assert verify(ours).faults == []
    assert "notes.txt" in verify(ours).notes[0]


def test_verify_checks_the_checksum_of_mindspore(tmp_path):
    path = tmp_path / "x.ckpt"
    rows = [{"name": name, "data": ms.Tensor(array)} for name, array in tiny_arrays().items()]
    ms.save_checkpoint(rows, str(path), crc_check=True)
    path.chmod(0o600)
    assert verify(path).faults == []
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "checksum of MindSpore differs" in verify(path).faults[0]


def test_a_tokenizer_that_does_not_fit(tmp_path, golden, shared):
    small = tmp_path / "small"
    small.mkdir()
    save_directory(tmp_path / "m", tiny_arrays(), TINY)
    for tokenizer in (shared / "data/tokenizer/chatglm2-6b",):
        with pytest.raises(CheckpointError, match="64,794 ids and the network 50 rows"):
            plan_job(tmp_path / "m", tmp_path / "x", "hf", tokenizer=tokenizer)
    (small / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        plan_job(tmp_path / "m", tmp_path / "x", "hf", tokenizer=small)


def test_shapes_alone_do_not_make_a_configuration(golden, tmp_path):
    source = golden / "mindformers_r08/training/init.ckpt"
    plan_job(source, tmp_path / "x.ckpt", "mindformers-1.2")
    with pytest.raises(ConfigError, match="--config: got None"):
        plan_job(source, tmp_path / "x", "ours")


def test_weights_with_an_adapter_say_where_it_can_go(golden, tmp_path):
    source = golden / "mindformers_r08/lora/tiny_lora_fp16.ckpt"
    config = golden / "mindformers_r08/model_fp16/tiny_fp16.yaml"
    with pytest.raises(CheckpointError, match="merge_lora"):
        plan_job(source, tmp_path / "x", "hf", config=config, lora_alpha=16)
    out = job(source, tmp_path / "ours", "ours", config=config, lora_alpha=16)
    kept = read_weights(out)
    assert sum(is_adapter(name) for name in kept.names) == 4
    assert model_files(out).config.pet_config["lora_rank"] == 4
    adapter = job(out, tmp_path / "peft", "peft")
    assert len(load_file(adapter / "adapter_model.safetensors")) == 4


def test_an_adapter_of_another_shape_is_refused(golden, tmp_path):
    names = load_file(golden / "hf_glm2_tiny/peft_lora/adapter_model.safetensors")
    first = next(iter(names))
    for change, fault in (
        ({first: names[first][:3]}, "3, 32"),
        ({first: None}, "one of the two"),
    ):
        bad = tmp_path / fault[:1]
        bad.mkdir()
        rows = {**names, **change}
        save_file(
            {k: np.ascontiguousarray(v) for k, v in rows.items() if v is not None}, bad / "adapter_model.safetensors"
        )
        shutil.copy(golden / "hf_glm2_tiny/peft_lora/adapter_config.json", bad)
        with pytest.raises(CheckpointError, match=fault):
            plan_job(bad, tmp_path / "x.ckpt", "mindformers")


def test_unknown_forms_types_and_sizes(ours, tmp_path):
    with pytest.raises(ConfigError, match="to: got 'gguf'"):
        plan_job(ours, tmp_path / "x", "gguf")
    with pytest.raises(ConfigError, match="dtype"):
        plan_job(ours, tmp_path / "x", "hf", dtype="int4")
    for size in ("many", "0", "-1GB"):
        with pytest.raises(ConfigError, match="shard_size"):
            plan_job(ours, tmp_path / "x", "hf", shard_size=size)
