"""Integers that lie in their files in the order of the kernels: the same numbers for everybody who reads them."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_networks import logits_of

from mindformers_glm import AutoModel
from mindformers_glm.assembly.adapter_base import check_base
from mindformers_glm.assembly.engine import held_engine, load_held
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
        assert held.slots[QKV].is_packed == (folder == folders[1])
    assert told[0] == told[1]


@pytest.mark.skipif(library.library() is None, reason="no kernels")
def test_weights_beside_an_adapter_are_compared_in_rows(folders):
    held = load_held(str(folders[1]))
    check_base(held.slots, read_weights(folders[0]))
    held.slots[QKV + "_scale"].bits = held.slots[QKV + "_scale"].bits[::-1].copy()
    with pytest.raises(CheckpointError, match="differs from the base's"):
        check_base(held.slots, read_weights(folders[0]))


def test_a_network_of_mindspore_has_the_same_numbers(folders):
    ids = np.array([PROMPT], np.int32)
    one, other = (logits_of(AutoModel.from_pretrained(folder, compute_dtype="float32"), ids) for folder in folders)
    assert np.array_equal(one, other)


def test_floats_have_no_panels(tmp_path):
    with pytest.raises(ConfigError, match=r"has floats.*quantize"):
        plan_job(TINY, tmp_path / "out", "ours-panels")


def test_a_file_whose_panels_are_no_integers_is_damaged(tmp_path):
    save_file({"transformer.final_panels": np.zeros((4, 4), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no integer weight in panels"):
        read_weights(tmp_path)
