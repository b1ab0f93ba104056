"""Every regular expression reads foreign text in linear time: a megabyte of its worst case, timed.

The patterns are found in the source, so none is forgotten: one without a declared worst case fails. The general cases
are tried on all of them as well.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from gateway.core.attachments import display_name, disposition_name
from gateway.core.autopilot import WebhookContent, describe_run, render_title
from gateway.core.commands import description_of, parse_command, title_from
from gateway.core.enrichment import neutralise
from gateway.core.markdown import is_blank, place_media, shortened, without_links, without_mentions
from gateway.core.plain import plain
from gateway.lark.chat.content import flatten
from gateway.lark.chat.markdown import divide_plain
from gateway.lark.chat.mentions import Mention, rewrite_mentions
from gateway.observe.log import is_secret_name, scrub
from gateway.simulator.echo_agent import reply
from gateway.simulator.exchange import Answer, Router
from gateway.work.tasks.diagnosis import DIAGNOSIS_CHARS_MAX, RULES
from support.sources import tree_of

SOURCE = Path(__file__).parents[2] / "src"
COMPILERS = {"compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}
SMALLEST, LARGEST = 1 << 6, 1 << 20
"""Steps of four times lead from one to the other."""
ALL_TEXTS_UP_TO = 1 << 16
GENERAL = 1 << 14
READ = 1 << 14
SECONDS_PER_LARGEST = 1.0
SECONDS_ALWAYS_ALLOWED = 0.02
"""A clock of threads ticks coarsely, and a cache may be cold. What is quadratic goes far beyond."""
TRIES = 4
NOW = datetime(2026, 1, 1, tzinfo=UTC)

GENERAL_UNITS = (
    "a", " ", "\t", "\n", "0", "-", "_", ".", ",", ":", ";", "/", "\\", "<", "[", "]", "(", "{", "@", "=", "`", "*",
    "|", "#", "~", '"', "%", "\x00", "\u200b", "\ud800", "a ", "a.", "a-", "a=", "a\n", "](", "<a", "https://", "a://a",
    "Bearer ", "token=", "{{", "\\u0000", "\\ud800", "` ", "| ",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A place in the source that makes a pattern. `expression` is None where it is put together at run time."""

    key: str
    module: str
    name: str | None
    expression: str | bytes | None
    flags: int
    methods: tuple[str, ...]


