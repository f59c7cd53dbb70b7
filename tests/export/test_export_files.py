"""Plans, manifests and graph files, without MindSpore Lite."""

from __future__ import annotations

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from tiny_networks import random_network

from mindformers_glm.config.sections import InferSection
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.export import graph_file
from mindformers_glm.export.export import export_model
from mindformers_glm.export.lite.engine import Export, choose, is_2_0, open_lite
from mindformers_glm.export.lite.network import Fixed, LiteNetwork
from mindformers_glm.export.lite.settings import read_pair, read_settings
from mindformers_glm.export.manifest import check_file, find_manifest
from mindformers_glm.export.mindir_v1 import to_version_1
from mindformers_glm.export.network import INPUTS, PackedNetwork, Sizes
from mindformers_glm.export.plan import ExportPlan, make_plan
from mindformers_glm.generation import Engine, GenerationConfig, MindSporeEngine, generate
from mindformers_glm.generation.cache import CacheShape

LITE_INI = """[ascend_context]
provider=ge
device_id=3
[ge_session_options]
ge.exec.formatMode=1
[cpu_context]
thread_num=2
"""


def plan(folder, **options):
    return ExportPlan(
        prefill=folder / "net_prefill_seq64", increment=folder / "net_inc_seq64", **{"dynamic": True, **options}
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class GraphRunner:
    """The exported version 3 files in MindSpore itself."""

    def __init__(self, folder, files):
        self.cells = {role: nn.GraphCell(ms.load(str(folder / file))) for role, file in files.items()}

    def run(self, model, feed):
        return [output.asnumpy() for output in self.cells[model](*[Tensor(feed[name]) for name in INPUTS])]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The export of a network of one layer; tests that change a file have a copy of it."""
    folder = tmp_path_factory.mktemp("exported") / "net"
    export_model(random_network(num_layers=1), plan(folder))
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the export that may be changed."""
    return shutil.copytree(exported, tmp_path / "copy")


def test_names_of_small_and_large_networks(exported, tmp_path):
    export_model(random_network(num_layers=1), plan(tmp_path / "large", shared_weights=True))
    manifest, config = "net_seq64_manifest.json", "net_seq64.yaml"
    small = [config, manifest, "net_seq64_v1.mindir", "net_prefill_seq64.mindir", "net_inc_seq64.mindir"]
    assert names(exported) == sorted(small)
    graphs = ["net_prefill_seq64_graph.mindir", "net_inc_seq64_graph.mindir", "net_seq64_v1_graph.mindir"]
    assert names(tmp_path / "large") == sorted([config, manifest, "net_seq64_variables", *graphs])
    found, _, graph = find_manifest(tmp_path / "large" / "net_prefill_seq64.mindir")
    assert graph.name == "net_prefill_seq64_graph.mindir"
    assert [row.name for row in graph.inputs] == list(INPUTS)
    assert graph.inputs[0].shape == [1, 1, 1, None]
    assert found.weights.name == "net_seq64_variables/data_0"


EDGE = {"rotary_percent": 1.0, "add_qkv_bias": False, "tie_word_embeddings": True}
SANDWICH = {
    "post_self_attn_layernorm": True,
    "post_mlp_layernorm": True,
    "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 4},
}


@pytest.mark.parametrize(("rows", "switches"), [(1, {}), (2, {}), (2, EDGE), (1, SANDWICH)])
@pytest.mark.slow_where(lambda rows, switches: rows == 1 or switches)
def test_graphs_of_fixed_length_in_mindspore_give_the_models_tokens(tmp_path, rows, switches):
    model = random_network(**switches)
    export_model(model, plan(tmp_path, dynamic=False, rows=rows, shared_weights=True, for_lite_2_0=False))
    files = {"prefill": "net_prefill_seq64_graph.mindir", "increment": "net_inc_seq64_graph.mindir"}
    network = LiteNetwork(
        GraphRunner(tmp_path, files),
        CacheShape(2, 2, 8),
        vocab_size=101,
        max_length=64,
        allocate=np.zeros,
        fixed=Fixed(tokens=64, rows=rows, slots=64),
    )
    engine, ours = Engine(network, max_num_seqs=rows, chunk=64), MindSporeEngine(model)
    prompts, config = [[5, 17, 23], [7, 64, 65, 66, 67], [9]], GenerationConfig(max_new_tokens=8)
    assert [r.ids for r in generate(engine, prompts, config)] == [r.ids for r in generate(ours, prompts, config)]
    scores = zip(engine.score([5], [[6, 7, 8, 9]]), ours.score([5], [[6, 7, 8, 9]]), strict=True)
    for a, b in scores:
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)


