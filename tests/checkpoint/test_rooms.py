"""The rooms of `checkpoint`: who imports whom, and old names of modules."""

import ast
import importlib
from pathlib import Path

import pytest

import mindformers_glm.checkpoint as checkpoint

ORDER = {"formats": 0, "load": 1, "convert": 2, "store": 2}


def test_rooms_import_their_own_and_earlier_ones():
    root, found = Path(checkpoint.__file__).parent, []
    for path in root.rglob("*/*.py"):
        room = path.parent.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            other = module.removeprefix(checkpoint.__name__ + ".").partition(".")[0]
            if isinstance(node, ast.ImportFrom) and other in ORDER and other != room and ORDER[other] >= ORDER[room]:
                found.append(f"{room}/{path.name} imports {module}")
    assert found == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("source", "load.source"),
        ("mindspore_ckpt", "formats.mindspore_ckpt"),
        ("saved", "store.saved"),
        ("job", "convert.job"),
    ],
)
def test_an_old_name_is_the_module_at_its_place(old, new):
    module = importlib.import_module(f"mindformers_glm.checkpoint.{old}")
    assert module is importlib.import_module(f"mindformers_glm.checkpoint.{new}")
    assert module.__spec__.name == f"mindformers_glm.checkpoint.{new}"


def test_what_others_call_is_in_the_room_itself():
    from mindformers_glm.checkpoint.convert import run_plan, save_directory  # noqa: PLC0415
    from mindformers_glm.checkpoint.load import load_into  # noqa: PLC0415
    from mindformers_glm.checkpoint.store import CheckpointStore  # noqa: PLC0415

    assert all(map(callable, (run_plan, save_directory, load_into, CheckpointStore)))
