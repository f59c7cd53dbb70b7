"""The grid of processes: MindSpore's numbering, and every refusal with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_glm.assembly.reduction import backward_order
from mindformers_glm.config.schema import RunSchema
from mindformers_glm.config.sections import ParallelSection
from mindformers_glm.errors import ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.parallelize import check_network
from mindformers_glm.models.glm.shards import TensorDivision, local_config
from mindformers_glm.models.glm.weights import expected_shapes
from mindformers_glm.parallel.gradients import buckets, in_place_of
from mindformers_glm.parallel.mesh import SINGLE, make_mesh, mesh_from_config
from mindformers_glm.parallel.optimizer import is_divided


def sections(mode=1, use_parallel=True, **sizes):
    names = {"dp": "data_parallel", "tp": "model_parallel", "pp": "pipeline_stage"}
    sizes = {names.get(name, name): value for name, value in sizes.items()}
    return {"use_parallel": use_parallel, "parallel": {"parallel_mode": mode}, "parallel_config": sizes}


def shape(**changes):
    values = {
        "num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "multi_query_group_num": 2, "kv_channels": 8,
        "ffn_hidden_size": 48, "padded_vocab_size": 104, "seq_length": 16,
    }  # fmt: skip
    return ChatGLM2Config(**{**values, **changes})


def test_every_rank_has_one_place():
    for dp, tp, pp in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (2, 4, 2)):
        meshes = [make_mesh(rank, dp=dp, tp=tp, pp=pp) for rank in range(dp * tp * pp)]
        assert [mesh.rank for mesh in meshes] == list(range(dp * tp * pp))
        for kind in ("data", "tensor", "stage"):
            for mesh in meshes:
                axis = getattr(mesh, kind)
                assert axis.ranks[axis.rank] == mesh.rank
                assert all(getattr(meshes[other], kind).ranks == axis.ranks for other in axis.ranks)


def test_tensor_ranks_are_neighbours():
    mesh = make_mesh(5, dp=2, tp=4)
    assert mesh.tensor.ranks == (4, 5, 6, 7) and mesh.data.ranks == (1, 5)


@pytest.mark.parametrize(
    ("config", "world", "expected"),
    [
        (sections(use_parallel=False, dp=8), 1, (1, 1)),
        (sections(mode=0, dp=8), 4, (4, 1)),
        (sections(mode=3), 2, (2, 1)),
        (sections(mode=1, dp=2, tp=4), 8, (2, 4)),
        (sections(mode=2, dp=8), 8, (8, 1)),
    ],
)
def test_sections_of_old_files(config, world, expected):
    mesh = mesh_from_config(RunSchema.model_validate(config), rank=0, world=world)
    assert (mesh.data.size, mesh.tensor.size) == expected
    assert (mesh == SINGLE) == (world == 1)


@pytest.mark.parametrize(
    ("config", "world", "said"),
    [
        (sections(use_parallel=False), 2, "use_parallel: got False. 2 processes were started"),
        (sections(dp=8), 4, "data_parallel 8 x model_parallel 1 x pipeline_stage 1 = 8, and 4 processes"),
        (sections(mode=0, tp=2), 2, "divides data only"),
        (sections(seq_split_num=2), 1, "parallel_config.seq_split_num"),
        (sections(mode=0, context_parallel=2), 2, "parallel_config.context_parallel"),
    ],
)
def test_refusals(config, world, said):
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        mesh_from_config(RunSchema.model_validate(config), rank=0, world=world)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "size", "said"),
    [
        ({}, 3, "num_attention_heads"),
        ({"ffn_hidden_size": 50}, 4, "ffn_hidden_size"),
        ({"padded_vocab_size": 101}, 2, "padded_vocab_size"),
        ({"num_attention_heads": 24, "multi_query_group_num": 3, "padded_vocab_size": 96}, 2, "multi_query_group_num"),
        ({"pet_config": {"pet_type": "ptuning2", "pre_seq_len": 8}}, 2, "pet_type"),
    ],
)
def test_networks_that_do_not_divide(changes, size, said):
    with pytest.raises(ConfigError) as caught:
        check_network(shape(**changes), make_mesh(0, tp=size))
    assert said in str(caught.value)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_merge_inverts_cut_and_shapes_are_the_ranks_network(groups, size):
    config = shape(multi_query_group_num=groups, add_bias_linear=True)
    division, local, rng = (
        TensorDivision(config, size),
        expected_shapes(local_config(config, size)),
        np.random.default_rng(0),
    )
    whole = expected_shapes(config)
    base = "transformer.encoder.layers.1."
    for layer in ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"):
        rows, columns = whole[f"{base}{layer}.weight"]
        whole |= {f"{base}{layer}.mindpet_delta_lora_a": (4, columns), f"{base}{layer}.mindpet_delta_lora_b": (rows, 4)}
    for name, full in whole.items():
        for prefix in ("", "adam_m."):
            value = rng.normal(size=full).astype(np.float32)
            parts = [division.cut(prefix + name, value, rank) for rank in range(size)]
            if name in local:
                assert {part.shape for part in parts} == {local[name]}, name
            merged = division.merge(prefix + name, parts)
            assert merged.dtype == value.dtype and merged.tobytes() == value.tobytes(), name


def test_shared_rows_are_the_key_and_value_rows():
    division = TensorDivision(shape(), 4)  # four ranks on two groups
    name = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
    assert division.shared_rows(name, (8 + 8 + 8, 32)) == 8
    assert TensorDivision(shape(), 2).shared_rows(name, (16 + 8 + 8, 32)) is None


class Row:
    def __init__(self, size, dtype="float32"):
        self.size, self.itemsize, self.dtype = size, 4, dtype


def test_buckets_keep_order_type_and_limit():
    rows = [Row(10), Row(10), Row(100), Row(10, "float16"), Row(10)]
    assert buckets(rows, limit=80) == [[0, 1], [2], [3], [4]]
    assert buckets(rows[:2] + rows[3:], limit=120) == [[2], [0, 1, 3]]  # one of each type is filled at a time


def test_buckets_are_filled_as_the_backward_pass_goes():
    rows = [Row(10), Row(10, "float16"), Row(10), Row(10, "float16"), Row(10)]
    groups = buckets(rows, limit=80, order=(4, 3, 2, 1, 0))
    assert groups == [[4, 2], [3, 1], [0]]
    laid = [position for group in groups for position in group]
    assert [laid[place] for place in in_place_of(groups)] == [0, 1, 2, 3, 4]


def test_gradients_of_the_last_layer_are_ready_first():
    config = shape(num_layers=2)
    names = [name for name in expected_shapes(config) if "norm" not in name]
    names += [name for name in expected_shapes(config) if "norm" in name]  # as groups of weight decay do
    ordered = [names[position] for position in backward_order(names, config)]
    layers = [int(name.split("layers.")[1][0]) if "layers." in name else -1 for name in ordered]
    assert set(ordered) == set(names)
    assert ordered[0] == "transformer.encoder.final_layernorm.weight"
    assert "layers.1." in ordered[1] or "output_layer" in ordered[1]
    assert [layer for layer in layers if layer >= 0] == sorted((layer for layer in layers if layer >= 0), reverse=True)
    assert ordered[-1] == "transformer.embedding.embedding_table"


def test_rows_that_divide():
    assert is_divided((8, 3), 2) and not is_divided((7,), 2) and not is_divided((), 2) and not is_divided((8,), 1)


def test_device_num_may_be_a_product():
    assert ParallelSection(device_num="8*12").device_num == 96
    assert ParallelSection(device_num=8).device_num == 8
    for wrong in ("8*", "8**12", "0*8", "9" * 9 + "*2"):
        with pytest.raises(ValueError, match="device_num"):
            ParallelSection(device_num=wrong)
