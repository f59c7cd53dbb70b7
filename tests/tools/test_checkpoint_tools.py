"""tools/convert_weight.py, merge_lora.py, inspect_checkpoint.py, verify_checkpoint.py as a user calls them."""

import json
import shutil
import subprocess
from pathlib import Path

import forked
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.cli import conversions, inspect_checkpoint, merge_lora
from mindformers_glm.cli import convert as convert_command
from mindformers_glm.cli import verify as verify_command
from mindformers_glm.errors import CheckpointError, ConfigError


@pytest.fixture
def convert(root):
    return lambda *arguments: convert_command.main([str(a) for a in arguments])


@pytest.fixture
def merge(root):
    return lambda *arguments: merge_lora.main([str(a) for a in arguments])


@pytest.fixture
def inspect(root):
    return lambda *arguments: inspect_checkpoint.main([str(a) for a in arguments])


@pytest.fixture
def verify(root):
    return lambda *arguments: verify_command.main([str(a) for a in arguments])


def run(root: Path, name: str, *arguments) -> subprocess.CompletedProcess:
    return forked.run([root / "tools" / f"{name}.py", *arguments])


def test_convert_from_the_shell(root, golden, tmp_path):
    done = run(root, "convert_weight", "--input_path", golden / "hf_glm2_tiny/bin", "--output_path", tmp_path / "x")
    assert done.returncode == 0, done.stderr
    assert "8,354,368 bytes" in done.stdout
    assert f"written {tmp_path / 'x'}" in done.stdout
    assert "100%" in done.stderr  # the progress bar


def test_a_dry_run_prints_the_plan(convert, golden, tmp_path, capsys):
    convert(
        "--input_path", golden / "hf_glm2_tiny", "--output_path", tmp_path / "x.ckpt", "--dry-run", "--dtype", "bf16"
    )
    text = capsys.readouterr().out
    assert "names of hf" in text
    assert "(mindformers), 17 tensors" in text
    assert "left out: transformer.rotary_pos_emb.inv_freq" in text
    assert "nothing was written" in text
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_mindformers(convert, golden, tmp_path):
    base = ("--model", "glm-n", "--input_path")
    convert(*base, golden / "hf_glm2_tiny", "--output_path", tmp_path / "a.ckpt", "--dtype", "fp32")
    assert read_weights(tmp_path / "a.ckpt").dtype("transformer.output_layer.weight") == "float32"
    convert(*base, tmp_path / "a.ckpt", "--output_path", tmp_path / "hf", "--reversed", "--dtype", "fp16")
    wanted = load_file(golden / "hf_glm2_tiny/model.safetensors")
    got = load_file(tmp_path / "hf/model.safetensors")
    assert all(got[name].tobytes() == array.tobytes() for name, array in wanted.items())
    yaml = tmp_path / "mf15.yaml"
    config = (golden / "hf_glm2_tiny/config.json").read_text()
    shape = {k: json.loads(config)[k] for k in ("num_layers", "hidden_size", "ffn_hidden_size", "kv_channels")}
    shape |= {"num_attention_heads": 4, "padded_vocab_size": 65024, "qkv_concat": False, "mlp_concat": False}
    yaml.write_text(json.dumps({"model": {"model_config": {**shape, "use_rearrange_rope": True}}}))
    to = ("--to", "mindformers-1.5", "--config", yaml)
    convert(*base, tmp_path / "hf", "--output_path", tmp_path / "split.ckpt", *to)
    (tmp_path / "split.yaml").unlink()  # as MindFormers leaves it: only the file, the YAML elsewhere
    convert(
        *base, tmp_path / "split.ckpt", "--output_path", tmp_path / "one.ckpt", "--concat", "True", "--config", yaml
    )
    left, right = read_weights(tmp_path / "one.ckpt"), read_weights(golden / "hf_glm2_tiny")
    assert left.naming == "mf12"
    assert all(left.read_bits(name).tobytes() == right.read_bits(name).tobytes() for name in right.names)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--model", "llama"), ConfigError, "model: got 'llama'"),
        (("--qkv_concat", "maybe"), ConfigError, "Use True or False"),
        (("--input_path", "glm2_7b"), ConfigError, "No model has this name"),
        (("--shard_size", "big"), ConfigError, "shard_size"),
        (("--tokenizer", "nowhere"), CheckpointError, "no tokenizer.model there"),
    ],
)
def test_wrong_arguments(convert, golden, tmp_path, arguments, error, message):
    given = {"--input_path": golden / "hf_glm2_tiny", "--output_path": tmp_path / "x"}
    given.update(dict([arguments]))
    with pytest.raises(error, match=message):
        convert(*[part for pair in given.items() for part in pair])


