"""The architecture, held by a test: who may import whom, and what no module does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: A module imports from its own layer and those before it.
LAYERS = (
    ("errors", "storage", "registry", "provenance", "statistics", "workspace", "adapters_zoo"),
    ("tasks",),
    ("backbone",),
    ("adapters",),
    ("training",),
    ("zoo",),
    ("transfer",),
    ("selection",),
    ("fusion",),
    ("evaluation",),
    ("cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = {
    **{f"adaptmtl.{'.'.join(p.relative_to(ROOT / 'adaptmtl').with_suffix('').parts)}": p
       for p in sorted((ROOT / "adaptmtl").rglob("*.py"))},
    **{f"adaptmtl.cli.{p.stem}": p for p in sorted((ROOT / "cli").rglob("*.py"))},
}  # fmt: skip
MOST_LINES = 400


def trees() -> Iterator[tuple[str, ast.Module]]:
    for name, path in MODULES.items():
        yield name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            base = node.module or ""
            yield from ((node.lineno, f"{base}.{alias.name}" if base == "adaptmtl" else base) for alias in node.names)


def test_the_tree_is_seen_whole():
    assert {"adaptmtl.errors", "adaptmtl.tasks.spec", "adaptmtl.tasks.sources.hub", "adaptmtl.cli.main"} <= set(MODULES)


def test_modules_import_only_from_layers_before_them():
    wrong = []
    for name, tree in trees():
        if name == "adaptmtl.__init__":  # the public names, imported when they are used
            continue
        own = LEVEL[name.split(".")[1]]
        for line, other in imported(tree):
            if not other.startswith("adaptmtl."):
                continue
            layer = other.split(".")[1]
            if LEVEL[layer] > own:
                wrong.append(f"{name} line {line} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_every_package_is_in_the_wheel():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES.values()} - {"cli"}
    assert not [name for name in packages if f'"{name}",' not in declared]


def test_adapterhub_is_imported_in_one_module_at_most():
    users = {name for name, tree in trees() for _, other in imported(tree) if other.split(".")[0] == "adapters"}
    assert len(users) <= 1, users


def test_commands_import_model_code_only_inside_functions():
    heavy = {"torch", "transformers", "datasets", "sklearn", "peft", "pydantic"}
    wrong = []
    for name, tree in trees():
        if not name.startswith("adaptmtl.cli."):
            continue
        top = ast.Module(body=[node for node in tree.body if not isinstance(node, ast.If)], type_ignores=[])
        top.body = [node for node in top.body if isinstance(node, ast.Import | ast.ImportFrom)]
        wrong += [f"{name}: {other}" for _, other in imported(top) if other.split(".")[0] in heavy]
    assert not wrong, wrong


def test_nothing_unpickles_or_runs_remote_code():
    wrong = []
    for name, tree in trees():
        for line, other in imported(tree):
            if other.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}:
                wrong.append(f"{name} line {line}: imports {other}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "load" and ast.unparse(node.value) == "torch":
                wrong.append(f"{name} line {node.lineno}: torch.load")
            if isinstance(node, ast.keyword) and (node.arg, ast.unparse(node.value)) in {
                ("trust_remote_code", "True"),
                ("allow_pickle", "True"),
            }:
                wrong.append(f"{name} line {node.value.lineno}: {node.arg}=True")
    assert not wrong, "\n".join(wrong)


def test_modules_are_short():
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > MOST_LINES}
    assert not long, f"more than {MOST_LINES} lines: {long}"