def worst(*units: str, before: str = "", after: str = "") -> Callable[[int], list[str]]:
    """Each of the units again and again, up to the size asked for."""

    def build(size: int) -> list[str]:
        return [before + unit * (size // len(unit)) + after for unit in units]

    return build


CASES: dict[str, Callable[[int], list[str]]] = {
    "gateway.cli.demo _CODE": worst("?user_code=", "?user_code", before="?user_code=a&"),
    "gateway.cli.demo bind_herself: search": worst('name="proof" value="', "a", before='name="proof" value="'),
    "gateway.cli.demo _link_to_scan: split": worst(" ", "a "),
    "gateway.cli.demo let_a_stranger_write: search": worst(
        "http://127.0.0.1:8420/lark/bind?token", "http://127.0.0.1:8420/lark/bind?token=a"
    ),
    "gateway.core.attachments display_name: split": worst("/", "a\\"),
    "gateway.core.attachments _EXTENSION": worst(".a", "a.", ".abcdefghijklmno"),
    "gateway.core.attachments _TYPE": worst("a", " ", ";", before="a/b"),
    "gateway.core.attachments _PARAMETER": worst(
        ';a="', ';a="\\\\', "; ", ";a", ";a=", ' ; a = "b" ', before='x; a="', after='"'
    ),
    "gateway.core.attachments disposition_name: search": worst("%", "%a"),
    "gateway.core.attachments _unquoted: sub": worst("\\", "\\a"),
    "gateway.core.attachments content_disposition: sub": worst("%", "\xe9"),
    "gateway.core.autopilot _BRACKET": worst("[", "[a"),
    "gateway.core.autopilot _PLACEHOLDER": worst("{{", "{{a", "{{date}}", before="{{"),
    "gateway.core.autopilot _BACKTICKS": worst("`", "``a", "```a"),
    "gateway.core.autopilot _ISSUE_ENDED": worst("issue ", "issue blocked", before="issue "),
    "gateway.core.autopilot _CONFIGURATION": worst("without a", "without ", "execution ", "no leade", "time "),
    "gateway.core.autopilot _DISPATCH": worst("create ", "create issu", "dispatc"),
    "gateway.core.autopilot _TASK": worst("tasks ", "agent_error"),
    "gateway.core.enrichment _OUR_TAG": worst("<", "< ", "</", " ", "<recent_contexts", before="<"),
    "gateway.core.enrichment _LINE_END": worst("\r", "\r\n", "\n"),
    "gateway.core.enrichment _UNENCODABLE": worst("\x00", "a\x00"),
    "gateway.core.enrichment _INVISIBLE": worst("\u200b", "a\u200b"),
    "gateway.core.enrichment _RESERVED_NAME": worst("1", "a", before="user "),
    "gateway.core.markdown _ANCHOR": worst("<", "<a", "<a "),
    "gateway.core.markdown _INVISIBLE": worst("\u034f", "a"),
    "gateway.core.markdown _MENTION": worst("<", "<at", "<a"),
    "gateway.http.app _VARIABLE": worst("<", "<a", "<a:", "a", ":", before="<"),
    "gateway.http.connections _BLANK_LINE": worst("\n\r", "\r"),
    "gateway.http.connections _TARGET": worst("a", before="http://"),
    "gateway.http.body _PLACE": worst(" - at `$", " - at `key in ", " - at `$.a`", "a", before=" - at `$."),
    "gateway.http.body _NAMED": worst("field `", "field ``", "a", before="field `"),
    "gateway.http.console.issues _PICTURE": worst("![](/api/attachments/", "![](/api/attachments/0123456789abcdef-"),
    "gateway.lark.chat.untrusted _UNSTORABLE": worst("\x00", "\ud800"),
    "gateway.lark.chat.mentions _PLACEHOLDER": worst("@", "@a", "@" + "a" * 80),
    "gateway.core.plain _TERMINAL_CODE": worst("\x1b[", "\x1b]", "\x1b[0", "\x1b]a", "\x1b ", "1", " ", before="\x1b["),
    "gateway.core.plain _UNSEEN": worst("\x00", "a"),
    "gateway.config _PLAIN_SEGMENT": worst("a", "~"),
    "gateway.core.commands _SILENT": worst(" ", "[Image]", "[Image", "\u200b"),
    "gateway.core.commands _MARKER": worst("[Image]", "[Image", "["),
    "gateway.lark.chat.kinds _KNOWN_SHAPE": worst("a"),
    "gateway.lark.chat.kinds _BLANK": worst("{", "a", "{a"),
    "gateway.lark.chat.post _BACKTICKS": worst("`", "``", "```a"),
    "gateway.lark.install.account_id _OPEN_ID": worst("a", before="ou_"),
    "gateway.lark.install.service _APP_ID": worst("a", before="cli_"),
    "gateway.lark.chat.cards _CALL_TO_ALL": worst("<at id", "<at id=all>", "<at user_id = 'all", " id=", "<at "),
    "gateway.lark.chat.markdown _LINE_END": worst("\r", "\n", "a"),
    "gateway.lark.api.proxy _NO_PORT": worst(":", "a:", "a", after="["),
    "gateway.lark.api.proxy _exemptions: split": worst(",", "a,"),
    "gateway.lark.api.proxy _exempt: fullmatch": worst("1"),
    "gateway.lark.install.device_flow _CODE": worst("a", "."),
    "gateway.lark.install.device_flow _PLAIN": worst("a"),
    "gateway.lark.api.rest _TOKEN_SHAPE": worst("a", after=" "),
    "gateway.lark.wire.endpoint _INTEGER": worst("1", before="-"),
    "gateway.lark.wire.session _NUMBER": worst("1", before="-"),
    "gateway.observe.log _SECRET_KEY": worst("_token", "_", "_privat", "_private_ke", "token_", after="s"),
    "gateway.observe.log _HARMLESS_KEY": worst("_id", "_", "_expires_"),
    "gateway.observe.log _BOUNDARY": worst("aA", ".", "-", "a."),
    "gateway.observe.log _URL": worst("a.", "://", "://a@", "a", "://?", "://a?b#", ":/", "@"),
    "gateway.observe.log _KEYWORD": worst("token=", "token", " token=[hidden", " token=a", "password "),
    "gateway.observe.log _BEARER": worst("gwu_", " gwu_", " gwu_abc ", "a", before=" gwu_"),
    "gateway.simulator.composing _spans: split": worst("@_user_", "1", "@_user_1", before="@_user_"),
    "gateway.simulator.echo_agent _BLOCK": worst("<recent_context ", "<recent_context", " ", before="<recent_context "),
    "gateway.simulator.exchange Router.add: compile": worst(
        "/", "a", "a/", before="/open-apis/im/v1/messages/"
    ),
    "gateway.simulator.exchange Router.add: sub": worst("{", "{a", "{a}", before="{"),
    "gateway.simulator.messages place_mentions: sub": worst("@", "@An", "@Anna", "@Ann"),
    "gateway.simulator.resource_calls disposition: sub": worst("\xe9", '"'),
    "gateway.simulator.resource_calls read_form: search": worst("boundary=;", "boundary", ";"),
    "gateway.simulator.resource_calls read_form: search 2": worst(' name="', " name=", "a", ";"),
    "gateway.simulator.resource_calls read_form: search 3": worst('filename="', "filename=", "a"),
    "gateway.webhooks.envelope _NUL": worst("\\", "\\\\u000", "\\\\u0000", "\\u0000", "a\\\\"),
    "gateway.core.plain _ESCAPE": worst("\\", "\\ud800", "\\ud800\\udc0", "\\ud800\\udc00"),
    "gateway.webhooks.signature _SECONDS": worst("1"),
    "gateway.work.people.bindings _TOKEN": worst("a"),
    "gateway.work.tasks.diagnosis _QUOTES": worst('"', 'a"'),
    "gateway.work.tasks.diagnosis _GAPS": worst(" ", "a_", "a -_ "),
    "gateway.work.tasks.diagnosis _status_of: compile": worst("500 ", " 401", " ", "http500", before="500 "),
    "gateway.work.tasks.diagnosis _rule: compile": worst(
        "no ", "the ", "model: ", "is ", "api key ", "missing the ", "exceed", "hit", "get http://a", "at ",
        "requires a ", "at a:1", "1", "keyerror: a", "unsupported a ", "empty a", "version ", "quota ", "proxy ",
    ),
    "gateway.work.people.directory _PREFIX": worst("A"),
    "gateway.work.people.directory _SLUG": worst("a", "a-"),
    "gateway.work.people.directory _EMAIL": worst("a", "@", after="@"),
    "gateway.work.issues.pages _KEY": worst("1", before="A-"),
    "gateway.legacy.rows _TOKEN_HASH": worst("a"),
    "gateway.legacy.rows _SLUG": worst("a", "-", before="a", after="_"),
    "gateway.legacy.rows _PREFIX": worst("A"),
    "gateway.legacy.rows workspace: sub": worst("-", "a-"),
    "gateway.legacy.rows workspace: sub 2": worst("a"),
}  # fmt: skip
"""The worst case of each pattern, by the place in the source that `sites` names."""


def _route_patterns() -> list[re.Pattern[str]]:
    router = Router()
    router.add("GET", "/open-apis/im/v1/messages/{message_id}/resources/{file_key}", lambda _: Answer(200, {}))
    return [route.expression for route in router._routes]


RUN_TIME: dict[str, list[re.Pattern[str]]] = {
    next(key for key in CASES if place in key): made
    for place, made in {
        "let_a_stranger_write": [re.compile(r"http://127.0.0.1:8420/lark/bind\?token=\S+")],
        "Router.add: compile": _route_patterns(),
        "place_mentions": [re.compile("@(Annabel|Anna|Ann)")],
        "_status_of": [rule.status for rule in RULES if rule.status is not None],
        "_rule: compile": [rule.words for rule in RULES],
    }.items()
}
"""Patterns that are put together while the program runs, as it makes them."""

READ_AT_MOST = {key: DIAGNOSIS_CHARS_MAX for key in CASES if "diagnosis _rule" in key or "diagnosis _status_of" in key}
"""Patterns that never see more than so many characters: the text is cut before."""


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (".".join(path.relative_to(SOURCE).with_suffix("").parts), tree_of(path))
        for path in sorted(SOURCE.rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    )


@cache
def sites() -> tuple[Site, ...]:
    return tuple(site for module, tree in modules() for site in _sites_of(module, tree))


def _sites_of(module: str, tree: ast.Module) -> Iterator[Site]:
    names = {
        id(node.value): node.targets[0].id if isinstance(node, ast.Assign) else node.target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.targets[0] if isinstance(node, ast.Assign) else node.target, ast.Name)
    }
    count: Counter[str] = Counter()
    for scope, call in _calls(tree):
        if not (isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)):
            continue
        if call.func.value.id != "re" or call.func.attr not in COMPILERS:
            continue
        name = names.get(id(call))
        expression, flags = _literal(call.args[0]), _flags(call)
        shown = name or f"{scope}: {call.func.attr}"
        count[shown] += 1
        if count[shown] > 1:
            shown = f"{shown} {count[shown]}"
        methods = _methods_of(tree, name) if name else (() if call.func.attr == "compile" else (call.func.attr,))
        yield Site(f"{module} {shown}", module, name, expression, flags, methods or ("search",))