def test_lora_is_kept_or_merged(tmp_path):
    model = random_network(pet_config={"pet_type": "lora", "lora_rank": 4, "lora_alpha": 8})
    tokens = [GenerationConfig(max_new_tokens=8), [[5, 17, 23]]]
    expected = generate(MindSporeEngine(model), tokens[1], tokens[0])[0].ids
    for merged in (False, True):
        folder = tmp_path / str(merged)
        export_model(model, plan(folder, merge_adapter=merged, for_lite_2_0=False))
        assert find_manifest(folder)[0].adapter == ("merged" if merged else "kept")
        runner = GraphRunner(folder, {"prefill": "net_prefill_seq64.mindir"})
        network = LiteNetwork(runner, CacheShape(2, 2, 8), vocab_size=101, max_length=64, allocate=np.zeros)
        assert generate(Engine(network), tokens[1], tokens[0])[0].ids == expected


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"multi_query_attention": False},
        {"multi_query_group_num": 4},
        {"num_layers": 1},
        {"multi_query_group_num": 1},
        EDGE,
        SANDWICH,
    ],
    ids=["groups", "no groups", "a group for each head", "one layer", "one group", "edge", "sandwich"],
)
def test_no_input_is_reshaped_itself(changes):
    """Lite 2.0 frees the memory behind such an input. Operators that change nothing must not be counted on."""
    network = PackedNetwork(random_network(**changes))
    graph = to_version_1(graph_file.trace(network, network.inputs(Sizes()))).graph
    kinds, made = {}, {node.output[0]: node for node in graph.node}
    inputs = {one.name for one in graph.input}
    assert len(inputs) == len(INPUTS)
    for node in graph.node:
        if "Reshape" in node.op_type:
            origin = node.input[0]
            while origin in made and any(kind in made[origin].op_type for kind in ("Reshape", "TupleGetItem")):
                origin = made[origin].input[0]
            assert origin not in inputs, f"{origin} is reshaped"
            kinds[made[origin].op_type] = True
    assert kinds  # the names of operators are still what this test looks for


def test_a_prefix_cannot_be_merged(tmp_path):
    model = random_network(pet_config={"pet_type": "ptuning2", "pre_seq_len": 3})
    with pytest.raises(ConfigError, match="infer.merge_lora"):
        export_model(model, plan(tmp_path, merge_adapter=True))


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, ("out/glm2_6b_prefill_seq512", "out/glm2_6b_inc_seq512", False)),
        (
            {"prefill_model_path": "a/model_mini.mindir", "increment_model_path": "a/inc_graph.mindir"},
            ("a/model_mini", "a/inc", False),
        ),
        ({"prefill_model_path": "a/one.mindir", "dynamic": True}, ("a/one", None, True)),
    ],
)
def test_plans(tmp_path, given, expected):
    made = make_plan(InferSection(**given), folder=type(tmp_path)("out"), model_name="glm2_6b", seq_length=512, rows=1)
    found = (str(made.prefill), made.increment and str(made.increment), made.dynamic)
    assert found == expected


@pytest.mark.parametrize(
    "given, key",
    [
        ({"prefill_model_path": "a/one.mindir"}, "infer.increment_model_path"),
        ({"prefill_model_path": "a/one.mindir", "increment_model_path": "b/two.mindir"}, "infer.increment_model_path"),
        ({"prefill_model_path": "a/one.mindir", "increment_model_path": "a/one.mindir"}, "infer.increment_model_path"),
    ],
)
def test_names_that_do_not_go_together(tmp_path, given, key):
    with pytest.raises(ConfigError) as caught:
        make_plan(InferSection(**given), folder=tmp_path, model_name="m", seq_length=8, rows=1)
    assert caught.value.key == key


