"""Modules of the package build on each other in one direction."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pythia_cpu


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, also in functions, but not what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from statements(other)
        else:
            yield child
            yield from statements(child)


def imported(module: str, path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that one names in its imports. That of a module runs its packages too, which every
    module of theirs may rely on: these do not count.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else base for name in names}
    return found & modules


def imports(root: Path) -> dict[str, set[str]]:
    """Each module of a package, and those that it imports."""
    paths = {module_name(root, path): path for path in root.rglob("*.py*") if path.suffix in (".py", ".pyi")}
    return {module: imported(module, path, set(paths)) for module, path in paths.items()}


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the one before it; none if there is no such cycle."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = imports(Path(pythia_cpu.__file__).parent)
    assert "pythia_cpu._core" in graph["pythia_cpu._model"]
    assert "pythia_cpu._hub" in graph["pythia_cpu._resolve"]  # which a function imports
    graph["pythia_cpu"] -= {f"pythia_cpu.{name}" for name in pythia_cpu._SUBMODULES}  # by type checkers only
    assert cycle(graph) == []


@pytest.mark.parametrize(
    "statement",
    [
        "from pkg import a",
        "import pkg.a",
        "from . import a",
        "from .a import f",
        "def f():\n    from pkg.a import f",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import pkg.a",
    ],
)
def test_cycles_are_found(statement: str, tmp_path: Path) -> None:
    root = tmp_path / "pkg"
    root.mkdir()
    (root / "__init__.py").write_text("from pkg.b import f")
    (root / "a.py").write_text("import os\nfrom pkg import b")
    (root / "b.py").write_text("if TYPE_CHECKING:\n    from pkg import a")
    assert cycle(imports(root)) == []
    (root / "b.py").write_text(statement)
    assert sorted(set(cycle(imports(root)))) == ["pkg.a", "pkg.b"]
