"""The shape of the source: how much a function takes, and that a name means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from support.sources import tree_of

SOURCE = Path(__file__).parents[2] / "src" / "gateway"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))

PARAMETERS_MAX = 8
"""What a reader still holds in mind. More belong together in values with names."""
MORE_PARAMETERS = {
    "lark/chat/connection.py": {"run_connection": 9},
    "webhooks/delivery.py": {"Intake.__init__": 9},
}
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
        for name, node in functions(tree_of(path)):
            if parameters(node) > PARAMETERS_MAX and not is_command(node):
                found.setdefault(path.relative_to(SOURCE).as_posix(), {})[name] = parameters(node)
    assert found == MORE_PARAMETERS


def public_types(tree: ast.Module) -> Iterator[str]:
    """Names of the classes and type aliases of a module. Constants are in capitals, and private names begin with _."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        else:
            continue
        if name[0].isupper() and not name.isupper():
            yield name


def test_public_type_names_mean_one_thing_each() -> None:
    """Not even the simulator repeats one: a reader who searches for a name finds what it is."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for name in public_types(tree_of(path)):
            homes[name].append(path.relative_to(SOURCE).as_posix())
    assert len(homes) > 500
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}
