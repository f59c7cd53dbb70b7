"""How kernels are compiled, found and switched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import mindspore
import pytest

from mindformers_glm.errors import ConfigError
from mindformers_glm.ops.kernels import build, library, structures

PORTABLE = build.variants()[-1:]


def run(root, folder, **environment):
    command = [sys.executable, str(root / "mindformers_glm/ops/kernels/build.py"), str(folder)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
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


def test_a_variant_that_fails_does_not_take_the_others_along(root, tmp_path):
    good, bad = build.variants()[-1], build.variants()[0]
    if good is bad:
        pytest.skip("one variant here")
    compiler, failed = tmp_path / "c++", tmp_path / "failed"
    compiler.write_text(
        "#!/bin/sh\n"
        f"case \"$*\" in *libglm_{bad.name}-*) : > {failed}; echo 'source.cpp:1: error: unknown flag'; exit 3;; esac\n"
        f'case "$*" in *libglm_*) while [ ! -e {failed} ]; do :; done;; esac\n'  # the others end after it
        'while [ $# -gt 1 ]; do shift; done; echo made > "$1"\n'
    )
    compiler.chmod(0o755)
    folder = tmp_path / "built"
    done = run(root, folder, CXX=str(compiler))
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(build.library_path(variant).name for variant in build.variants()[1:])
    assert done.returncode == 0 and good.name in done.stdout
    assert done.stderr == f"kernels: the compiler failed for {bad.name}: source.cpp:1: error: unknown flag\n"


def test_the_compiler_may_be_several_words(root, tmp_path):
    wrapper = tmp_path / "with space"
    wrapper.write_text('#!/bin/sh\nwhile [ $# -gt 1 ]; do last="$1"; shift; done; echo "$0" > "$1"\n')
    wrapper.chmod(0o755)
    folder = tmp_path / "built"
    launcher = tmp_path / "launcher"
    launcher.write_text('#!/bin/sh\nexec "$@"\n')
    launcher.chmod(0o755)
    done = run(root, folder, CXX=f"{launcher} '{wrapper}' -O1")
    assert done.returncode == 0, done.stderr
    assert build.library_path(PORTABLE[0], folder).read_text() == f"{wrapper}\n"


def test_what_a_killed_build_left_is_removed_after_an_hour(tmp_path, monkeypatch):
    old, recent = tmp_path / "tmpold", tmp_path / "tmprecent"
    for folder in (old, recent):
        folder.mkdir()
        (folder / "libglm_portable-00000000.so").touch()
    os.utime(old, (time.time() - 3700,) * 2)
    monkeypatch.setenv("CXX", "true")
    with pytest.raises(build.BuildError, match="failed for portable: exit status 0"):  # `true` compiles nothing
        build.build(tmp_path, chosen=PORTABLE)
    assert [path.name for path in tmp_path.iterdir()] == ["tmprecent"]


def test_a_library_brings_its_own_c_plus_plus_runtime():
    path = build.library_path(PORTABLE[0])
    if not path.exists():
        pytest.skip("the kernels are not built here")
    content = path.read_bytes()
    assert b"libc.so" in content and b"libstdc++.so" not in content and b"libgcc_s.so" not in content


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Libraries that are there and cannot be loaded; what was logged."""
    path, said = tmp_path / "libglm_portable-00000000.so", []
    path.write_text("no library")
    monkeypatch.setattr(build, "library_path", lambda variant: path)
    monkeypatch.setattr(library, "log_once", said.append)
    return said


def test_a_library_that_does_not_load_leaves_the_formulas(broken):
    assert library.load_variant.__wrapped__("auto") is None
    (line,) = broken
    assert "libglm_portable-00000000.so" in line and "formulas are used" in line and "\n" not in line


def test_a_chosen_library_that_does_not_load_is_an_error(broken):
    with pytest.raises(ConfigError, match="^GLM_KERNELS: got 'portable'. It does not load: "):
        library.load_variant.__wrapped__("portable")
    assert broken == []


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
    assert not os.environ.get("GLM_REQUIRE_ALL") or build.compiler() is None or library.library() is not None


@pytest.mark.parametrize("change", ["size", "offset", "missing"])
def test_a_library_with_other_structures_is_refused_with_one_line(change, monkeypatch):
    found = library.library()
    if found is None:
        pytest.skip("the kernels are not built here")
    told = found.glm_structures().decode()
    assert structures.differences(told) == []
    lines = told.splitlines()
    if change == "size":
        lines[0] = re.sub(r"^Linear (\d+)", lambda found: f"Linear {int(found[1]) + 8}", lines[0])
    elif change == "offset":
        lines[0] = lines[0].replace("scale:8:8", "scale:16:8")
    else:
        del lines[0]
    assert structures.differences("\n".join(lines)) == ["Linear"]
    monkeypatch.setattr(library, "differences", lambda told: ["Linear", "GlmStep"])
    with pytest.raises(ConfigError, match="it lays out Linear, GlmStep otherwise than this package"):
        library.load_variant.__wrapped__(build.variants()[-1].name)


@pytest.mark.slow
@pytest.mark.skipif(build.compiler() is None, reason="this machine has no C++ compiler")
def test_the_compiler_warns_of_nothing_and_the_format_is_the_agreed_one():
    assert build.check() == []


def test_not_more_threads_than_the_setting_or_the_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(library.os, "sched_getaffinity", lambda process: set(range(6)))
    for setting, share, expected in (
        (1, "4", 1),
        (30, "", 6),
        (30, "3", 3),
        (30, "9", 6),
        (30, "0", 1),
        (30, "3,2", 6),
    ):
        monkeypatch.setattr(mindspore, "get_context", lambda name, setting=setting: setting)
        monkeypatch.setenv("OMP_NUM_THREADS", share)
        assert library.num_threads() == expected