def _calls(tree: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.Call]]:
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        if isinstance(node, ast.Call):
            yield scope, node
        yield from _calls(node, f"{scope}.{inner}".strip(".") if inner else scope)


def _literal(node: ast.expr) -> str | bytes | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, str | bytes) else None


def _flags(call: ast.Call) -> int:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "flags"]
    text = " | ".join(ast.unparse(each) for each in given)
    return int(eval(text, {"re": re})) if text else 0


def _methods_of(tree: ast.Module, name: str) -> tuple[str, ...]:
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }
    return tuple(sorted(found & COMPILERS))


def patterns_of(site: Site) -> list[re.Pattern[Any]]:
    if site.name is not None:
        found = getattr(importlib.import_module(site.module), site.name)
        assert isinstance(found, re.Pattern)
        return [found]
    return [re.compile(site.expression, site.flags)] if site.expression is not None else RUN_TIME[site.key]


def run(pattern: re.Pattern[Any], method: str, text: Any) -> None:
    if method == "finditer":
        deque(pattern.finditer(text), maxlen=0)
    elif method in {"sub", "subn"}:
        pattern.sub(text[:0], text)
    else:
        getattr(pattern, method)(text)


def seconds(work: Callable[[], object]) -> float:
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


@cache
def seconds_per_largest() -> float:
    """The bound of a megabyte: 0.3 s, or on a slow machine four times what a simple linear pattern takes there."""
    simple = re.compile(r"(^|_)(token|secret|password|ticket)(_|$)")
    return max(SECONDS_PER_LARGEST, 4 * min(seconds(lambda: simple.search("_" * LARGEST)) for _ in range(3)))


