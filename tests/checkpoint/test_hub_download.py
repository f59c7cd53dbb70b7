"""Downloads by name against a hub on loopback."""

import socket
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hub_server import Hub
from safetensors.numpy import save

from mindformers_glm import AutoConfig, AutoModel, AutoTokenizer
from mindformers_glm.checkpoint.convert.verify import verify
from mindformers_glm.checkpoint.load.hub import download_model, wanted
from mindformers_glm.checkpoint.load.resolve import resolve, resolve_weights
from mindformers_glm.checkpoint.load.source import read_weights
from mindformers_glm.errors import CheckpointError, ConfigError, DeviceError

pytest.importorskip("huggingface_hub")
REPOSITORY = "THUDM/chatglm2-6b"


@pytest.fixture
def files(golden) -> dict[str, bytes]:
    folder = golden / "hf_glm2_tiny"
    return {
        "config.json": (folder / "config.json").read_bytes(),
        "model.safetensors": (folder / "model.safetensors").read_bytes(),
        "modeling_chatglm.py": b"import os; os.system('touch OWNED')",
        "README.md": b"hello",
    }


@pytest.fixture
def hub(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("MINDFORMERS_GLM_DOWNLOAD")
    with Hub(REPOSITORY, files) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize("switch", ["MINDFORMERS_GLM_DOWNLOAD=0", "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=true", ""])
def test_nothing_is_fetched_where_it_is_switched_off(hub, monkeypatch, switch):
    name, _, value = switch.partition("=")
    if name:
        monkeypatch.setenv(name, value)
    with pytest.raises(CheckpointError, match="allow the download of THUDM/chatglm2-6b") as caught:
        resolve("glm2_6b", download=None if switch else False)
    assert "\n" not in str(caught.value)
    assert hub.requests == []


def test_an_id_of_another_owner_may_be_a_mistyped_path(hub):
    with pytest.raises(CheckpointError, match="no such file or folder.*download=True"):
        resolve("output/chatglm2-6b")
    assert hub.requests == []


def test_naming_a_public_model_fetches_it_and_says_its_size_first(hub, caplog):
    model = AutoModel.from_pretrained("glm2_6b", trust_remote_code=True, revision="v1.0", torch_dtype="float32")
    assert len(model.transformer.encoder.layers) == 2
    size = sum(len(hub.files[name]) for name in ("config.json", "model.safetensors"))
    assert f"Downloading THUDM/chatglm2-6b: 2 files, {size:,} bytes, to checkpoint_download/glm2/glm2_6b" in caplog.text
    assert any("/revision/v1.0" in request for request in hub.requests)
    requests = len(hub.requests)
    again = AutoModel.from_pretrained("THUDM/chatglm2-6b", local_files_only=True)  # the id is the same model
    assert len(again.transformer.encoder.layers) == 2
    assert AutoConfig.from_pretrained("THUDM/chatglm2-6b").num_layers == 2
    assert len(hub.requests) == requests


def test_a_tokenizer_is_fetched_without_its_weights(hub, glm2_vocab):
    hub.files["tokenizer.model"] = Path(glm2_vocab).read_bytes()
    for name in ("glm2_6b", REPOSITORY):
        assert AutoTokenizer.from_pretrained(name).vocab_size == 64794
    assert "model.safetensors" not in hub.sent
    with pytest.raises(CheckpointError, match="switched off"):
        resolve("glm2_6b", download=False)


def test_a_registered_name_is_fetched_checked_and_used(hub):
    found = resolve("glm2_6b")
    assert found.weights == Path("checkpoint_download/glm2/glm2_6b")
    assert sorted(path.name for path in found.weights.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]
    assert found.files.config.num_layers == 2
    assert verify(found.weights).faults == []
    assert len(read_weights(found.weights).names) == 17
    requests = len(hub.requests)
    assert resolve_weights("glm2_6b") == found.weights  # from now on without the hub
    assert len(hub.requests) == requests


def test_accepting_every_owner_in_the_environment(hub, monkeypatch):
    monkeypatch.setenv("MINDFORMERS_GLM_DOWNLOAD", "1")
    hub.name = "someone/chatglm2-mine"
    assert resolve_weights(hub.name) == Path("checkpoint_download/hub/someone--chatglm2-mine")


def test_other_places_are_refused(hub):
    with pytest.raises(ConfigError, match="download: got 'mirror'"):
        resolve("glm2_6b", download="mirror")


def test_an_interrupted_download_goes_on(hub):
    numbers = np.random.default_rng(0).integers(0, 100, 32_000_000).astype(np.int8)
    hub.files["model.safetensors"] = save({"transformer.output_layer.weight": numbers})
    hub.cut["model.safetensors"] = 25_000_000  # the package writes blocks of 10 MB
    try:
        download_model(REPOSITORY, "here")
    except CheckpointError:  # a version that does not try again by itself
        assert not Path("here").exists()
        download_model(REPOSITORY, "here")
    assert verify("here").faults == []
    assert hub.sent["model.safetensors"] < 45_000_000  # what had come was not sent again


def test_wrong_bytes_are_refused_and_removed(hub):
    hub.wrong.add("model.safetensors")
    with pytest.raises(CheckpointError, match="not those that the hub announced"):
        download_model(REPOSITORY, "here")
    assert not Path("here").exists()
    hub.wrong.clear()
    download_model(REPOSITORY, "here")
    assert verify("here").faults == []


def test_wrong_bytes_of_a_small_file(hub):
    hub.wrong.add("config.json")
    with pytest.raises(CheckpointError, match="config.json"):
        download_model(REPOSITORY, "here")


def test_a_repository_that_is_not_there(hub):
    with pytest.raises(CheckpointError, match="could not be fetched") as caught:
        download_model("THUDM/nothing", "here")
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(
        CheckpointError, match=f"could not be fetched from the hub .http://127.0.0.1:{port}.*HF_ENDPOINT"
    ):
        download_model(REPOSITORY, "here")


def test_modelscope_is_tried_where_the_hub_cannot_be_reached(monkeypatch, tmp_path, files, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINDFORMERS_GLM_DOWNLOAD")

    def unreachable(*_):
        raise module.Unreachable("huggingface.co: no route")

    def fetched(repository, work, revision, only):
        for name in ("config.json", "model.safetensors"):
            (work / name).write_bytes(files[name])
        return [module.RemoteFile(name, len(files[name]), None, None) for name in ("config.json", "model.safetensors")]

    from mindformers_glm.checkpoint.load import hub as module

    monkeypatch.setattr(module, "from_hub", unreachable)
    monkeypatch.setattr(module, "from_modelscope", fetched)
    assert verify(resolve("glm2_6b").weights).faults == []
    assert "hub cannot be reached (huggingface.co: no route); trying modelscope" in caplog.text
    monkeypatch.setattr(module, "from_modelscope", unreachable)
    with pytest.raises(CheckpointError, match="could not be fetched from the hub and ModelScope") as caught:
        resolve("glm3_6b")
    assert "\n" not in str(caught.value)
    assert not Path("checkpoint_download/glm3/glm3_6b").exists()


def test_a_repository_without_weights(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(CheckpointError, match="has no weights"):
        download_model(REPOSITORY, "here")


def test_a_disk_that_is_too_small(hub, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match="1,000 free"):
        download_model(REPOSITORY, "here")


def test_which_files_are_wanted():
    names = ["config.json", "modeling.py", "model-1.safetensors", "model.safetensors.index.json", "pytorch_model.bin"]
    assert wanted(names) == ["config.json", "model-1.safetensors", "model.safetensors.index.json"]
    assert wanted(
        ["pytorch_model-1.bin", "pytorch_model.bin.index.json", "x/pytorch_model.bin", "tokenizer.model"]
    ) == [
        "tokenizer.model",
        "pytorch_model-1.bin",
        "pytorch_model.bin.index.json",
    ]


def test_the_extra_is_named_where_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DeviceError, match=r"pip install 'mindformers_glm\[hub\]'"):
        download_model(REPOSITORY, tmp_path / "x")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(DeviceError, match=r"mindformers_glm\[modelscope\]"):
        download_model(REPOSITORY, tmp_path / "x", source="modelscope")


def test_modelscope_by_its_package(monkeypatch, tmp_path, files):
    """The package itself is an extra: its two functions are played here."""
    import hashlib

    asked = []

    class HubApi:
        def get_model_files(self, repository, revision=None, recursive=False):
            asked.append(repository)
            return [
                {"Path": name, "Size": len(data), "Sha256": hashlib.sha256(data).hexdigest()}
                for name, data in files.items()
            ]

    def snapshot_download(repository, revision=None, local_dir=None, allow_patterns=None):
        for name in allow_patterns:
            Path(local_dir, name).write_bytes(files[name])

    for name, content in {
        "modelscope": {},
        "modelscope.hub": {},
        "modelscope.hub.api": {"HubApi": HubApi},
        "modelscope.hub.snapshot_download": {"snapshot_download": snapshot_download},
    }.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    out = resolve(REPOSITORY, download="modelscope").weights
    assert asked == ["ZhipuAI/chatglm2-6b"]
    assert verify(out).faults == []
    assert not (out / "modeling_chatglm.py").exists()
