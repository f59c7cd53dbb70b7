"""Ray: a cluster of two nodes writes the bytes that one process writes; what goes wrong there is one line."""

from __future__ import annotations

import importlib
import os
import random
import sys

import pytest

from mindformers_glm.cli.preprocess import main
from mindformers_glm.data.preprocess.handlers import HANDLERS
from mindformers_glm.data.preprocess.run import outputs_of, preprocess
from mindformers_glm.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer(root):
    from mindformers_glm.models.recognise import tokenizer_from

    return tokenizer_from(str(root / "mindformers_glm/assets/glm2_tiny"))


@pytest.fixture(scope="module")
def cluster(root):
    """Two nodes with a CPU each on this machine; their workers import the package of this checkout."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), *([before] if before else [])])
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def texts(path, count):
    random.seed(1)
    path.write_text("".join(f'{{"text": "{"春天来了" * random.randrange(0, 12)} {i}"}}\n' for i in range(count)))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GeneralPretrainHandler", "MegatronHandler"])
def test_two_nodes_write_the_bytes_of_one_process(cluster, tokenizer, tmp_path, name):
    from mindformers_glm.data.preprocess.ray_engine import RayEngine

    source, handler, engines = texts(tmp_path / "c.jsonl", 20_000), HANDLERS.get(name)(tokenizer, append_eod=True), []

    def engine(given):
        engines.append(RayEngine(given, workers=1, address=cluster.address))
        return engines[0]

    preprocess(source, tmp_path / "alone", handler)
    counts = preprocess(source, tmp_path / "spread", handler, engine=engine)
    for one, other in zip(*(outputs_of(tmp_path / name, handler) for name in ("alone", "spread")), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert counts.records == 20_000
    assert engines[0].workers == 2
    assert len(engines[0].chunks_of) == 2, "both nodes have tokenised"


@pytest.mark.slow
def test_the_command_and_a_record_that_cannot_be_used(cluster, root, tmp_path):
    source = texts(tmp_path / "c.jsonl", 3_000)
    words = ["--tokenizer-name-or-path", str(root / "mindformers_glm/assets/glm2_tiny"), "--input", str(source)]
    main([*words, "--output-prefix", str(tmp_path / "a"), "--workers", "2"])
    main([*words, "--output-prefix", str(tmp_path / "b"), "--engine", "ray", "--address", cluster.address])
    for ending in ("bin", "idx"):
        written = [(tmp_path / f"{name}_text_document.{ending}").read_bytes() for name in ("a", "b")]
        assert written[0] == written[1]
    with source.open("a") as file:
        file.write('{"content": "no text"}\n')
    with pytest.raises(DataError, match="line 3001 has no text under 'text'"):
        main([*words, "--output-prefix", str(tmp_path / "c"), "--engine", "ray", "--address", cluster.address])
    assert not list(tmp_path.glob("*c_text*"))


@pytest.mark.slow
def test_no_cluster_at_the_address(tokenizer, monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    from mindformers_glm.data.preprocess.ray_engine import RayEngine

    ray.shutdown()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with pytest.raises(ConfigError, match="No Ray cluster answers there"):
        RayEngine(HANDLERS.get("GeneralPretrainHandler")(tokenizer), workers=1, address="ray://127.0.0.1:1")


def test_without_ray_the_extra_is_named(monkeypatch, root, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    importlib.import_module("mindformers_glm.data.preprocess.ray_engine")
    words = ["--tokenizer-name-or-path", str(root / "mindformers_glm/assets/glm2_tiny"), "--engine", "ray"]
    with pytest.raises(ConfigError, match=r"mindformers_glm\[ray\]"):
        main([*words, "--input", str(texts(tmp_path / "c.jsonl", 3)), "--output-prefix", str(tmp_path / "a")])
