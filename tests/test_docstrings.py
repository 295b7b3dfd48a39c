"""Docstrings of the package's modules, whose names ruff takes for private and looks past."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pythia_cpu
from pythia_cpu import _core

Definition = ast.ClassDef | ast.FunctionDef


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def needs_none(definition: Definition) -> bool:
    """Overloads and setters are documented where the function itself is."""
    decorators = [ast.unparse(decorator) for decorator in definition.decorator_list]
    return is_private(definition.name) or any(one == "overload" or one.endswith(".setter") for one in decorators)


def undocumented(node: ast.Module | ast.ClassDef, name: str) -> Iterator[str]:
    if ast.get_docstring(node) is None:
        yield name
    for child in node.body:
        if isinstance(child, Definition) and not needs_none(child):
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, f"{name}.{child.name}")
            elif ast.get_docstring(child) is None:
                yield f"{name}.{child.name}"


def test_all_names_that_are_not_private_have_docstrings() -> None:
    root = Path(pythia_cpu.__file__).parent
    modules = {str(path.relative_to(root)): ast.parse(path.read_text()) for path in root.rglob("*.py")}
    assert "_model.py" in modules
    assert [name for file, module in modules.items() for name in undocumented(module, file)] == []


def test_missing_docstrings_are_found() -> None:
    module = ast.parse(
        "class A:\n '''A.'''\n def f(self): pass\n def _g(self): pass\n def __len__(self): pass\n"
        " @overload\n def o(self): ...\n @f.setter\n def f(self, f): ...\n"
        "class _B: pass\ndef f(): '''F.'''\ndef g(): pass"
    )
    assert list(undocumented(module, "m")) == ["m", "m.A.f", "m.A.__len__", "m.g"]


def test_the_extension_has_docstrings() -> None:
    """pybind11 puts the signature before them."""
    root = Path(pythia_cpu.__file__).parent
    stub = ast.parse((root / "_core.pyi").read_text())
    assert not [name for name in undocumented(stub, "_core") if not name.endswith("__")]
    assert _core.Kernels.add.__doc__.endswith("a + b.\n")