def assert_linear(
    work: Callable[[Any], object],
    build: Callable[[int], list[Any]],
    largest: int,
    *,
    slowness: float = 1,
) -> None:
    """Grow the text step by step, so that what is quadratic is found while it still ends.

    The last steps are taken with the one text that has been the slowest so far.
    """
    slowest, size = -1, SMALLEST
    while size <= largest:
        allowed = slowness * max(SECONDS_ALWAYS_ALLOWED, seconds_per_largest() * size / LARGEST)
        texts = build(size)
        if size > ALL_TEXTS_UP_TO:
            texts = [texts[slowest]]
        taken = [best_within(allowed, work, text) for text in texts]
        for text, each in zip(texts, taken, strict=True):
            assert each <= allowed, f"{size} characters of {text[:40]!r}… take {each:.3f} s, more than {allowed:.3f} s"
        slowest, size = taken.index(max(taken)), size * 4


def best_within(allowed: float, work: Callable[[Any], object], text: Any) -> float:
    """Seconds of the first try that is fast enough, else of the best one: others use the machine too."""
    tries = []
    while len(tries) < TRIES:
        tries.append(seconds(partial(work, text)))
        if tries[-1] <= allowed:
            break
    return min(tries)


def encoded(build: Callable[[int], list[str]], pattern: re.Pattern[Any]) -> Callable[[int], list[Any]]:
    if isinstance(pattern.pattern, str):
        return build
    return lambda size: [text.encode("utf-8", "replace") for text in build(size)]


