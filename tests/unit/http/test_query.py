"""Which queries are taken: the judge by itself, and every route of the application."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest
from werkzeug.routing import Rule

from gateway import http
from gateway.errors import Invalid
from gateway.http.app import Hooks, JsonApp, People, Services, Workplace, create_app
from gateway.http.ingress.webhooks import Ingress
from gateway.http.query import declared, number, one_of, read_query, text
from gateway.observe.metrics import Metrics

PARAMETERS = {"limit": number(1, 200), "status": one_of("sent", "failed"), "q": text(10)}


def whole_app() -> JsonApp:
    """With every route that there is. What the routes stand on is never reached."""
    people = MagicMock(spec=People, trusted_proxies=(), public_url=None)
    people.workplace = MagicMock(spec=Workplace, hooks=MagicMock(spec=Hooks))
    services = Services(
        authenticate=MagicMock(),
        tasks=MagicMock(),
        health=MagicMock(),
        recorder=Metrics(),
        people=people,
        webhooks=MagicMock(spec=Ingress, body_bytes_max=1_000, trusted_proxies=()),
    )
    return create_app(services)


APP = whole_app()
ROUTES = [
    (method, rule)
    for rule in sorted(APP.url_map.iter_rules(), key=lambda rule: rule.rule)
    for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    if rule.rule.startswith("/api/")
]
PAGED_RULES = {f"/api/workspaces/<workspace>/{name}" for name in ("agents", "chats", "deliveries", "outbound")}
FOR_PROGRAMS = ("/api/runtimes/", "/api/tasks/", "/api/webhooks/", "/api/github/setup")
"""Where others build the address: workers of a later release, and other servers."""
PROGRAMS = [(method, rule) for method, rule in ROUTES if rule.rule.startswith(FOR_PROGRAMS)]
PEOPLE = [(method, rule) for method, rule in ROUTES if not rule.rule.startswith(FOR_PROGRAMS)]


def name_of(value: object) -> str:
    return value.rule if isinstance(value, Rule) else str(value)


async def ask(method: str, rule: Rule, query: str) -> tuple[int, dict[str, Any]]:
    path = rule.rule
    for argument in rule.arguments:
        path = path.replace(f"<{argument}>", "00000000-0000-0000-0000-000000000001")
    headers = {"Host": "gateway.example", "Origin": "http://gateway.example"}
    response = await APP.test_client().open(f"{path}?{query}", method=method, headers=headers, data=b"")
    return response.status_code, msgspec.json.decode(await response.get_data())


# --- the judge --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"", {}),
        (b"&&", {}),
        (b"limit=1", {"limit": "1"}),
        (b"limit=200&status=sent", {"limit": "200", "status": "sent"}),
        (b"status=&q=", {"status": "", "q": ""}),
        (b"q=a+b%20c", {"q": "a b c"}),
        (b"q=%E4%BD%A0", {"q": "\u4f60"}),
        (b"q=a=b", {"q": "a=b"}),
        (b"%71=x", {"q": "x"}),
    ],
)
def test_query_that_is_declared_is_read(query: bytes, found: dict[str, str]) -> None:
    assert read_query(query, PARAMETERS, strict=True) == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        *((b"limit=" + value, "limit") for value in (
            b"", b"0", b"-1", b"201", b"1e9", b"1e3", b"abc", b"+1", b"1.0", b" 1", b"1_0", b"0x1", b"%EF%BC%91",
            b"99999999999999999999", b"1" * 5000,
        )),
        (b"status=nonsense", "status"), (b"status=SENT", "status"),
        (b"q=" + b"x" * 11, "q"), (b"q=%00", "q"), (b"q=%FF", "q"), (b"q=%ED%A0%80", "q"), (b"q=\xff", "q"),
        (b"q=a&q=a", "q"), (b"limit=1&limit=2", "limit"), (b"q=&%71=", "q"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strict", [True, False])
def test_absurd_value_is_refused_with_its_name(query: bytes, field: str, strict: bool) -> None:
    with pytest.raises(Invalid) as refusal:
        read_query(query, PARAMETERS, strict=strict)
    assert refusal.value.code == "invalid_parameter"
    assert refusal.value.extra == {"field": field}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (b"x=1", "x"), (b"Limit=1", "Limit"), (b"x", "x"), (b"=1", ""), (b"q=a&limt=3", "limt"), (b"q%00=a", "q%00"),
        (b"%FF=1", "%FF"), (b"y" * 1000 + b"=1", "y" * 64),
    ],
)  # fmt: skip
def test_unknown_parameter_is_refused_with_its_name_or_ignored(query: bytes, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read_query(query, PARAMETERS, strict=True)
    assert refusal.value.code == "unknown_parameter"
    assert refusal.value.extra == {"field": field}
    read_query(query, PARAMETERS, strict=False)


# --- every route ------------------------------------------------------------------------------------------------------


def test_most_routes_are_for_people_and_some_are_not() -> None:
    assert len(PEOPLE) > 30
    assert len(PROGRAMS) > 5


@pytest.mark.parametrize(("method", "rule"), PROGRAMS, ids=name_of)
async def test_unknown_parameter_is_ignored_on_every_route_for_programs(method: str, rule: Rule) -> None:
    answers = [await ask(method, rule, query) for query in ("", "nonsense=1")]
    assert answers[0] == answers[1]
    assert answers[1][1].get("code") != "unknown_parameter"


@pytest.mark.parametrize(("method", "rule"), PEOPLE, ids=name_of)
async def test_unknown_parameter_is_400_on_every_route_for_people(method: str, rule: Rule) -> None:
    status, answer = await ask(method, rule, "nonsense=1")
    assert (status, answer["code"], answer["field"]) == (400, "unknown_parameter", "nonsense")


@pytest.mark.parametrize(("method", "rule"), ROUTES, ids=name_of)
async def test_absurd_value_is_400_on_every_route_that_takes_the_parameter(method: str, rule: Rule) -> None:
    taken = declared(APP.view_functions[rule.endpoint])
    assert taken or method != "GET" or rule.rule not in PAGED_RULES
    for name in taken:
        absurd = [f"{name}=%FF", f"{name}=%00", f"{name}=1&{name}=1", f"{name}={'x' * 5000}"]
        if name in {"limit", "offset", "wait_seconds"}:
            absurd += [f"{name}={value}" for value in ("-1", "1e9", "abc", "99999999999", "", "nan", "inf")]
        if name == "status":
            absurd.append("status=nonsense")
        for query in absurd:
            status, answer = await ask(method, rule, query)
            assert (status, answer["field"]) == (400, name), query


@pytest.mark.parametrize("path", ["/login", "/lark/bind"])
async def test_pages_ignore_what_others_append_to_their_address(path: str) -> None:
    response = await APP.test_client().get(f"{path}?utm_source=x&from=lark&from=lark")
    assert response.status_code != 400 or path == "/lark/bind"
    assert (await response.get_data()).startswith(b"<!doctype html>")


# --- nothing is forgotten ---------------------------------------------------------------------------------------------


def modules() -> Iterator[tuple[str, ast.Module]]:
    folder = Path(http.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(folder).as_posix(), ast.parse(path.read_text())


def test_nothing_but_the_judge_and_the_pages_reads_a_query() -> None:
    reading = {
        name
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"args", "query_string", "values"}
        if isinstance(node.value, ast.Name) and node.value.id == "request"
    }
    # The application counts its separators before anything is read of it.
    assert reading <= {"query.py", "console/pages.py", "app.py"}
    assert "query.py" in reading
