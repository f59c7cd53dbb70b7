"""Lite's own files: conversion and quantisation of glm2_tiny, measured against float32."""

from __future__ import annotations

import json

import pytest

from mindformers_glm import AutoModel, AutoTokenizer
from mindformers_glm.errors import CheckpointError, ConfigError, DeviceError
from mindformers_glm.export.export import export_model
from mindformers_glm.export.lite.convert import convert_lite
from mindformers_glm.export.lite.engine import open_lite
from mindformers_glm.export.manifest import find_manifest
from mindformers_glm.export.plan import ExportPlan


def export(folder, **options):
    plan = ExportPlan(prefill=folder / "tiny_prefill", increment=None, dynamic=True, **options)
    export_model(AutoModel.from_pretrained("glm2_tiny"), plan, tokenizer=AutoTokenizer.from_pretrained("glm2_tiny"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(tmp_path_factory.mktemp("tiny"))


def test_unknown_or_impossible(tmp_path, lite_python):
    with pytest.raises(ConfigError, match="quantization"):
        convert_lite(tmp_path, quantization="int3")
    with pytest.raises(CheckpointError, match="for_lite_2_0"):
        convert_lite(export(tmp_path, for_lite_2_0=False), lite_python=lite_python)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, size, same, error", [("none", 1.01, 1.0, 1e-4), ("float16", 0.51, 0.98, 0.05), ("mixed", 0.35, 0.9, 0.5),
                                ("dynamic", 0.35, 0.85, 3.0)],
)  # fmt: skip
def test_quantisations(folder, lite_python, kind, size, same, error):
    report = convert_lite(folder, quantization=kind, lite_python=lite_python, threads=1)
    assert report.bytes <= size * report.float32_bytes
    assert report.same_top >= same * report.tokens
    assert report.largest_error <= error
    name = report.file.removesuffix(".ms")
    assert json.loads((folder / f"{name}_report.json").read_text())["same_top"] == report.same_top
    with open_lite(folder / report.file, lite_python=lite_python) as lite:
        assert any(graph.name == report.file for graph in lite.manifest.graphs)


@pytest.mark.slow
def test_what_lite_cannot_load_is_removed(folder, lite_python):
    with pytest.raises(DeviceError, match="MindSpore Lite"):
        convert_lite(folder, quantization="weight8", lite_python=lite_python)
    assert not (folder / "tiny_weight8.ms").exists()
    assert "tiny_weight8.ms" not in [graph.name for graph in find_manifest(folder)[0].graphs]