def assert_pattern_is_linear(key: str, build: Callable[[int], list[str]], largest: int) -> None:
    site = next(site for site in sites() if site.key == key)
    for pattern in patterns_of(site):
        for method in site.methods:
            work = partial(run, pattern, method)
            assert_linear(work, encoded(build, pattern), min(largest, READ_AT_MOST.get(key, largest)))


def test_every_pattern_of_the_source_has_a_worst_case() -> None:
    assert {site.key for site in sites()} == CASES.keys()


def test_patterns_come_from_the_one_library_under_its_own_name() -> None:
    """What the search for them relies on."""
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in {"re", "regex"}, module
            elif isinstance(node, ast.Import):
                assert not [each for each in node.names if each.name == "regex" or (each.name == "re" and each.asname)]


@pytest.mark.parametrize("key", sorted(CASES))
def test_pattern_reads_a_megabyte_of_its_worst_case_in_linear_time(key: str) -> None:
    assert_pattern_is_linear(key, CASES[key], LARGEST)


@pytest.mark.parametrize("key", sorted(CASES))
def test_pattern_reads_what_anybody_may_send_in_linear_time(key: str) -> None:
    assert_pattern_is_linear(key, worst(*GENERAL_UNITS), GENERAL)


def test_quadratic_pattern_is_found_out() -> None:
    """The measure itself: a pattern of the kind that is meant must fail, and soon."""
    with pytest.raises(AssertionError, match="more than"):
        assert_linear(partial(run, re.compile(r"\S*,\s"), "search"), worst("a"), LARGEST)


READERS: dict[str, Callable[[str], object]] = {
    "scrub": scrub,
    "is_secret_name": is_secret_name,
    "divide_plain": partial(divide_plain, weight=len, limit=20_000),
    "flatten": lambda text: flatten("text", json.dumps({"text": text})),
    "rewrite_mentions": lambda text: rewrite_mentions(text, [Mention("@a", "Ann"), Mention("@")], lambda _: True),
    "neutralise": neutralise,
    "is_blank": is_blank,
    "plain": plain,
    "shortened": partial(shortened, chars_max=100),
    "without_links": without_links,
    "without_mentions": without_mentions,
    "place_media": lambda text: place_media(text, [("[Image]", n, "![]()") for n in range(len(text) // 7)]),
    "parse_command": lambda text: (parse_command(f"/issue {text}"), parse_command(f"/new {text}")),
    "description_of": lambda text: description_of(f"{text}\n/issue a", "/issue a", fallback=""),
    "title_from": title_from,
    "describe_run": lambda text: describe_run(
        "", source="webhook", fired_at=NOW, content=WebhookContent(text, json.dumps({"a": text}))
    ),
    "render_title": lambda text: render_title(text, "", NOW),
    "display_name": display_name,
    "disposition_name": lambda text: disposition_name(f'attachment; filename="{text}'),
    "reply": lambda text: reply(json.dumps({"prompt": text}).encode()),
}
READ_UNITS = (
    *(unit for unit in GENERAL_UNITS if unit.isprintable() or unit.isspace()),
    "@a",
    "<recent_context>",
    "</recent_context>",
    "```\n",
    "|-|\n",
    "a\n\n",
    "[Image]",
    "/issue a\n",
)
READERS_SLOWNESS = 5
"""They look at every character in Python, where a pattern is run by the machine."""


@pytest.mark.parametrize("name", READERS)
def test_reader_of_foreign_text_takes_linear_time(name: str) -> None:
    assert_linear(READERS[name], worst(*READ_UNITS), READ, slowness=READERS_SLOWNESS)
