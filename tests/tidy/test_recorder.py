"""Every report to a recorder names an event of the table of metrics, with exactly its labels."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.observe.metrics import FAMILIES, Family

SOURCE = Path(__file__).parents[2] / "src" / "gateway"
TEXTS = {path.relative_to(SOURCE).as_posix(): path.read_text() for path in SOURCE.rglob("*.py")}
MODULES = {name: ast.parse(text) for name, text in TEXTS.items() if "ecorder" in text or "metrics" in text}
TABLE = {family.event: family for family in FAMILIES}
KINDS = {"count": "counter", "observe": "histogram", "set": "gauge"}
OF_METRICS = {"build_info"}
"""What Metrics sets by itself."""


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _is_method(node: ast.AST) -> bool:
    """True for a method of a recorder, called or not."""
    return isinstance(node, ast.Attribute) and node.attr in KINDS and _last_name(node.value).lstrip("_") == "recorder"


def _calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_method(node.func)]


REPORTS = {name: calls for name, tree in MODULES.items() if (calls := _calls(tree))}


def _constants(value: ast.expr) -> Iterator[str]:
    """The texts that an expression certainly may become."""
    if isinstance(value, ast.Constant):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _constants(value.body)
        yield from _constants(value.orelse)


def _problems(call: ast.Call) -> Iterator[str]:
    method = call.func.attr  # type: ignore[attr-defined]
    event = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    family = TABLE.get(event)
    if family is None:
        yield f"{event!r} is no event of the table"
        return
    if family.kind != KINDS[method]:
        yield f"{event} is a {family.kind}: {method}"
    labels = {keyword.arg: keyword.value for keyword in call.keywords}
    if labels.keys() != family.labels.keys():
        yield f"{event} has the labels {sorted(family.labels)}"
        return
    yield from _strangers(family, labels)


def _strangers(family: Family, labels: dict[str | None, ast.expr]) -> Iterator[str]:
    for label, value in labels.items():
        for text in _constants(value):
            if family.labels[str(label)].normalise(text) != text:
                yield f"{family.event} has no {label} {text!r}"


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_reports_of_a_module_are_in_the_table(name: str) -> None:
    problems = [f"line {call.lineno}: {each}" for call in REPORTS[name] for each in _problems(call)]
    assert not problems


def test_every_event_of_the_table_is_reported_somewhere() -> None:
    reported = {call.args[0].value for calls in REPORTS.values() for call in calls}  # type: ignore[attr-defined]
    assert reported | OF_METRICS == TABLE.keys()


def test_methods_of_recorders_are_called_where_they_are_named() -> None:
    """A method that is handed on would be called where the checks above do not see it."""
    for name, tree in MODULES.items():
        called = [call.func for call in REPORTS.get(name, ())]
        assert [node.lineno for node in ast.walk(tree) if _is_method(node) and node not in called] == [], name


def test_every_recorder_is_called_a_recorder() -> None:
    """The checks above know a recorder by its name."""
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.arg) and _last_name(node.annotation or node) == "Recorder":  # type: ignore[arg-type]
                assert node.arg == "recorder", f"{name}:{node.lineno}"
            if isinstance(node, ast.AnnAssign) and _last_name(node.annotation) == "Recorder":
                assert _last_name(node.target).lstrip("_") == "recorder", f"{name}:{node.lineno}"
            # Metrics is a recorder too. It is given to others as one, and asked only for its text.
            if isinstance(node, ast.Attribute) and node.attr in KINDS:
                assert _last_name(node.value) != "metrics", f"{name}:{node.lineno}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("recorder.count('nothing')", "'nothing' is no event of the table"),
        ("recorder.count(event, gate='ip')", "None is no event of the table"),
        ("self._recorder.count('unexpected_errors')", "unexpected_errors has the labels ['unit']"),
        ("recorder.count('unexpected_errors', **labels)", "unexpected_errors has the labels ['unit']"),
        ("a.recorder.set('unexpected_errors', 1, unit='http')", "unexpected_errors is a counter: set"),
        ("recorder.count('webhook_rate_limited', gate='x' if y else 'ip')", "webhook_rate_limited has no gate 'x'"),
    ],
)
def test_wrong_report_is_noticed(line: str, problem: str) -> None:
    (call,) = _calls(ast.parse(line))
    assert list(_problems(call)) == [problem]
