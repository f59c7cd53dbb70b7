"""Who may import whom: a module imports its own row of the table in CONTRIBUTING.md and the rows above it."""

from __future__ import annotations

import ast
from pathlib import Path

ROWS = [
    {"errors", "files", "log", "runtime", "signals", "version", "requirements", "mindspore_private"},
    {"registry", "config"},
    {"tokenizers", "ops", "parallel", "optim"},
    {"models", "adapters", "data"},
    {"checkpoint", "generation"},
    {"assembly"},
    {"train", "evaluation", "quantization", "export"},
    {
        "auto",
        "pipeline",
        "serving",
        "benchmark",
        "components",
        "trainer",
        "core",
        "tools",
        "dataset",
        "auto_class",
        "pet",
    },
    {"cli", "__init__", "__main__"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
PACKAGE = Path(__file__).resolve().parents[1] / "mindformers_glm"
ONLY_IN_TESTS = {"torch", "transformers", "peft"}
REFUSED_FILES = {"utils.py", "common.py", "helpers.py"}


def imported_modules(path: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.append((node.lineno, node.module))
            if node.module == PACKAGE.name:
                found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


def climbing_imports(package: Path) -> list[str]:
    """Every import of a later row, as `file:line imports name`; a top-level name outside the table is one too."""
    found = []
    for path in sorted(package.rglob("*.py")):
        here = path.relative_to(package).parts[0].removesuffix(".py")
        place = path.relative_to(package).as_posix()
        if here not in RANK:
            found.append(f"{place} is in no row of the table")
            continue
        for line, module in imported_modules(path):
            parts = module.split(".")
            if parts[0] == package.name and len(parts) > 1 and RANK.get(parts[1], len(ROWS)) > RANK[here]:
                found.append(f"{place}:{line} imports {parts[1]}")
    return found


def test_a_climbing_import_is_named(tmp_path):
    package = tmp_path / PACKAGE.name
    for name, text in {
        "models/glm.py": f"from {PACKAGE.name}.train import trainer\n",
        "train/trainer.py": f"from {PACKAGE.name}.models import glm\n",
        "ops/a.py": f"from {PACKAGE.name} import data\nimport {PACKAGE.name}.cli\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert climbing_imports(package) == [
        "models/glm.py:1 imports train",
        "ops/a.py:1 imports data",
        "ops/a.py:2 imports cli",
    ]


def test_imports_only_go_down():
    assert climbing_imports(PACKAGE) == []


def test_no_relative_imports():
    relative = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_torch_and_transformers_are_not_imported_at_run_time():
    found = [
        f"{path.relative_to(PACKAGE)}:{line} imports {module}"
        for path in PACKAGE.rglob("*.py")
        for line, module in imported_modules(path)
        if module.split(".")[0] in ONLY_IN_TESTS
    ]
    assert found == []


def test_only_runtime_sets_the_context():
    setters = {"set_context", "set_device", "set_auto_parallel_context"}
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "runtime.py" and path.parent == PACKAGE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in setters:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} calls {name}")
    assert found == []


def test_no_file_without_a_subject():
    assert [str(path) for path in PACKAGE.rglob("*.py") if path.name in REFUSED_FILES] == []
