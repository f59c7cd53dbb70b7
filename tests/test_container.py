"""Dockerfile and compose.yaml: nobody builds them here, so what can be checked without Docker is."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from mindformers_glm.cli.serve import parser


def instructions(root):
    text = re.sub(r"\\\n", " ", (root / "Dockerfile").read_text(encoding="utf-8"))
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_container_serves_as_a_user_of_its_own(root):
    found = instructions(root)
    names = [name for name, _ in found]
    assert names.index("USER") < names.index("ENTRYPOINT") and names.count("FROM") == 2
    command = json.loads(next(words for name, words in found if name == "CMD"))
    assert command[0] == "serve"
    chosen = parser().parse_args(command[1:])
    assert str(chosen.port) in next(words for name, words in found if name == "EXPOSE")


def test_extras_that_are_installed_exist(root):
    section = (root / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = re.findall(r"^([\w-]+) = ", section, re.M)
    (line,) = (words for name, words in instructions(root) if name == "RUN" and "whl" in words)
    assert set(re.search(r"\)\[([^\]]*)\]", line).group(1).split(",")) <= set(extras)


def test_compose_publishes_on_this_machine_alone_and_asks_for_keys(root):
    service = yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))["services"]["glm"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    words = [re.sub(r"\$\{MODEL:-(.*)\}", r"\1", word) for word in service["command"]]
    chosen = parser().parse_args(words[1:])
    assert chosen.host == "0.0.0.0" and "/run/secrets/keys" in str(vars(chosen))


def test_nothing_of_the_machine_is_copied(root):
    ignored = (root / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "**/*.so"} <= set(ignored)
    compose = yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))
    given = [compose["secrets"]["keys"]["file"], compose["services"]["glm"]["volumes"][0].partition(":")[0]]
    assert {name.removeprefix("./") for name in given} <= set(ignored)  # keys and models stay out of the image's layers


@pytest.mark.parametrize("name", ["serving.md", "serving_CN.md"])
def test_the_guide_names_them(root, name):
    assert "docker compose up" in (root / "docs" / name).read_text(encoding="utf-8")