@pytest.mark.parametrize("kind", ["hf_glm2_tiny", "hf_glm3_tiny"])
def test_merging_verifies_layers_and_logits(merge, golden, tmp_path, capsys, kind):
    arguments = ("--base", golden / kind, "--adapter", golden / kind / "peft_lora", "--output_path", tmp_path / "x")
    merge(*arguments, "--dtype", "fp32")
    text = capsys.readouterr().out
    assert "layers agree" in text
    assert "logits agree" in text
    base, merged = read_weights(golden / kind), read_weights(tmp_path / "x")
    adapter = load_file(golden / kind / "peft_lora/adapter_model.safetensors")
    name = "transformer.encoder.layers.0.self_attention.query_key_value"
    down, up = (adapter[f"base_model.model.{name}.lora_{letter}.weight"] for letter in "AB")
    exact = base.read(name + ".weight").astype(np.float64) + 32 / 8 * up.astype(np.float64) @ down
    np.testing.assert_allclose(merged.read(name + ".weight"), exact, rtol=0, atol=1e-3)
    other = "transformer.encoder.layers.0.mlp.dense_4h_to_h.weight"
    np.testing.assert_array_equal(merged.read(other), base.read(other).astype(np.float32))


def test_merging_a_checkpoint_that_holds_its_adapter(merge, golden, tmp_path, capsys):
    folder = golden / "mindformers_r08"
    source = ("--base", folder / "lora/tiny_lora_fp16.ckpt", "--config", folder / "model_fp16/tiny_fp16.yaml")
    merge(*source, "--output_path", tmp_path / "x.ckpt", "--lora_alpha", "16", "--verify", "layers")
    assert "layers agree" in capsys.readouterr().out
    merge(*source, "--output_path", tmp_path / "y.ckpt", "--lora_scaling", "4", "--verify", "none")
    assert (tmp_path / "x.ckpt").read_bytes() == (tmp_path / "y.ckpt").read_bytes()
    with pytest.raises(ConfigError, match="--lora_alpha or --lora_scaling"):
        merge(*source, "--output_path", tmp_path / "z.ckpt")


def test_the_limit_is_that_of_the_merged_layers(merge, golden, tmp_path, capsys):
    """A run of 6B holds the embedding in float32 before layers in float16, and the layers are what is rounded."""
    base = shutil.copytree(golden / "hf_glm2_tiny", tmp_path / "base", ignore=shutil.ignore_patterns("peft_lora"))
    for file in base.glob("*.safetensors"):
        weights = load_file(file)
        typed = {
            name: array.astype(np.float32 if "embedding" in name else np.float16) for name, array in weights.items()
        }
        save_file(typed, file)
    adapter = golden / "hf_glm2_tiny/peft_lora"
    merge("--base", base, "--adapter", adapter, "--output_path", tmp_path / "x", "--verify", "logits")
    assert "(limit 0.05)" in capsys.readouterr().out


