"""What users write as the name of a model."""

from pathlib import Path

import numpy as np
import pytest

from mindformers_glm.checkpoint.convert import run_plan, save_directory
from mindformers_glm.checkpoint.convert.job import plan_job
from mindformers_glm.checkpoint.formats.mindspore_ckpt import save_ckpt
from mindformers_glm.checkpoint.load.model_files import Storage
from mindformers_glm.checkpoint.load.resolve import resolve, resolve_weights
from mindformers_glm.errors import CheckpointError, ConfigError
from mindformers_glm.models.glm.config import ChatGLM2Config
from mindformers_glm.models.glm.weights import expected_shapes

TINY = ChatGLM2Config(
    num_layers=1, hidden_size=8, num_attention_heads=2, multi_query_group_num=1, kv_channels=4, ffn_hidden_size=6,
    padded_vocab_size=11,
)  # fmt: skip


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(TINY).items()}


def test_paths_are_taken_as_they_are(tmp_path, golden, arrays):
    save_ckpt(tmp_path / "x.ckpt", arrays)
    ours = save_directory(tmp_path / "ours", arrays, TINY)
    folders = [tmp_path / "x.ckpt", ours, golden / "hf_glm2_tiny", golden / "hf_glm2_tiny/bin"]
    folders.append(golden / "mindformers_r08/sharded/micro_dp1mp4/ckpt")  # rank_0 ... rank_3
    for path in folders:
        assert resolve_weights(path) == path
        assert resolve(str(path)).adapter is None
    assert resolve(ours).files.config == TINY
    assert resolve(golden / "hf_glm2_tiny").files.config.num_layers == 2
    assert resolve(golden / "hf_glm2_tiny/peft_lora").adapter == golden / "hf_glm2_tiny/peft_lora"


def test_names_are_looked_for_where_mindformers_put_them(tmp_path, monkeypatch, arrays):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="glm2_6b: the weights are not on this machine.*glm2_6b.ckpt"):
        resolve("glm2_6b")
    path = Path("checkpoint_download/glm2/glm2_6b.ckpt")
    save_ckpt(path, arrays)
    assert resolve_weights("glm2_6b") == path
    assert resolve_weights("mindspore/glm2_6b") == path


def test_unknown_names_get_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="glm2_6b"):
        resolve("glm2_6")
    with pytest.raises(CheckpointError, match="THUDM/chatglm2-6b"):
        resolve("THUDM/chatglm2-6b")


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(CheckpointError, match="no weights in this folder"):
        resolve(tmp_path)


def test_rearranged_rows_are_put_back_where_the_yaml_says_so(tmp_path, arrays):
    ours = save_directory(tmp_path / "ours", arrays, TINY)
    (tmp_path / "mf").mkdir()
    storage = Storage(qkv_concat=False, mlp_concat=False, use_rearrange_rope=True)
    run_plan(plan_job(ours, tmp_path / "mf/x.ckpt", "mindformers-1.5", write_storage=storage))
    for place in (tmp_path / "mf", tmp_path / "mf/x.ckpt"):
        source = resolve(place).read()
        for name, array in arrays.items():
            np.testing.assert_array_equal(source.read(name), array)


def test_the_packaged_model():
    found = resolve("glm2_tiny")
    assert found.files.config is not None
    assert found.files.tokenizer is not None
    assert len(found.read().names) == len(expected_shapes(found.files.config))