def test_two_exports_in_one_folder(copied):
    other = ExportPlan(prefill=copied / "b_prefill", increment=None, dynamic=True, for_lite_2_0=False)
    export_model(random_network(num_layers=1), other)
    with pytest.raises(CheckpointError, match="several exports"):
        find_manifest(copied)
    assert find_manifest(copied / "b_prefill.mindir")[0].name == "b"


def test_files_are_checked_against_the_manifest(copied):
    manifest = find_manifest(copied)[0]
    file = copied / manifest.graphs[0].name
    content = file.read_bytes()
    file.write_bytes(content + b"x")
    with pytest.raises(CheckpointError, match="bytes and the manifest says"):
        check_file(copied, manifest.graphs[0])
    file.write_bytes(b"y" + content[1:])
    with pytest.raises(CheckpointError, match="SHA-256"):
        check_file(copied, manifest.graphs[0])
    file.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        check_file(copied, manifest.graphs[0])


def test_a_manifest_with_the_former_name_of_a_field_is_read(copied):
    manifest = find_manifest(copied)[0]
    path = copied / f"{manifest.name}_manifest.json"
    told = json.loads(path.read_text())
    told["max_rows"] = told.pop("max_num_seqs")
    path.write_text(json.dumps(told))
    assert find_manifest(copied)[0] == manifest


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"format": 9}), json.dumps({"format": 1})])
def test_a_manifest_that_is_none(tmp_path, text):
    (tmp_path / "a_manifest.json").write_text(text)
    with pytest.raises(CheckpointError) as caught:
        find_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_operator_without_a_rule_is_refused():
    class Odd(nn.Cell):
        def construct(self, x):
            return ops.erfinv(x)

    with pytest.raises(CheckpointError, match="Erfinv"):
        to_version_1(graph_file.trace(Odd(), [Tensor(np.zeros(3, np.float32))]))


def test_lite_ini(tmp_path):
    file = tmp_path / "lite.ini"
    file.write_text(LITE_INI)
    assert read_settings(target="Ascend", config_path=file).context == {"provider": "ge", "device_id": 3, "rank_id": 0}
    cpu = read_settings(config_path=file)
    assert (cpu.context["thread_num"], cpu.config_path) == (2, str(file.resolve()))
    assert read_settings(config_path=file, threads=5).context["thread_num"] == 5
    other = tmp_path / "inc.cfg"
    other.write_text("[cpu_context]\nthread_num=1\n")
    pair = read_pair(f"{file},{other}")
    assert [settings.context["thread_num"] for settings in pair] == [2, 1]


@pytest.mark.parametrize("text", ["no section\n", "[cpu_context]\nthread_num=many\n"])
def test_a_faulty_lite_ini(tmp_path, text):
    (tmp_path / "lite.ini").write_text(text)
    with pytest.raises(ConfigError, match="config_path"):
        read_settings(config_path=tmp_path / "lite.ini")
    with pytest.raises(ConfigError, match="infer.target"):
        read_settings(target="gpu")


def test_the_graph_that_a_lite_can_read(exported):
    manifest = find_manifest(exported)[0]
    assert is_2_0("2.0.0") and is_2_0("2.0.1") and not is_2_0("2.3.0") and not is_2_0("2.10.0")
    assert [graph.name for graph in choose(manifest, "2.0.0", folder=exported)] == ["net_seq64_v1.mindir"]
    assert [graph.name for graph in choose(manifest, "2.10.0", folder=exported)] == ["net_prefill_seq64.mindir"]


@pytest.mark.parametrize("key", ["increment", "tokenizer"])
def test_what_an_export_that_was_read_would_ignore_is_refused(tmp_path, key):
    with pytest.raises(ConfigError, match=f"{key}.*read_export"):
        open_lite(Export(None, tmp_path, None, None, None), **{key: tmp_path})
