"""Prose that names code which is gone, and code that nobody names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from gateway.config import known_keys
from support.sources import tree_of

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "gateway"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))
ROOMS = {path.stem for path in SOURCE.iterdir() if not path.name.startswith("_")}
FILE_ENDINGS = {"py", "sql", "toml", "service", "env", "key", "log", "conf"}
# Read by people as well: what they name must exist too.
TEXTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("protocol/*.*")),
    *sorted(ROOT.glob("systemd/*")),
    *sorted(ROOT.glob("sql/*.sql")),
    *sorted(ROOT.glob("migrations/*.sql")),
]


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines or mentions, attributes included."""
    return frozenset(_names(tree_of(path)))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name


def module_at(parts: list[str]) -> Path | None:
    """The file of a dotted name below gateway, if it is a module."""
    whole = SOURCE.joinpath(*parts)
    places = (whole.with_suffix(".py"), whole / "__init__.py") if parts else (SOURCE / "__init__.py",)
    return next((place for place in places if place.is_file()), None)


def exists(dotted: str) -> bool:
    """Whether `channel.registry.Registry.build` names a module, or something inside one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = module_at(parts[:length])
        if module is not None:
            return set(parts[length:]) <= names_in(module)
    return False


@cache
def crash_points() -> frozenset[str]:
    """The names that `reached` is called with."""
    calls = (node for path in MODULES for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    return frozenset(
        str(call.args[0].value)
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "reached" and isinstance(call.args[0], ast.Constant)
    )


# Crash points and configuration keys look like dotted names of code.
NO_CODE = crash_points() | set(known_keys())


def named_in(text: str) -> Iterator[str]:
    """Dotted names of our own code: `gateway.…` anywhere, and in backticks also without it."""
    yield from re.findall(r"(?<![\w./@-])gateway\.([a-z_]+(?:\.\w+)*)(?![\w/])", text)
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)(?:\(\))?`", text):
        if name.partition(".")[0] in ROOMS:
            yield name


def missing_from(text: str) -> list[str]:
    named = (name for name in named_in(text) if name.rpartition(".")[2] not in FILE_ENDINGS)
    files = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text)
    return [
        *(name for name in named if name not in NO_CODE and not exists(name)),
        *(name for name in files if not any(path.as_posix().endswith(f"/{name}") for path in MODULES)),
    ]


def docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        # A bare string documents the assignment before it.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def test_crash_points_are_found() -> None:
    assert {"lark.received", "lark.acknowledged"} <= crash_points()


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("see `channel.registry.Registry.build` and gateway.lark.wire.frame", []),
        ("see gateway.lark.nothing", ["lark.nothing"]),
        ("see `channel.registry.Nobody`", ["channel.registry.Nobody"]),
        ("`lark/chat/connection.py` and `cli/nothing.py`", ["cli/nothing.py"]),
        ("`gateway.service` reaches https://gateway.example.com", []),
    ],
)
def test_check_of_names_finds_what_is_gone(text: str, missing: list[str]) -> None:
    assert missing_from(text) == missing


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_docstrings_name_only_code_that_exists(path: Path) -> None:
    assert not [name for text in docstrings(tree_of(path)) for name in missing_from(text)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_name_only_code_that_exists(path: Path) -> None:
    if path.name in {"gateway.env.example", "gateway.service"}:
        return
    assert not missing_from(path.read_text())


def test_every_public_function_and_class_has_a_user() -> None:
    """Decorated ones are registered somewhere, the generated module is not ours."""
    texts = [path.read_text() for folder in ("src", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    words: dict[str, int] = {}
    for word in re.findall(r"[A-Za-z_]\w+", "\n".join(texts)):
        words[word] = words.get(word, 0) + 1
    unused = [
        f"{path.relative_to(SOURCE)}: {node.name}"
        for path in MODULES
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.decorator_list
        and not node.name.startswith("_")
        and words[node.name] == 1
    ]
    assert not unused
