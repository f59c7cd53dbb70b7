"""Who may import whom: the rows are those of the import-linter contract in pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LAYERS = next(contract["layers"] for contract in CONTRACTS if contract["id"] == "rows")
ROWS = [set(re.split(r"[ :|]+", layer)) for layer in reversed(LAYERS)]
ROWS[-1].add("__init__")  # it names what the others hold
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
PACKAGE = ROOT / "mindformers_glm"
IMPORT_PATHS = {"trainer", "core", "tools", "dataset", "auto_class", "pet"}  # of MindFormers, forwarding
ONLY_IN_TESTS = {"torch", "transformers", "peft"}
REFUSED_FILES = {"utils.py", "common.py", "helpers.py"}


@pytest.fixture(scope="module", autouse=True)
def forgotten(no_collection):
    """The trees of the whole package are not kept for the tests of other files."""
    yield
    for kept in (syntax, nodes, nodes_at_run_time):
        kept.cache_clear()


@cache
def syntax(path: Path) -> ast.Module:
    """The tree of a file, read once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Every node of a file."""
    return list(ast.walk(syntax(path)))


@cache
def nodes_at_run_time(path: Path) -> list[ast.AST]:
    """Every node but those that only type checkers see."""
    return list(_outside_type_checking(syntax(path)))


def imported_modules(path: Path, *, at_run_time: bool = False) -> list[tuple[int, str]]:
    """Line and name of each import; `at_run_time` without those that only type checkers see."""
    found = []
    for node in nodes_at_run_time(path) if at_run_time else nodes(path):
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
        for line, module in imported_modules(path, at_run_time=True):
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
        for node in nodes(path)
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
        for node in nodes(path):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if name in setters:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} calls {name}")
    assert found == []


def test_no_file_without_a_subject():
    assert [str(path) for path in PACKAGE.rglob("*.py") if path.name in REFUSED_FILES] == []


def circles(package: Path) -> list[list[str]]:
    """Groups of files that import one another, also inside functions; what only type checkers see does not count."""
    files = {path.relative_to(package).with_suffix("").as_posix(): path for path in sorted(package.rglob("*.py"))}
    edges = {name: _imported_files(path, package, files) - {name} for name, path in files.items()}
    reach: dict[str, set[str]] = {}
    for name in edges:
        seen, waiting = set(), list(edges[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += edges[other]
        reach[name] = seen
    groups = {
        tuple(sorted({name, *(o for o in reach[name] if name in reach[o])})) for name in edges if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def _imported_files(path: Path, package: Path, files: dict[str, Path]) -> set[str]:
    found = set()
    for node in nodes_at_run_time(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package.name:
            base = "/".join(node.module.split(".")[1:])
            for alias in node.names:
                place = f"{base}/{alias.name}".strip("/")
                package_file = f"{place}/__init__" if f"{place}/__init__" in files else f"{base}/__init__".strip("/")
                found.add(next((name for name in (place, base) if name in files), package_file))
    return found & set(files)


def _outside_type_checking(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _outside_type_checking(child)


def test_a_circle_is_found(tmp_path):
    package = tmp_path / PACKAGE.name
    for name, text in {
        "a.py": f"from {PACKAGE.name}.b import x\n",
        "b.py": f"def f():\n    from {PACKAGE.name} import c\n",
        "c.py": f"from {PACKAGE.name}.a import y\n",
        "d.py": f"from {PACKAGE.name} import a\n",
    }.items():
        package.mkdir(exist_ok=True)
        (package / name).write_text(text)
    assert circles(package) == [["a", "b", "c"]]


def test_no_circle_between_files():
    assert circles(PACKAGE) == []


def test_layers_have_names_in_models_only():
    """Others name layers as users write them, or as MindFormers 0.7 meant them; the reference network knows nothing."""
    names = re.compile(r"query_key_value|dense_h_to_4h|dense_4h_to_h|input_layernorm|post_attention_layernorm")
    users = {"adapters/config.py", "cli/documents/quant_weights.py", "cli/quantize.py", "config/legacy.py"}
    sources = [path for kind in ("*.py", "*.cpp", "*.h") for path in PACKAGE.rglob(kind)]
    found = {path.relative_to(PACKAGE).as_posix() for path in sources if names.search(path.read_text(encoding="utf-8"))}
    assert {name for name in found if name.split("/")[0] not in ("models", "conformance")} <= users


def test_one_road_leads_to_a_loaded_network():
    """Who puts weights into a network: assembly, the resume of a run, and the export of a merged copy."""
    allowed = {"assembly", "checkpoint/load/into.py", "train/state.py", "export/export.py"}
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load_into"
    }
    assert {name for name in found if name not in allowed and name.split("/")[0] not in allowed} == set()


def test_the_document_shows_every_room():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {name for name in RANK if not name.startswith("__")} - IMPORT_PATHS
    assert {name for name in rooms if not re.search(rf"\b{name}\b", text)} == set()


HOMES = {  # a piece of knowledge: how it would be written a second time, and where it may be
    "the ignored label": (r"-100\b", {"labels", "serving/http/sampling"}),  # the other is OpenAI's bias of a token
    "the divisor of the loss": (r"COUNT_EPSILON =", {"labels"}),
    "ids that end a reply": (r"def stop_ids", {"tokenizers", "generation/config"}),
    "what optimizers call their states": (r"[\"'](adam_[mv]|moments?[12]?|exp_avg\w*)\.?[\"']", {"optim"}),
    "whether a vocabulary belongs to a network": (r"UNUSED_IDS", {"tokenizers/chatglm"}),
    "how many parameters a model has": (r"sum\(\(?\w*param\w*\.size", {"models/text_generation"}),
    "how many ranks there are": (r"_variable\([\"'](RANK_SIZE|MS_WORKER_NUM)[\"']|get_group_size\(", {"runtime"}),
}


@pytest.mark.parametrize("what", HOMES)
def test_each_piece_of_knowledge_has_one_home(what):
    pattern, homes = HOMES[what]
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if re.search(pattern, path.read_text(encoding="utf-8")) and re.search(pattern, _code(path)):
            found.add(next((home for home in homes if name == home or name.startswith(f"{home}/")), name))
    assert found == homes


def _code(path: Path) -> str:
    """A file without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))  # of its own: it is changed
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)
