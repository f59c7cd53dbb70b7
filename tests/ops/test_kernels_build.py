"""How kernels are compiled, found and switched."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels import build, library

PORTABLE = build.variants()[-1:]


def run(root, folder, **environment):
    command = [sys.executable, str(root / "mindformers_glm/ops/kernels/build.py"), str(folder)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(build.compiler() is None, reason="this machine has no C++ compiler")
def test_a_library_belongs_to_its_sources_and_replaces_older_ones(tmp_path):
    old = tmp_path / "libglm_portable-00000000.so"
    old.touch()
    (made,) = build.build(tmp_path, chosen=PORTABLE)
    assert made == build.library_path(PORTABLE[0], tmp_path) and build.digest() in made.name
    assert sorted(tmp_path.iterdir()) == [made]  # nothing half-made, nothing out of date


def test_without_a_compiler_one_line_says_what_follows(root, tmp_path):
    done = run(root, tmp_path / "built", PATH=str(tmp_path), CXX="")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "no C++ compiler" in done.stderr and "on plain formulas" in done.stderr


def test_what_is_there_is_not_built_again(root):
    if not build.library_path(build.variants()[0]).exists():
        pytest.skip("the kernels are not built here")
    done = run(root, build.FOLDER, PATH="/nowhere", CXX="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_compiler_that_fails_is_shown(root, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'source.cpp:1: error: no such thing'\nexit 3\n")
    compiler.chmod(0o755)
    done = run(root, tmp_path / "built", CXX=str(compiler))
    assert done.returncode == 1 and "error: no such thing" in done.stderr
    assert not list((tmp_path / "built").iterdir())


@pytest.mark.parametrize("name", ["neon", "AVX2", "1"])
def test_an_unknown_variant_is_refused(name, monkeypatch):
    monkeypatch.setenv(library.SWITCH, name)
    with pytest.raises(ConfigError, match=f"GLM_KERNELS: got '{name}'. Use auto, off, or one of"):
        library.library()


def test_off_is_off(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "off")
    assert library.library() is None and library.library_file() is None


def test_in_ci_the_kernels_are_there():
    """A machine with a compiler that tests without kernels would prove nothing about them."""
    if not os.environ.get("CI"):
        pytest.skip("looked at in CI only")
    assert build.compiler() is None or library.library() is not None


def test_not_more_threads_than_the_setting_or_the_processors(monkeypatch):
    assert 1 <= library.num_threads() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(library.ms, "get_context", lambda name: 1)
    assert library.num_threads() == 1
