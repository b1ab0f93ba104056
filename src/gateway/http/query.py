"""Query parameters of requests. A route declares what it takes; one place judges it before the route runs.

An ignored parameter misleads: a caller believes that a list was filtered, and acts on the whole of it. So under `/api/`
an unknown parameter is refused. A parameter that is given twice, or that breaks its declaration, is refused too.
Unknown parameters are ignored outside of `/api/`, because GitHub and Lark append parameters to links to our pages. They
are also ignored where programs of others build the address (`LENIENT`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from quart import Quart, current_app, g, request

from gateway.errors import Invalid

View = TypeVar("View", bound=Callable[..., object])

Judge = Callable[[str], str | None]
"""Judges a value. Returns None for a good value, and otherwise a phrase that says what the value must be."""

LENIENT = ("/api/runtimes/", "/api/tasks/", "/api/webhooks/", "/api/github/setup")
"""Prefixes of rules whose unknown parameters are ignored: newer workers and other people's servers may send some."""
TEXT_CHARS_MAX = 200

_DECLARED = "query_parameters"
_NAME_CHARS_SHOWN = 64


def takes(**parameters: Judge) -> Callable[[View], View]:
    """Declare the query parameters of a view. It stands below the route's decorator; without it a view takes none."""

    def declare(view: View) -> View:
        setattr(view, _DECLARED, parameters)
        return view

    return declare


def number(least: int, most: int) -> Judge:
    # Digits only: int() would also take signs, blanks, underscores and the numerals of other scripts.
    def judge(value: str) -> str | None:
        good = value.isascii() and value.isdigit() and len(value) <= len(str(most)) and least <= int(value) <= most
        return None if good else f"a number from {least} to {most}"

    return judge


def one_of(*values: str) -> Judge:
    """Accept one of the values, or a blank. A blank counts as no value, here and in `text`."""
    return lambda value: None if value in values or not value else f"one of {', '.join(values)}"


def text(chars_max: int = TEXT_CHARS_MAX) -> Judge:
    return lambda value: None if len(value) <= chars_max else f"a text of at most {chars_max} characters"


def given(name: str) -> str | None:
    """Return a judged parameter of the current request, or None if it is absent or blank.

    Raises LookupError for a parameter that the view does not declare.
    """
    if name not in declared(current_app.view_functions[request.endpoint or ""]):
        raise LookupError(f"the view of {request.url_rule} does not declare the parameter {name}")
    query: Mapping[str, str] = g.query
    return query.get(name) or None


def declared(view: object) -> Mapping[str, Judge]:
    """Return the parameters that a view declares."""
    parameters: Mapping[str, Judge] = getattr(view, _DECLARED, {})
    return parameters


def is_strict(rule: str) -> bool:
    """True if the route of this rule refuses unknown parameters."""
    return rule.startswith("/api/") and not rule.startswith(LENIENT)


def judge_queries(app: Quart) -> None:
    """Judge the query of every request of this application before its view runs."""

    @app.before_request
    async def judge_query() -> None:
        if request.url_rule is not None and request.url_rule.rule.startswith("/api/"):
            parameters = declared(app.view_functions[request.url_rule.endpoint])
            g.query = read_query(request.query_string, parameters, strict=is_strict(request.url_rule.rule))


def read_query(query: bytes, parameters: Mapping[str, Judge], *, strict: bool) -> dict[str, str]:
    """Return the declared parameters of a query. Raises Invalid that names the one at fault.

    With `strict`, an undeclared parameter is refused too. A declared one is always refused if it is not UTF-8 or holds
    NUL, which no row of the database can hold.
    """
    found: dict[str, str] = {}
    for pair in query.split(b"&"):
        raw_name, _, raw_value = pair.partition(b"=")
        name = _decoded(raw_name)
        if name is None or name not in parameters:
            if strict and pair:
                raise _unknown(name or raw_name.decode("ascii", "replace"), parameters)
            continue
        value = _decoded(raw_value)
        if name in found:
            raise _refusal(name, "given once")
        if value is None:
            raise _refusal(name, "UTF-8 without NUL")
        if (complaint := parameters[name](value)) is not None:
            raise _refusal(name, complaint)
        found[name] = value
    return found


def _decoded(raw: bytes) -> str | None:
    """Decode a name or a value. Returns None for text that is not UTF-8 or holds NUL."""
    try:
        decoded = unquote_to_bytes(raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return None
    return None if "\x00" in decoded else decoded


def _refusal(name: str, expected: str) -> Invalid:
    return Invalid("invalid_parameter", f"{name} must be {expected}", field=name)


def _unknown(name: str, parameters: Mapping[str, Judge]) -> Invalid:
    shown = name[:_NAME_CHARS_SHOWN]
    known = f"it takes {', '.join(sorted(parameters))}" if parameters else "it takes none"
    return Invalid("unknown_parameter", f"this path takes no parameter {shown!r}; {known}", field=shown)
