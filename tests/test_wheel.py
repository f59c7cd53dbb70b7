"""The wheel, installed into an environment of its own and used far from the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

SOURCES = ("mindformers_glm", "configs", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def done(command, folder: Path, *, text: str = "") -> str:
    """What a command prints; it must end well. No variable leads it back to the checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        list(map(str, command)), cwd=folder, env={**environment, "GLOG_v": "3"}, input=text,
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def copy_of_sources(root: Path, folder: Path) -> Path:
    for name in SOURCES:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """Built as pip builds it; kernels that the checkout has compiled already are taken over."""
    folder = tmp_path_factory.mktemp("sources")
    done(
        [*PIP, "wheel", copy_of_sources(root, folder), "--no-deps", "--no-build-isolation", "-q", "-w", "made"], folder
    )
    return next(folder.glob("made/*.whl"))


@pytest.fixture(scope="module")
def program(wheel, tmp_path_factory) -> Path:
    """mindformers-glm in a new environment, which borrows the packages that the wheel needs from this one."""
    place = tmp_path_factory.mktemp("environment") / "venv"
    done([sys.executable, "-m", "venv", "--without-pip", place], place.parent)
    python = place / "bin/python"
    library = next(place.glob("lib/python3*/site-packages"))
    (library / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not followed
    done([*PIP, "--python", python, "install", "--no-deps", "-q", wheel], place.parent)
    found = done([python, "-c", "import mindformers_glm; print(mindformers_glm.__file__)"], place.parent)
    assert Path(found.strip()).is_relative_to(library)
    return place / "bin/mindformers-glm"


def test_what_the_wheel_holds(root, wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = {path.relative_to(root).as_posix() for path in root.glob("configs/**/*.yaml")}
    assert configs <= {name.removeprefix("mindformers_glm/") for name in names}
    for name in ("py.typed", "assets/glm2_tiny/model.safetensors", "ops/kernels/source/linear.cpp"):
        assert f"mindformers_glm/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/", "demo/"))]
    native = [name for name in names if name.endswith(".so")]
    assert wheel.name.endswith("-none-any.whl") == (not native)
    digests = {re.search(r"-(\w{8})\.so$", name).group(1) for name in native}
    assert len(digests) <= 1, "libraries of other sources"


def test_train_chat_and_convert_far_from_the_checkout(program, tmp_path):
    rows = [{"content": f"类型#裙*颜色#红色*图案#{i}", "summary": f"红色的裙子有图案{i}。"} for i in range(8)]
    (tmp_path / "train.json").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    settings = ["--runner_config.batch_size", "4", "--runner_config.epochs", "1", "--runner_config.sink_mode", "False"]
    words = ["run", "--config", "glm2_tiny", "--run_mode", "finetune", "--train_dataset_dir", "train.json", *settings]
    done([program, *words], tmp_path)
    assert (
        len(re.findall(r"loss:\[", next((tmp_path / "output/log").rglob("info.log")).read_text(encoding="utf-8"))) == 2
    )
    network = next((tmp_path / "output/checkpoint_network").glob("rank_0/*.ckpt"))
    resolved = "output/finetune_config.yaml"
    done([program, "convert", "--input_path", network, "--output_path", "folder", "--config", resolved], tmp_path)
    assert {"model.safetensors", "config.yaml"} <= {path.name for path in (tmp_path / "folder").iterdir()}
    answer = done([program, "chat", "--model", "folder", "--tokenizer", "glm2_tiny", "--max_new_tokens", "8",
                   "--temperature", "0"], tmp_path, text="你好\n")  # fmt: skip
    assert answer.strip()


def test_configurations_and_assets_are_found_by_name(program, tmp_path):
    script = (
        "from importlib.resources import files; from mindformers_glm import AutoConfig, AutoTokenizer\n"
        "assert (files('mindformers_glm.configs') / 'base/run.yaml').is_file()\n"
        "assert AutoTokenizer.from_pretrained('glm2_tiny')('你')['input_ids']\n"
        "print(AutoConfig.from_pretrained('glm2_6b').num_layers)"
    )
    assert done([program.parent / "python", "-c", script], tmp_path).split()[0] == "28"
    assert "run_glm2_6b_finetune" in done([program, "plan"], tmp_path)


@pytest.mark.slow
def test_the_source_distribution_builds_a_wheel_with_kernels(root, tmp_path):
    (tmp_path / "in").mkdir()
    copy_of_sources(root, tmp_path / "in")
    for name in ("README_CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "run_mindformer.py"):
        shutil.copy(root / name, tmp_path / "in" / name)
    done([sys.executable, "setup.py", "-q", "sdist", "-d", tmp_path / "made"], tmp_path / "in")
    archive = next((tmp_path / "made").glob("*.tar.gz"))
    done([*PIP, "wheel", archive, "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path / "out"], tmp_path)
    names = zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))).namelist()
    assert "mindformers_glm/configs/base/run.yaml" in names
    compiler = next((found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))), None)
    assert any(name.endswith(".so") for name in names) == (compiler is not None)


@pytest.mark.slow
def test_an_installation_with_all_its_packages(wheel, tmp_path):
    """The honest one: a new environment, nothing borrowed, packages from the index that pip is set to."""
    done([sys.executable, "-m", "venv", tmp_path / "venv"], tmp_path)
    done([tmp_path / "venv/bin/pip", "install", "-q", wheel], tmp_path)
    program = tmp_path / "venv/bin/mindformers-glm"
    assert done([program, "chat", "--max_new_tokens", "8", "--temperature", "0"], tmp_path, text="你好\n").strip()
    test_train_chat_and_convert_far_from_the_checkout(program, tmp_path)