def test_a_wrong_merge_is_noticed(root, golden, tmp_path, monkeypatch):
    original = conversions.run_plan

    def spoil(plan, **settings):
        path = original(plan, **settings)
        weights = load_file(path / "model.safetensors")
        name = "transformer.encoder.layers.1.self_attention.query_key_value.weight"
        weights[name] = weights[name] + np.float16(0.1)
        save_file(weights, path / "model.safetensors")
        return path

    monkeypatch.setattr(conversions, "run_plan", spoil)
    arguments = ["--base", golden / "hf_glm2_tiny", "--adapter", golden / "hf_glm2_tiny/peft_lora"]
    with pytest.raises(CheckpointError, match="layers.1.self_attention.query_key_value differs by"):
        merge_lora.main([str(a) for a in (*arguments, "--output_path", tmp_path / "x")])


def test_merging_what_cannot_be_merged(merge, golden, tmp_path):
    lora = golden / "hf_glm2_tiny/peft_lora"
    with pytest.raises(ConfigError, match="name the base weights"):
        merge("--base", lora, "--output_path", tmp_path / "x")
    with pytest.raises(CheckpointError, match="no LoRA"):
        arguments = ("--base", golden / "hf_glm2_tiny", "--adapter", golden / "hf_glm2_tiny/bin", "--lora_alpha", "8")
        merge(*arguments, "--output_path", tmp_path / "x")


def test_inspecting_every_golden(inspect, golden, shared, capsys):
    cases = {
        golden / "hf_glm2_tiny": ("official", "2 layers, hidden 32, ffn 48, 4 heads of 8, 2 kv heads"),
        golden / "hf_glm2_tiny/bin": ("bin, 2 files", "17, 4,177,184 parameters"),
        golden / "mindformers_r08/training/full/output/checkpoint": ("epoch_num 1, step_num 8", "34 optimizer tensors"),
        golden / "mindformers_r08/training/saved_from_use_past_network.ckpt": ("key-value cache", "guess"),
        shared / "data/weights/chatglm3-qlora-advertisegen": ("28 layers, rank 4, alpha 32", "56, 974,848"),
    }
    for path, expected in cases.items():
        assert inspect(path, "--values") == 0
        text = capsys.readouterr().out
        assert all(part in text for part in expected), text
        assert "no problems found" in text
    assert inspect(golden / "hf_glm2_tiny", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["tensors"]) == 17


def test_inspecting_finds_what_is_wrong(inspect, golden, tmp_path, capsys):
    weights = dict(load_file(golden / "hf_glm2_tiny/model.safetensors"))
    weights["transformer.encoder.final_layernorm.weight"] = np.full(32, np.nan, np.float16)
    weights["lm.strange"] = np.ones(3, np.float16)
    del weights["transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    shutil.copy(golden / "hf_glm2_tiny/config.json", tmp_path)
    assert inspect(tmp_path, "--values", "--tensors") == 1
    text = capsys.readouterr().out
    assert "problem: 1 unknown names: lm.strange" in text
    assert "1 missing: transformer.encoder.layers.1.mlp.dense_4h_to_h.weight" in text
    assert "final_layernorm.weight holds numbers that are not finite" in text
    assert "  transformer.encoder.final_layernorm.weight  [32]  float16" in text


def test_verifying(convert, verify, golden, tmp_path, capsys):
    convert("--input_path", golden / "hf_glm2_tiny", "--output_path", tmp_path / "x")
    assert verify(tmp_path / "x") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "sound"
    path = tmp_path / "x/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert verify(tmp_path / "x") == 1
    assert "FAULT model.safetensors: the bytes differ" in capsys.readouterr().out
    assert verify(golden / "mindformers_r08/model_fp16/tiny_fp16.ckpt") == 0


def test_a_file_that_is_no_checkpoint_costs_one_line_and_status_2(root, tmp_path):
    (tmp_path / "x.ckpt").write_text("not a checkpoint")
    done = run(root, "inspect_checkpoint", tmp_path / "x.ckpt")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: {tmp_path / 'x.ckpt'}: not a MindSpore checkpoint")
