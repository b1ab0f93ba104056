"""No two modules need each other, not even for the names in their annotations."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def modules() -> dict[str, str]:
    """The text of every module, by its dotted name. A package has the name of its folder."""
    found = {}
    for path in (SOURCE / "gateway").rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imported(text: str, known: Collection[str]) -> Iterator[str]:
    """The modules that a text imports, wherever the import stands: also in functions and under TYPE_CHECKING.

    `from package import module` needs the module, and not what the package itself holds.
    """
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(module), names=names):
                whole = (f"{module}.{each.name}" for each in names)
                yield from (name if name in known else module for name in whole)


def circle_in(texts: Mapping[str, str]) -> str:
    """One circle of imports as `a → b → a`, or an empty text."""
    needs = {name: set(imported(text, texts)) & texts.keys() for name, text in texts.items()}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return " → ".join(reversed(error.args[1]))
    return ""


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circle_in(modules())


def test_circle_is_found_also_where_only_annotations_need_it() -> None:
    plain = "from gateway import b"
    for_types = "if TYPE_CHECKING:\n    from gateway.c import Thing"
    inside = "def f():\n    import gateway.a"
    texts = {"gateway": "", "gateway.a": plain, "gateway.b": for_types, "gateway.c": inside}
    assert circle_in(texts) == "gateway.a → gateway.b → gateway.c → gateway.a"
    assert circle_in(texts | {"gateway.c": "from gateway import __version__"}) == ""
