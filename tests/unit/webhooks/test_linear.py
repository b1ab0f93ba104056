"""Text from outside costs time in proportion to its length: a megabyte of the worst case for each reader of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest

from gateway.core.autopilot import content_of, describe_run, render_title, template_problem
from gateway.webhooks.dedupe import dedupe_key
from gateway.webhooks.envelope import FORM, InvalidBody, normalise, shown_event, storable
from gateway.webhooks.filters import EventFilter, is_wanted
from gateway.webhooks.headers import RequestHeaders, shown
from gateway.webhooks.signature import SignatureStatus, SignatureVerdict, SigningSecret, judge_signature

MEGABYTE = 1_000_000
CPU_SECONDS_MAX = 5.0
"""Every case takes less than a tenth of it. One that took its length squared would take hours."""
NOW = datetime.now(UTC)


def repeated(text: bytes) -> bytes:
    return text * (MEGABYTE // len(text))


def within_bounds(work: Callable[[], object]) -> None:
    began = time.thread_time()
    work()
    assert time.thread_time() - began < CPU_SECONDS_MAX


BODIES = {
    "backslashes": b'["' + repeated(b"\\") + b'"]',
    "backslashes before a NUL": b'["' + repeated(b"\\\\") + b'\\u0000"]',
    "backslashes beside a NUL": b'["\\u0000' + repeated(b"\\\\") + b'"]',
    "NULs": b'["' + repeated(b"\\u0000") + b'"]',
    "halves of pairs": b'["' + repeated(b"\\ud83d") + b'"]',
    "halves and backslashes": b'["' + repeated(b"\\\\\\ud83d") + b'"]',
    "whole pairs": b'["' + repeated(b"\\ud83d\\ude00") + b'"]',
    "half an escape": b'["' + repeated(b"\\ud8") + b'"]',
    "brackets": repeated(b"["),
    "braces": repeated(b'{"a":'),
    "wide and deep": b"[" + repeated(b"[[[[]]]],") + b"[]]",
    "blanks": b"{" + repeated(b" ") + b"x",
    "marks of order": repeated(b"\xef\xbb\xbf"),
    "not text": repeated(b"\xff"),
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in BODIES.items()])
def test_body_is_read_in_time_that_its_length_bounds(body: bytes) -> None:
    def read() -> None:
        storable(body)
        with suppress(InvalidBody):
            normalise(body, RequestHeaders([("Content-Type", "application/json")])).render(NOW)

    within_bounds(read)


@pytest.mark.parametrize("field", [b"a&", b"%", b"payload=&", b"+"])
def test_form_is_read_in_time_that_its_length_bounds(field: bytes) -> None:
    def read() -> None:
        with pytest.raises(InvalidBody):
            normalise(repeated(field), RequestHeaders([("Content-Type", FORM)]))

    within_bounds(read)


@pytest.mark.parametrize("provider", ["generic", "gitlab", "stripe", "svix"])
@pytest.mark.parametrize("piece", ["t=1,v1=", "v1,a= ", "v1=00,", "=", ",", " ", "1"])
def test_signature_header_is_read_in_time_that_its_length_bounds(provider: str, piece: str) -> None:
    value = repeated(piece.encode()).decode()
    names = ("X-Hub-Signature-256", "X-Gitlab-Token", "Stripe-Signature", "Webhook-Signature", "Svix-Signature")
    others = [(name, value) for name in ("Webhook-Id", "Webhook-Timestamp", "Svix-Id", "Svix-Timestamp")]
    headers = RequestHeaders([*[(name, f"x{value}") for name in names], *others])
    secrets = [SigningSecret(uuid4(), "not-a-real-secret-1")]
    verdicts: list[SignatureVerdict] = []
    within_bounds(lambda: verdicts.append(judge_signature(provider, secrets, headers, b"{}", NOW)))
    assert verdicts[0].status is SignatureStatus.INVALID


@pytest.mark.parametrize("piece", [".", "github.", "a.", "\x00", " ", "é"])
def test_names_are_read_in_time_that_their_length_bounds(piece: str) -> None:
    name = repeated(piece.encode()).decode()
    headers = RequestHeaders([("Idempotency-Key", name), ("X-Event-Type", name), ("X-GitHub-Event", name)])

    def read() -> None:
        normalise(b"{}", headers)
        dedupe_key("github", headers, {"id": name})
        is_wanted([EventFilter(name, (name,))], name, {"action": name})
        shown_event(name)
        shown(name)

    within_bounds(read)


@pytest.mark.parametrize("piece", ["{{", "{{a", "{{x}}", "{{date}}", "`", "[", "]["])
def test_templates_and_payloads_are_shown_in_time_that_their_length_bounds(piece: str) -> None:
    text = repeated(piece.encode()).decode()

    def show() -> None:
        template_problem(text)
        document = msgspec.json.encode({"event": text, "eventPayload": {"text": text}})
        render_title(text, "title", NOW, event=text)
        render_title("{{event}} {{payload.eventPayload.text}}", "title", NOW, event=text, payload=document)
        describe_run("", source="webhook", fired_at=NOW, content=content_of(document))

    within_bounds(show)
