"""The shape of the source: how much a function takes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "gateway"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))

PARAMETERS_MAX = 8
"""What a reader still holds in mind. More belong together in values with names."""
MORE_PARAMETERS = {"lark/chat/connection.py": {"run_connection": 9}}
"""Functions that are known to take more. None may grow, and an entry that is not needed any more must go."""


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{owner}{node.name}", node
            yield from functions(node, f"{owner}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{owner}{node.name}.")
        else:
            yield from functions(node, owner)


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command takes one parameter for each option of its command line."""
    return any(".command(" in ast.unparse(decorator) for decorator in node.decorator_list)


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in {"self", "cls", "task_status"}])


def test_functions_take_few_parameters() -> None:
    found: dict[str, dict[str, int]] = {}
    for path in MODULES:
        for name, node in functions(ast.parse(path.read_text())):
            if parameters(node) > PARAMETERS_MAX and not is_command(node):
                found.setdefault(path.relative_to(SOURCE).as_posix(), {})[name] = parameters(node)
    assert found == MORE_PARAMETERS
