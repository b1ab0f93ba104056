"""Tests that cannot fail."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.sources import tree_of

TESTS = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
RAISING = {"raises", "fail", "fail_after", "warns", "check_returncode"}


@cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(TESTS).as_posix(): tree_of(path) for path in TESTS.rglob("*.py")}


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def named(tree: ast.AST) -> set[str]:
    """The names that a piece of code mentions; of an attribute, the last one."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def can_fail(function: Function) -> bool:
    """Whether it asserts, raises, or asks another to: a process to end with 0, say."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.keyword) and node.arg == "check" and getattr(node.value, "value", None) is True:
            return True
    return bool(named(function) & RAISING)


def powerless(trees: dict[str, ast.Module]) -> list[str]:
    """Tests that neither assert anything nor mention a helper that does, directly or through another."""
    helpers: dict[str, list[Function]] = {}
    for tree in trees.values():
        for function in functions(tree):
            if not function.name.startswith("test_"):
                helpers.setdefault(function.name, []).append(function)
    strong = {name for name, bodies in helpers.items() if any(map(can_fail, bodies))}
    while more := {n for n, bodies in helpers.items() if n not in strong and any(named(b) & strong for b in bodies)}:
        strong |= more
    return [
        f"{file}: {function.name}"
        for file, tree in trees.items()
        for function in functions(tree)
        if function.name.startswith("test_") and not can_fail(function) and not named(function) & strong
    ]


def tautologies(tree: ast.AST) -> Iterator[str]:
    """Assertions of a constant, and comparisons of something that calls nothing with itself."""
    for node in ast.walk(tree):
        match node:
            case ast.Assert(test=ast.Constant() | ast.Tuple()):
                yield ast.unparse(node)
            case ast.Assert(test=ast.Compare(left=left, comparators=[right])) if ast.dump(left) == ast.dump(right):
                if not any(isinstance(part, ast.Call | ast.Await) for part in ast.walk(left)):
                    yield ast.unparse(node)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def test_a():\n    work()", ["t.py: test_a"]),
        ("def test_a():\n    work()\n\ndef work():\n    pass", ["t.py: test_a"]),
        ("def test_a():\n    work()\n\ndef work():\n    check()\n\ndef check():\n    assert x()", []),
        ("async def test_a():\n    with pytest.raises(ValueError):\n        work()", []),
    ],
    ids=["nothing", "weak helper", "strong helper", "raises"],
)
def test_scan_finds_tests_that_cannot_fail(text: str, found: list[str]) -> None:
    assert powerless({"t.py": ast.parse(text)}) == found


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("assert True", 1),
        ("assert (x, 'reason')", 1),
        ("assert A == A", 1),
        ("assert f() == f()", 0),
        ("assert a < b", 0),
    ],
)
def test_scan_finds_assertions_that_hold_anyway(text: str, count: int) -> None:
    assert len(list(tautologies(ast.parse(text)))) == count


def test_shared_code_has_one_class_of_each_name() -> None:
    names = Counter(
        node.name
        for file, tree in trees().items()
        if file.startswith("support/")
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    )
    assert len(names) > 50
    assert [name for name, times in names.items() if times > 1] == []


def test_every_test_can_fail() -> None:
    assert not powerless(trees())


def test_no_assertion_holds_anyway() -> None:
    assert not [f"{file}: {text}" for file, tree in trees().items() for text in tautologies(tree)]
