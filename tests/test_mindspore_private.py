"""What this package takes from MindSpore: public modules anywhere, everything else through mindspore_private."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mindformers_glm import mindspore_private

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "mindformers_glm/mindspore_private.py"
PUBLIC = {
    "mindspore",
    "mindspore.common.initializer",
    "mindspore.communication",
    "mindspore.dataset",
    "mindspore.mindrecord",
    "mindspore.nn",
    "mindspore.ops",
}
UNSTABLE_ATTRIBUTES = {"compile_cache"}  # of Cells, without an underscore but in no documentation
MENTIONED = ("mindspore", *UNSTABLE_ATTRIBUTES)  # a file without these words has nothing to look for


def around(path: Path) -> list[str]:
    """Every private or unstable name of MindSpore that a file takes without mindspore_private."""
    text, found = path.read_text(encoding="utf-8"), []
    for node in ast.walk(ast.parse(text)) if any(word in text for word in MENTIONED) else ():
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mindspore":
            private = [alias.name for alias in node.names if alias.name.startswith("_") or alias.name == "functional"]
            if node.module not in PUBLIC or private:
                found.append(f"{path.name}:{node.lineno} {node.module} {' '.join(private)}".strip())
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            names = [name for name in names if name.split(".")[0] == "mindspore" and name not in PUBLIC]
            found += [f"{path.name}:{node.lineno} {name}" for name in names]
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            private = owner in ("ms", "nn", "ops", "mindspore") and node.attr.startswith("_")
            if private and not node.attr.startswith("__") or node.attr in UNSTABLE_ATTRIBUTES:
                found.append(f"{path.name}:{node.lineno} {owner}.{node.attr}")
    return found


@pytest.mark.parametrize(
    "text", ["from mindspore._c_expression import X", "import mindspore.train.serialization", "cell.compile_cache",
             "from mindspore.ops import functional", "import mindspore as ms\nms._x()"],
)  # fmt: skip
def test_a_way_around_is_seen(tmp_path, text):
    (tmp_path / "file.py").write_text(text + "\n")
    assert len(around(tmp_path / "file.py")) == 1


@pytest.mark.usefixtures("no_collection")
def test_nothing_goes_around():
    paths = [path for folder in ("mindformers_glm", "tools", "demo") for path in (ROOT / folder).rglob("*.py")]
    assert [line for path in paths if path != HOME for line in around(path)] == []


@pytest.mark.parametrize("name", mindspore_private.NAMES)
def test_this_mindspore_has_it(name):
    assert getattr(mindspore_private, name) is not None


def test_what_is_missing_is_named_with_its_place(monkeypatch):
    assert mindspore_private.missing() == []
    monkeypatch.setitem(mindspore_private.NAMES, "bfloat16", ("mindspore.common.np_dtype", "bfloat17"))
    monkeypatch.setitem(mindspore_private.NAMES, "mind_ir_pb2", ("mindspore.train.no_such_module", None))
    assert mindspore_private.missing() == [
        "bfloat16: mindspore.common.np_dtype.bfloat17",
        "mind_ir_pb2: mindspore.train.no_such_module",
    ]


def test_what_depends_on_how_a_name_behaves():
    import mindspore as ms
    import numpy as np
    from mindspore import nn

    class Twice(nn.Cell):
        def construct(self, x):
            return x * 2

    cell = Twice()
    ms.set_context(mode=ms.GRAPH_MODE)
    for length in (2, 3):
        cell(ms.Tensor(np.ones(length, np.float32)))
    assert mindspore_private.compiled_graphs(cell) == 2
    mindspore_private.forget_graphs(cell)
    assert mindspore_private.compiled_graphs(cell) == 0
    assert np.dtype(mindspore_private.bfloat16) == ms.Tensor([1.0], ms.bfloat16).asnumpy().dtype


def test_a_name_that_is_not_listed_is_none():
    with pytest.raises(AttributeError, match="no_such_name"):
        mindspore_private.no_such_name  # noqa: B018
