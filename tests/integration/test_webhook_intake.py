"""The entrance of webhooks: what each request is answered, and what its row says."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import random
import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from gateway.errors import StoreConflict, StoreUnavailable
from gateway.http.ingress.webhooks import GITHUB_BODY_BYTES_MAX, HEAD_BYTES, LargeBodies
from gateway.keyring import KeyRing, generate_key
from gateway.postgres.pool import Pool
from gateway.webhooks.headers import RequestHeaders
from gateway.webhooks.limited import LimitedRequests
from gateway.webhooks.limits import Gates
from gateway.work.autopilots.dispatch import Dispatched, Firing
from support.autopilots import Autopilots, open_autopilots
from support.loop_meter import LoopMeter
from support.tenant import Tenant, open_tenant
from support.webhooks import SECRET, HookServer, open_hook_server, signed

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parents[1] / "unit" / "webhooks" / "cases" / "webhooks.json").read_bytes()
)
BODY = b'{"action":"opened","n":1}'


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return (await open_autopilots(pool)).tenant


@pytest.fixture(params=["alone", "together"])
def hooks(pool: Pool, tenant: Tenant, nursery: trio.Nursery, request: pytest.FixtureRequest) -> HookServer:
    return open_hook_server(pool, tenant, nursery=nursery if request.param == "together" else None)


async def only_row(hooks: HookServer) -> dict[str, Any]:
    (row,) = await hooks.deliveries()
    return row


SITUATIONS: dict[str, Any] = {
    "oversize": {},
    "accepted": {},
    "disabled": {"enabled": False},
    "archived": {"autopilot": "archived"},
    "paused": {"autopilot": "paused"},
    "skipped": {"agent_archived": True},
}


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["ingress_status"]])
async def test_request_is_answered_as_expected(hooks: HookServer, case: dict[str, Any]) -> None:
    situation, expected = SITUATIONS[case["name"]], case["expected"]
    hook = await hooks.add_hook(enabled=situation.get("enabled", True))
    await hooks.sql("update autopilot set status = %s", situation.get("autopilot", "active"))
    if situation.get("agent_archived"):
        await hooks.sql("update agent set archived_at = now()")
    body = b'"' + b"x" * 262_143 + b'"' if case["name"] == "oversize" else BODY
    status, answer = await hooks.send(hook.token, body)
    assert status == expected["http"]
    rows = await hooks.deliveries()
    assert answer["status"] == expected["status"]
    assert set(expected.get("keys", [])) <= answer.keys()
    assert rows[0]["status"] == expected["row"]
    assert answer.get("reason") == expected.get("reason", answer.get("reason"))
    assert str(rows[0]["id"]) == answer["delivery_id"]
    assert rows[0]["response_status"] == expected["http"]
    assert msgspec.json.decode(rows[0]["response_body"]) == answer


async def test_accepted_delivery_tells_all_about_itself(hooks: HookServer) -> None:
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    status, answer = await hooks.send(
        hook.token,
        BODY,
        X_GitHub_Event="issues",
        X_GitHub_Delivery="d1",
        User_Agent="GitHub-Hookshot",
        Authorization="Bearer not-a-real-token",
        Content_Type="application/json; charset=utf-8",
        **signed(BODY),
    )
    assert status == 200
    row = await only_row(hooks)
    assert (row["provider"], row["event"], row["dedupe_key"]) == ("github", "github.issues.opened", "d1")
    assert (row["signature_status"], row["status"], row["attempt_count"]) == ("valid", "dispatched", 1)
    assert row["selected_headers"] == {
        "user-agent": "GitHub-Hookshot",
        "x-github-event": "issues",
        "x-github-delivery": "d1",
        "signature_present": True,
    }
    assert bytes(row["raw_body"]) == BODY
    ((secret_id,),) = await hooks.sql("select id from webhook_signing_secret")
    assert row["signing_secret_id"] == secret_id
    (run,) = await hooks.runs()
    assert (str(run["id"]), run["webhook_delivery_id"]) == (answer["run_id"], row["id"])
    assert run["trigger_payload"]["event"] == "github.issues.opened"
    assert run["trigger_payload"]["eventPayload"] == {"action": "opened", "n": 1}
    assert run["trigger_payload"]["request"]["contentType"] == "application/json"
    assert row["autopilot_run_id"] == run["id"]


async def test_unknown_token_is_not_found_and_leaves_no_row(hooks: HookServer) -> None:
    for token in ("awt_unknown", "x" * 500, "%00", "%C3%BC"):
        status, answer = await hooks.send(token)
        assert (status, answer["code"]) == (404, "webhook_not_found")
    assert await hooks.deliveries() == []


async def test_trigger_of_another_workspaces_autopilot_is_not_found(hooks: HookServer, pool: Pool) -> None:
    hook = await hooks.add_hook()
    other = await open_tenant(pool)
    await hooks.sql("update autopilot_trigger set workspace_id = %s", other.workspace_id)
    assert (await hooks.send(hook.token))[0] == 404


@pytest.mark.parametrize("body", [b"", b"not json", b"1", b"[" * 3000, b'["\xff"]', b"a=1"])
async def test_body_that_is_none_is_rejected_and_kept(hooks: HookServer, body: bytes) -> None:
    hook = await hooks.add_hook()
    for _ in range(2):
        status, answer = await hooks.send(hook.token, body, Idempotency_Key="k")
        assert (status, answer["code"], answer["reason"]) == (400, "invalid_body", "invalid_body")
    rows = await hooks.deliveries()
    assert [(row["status"], row["reason_code"], bytes(row["raw_body"])) for row in rows] == [
        ("rejected", "invalid_body", body)
    ] * 2
    assert (await hooks.send(hook.token, b"{}", Idempotency_Key="k"))[1]["status"] == "accepted"


@pytest.mark.parametrize(("headers", "reason"), [(signed(b"other"), "invalid"), ({}, "missing")])
async def test_unsigned_request_is_rejected_and_never_stands_in_the_way(
    hooks: HookServer, headers: dict[str, str], reason: str
) -> None:
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    status, answer = await hooks.send(hook.token, BODY, X_GitHub_Delivery="d1", **headers)
    assert (status, answer["status"], answer["reason"]) == (401, "rejected", f"{reason}_signature")
    row = await only_row(hooks)
    assert (row["status"], row["signature_status"], row["reason_code"]) == ("rejected", reason, f"{reason}_signature")
    status, answer = await hooks.send(hook.token, BODY, X_GitHub_Delivery="d1", **signed(BODY))
    assert (status, answer["status"]) == (200, "accepted")


async def test_forger_learns_nothing_of_a_delivery_and_does_not_touch_it(hooks: HookServer) -> None:
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    _, first = await hooks.send(hook.token, BODY, X_GitHub_Delivery="d1", **signed(BODY))
    status, forged = await hooks.send(hook.token, BODY, X_GitHub_Delivery="d1", **signed(b"x"))
    assert status == 401
    assert forged["delivery_id"] != first["delivery_id"]
    assert "run_id" not in forged
    rows = {str(row["id"]): row for row in await hooks.deliveries()}
    assert rows[first["delivery_id"]]["attempt_count"] == 1


async def test_32_identical_deliveries_at_once_start_one_run(hooks: HookServer) -> None:
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    answers: list[tuple[int, dict[str, Any]]] = []

    async def send() -> None:
        answers.append(await hooks.send(hook.token, BODY, X_GitHub_Delivery="d1", **signed(BODY)))

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(send)
    assert Counter((status, answer["status"]) for status, answer in answers) == {
        (200, "accepted"): 1,
        (200, "duplicate"): 31,
    }
    assert len(await hooks.runs()) == 1
    assert (await only_row(hooks))["attempt_count"] == 32
    assert len({answer["delivery_id"] for _, answer in answers}) == 1


@pytest.mark.parametrize("mode", ["run_only", "create_issue"])
async def test_retry_is_a_duplicate_that_names_the_run(hooks: HookServer, mode: str) -> None:
    hook = await hooks.add_hook(mode=mode)
    _, first = await hooks.send(hook.token, BODY, Idempotency_Key="k")
    for _ in range(20):
        assert await hooks.send(hook.token, BODY, Idempotency_Key="k") == (
            200,
            {"status": "duplicate", "delivery_id": first["delivery_id"], "run_id": first["run_id"]},
        )
    assert len(await hooks.runs()) == 1
    assert (await only_row(hooks))["attempt_count"] == 21


async def test_name_with_another_body_is_a_second_row_that_starts_nothing(hooks: HookServer) -> None:
    hook = await hooks.add_hook(secret=SECRET)
    other = b'{"action":"closed","n":2}'
    _, first = await hooks.send(hook.token, BODY, Idempotency_Key="k1", **signed(BODY))
    for _ in range(3):
        status, answer = await hooks.send(hook.token, other, Idempotency_Key="k1", **signed(other))
        assert (status, answer["status"]) in [(200, "ignored"), (200, "duplicate")]
        assert answer["delivery_id"] != first["delivery_id"]
    assert (await hooks.send(hook.token, BODY, Idempotency_Key="k1", **signed(BODY)))[1]["status"] == "duplicate"
    rows = {bytes(row["raw_body"]): row for row in await hooks.deliveries()}
    assert rows.keys() == {BODY, other}
    assert (rows[BODY]["status"], rows[BODY]["attempt_count"]) == ("dispatched", 2)
    assert (rows[other]["status"], rows[other]["reason_code"]) == ("ignored", "duplicate_other_body")
    assert (rows[other]["attempt_count"], rows[other]["autopilot_run_id"]) == (3, None)
    assert rows[other]["dedupe_key"].startswith("k1#")
    assert len(await hooks.runs()) == 1


async def test_bodies_that_share_a_name_and_come_at_once_are_told_apart(hooks: HookServer) -> None:
    hook = await hooks.add_hook()
    bodies = [b'{"n":%d}' % (number % 4) for number in range(32)]
    answers: Counter[str] = Counter()

    async def send(body: bytes) -> None:
        answers[(await hooks.send(hook.token, body, Idempotency_Key="k"))[1]["status"]] += 1

    async with trio.open_nursery() as nursery:
        for body in bodies:
            nursery.start_soon(send, body)
    assert answers == {"accepted": 1, "ignored": 3, "duplicate": 28}
    rows = await hooks.deliveries()
    assert sorted((bytes(row["raw_body"]), row["attempt_count"]) for row in rows) == [
        (b'{"n":%d}' % number, 8) for number in range(4)
    ]
    assert Counter(row["reason_code"] for row in rows) == {None: 1, "duplicate_other_body": 3}


async def test_request_without_a_name_is_always_new(hooks: HookServer) -> None:
    hook = await hooks.add_hook()
    assert [(await hooks.send(hook.token, BODY))[1]["status"] for _ in range(3)] == ["accepted"] * 3


async def test_event_outside_the_filters_is_ignored(hooks: HookServer) -> None:
    hook = await hooks.add_hook(provider="github", event_filters='[{"event":"push"}]')
    status, answer = await hooks.send(hook.token, BODY, X_GitHub_Event="issues")
    assert (status, answer["status"], answer["reason"]) == (200, "ignored", "event_filtered")
    assert answer["event"] == "github.issues.opened"
    assert msgspec.json.decode((await only_row(hooks))["response_body"]) == answer
    assert (await hooks.send(hook.token, BODY, X_GitHub_Event="push"))[1]["status"] == "accepted"


async def test_corrupt_filters_let_nothing_pass(hooks: HookServer) -> None:
    hook = await hooks.add_hook(event_filters='{"event":"push"}')
    assert (await hooks.send(hook.token, BODY))[1]["reason"] == "event_filtered"


@pytest.mark.parametrize(("provider", "lines"), [("github", 1), ("gitlab", 1), ("stripe", 1), ("generic", 0)])
async def test_trigger_without_a_secret_is_logged_once(hooks: HookServer, provider: str, lines: int) -> None:
    with capture_logs() as logs:
        hook = await hooks.add_hook(provider=provider)
        for number in range(3):
            await hooks.send(hook.token, BODY)
            # Each new revision is read again.
            await hooks.sql("update autopilot_trigger set event_filters = %s::jsonb", f'[{{"event":"e{number}"}}]')
    assert [line["provider"] for line in logs if line["event"] == "webhook_trigger_without_secret"] == [
        provider
    ] * lines


# --- handshakes, scalars, numbers, titles -----------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [None, "[]", '[{"event":"push"}]'])
async def test_handshake_is_ignored_unless_a_filter_names_it(hooks: HookServer, filters: str | None) -> None:
    hook = await hooks.add_hook(provider="github", mode="create_issue", event_filters=filters)
    status, answer = await hooks.send(hook.token, {"zen": "x", "hook_id": 1}, X_GitHub_Event="ping")
    assert (status, answer["status"], answer["reason"]) == (200, "ignored", "handshake")
    row = await only_row(hooks)
    assert (row["status"], row["reason_code"], row["event"]) == ("ignored", "handshake", "github.ping")
    assert await hooks.runs() == []


@pytest.mark.parametrize(
    ("event", "body", "headers"),
    [
        ("ping", {"zen": "x"}, {"X_GitHub_Event": "ping"}),
        ("github.ping", {"zen": "x"}, {"X_GitHub_Event": "ping"}),
        ("url_verification", {"type": "url_verification", "challenge": "c"}, {}),
        ("SubscriptionConfirmation", {"Type": "x"}, {"X_Amz_Sns_Message_Type": "SubscriptionConfirmation"}),
    ],
)
async def test_handshake_that_a_filter_names_starts_a_run(
    hooks: HookServer, event: str, body: object, headers: dict[str, str]
) -> None:
    hook = await hooks.add_hook(event_filters=msgspec.json.encode([{"event": event}]).decode())
    assert (await hooks.send(hook.token, body, **headers))[1]["status"] == "accepted"


@pytest.mark.parametrize("body", [b"1", b'"text"', b"null", b"true", b"-1e400"])
async def test_scalar_is_accepted_only_when_signed(hooks: HookServer, body: bytes) -> None:
    signing = await hooks.add_hook(secret=SECRET)
    assert (await hooks.send(signing.token, body, **signed(body)))[1]["status"] == "accepted"
    assert (await hooks.send((await hooks.add_hook()).token, body))[1]["reason"] == "invalid_body"
    (run,) = await hooks.sql("select (trigger_payload -> 'eventPayload')::text from autopilot_run")
    assert run == (body.decode(),)


NUMBERS = b'{"n":1e400,"m":0.12345678901234567890123,"k":1.50,"long":12345678901234567890123}'


@pytest.mark.parametrize("mode", ["run_only", "create_issue"])
async def test_numbers_reach_the_agent_as_they_were_sent(hooks: HookServer, tenant: Tenant, mode: str) -> None:
    hook = await hooks.add_hook(mode=mode)
    assert (await hooks.send(hook.token, NUMBERS))[1]["status"] == "accepted"
    shown = msgspec.json.format(NUMBERS.decode(), indent=2)
    if mode == "create_issue":
        ((description,),) = await hooks.sql("select description from issue")
        assert shown in description
        return
    claimed = await tenant.service.claim(tenant.runtime, tenant.runtime_id)
    assert claimed is not None
    assert shown in claimed.prompt


async def test_title_of_the_issue_sees_the_payload(hooks: HookServer) -> None:
    hook = await hooks.add_hook(mode="create_issue", provider="github")
    await hooks.sql("update autopilot set issue_title_template = '{{event}} {{payload.pull_request.title}}'")
    for filler in (1, 20_000):
        body = {"action": "opened", "pad": "x" * filler, "pull_request": {"title": "Fix\u0007 the\n door"}}
        await hooks.send(hook.token, body, X_GitHub_Event="pull_request")
    titles = await hooks.sql("select title from issue")
    assert titles == [("github.pull_request.opened Fix the door",)] * 2


@pytest.mark.parametrize("action", ["opened", "closed", "synchronize", "labeled", "review_requested"])
async def test_filter_without_actions_takes_all_of_them(hooks: HookServer, action: str) -> None:
    hook = await hooks.add_hook(provider="github", event_filters='[{"event":"pull_request"}]')
    _, answer = await hooks.send(hook.token, {"action": action}, X_GitHub_Event="pull_request")
    assert answer["status"] == "accepted"
    _, answer = await hooks.send(hook.token, {"action": action}, X_GitHub_Event="pull_request_review")
    assert answer["reason"] == "event_filtered"


# --- every request to a known address leaves a trace ------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_body_above_the_bound_leaves_its_beginning(hooks: HookServer, secret: str | None) -> None:
    hook = await hooks.add_hook(secret=secret)
    body = b'{"a":"' + b"x" * 262_144 + b'"}'
    status, answer = await hooks.send(hook.token, body, X_Event_Type="alert", **signed(body))
    assert (status, answer["code"], answer["reason"]) == (413, "body_too_large", "body_too_large")
    row = await only_row(hooks)
    assert (str(row["id"]), row["status"], row["reason_code"]) == (answer["delivery_id"], "rejected", "body_too_large")
    assert (row["event"], row["response_status"]) == ("alert", 413)
    assert row["signature_status"] == ("not_required" if secret is None else "invalid")
    assert bytes(row["raw_body"]) == body[:HEAD_BYTES]


async def test_github_trigger_takes_what_github_sends(hooks: HookServer) -> None:
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    body = b'{"action":"opened","a":"' + b"x" * 312_000 + b'"}'
    status, answer = await hooks.send(hook.token, body, X_GitHub_Event="push", **signed(body))
    assert (status, answer["status"]) == (200, "accepted")
    assert bytes((await only_row(hooks))["raw_body"]) == body
    over = b"[" + b"0," * (GITHUB_BODY_BYTES_MAX // 2) + b"0]"
    status, answer = await hooks.send(hook.token, over, **signed(over))
    assert (status, answer["reason"]) == (413, "body_too_large")


async def test_large_body_without_room_is_asked_to_come_again(pool: Pool, tenant: Tenant) -> None:
    large = LargeBodies(at_once=1, wait_seconds=0.05)
    hooks = open_hook_server(pool, tenant, large=large)
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    body = b'{"a":"' + b"x" * 300_000 + b'"}'
    async with large.room() as has_room:
        assert has_room
        response = await hooks.post(hook.token, body, **signed(body))
        assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
        assert (await only_row(hooks))["reason_code"] == "no_room"
        told = {"Content_Length": str(len(BODY)), **signed(BODY)}
        assert (await hooks.send(hook.token, BODY, **told))[0] == 200
    assert (await hooks.send(hook.token, body, **signed(body)))[1]["status"] == "accepted"


async def test_stranger_gets_no_room_for_a_body(hooks: HookServer) -> None:
    assert (await hooks.send("awt_unknown", b"x" * 1_000_000))[0] == 404
    assert await hooks.deliveries() == []


async def test_slash_at_the_end_of_the_address_is_taken(hooks: HookServer) -> None:
    hook = await hooks.add_hook()
    assert (await hooks.send(f"{hook.token}/", BODY))[1]["status"] == "accepted"
    body = b"x" * 262_145
    assert (await hooks.send(f"{hook.token}/", body))[1]["reason"] == "body_too_large"


@pytest.mark.parametrize("secret", [None, SECRET])
async def test_limited_requests_share_a_row_that_counts_them(pool: Pool, tenant: Tenant, secret: str | None) -> None:
    hooks = open_hook_server(pool, tenant, per_token=3)
    hook, other = await hooks.add_hook(secret=secret), await hooks.add_hook(secret=secret)
    for _ in range(10):
        await hooks.send(hook.token, BODY, X_Event_Type="alert")
    await hooks.limited.flush()
    rows = [row for row in await hooks.deliveries() if row["reason_code"] == "rate_limited"]
    # A minute may have ended meanwhile.
    assert len(rows) in (1, 2)
    assert sum(row["attempt_count"] for row in rows) == 7
    assert {(row["status"], row["response_status"], row["event"]) for row in rows} == {("rejected", 429, "alert")}
    for _ in range(4):
        await hooks.send(other.token, BODY)
    counted = await hooks.sql(
        "select sum(attempt_count) from webhook_delivery where reason_code = 'rate_limited' group by trigger_id"
    )
    assert sorted(counted) == [(1,), (7,)]


async def test_two_processes_count_in_the_same_row(pool: Pool, tenant: Tenant) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    hooks = open_hook_server(pool, tenant)
    hook = await hooks.add_hook()
    known = await hooks.intake.find_trigger(hook.token)
    assert known is not None
    replicas = [LimitedRequests(hooks.store, clock=lambda: now, monotonic=lambda: 0.0) for _ in range(2)]
    for replica in replicas:
        for _ in range(50):
            await replica.note(known.row, RequestHeaders())
    assert (await only_row(hooks))["attempt_count"] == 2
    for replica in replicas:
        await replica.flush()
    assert (await only_row(hooks))["attempt_count"] == 100


async def test_limited_requests_are_counted_while_the_database_is_away(
    pool: Pool, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = open_hook_server(pool, tenant, per_token=1)
    hook = await hooks.add_hook()
    assert (await hooks.send(hook.token, BODY))[0] == 200

    async def fail(_: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(hooks.store, "record_limited", fail)
        assert [(await hooks.send(hook.token, BODY))[0] for _ in range(3)] == [429] * 3
    await hooks.limited.flush()
    assert (await hooks.deliveries())[-1]["attempt_count"] == 3


# --- compressed bodies ------------------------------------------------------------------------------------------------


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("identity, gzip", gzip.compress),
    ],
)
async def test_compressed_body_is_signed_as_sent_and_read_as_meant(
    hooks: HookServer, encoding: str, encode: Any
) -> None:
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    sent = encode(BODY)
    status, answer = await hooks.send(
        hook.token, sent, X_GitHub_Event="issues", Content_Encoding=encoding, **signed(sent)
    )
    assert (status, answer["status"]) == (200, "accepted")
    row = await only_row(hooks)
    assert (row["event"], bytes(row["raw_body"])) == ("github.issues.opened", BODY)
    assert row["selected_headers"]["content-encoding"] == encoding
    if sent != BODY:
        status, _ = await hooks.send(hook.token, sent, Content_Encoding=encoding, **signed(BODY))
        assert status == 401


@pytest.mark.parametrize(
    ("encoding", "body", "status", "reason"),
    [
        ("br", BODY, 415, "unsupported_encoding"),
        ("zstd", BODY, 415, "unsupported_encoding"),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY, mtime=0), mtime=0), 415, "unsupported_encoding"),
        ("gzip", BODY, 400, "invalid_body"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-9], 400, "invalid_body"),
        ("deflate", b"", 400, "invalid_body"),
        ("gzip", gzip.compress(b"not json", mtime=0), 400, "invalid_body"),
        ("gzip", gzip.compress(b'["' + b"x" * 262_144 + b'"]', mtime=0), 413, "body_too_large"),
        ("gzip", gzip.compress(b" " * 20_000_000, mtime=0), 413, "body_too_large"),
    ],
)
async def test_compressed_body_that_cannot_be_read_leaves_a_row(
    hooks: HookServer, encoding: str, body: bytes, status: int, reason: str
) -> None:
    hook = await hooks.add_hook()
    answered, answer = await hooks.send(hook.token, body, Content_Encoding=encoding)
    assert (answered, answer["reason"]) == (status, reason)
    row = await only_row(hooks)
    assert (row["status"], row["reason_code"], bytes(row["raw_body"])) == ("rejected", reason, body)
    if status == 415:
        assert "gzip, deflate or identity" in answer["error"]


# --- what is remembered of a trigger ----------------------------------------------------------------------------------


async def test_rotated_token_and_secret_count_at_once_on_every_replica(
    hooks: HookServer, pool: Pool, tenant: Tenant
) -> None:
    other = open_hook_server(pool, tenant, ring=hooks.ring)
    hook = await hooks.add_hook(provider="github", secret=SECRET)
    for replica in (hooks, other):
        assert (await replica.send(hook.token, BODY, **signed(BODY)))[0] == 200
    await hooks.sql("delete from webhook_signing_secret")
    await hooks.add_secret(hook, "not-a-real-secret-2")
    for replica in (hooks, other):
        assert (await replica.send(hook.token, BODY, **signed(BODY)))[0] == 401
        assert (await replica.send(hook.token, BODY, **signed(BODY, "not-a-real-secret-2")))[0] == 200
    await hooks.sql("update autopilot_trigger set webhook_token = 'awt_new'")
    for replica in (hooks, other):
        assert (await replica.send(hook.token, BODY, **signed(BODY, "not-a-real-secret-2")))[0] == 404
        assert (await replica.send("awt_new", BODY, **signed(BODY, "not-a-real-secret-2")))[0] == 200
    await hooks.sql("delete from autopilot_trigger")
    assert (await other.send("awt_new", BODY))[0] == 404


async def test_both_secrets_of_a_rotation_are_live_until_one_expires(hooks: HookServer) -> None:
    hook = await hooks.add_hook(secret=SECRET)
    second = await hooks.add_secret(hook, "not-a-real-secret-2")
    assert (await hooks.send(hook.token, BODY, **signed(BODY)))[0] == 200
    assert (await hooks.send(hook.token, BODY, **signed(BODY, "not-a-real-secret-2")))[0] == 200
    await hooks.sql(
        "update webhook_signing_secret set expires_at = %s where id <> %s", datetime.now(UTC) - timedelta(1), second
    )
    assert (await hooks.send(hook.token, BODY, **signed(BODY)))[0] == 401
    matched = [row["signing_secret_id"] for row in await hooks.deliveries()]
    assert matched[1] == second
    assert matched[0] not in (None, second)


@pytest.mark.parametrize("has_ring", [True, False])
async def test_secret_that_cannot_be_read_fails_closed(pool: Pool, tenant: Tenant, has_ring: bool) -> None:
    hooks = open_hook_server(pool, tenant, has_ring=has_ring)
    hook = await hooks.add_hook()
    await hooks.add_secret(hook, SECRET, KeyRing.parse(generate_key()))
    status, answer = await hooks.send(hook.token, BODY, **signed(BODY))
    assert (status, answer["code"]) == (503, "signing_secret_unreadable")
    assert (await hooks.send(hook.token, BODY))[0] == 401
    assert await hooks.runs() == []
    assert {row["status"] for row in await hooks.deliveries()} == {"rejected"}


# --- limits -----------------------------------------------------------------------------------------------------------


async def unlimited(hooks: HookServer) -> list[dict[str, Any]]:
    """The rows of single requests, without those that count limited ones."""
    return [row for row in await hooks.deliveries() if row["reason_code"] != "rate_limited"]


async def test_storm_of_bad_signatures_is_refused_and_keeps_no_good_one_out(pool: Pool, tenant: Tenant) -> None:
    hooks = open_hook_server(pool, tenant, per_token=3)
    hook = await hooks.add_hook(secret=SECRET)
    bad = [(await hooks.send(hook.token, BODY, **headers))[0] for headers in (signed(b"x"), {}, signed(b"y"))]
    assert bad == [401, 401, 401]
    for headers in ({}, signed(b"x")):
        response = await hooks.post(hook.token, BODY, **headers)
        assert response.status_code == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert (await hooks.send(hook.token, BODY, **signed(BODY)))[1]["status"] == "accepted"
    assert len(await unlimited(hooks)) == 4
    assert hooks.recorder.seen("webhook_rate_limited") == [("token",)] * 2


async def test_bad_credentials_of_an_address_keep_no_good_delivery_out(pool: Pool, tenant: Tenant) -> None:
    hooks = open_hook_server(pool, tenant, per_address=3)
    hook, unsigned = await hooks.add_hook(secret=SECRET), await hooks.add_hook()
    assert [(await hooks.send("awt_guess"))[0] for _ in range(2)] == [404, 404]
    assert (await hooks.send(hook.token, BODY))[0] == 401
    for token in ("awt_guess", "awt_other", "x" * 500, hook.token):
        status, answer = await hooks.send(token, BODY)
        assert (status, answer["code"]) == (429, "rate_limited")
        assert 1 <= answer["retry_after"] <= 60
    assert (await hooks.send(hook.token, BODY, **signed(BODY)))[1]["status"] == "accepted"
    assert (await hooks.send(unsigned.token, BODY))[1]["status"] == "accepted"
    assert hooks.recorder.seen("webhook_rate_limited") == [("ip",)] * 4
    assert len(await unlimited(hooks)) == 3


async def test_flood_of_guesses_asks_the_database_for_none_of_them(pool: Pool, tenant: Tenant) -> None:
    hooks = open_hook_server(pool, tenant, per_address=3)
    hook = await hooks.add_hook(secret=SECRET)
    asked: list[str] = []
    find = hooks.store.find_trigger

    async def counted(token: str) -> Any:
        asked.append(token)
        return await find(token)

    hooks.store.find_trigger = counted  # type: ignore[method-assign]
    for number in range(50):
        await hooks.send(f"awt_guess{number}", BODY)
    assert asked == ["awt_guess0", "awt_guess1", "awt_guess2"]
    assert (await hooks.send(hook.token, BODY, **signed(BODY)))[0] == 200
    assert asked[3:] == [hook.token]


async def test_secret_that_is_new_lets_its_sender_in_at_once_also_over_the_limit(pool: Pool, tenant: Tenant) -> None:
    hooks = open_hook_server(pool, tenant, per_token=1, per_address=1)
    hook, unsigned = await hooks.add_hook(secret=SECRET), await hooks.add_hook()
    assert (await hooks.send(hook.token, BODY))[0] == 401
    assert (await hooks.send(unsigned.token, BODY))[0] == 200
    await hooks.add_secret(hook, "not-a-real-secret-2")
    await hooks.add_secret(unsigned, SECRET)
    now = trio.current_time() + 1
    hooks.intake._monotonic = lambda: now
    assert (await hooks.send(hook.token, BODY, **signed(BODY, "not-a-real-secret-2")))[0] == 200
    assert (await hooks.send(unsigned.token, BODY, **signed(BODY)))[0] == 200
    assert (await hooks.send(unsigned.token, BODY))[0] == 429


async def test_limit_of_an_unsigned_trigger_is_exact_when_many_come_at_once(pool: Pool, tenant: Tenant) -> None:
    hooks = open_hook_server(pool, tenant, per_token=10)
    hook = await hooks.add_hook()
    assert await send_many(hooks, hook.token, 40) == {(200, "accepted"): 10, (429, "rate_limited"): 30}
    assert len(await unlimited(hooks)) == 10


async def send_many(hooks: HookServer, token: str, count: int) -> Counter[tuple[int, str]]:
    """That many signed requests at once, and how they were answered."""
    answers: Counter[tuple[int, str]] = Counter()

    async def send(number: int) -> None:
        status, answer = await hooks.send(token, BODY, Idempotency_Key=f"d{number}", **signed(BODY))
        answers[status, str(answer.get("status", answer.get("code")))] += 1

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(send, number)
    return answers


# --- those that wait for their turn -----------------------------------------------------------------------------------


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def paced(pool: Pool, tenant: Tenant, clock: Clock, pace: int = 3, **options: Any) -> HookServer:
    gates = Gates(per_token_per_minute=pace, per_ip_per_minute=0, clock=clock)
    return open_hook_server(pool, tenant, gates=gates, **options)


async def test_proven_beyond_the_pace_is_stored_and_begun_when_its_turn_comes(
    pool: Pool, tenant: Tenant, nursery: trio.Nursery
) -> None:
    clock = Clock()
    hooks = paced(pool, tenant, clock, nursery=nursery)
    hook = await hooks.add_hook(secret=SECRET)
    assert await send_many(hooks, hook.token, 31) == {
        (200, "accepted"): 3,
        (200, "queued"): 27,
        (429, "rate_limited"): 1,
    }
    rows = await unlimited(hooks)
    waiting = [row for row in rows if row["status"] == "queued"]
    assert len(rows) == 30
    assert {(row["reason_code"], row["response_status"], row["signature_status"]) for row in waiting} == {
        ("paced", 200, "valid")
    }
    assert msgspec.json.decode(waiting[0]["response_body"]) == {
        "status": "queued",
        "delivery_id": str(waiting[0]["id"]),
    }
    await make_stale(hooks)
    assert (await hooks.turns.begin(), await hooks.intake.finish_stale()) == (0, 0)
    for begun in range(6, 31, 3):
        clock.now += 60
        assert await hooks.turns.begin() == 3
        assert await hooks.turns.begin() == 0
        assert len(await hooks.runs()) == begun
    rows = await unlimited(hooks)
    assert {(row["status"], row["reason_code"]) for row in rows} == {("dispatched", None)}
    begun_in = await hooks.sql(
        "select d.turn from autopilot_run r join webhook_delivery d on d.id = r.webhook_delivery_id"
        " where d.turn is not null order by r.created_at"
    )
    assert begun_in == sorted(begun_in)
    told = next(row for row in rows if row["id"] == waiting[0]["id"])
    assert msgspec.json.decode(told["response_body"])["status"] == "queued"


async def test_next_delivery_waits_behind_those_that_wait_on_every_replica(pool: Pool, tenant: Tenant) -> None:
    clock = Clock()
    hooks = paced(pool, tenant, clock, pace=1)
    other = paced(pool, tenant, Clock(), pace=1, ring=hooks.ring)
    hook = await hooks.add_hook(secret=SECRET)

    async def status(replica: HookServer, name: str) -> str:
        _, answer = await replica.send(hook.token, BODY, Idempotency_Key=name, **signed(BODY))
        return str(answer["status"])

    assert [await status(hooks, name) for name in "ab"] == ["accepted", "queued"]
    clock.now += 60
    assert await status(hooks, "c") == "queued"
    assert await status(other, "d") == "queued"
    assert await status(hooks, "b") == "duplicate"
    for replica in (hooks, other, hooks):
        clock.now += 60
        assert await replica.turns.begin() == (0 if replica is other else 1)
    begun = "select d.dedupe_key from autopilot_run r join webhook_delivery d on d.id = r.webhook_delivery_id"
    assert await hooks.sql(f"{begun} order by r.created_at") == [("a",), ("b",), ("c",)]


async def test_turn_taken_by_a_process_that_died_is_taken_again_before_those_behind_it(
    pool: Pool, tenant: Tenant
) -> None:
    clock = Clock()
    hooks = paced(pool, tenant, clock, pace=1)
    hook = await hooks.add_hook(secret=SECRET)
    for name in "abc":
        await hooks.send(hook.token, BODY, Idempotency_Key=name, **signed(BODY))
    claimed = await hooks.store.claim_turn(hook.trigger_id)
    assert claimed is not None
    assert await hooks.store.claim_turn(hook.trigger_id) is None
    clock.now += 60
    assert await hooks.turns.begin() == 0
    await make_stale(hooks)
    assert await hooks.turns.begin() == 1
    assert [row["status"] for row in await hooks.deliveries()].count("queued") == 1
    assert (await hooks.sql("select status from webhook_delivery where id = %s", claimed.id)) == [("dispatched",)]


async def test_many_replicas_begin_what_waits_once_each_and_in_order(
    pool: Pool, tenant: Tenant, nursery: trio.Nursery
) -> None:
    hooks = paced(pool, tenant, Clock(), pace=5, nursery=nursery)
    hook = await hooks.add_hook(secret=SECRET)
    assert (await send_many(hooks, hook.token, 45))[200, "queued"] == 40
    replicas = [paced(pool, tenant, Clock(), pace=10) for _ in range(4)]
    with trio.fail_after(30):
        while await hooks.store.waiting_triggers(10):
            async with trio.open_nursery() as nursery:
                for replica in replicas:
                    nursery.start_soon(replica.turns.begin)
    assert len(await hooks.runs()) == 45
    begun = await hooks.sql(
        "select d.turn from autopilot_run r join webhook_delivery d on d.id = r.webhook_delivery_id"
        " where d.turn is not null order by r.created_at"
    )
    assert begun == sorted(begun)


async def test_what_waits_is_decided_by_what_its_trigger_is_then(pool: Pool, tenant: Tenant) -> None:
    clock = Clock()
    hooks = paced(pool, tenant, clock, pace=1)
    hook = await hooks.add_hook(secret=SECRET, event_filters='[{"event":"push"}]', provider="github")
    for name in "ab":
        await hooks.send(hook.token, BODY, X_GitHub_Event="push", X_GitHub_Delivery=name, **signed(BODY))
    _, filtered = await hooks.send(hook.token, BODY, X_GitHub_Event="issues", **signed(BODY))
    assert filtered["reason"] == "event_filtered"
    await hooks.sql("update autopilot set status = 'paused'")
    clock.now += 60
    assert await hooks.turns.begin() == 1
    found = {(row["dedupe_key"], row["status"], row["reason_code"]) for row in await hooks.deliveries()}
    assert ("b", "ignored", "autopilot_paused") in found
    assert len(await hooks.runs()) == 1


async def test_one_that_cannot_be_begun_leaves_the_queue_and_is_tried_again(pool: Pool, tenant: Tenant) -> None:
    async def fail(firing: Firing) -> None:
        if failing:
            raise ZeroDivisionError("a bug that one message meets")

    failing, clock = False, Clock()
    hooks = paced(pool, tenant, clock, pace=1, dispatcher=Scripted(Autopilots(tenant, pool), before=fail))
    hook = await hooks.add_hook(secret=SECRET)
    for name in "abc":
        await hooks.send(hook.token, BODY, Idempotency_Key=name, **signed(BODY))
    failing = True
    clock.now += 60
    await hooks.turns.begin()
    failing = False
    clock.now += 60
    await hooks.turns.begin()
    assert [row["status"] for row in await hooks.deliveries()] == ["dispatched", "queued", "dispatched"]
    await make_stale(hooks)
    assert await hooks.intake.finish_stale() == 1
    assert {row["status"] for row in await hooks.deliveries()} == {"dispatched"}


@pytest.mark.parametrize("outcome", ["dispatched", "ignored", "failed"])
async def test_last_attempt_is_when_the_delivery_was_settled(pool: Pool, tenant: Tenant, outcome: str) -> None:
    clock = Clock()
    hooks = paced(pool, tenant, clock, pace=1)
    hook = await hooks.add_hook(secret=SECRET)
    for name in "ab":
        await hooks.send(hook.token, BODY, Idempotency_Key=name, **signed(BODY))
    await hooks.sql("update webhook_delivery set last_attempt_at = now() - interval '1 hour' where status = 'queued'")
    (waiting,) = [row["id"] for row in await hooks.deliveries() if row["status"] == "queued"]
    if outcome == "dispatched":
        clock.now += 60
        assert await hooks.turns.begin() == 1
    elif outcome == "ignored":
        assert await hooks.store.ignore(waiting, "trigger_disabled")
    else:
        assert await hooks.store.fail(waiting, "it failed")
    (settled,) = await hooks.sql(
        "select status, last_attempt_at > now() - interval '1 minute' from webhook_delivery where id = %s", waiting
    )
    assert tuple(settled) == (outcome, True)


# --- when things go wrong ---------------------------------------------------------------------------------------------


class Scripted:
    """A dispatcher that does what a test says, once, before the real one."""

    def __init__(self, autopilots: Autopilots, before: Any = None, after: Any = None) -> None:
        self.autopilots, self.before, self.after = autopilots, before, after

    async def dispatch(self, firing: Firing) -> Dispatched:
        if self.before is not None:
            await self.before(firing)
        done = await self.autopilots.dispatcher.dispatch(firing)
        if self.after is not None:
            await self.after(firing)
        return done


async def test_trigger_paused_between_receipt_and_dispatch_is_decided_once(pool: Pool, tenant: Tenant) -> None:
    async def pause(_: Firing) -> None:
        await hooks.sql("update autopilot set status = 'paused'")

    hooks = open_hook_server(pool, tenant, dispatcher=Scripted(Autopilots(tenant, pool), before=pause))
    hook = await hooks.add_hook()
    status, answer = await hooks.send(hook.token, BODY, Idempotency_Key="k")
    assert (status, answer["status"], answer["reason"]) == (200, "ignored", "autopilot_paused")
    await hooks.sql("update autopilot set status = 'active'")
    await make_stale(hooks)
    assert await hooks.intake.finish_stale() == 0
    assert (await hooks.send(hook.token, BODY, Idempotency_Key="k"))[1]["status"] == "duplicate"
    assert (await only_row(hooks))["status"] == "ignored"
    assert await hooks.runs() == []


async def make_stale(hooks: HookServer) -> None:
    await hooks.sql("update webhook_delivery set available_at = now()")


async def test_failed_dispatch_leaves_a_failed_row_that_does_not_hold_its_name(pool: Pool, tenant: Tenant) -> None:
    async def fail(_: Firing) -> None:
        if failing:
            raise ZeroDivisionError("a bug, with a secret in it")

    failing = True
    hooks = open_hook_server(pool, tenant, dispatcher=Scripted(Autopilots(tenant, pool), before=fail))
    hook = await hooks.add_hook()
    status, answer = await hooks.send(hook.token, BODY, Idempotency_Key="k")
    assert (status, answer["code"]) == (500, "dispatch_failed")
    row = await only_row(hooks)
    assert (row["status"], row["error"], row["response_status"]) == ("failed", "ZeroDivisionError", 500)
    failing = False
    assert (await hooks.send(hook.token, BODY, Idempotency_Key="k"))[1]["status"] == "accepted"
    assert len(await hooks.runs()) == 1


async def test_run_whose_commit_was_not_heard_of_is_the_answer(pool: Pool, tenant: Tenant) -> None:
    async def lose(_: Firing) -> None:
        raise StoreUnavailable("the connection broke after the commit")

    hooks = open_hook_server(pool, tenant, dispatcher=Scripted(Autopilots(tenant, pool), after=lose))
    hook = await hooks.add_hook()
    status, answer = await hooks.send(hook.token, BODY)
    (run,) = await hooks.runs()
    assert (status, answer["status"], answer["run_id"]) == (200, "accepted", str(run["id"]))


async def test_database_failure_is_500_and_never_404(pool: Pool, tenant: Tenant) -> None:
    class Away:
        def __getattr__(self, name: str) -> Any:
            async def away(*_: Any) -> Any:
                raise StoreUnavailable("the database is away")

            return away

    hooks = open_hook_server(pool, tenant)
    hooks.intake._store = Away()  # type: ignore[assignment]
    status, answer = await hooks.send("awt_any")
    assert (status, answer["code"]) == (500, "store_unavailable")


async def test_sender_that_hangs_up_gets_its_delivery_settled(pool: Pool, tenant: Tenant) -> None:
    reached, go = trio.Event(), trio.Event()

    async def wait(_: Firing) -> None:
        reached.set()
        await go.wait()

    hooks = open_hook_server(pool, tenant, dispatcher=Scripted(Autopilots(tenant, pool), before=wait))
    hook = await hooks.add_hook()
    with trio.CancelScope() as sender:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hooks.send, hook.token, BODY)
            await reached.wait()
            sender.cancel()
            go.set()
    assert (await only_row(hooks))["status"] == "dispatched"


async def stale_row(hooks: HookServer, autopilot_id: UUID, trigger_id: UUID, body: bytes = BODY) -> UUID:
    delivery_id = uuid4()
    await hooks.sql(
        "insert into webhook_delivery (id, workspace_id, autopilot_id, trigger_id, event, raw_body, received_at,"
        " available_at) values (%s, %s, %s, %s, 'github.issues.opened', %s, '2026-01-02 03:04:05+00', now())",
        delivery_id,
        hooks.autopilots.tenant.workspace_id,
        autopilot_id,
        trigger_id,
        body,
    )
    return delivery_id


async def test_row_left_behind_is_finished_once_by_many_janitors(hooks: HookServer, pool: Pool, tenant: Tenant) -> None:
    hook = await hooks.add_hook()
    delivery_id = await stale_row(hooks, hook.autopilot_id, hook.trigger_id)
    replicas = [open_hook_server(pool, tenant) for _ in range(4)]
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for replica in replicas:
                nursery.start_soon(replica.intake.finish_stale)
        await make_stale(hooks)
    (run,) = await hooks.runs()
    assert run["webhook_delivery_id"] == delivery_id
    assert run["trigger_payload"]["event"] == "github.issues.opened"
    assert run["trigger_payload"]["request"]["receivedAt"].startswith("2026-01-02T03:04:05")
    row = await only_row(hooks)
    assert (row["status"], row["autopilot_run_id"]) == ("dispatched", run["id"])


async def test_row_that_always_fails_is_given_up(pool: Pool, tenant: Tenant) -> None:
    async def fail(_: Firing) -> None:
        raise StoreConflict("it stands in the way")

    hooks = open_hook_server(pool, tenant, dispatcher=Scripted(Autopilots(tenant, pool), before=fail))
    hook = await hooks.add_hook()
    await stale_row(hooks, hook.autopilot_id, hook.trigger_id)
    for _ in range(5):
        assert (await only_row(hooks))["status"] == "queued"
        await make_stale(hooks)
        await hooks.intake.finish_stale()
    row = await only_row(hooks)
    assert (row["status"], row["error"], row["dispatch_attempts"]) == ("failed", "it stands in the way", 5)


async def test_stale_row_of_an_unreadable_body_fails_at_once(hooks: HookServer) -> None:
    hook = await hooks.add_hook()
    await stale_row(hooks, hook.autopilot_id, hook.trigger_id, b"not json")
    assert await hooks.intake.finish_stale() == 1
    assert (await only_row(hooks))["status"] == "failed"


# --- many at once -----------------------------------------------------------------------------------------------------


async def test_each_of_1000_mixed_requests_has_the_row_it_deserves(hooks: HookServer) -> None:
    """Good, forged, unsigned, malformed, oversized, repeated and ignored ones, from eight senders at a time."""
    hook = await hooks.add_hook(secret=SECRET, event_filters='[{"event":"issues"}]')
    chance = random.Random(7)
    kinds = ["good", "forged", "unsigned", "malformed", "oversized", "repeated", "filtered"]
    requests = [(kind, f"d{number}") for number, kind in enumerate(chance.choices(kinds, k=1000))]
    requests = [(kind, "same" if kind == "repeated" else name) for kind, name in requests]
    outcomes: Counter[tuple[str, int, str]] = Counter()

    async def send_every_eighth(first: int) -> None:
        for kind, name in requests[first::8]:
            outcomes[kind, *(await send_one(kind, name))] += 1

    async def send_one(kind: str, name: str) -> tuple[int, str]:
        body = b'{"action":"x","name":"%s","pad":"%s"}' % (
            name.encode(),
            b"x" * (262_144 if kind == "oversized" else 1),
        )
        if kind == "malformed":
            body = b"{" + body
        proof = {"unsigned": {}, "forged": signed(body, "not-the-real-secret")}.get(kind, signed(body))
        event = "push" if kind == "filtered" else "issues"
        status, answer = await hooks.send(hook.token, body, X_GitHub_Delivery=name, X_GitHub_Event=event, **proof)
        return status, str(answer.get("status", answer.get("code")))

    async with trio.open_nursery() as nursery:
        for first in range(8):
            nursery.start_soon(send_every_eighth, first)
    sent = Counter(kind for kind, _ in requests)
    assert outcomes == {
        ("good", 200, "accepted"): sent["good"],
        ("forged", 401, "rejected"): sent["forged"],
        ("unsigned", 401, "rejected"): sent["unsigned"],
        ("malformed", 400, "rejected"): sent["malformed"],
        ("oversized", 413, "rejected"): sent["oversized"],
        ("repeated", 200, "accepted"): 1,
        ("repeated", 200, "duplicate"): sent["repeated"] - 1,
        ("filtered", 200, "ignored"): sent["filtered"],
    }
    verdicts = {
        "good": ("dispatched", "valid", None),
        "forged": ("rejected", "invalid", "invalid_signature"),
        "unsigned": ("rejected", "missing", "missing_signature"),
        "malformed": ("rejected", "valid", "invalid_body"),
        "oversized": ("rejected", "invalid", "body_too_large"),
        "repeated": ("dispatched", "valid", None),
        "filtered": ("ignored", "valid", "event_filtered"),
    }
    rows = {
        row["dedupe_key"]: (row["status"], row["signature_status"], row["reason_code"])
        for row in await hooks.deliveries()
    }
    assert rows == {name: verdicts[kind] for kind, name in requests}
    assert len(await hooks.runs()) == sent["good"] + 1


# --- payloads as the providers document them --------------------------------------------------------------------------


def github_push() -> tuple[bytes, dict[str, str]]:
    body = msgspec.json.encode({
        "ref": "refs/heads/main",
        "repository": {"id": 35129377, "name": "public-repo", "full_name": "baxterthehacker/public-repo"},
        "pusher": {"name": "baxterthehacker", "email": "baxterthehacker@users.noreply.example"},
        "commits": [{"id": "0d1a26e67d8f5eaf1f6ba5c57fc3c7d91ac0fd1c", "message": "Update README", "added": []}],
    })  # fmt: skip
    headers = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}
    return body, {**headers, **signed(body)}


def gitlab_merge_request() -> tuple[bytes, dict[str, str]]:
    body = msgspec.json.encode({
        "object_kind": "merge_request", "event_type": "merge_request",
        "object_attributes": {"id": 99, "iid": 1, "title": "MS-Viewport", "action": "open", "state": "opened"},
    })  # fmt: skip
    uuid = "13792a34-cac6-4fda-95a8-c58e00a3954e"
    return body, {"X_Gitlab_Event": "Merge Request Hook", "X_Gitlab_Token": SECRET, "X_Gitlab_Event_UUID": uuid}


def stripe_charge() -> tuple[bytes, dict[str, str]]:
    body = msgspec.json.encode({
        "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy", "object": "event", "type": "charge.succeeded", "livemode": False,
        "data": {"object": {"id": "ch_3NG8Du2eZvKYlo2C", "amount": 2000, "currency": "usd"}},
    })  # fmt: skip
    at = int(datetime.now(UTC).timestamp())
    mac = hmac.new(SECRET.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()
    return body, {"Stripe_Signature": f"t={at},v1={mac}"}


STANDARD_SECRET = "whsec_" + base64.b64encode(b"not-a-real-secret-of-32-bytes-xx").decode()


def svix_message() -> tuple[bytes, dict[str, str]]:
    body = b'{"type":"contact.created","timestamp":"2022-11-03T20:26:10Z","data":{"id":"1f81eb52"}}'
    at = int(datetime.now(UTC).timestamp())
    signed_text = b"msg_p5jXN8AQM9LWM0D4loKWxJek.%d.%s" % (at, body)
    mac = base64.b64encode(hmac.new(base64.b64decode(STANDARD_SECRET[6:]), signed_text, hashlib.sha256).digest())
    name = "msg_p5jXN8AQM9LWM0D4loKWxJek"
    return body, {"svix_id": name, "svix_timestamp": str(at), "svix_signature": f"v1,{mac.decode()}"}


def gitlab_signed_push() -> tuple[bytes, dict[str, str]]:
    body = b'{"object_kind":"push","event_name":"push","ref":"refs/heads/main","total_commits_count":1}'
    at, name = int(datetime.now(UTC).timestamp()), "f5a9b6c4-0d3e-4a55-9a1b-2f6f5f1f4b3c"
    key = base64.b64decode(STANDARD_SECRET[6:])
    mac = base64.b64encode(hmac.new(key, b"%s.%d.%s" % (name.encode(), at, body), hashlib.sha256).digest()).decode()
    headers = {"X_Gitlab_Event": "Push Hook", "X_Gitlab_Event_UUID": "13792a34-cac6-4fda-95a8-c58e00a3954e"}
    return body, {**headers, "webhook_id": name, "webhook_timestamp": str(at), "webhook_signature": f"v1,{mac}"}


@pytest.mark.parametrize(
    ("provider", "secret", "make", "event", "name"),
    [
        ("gitlab", STANDARD_SECRET, gitlab_signed_push, "gitlab.Push Hook", "f5a9b6c4-0d3e-4a55-9a1b-2f6f5f1f4b3c"),
        ("github", SECRET, github_push, "github.push", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
        ("gitlab", SECRET, gitlab_merge_request, "gitlab.Merge Request Hook", "13792a34-cac6-4fda-95a8-c58e00a3954e"),
        ("stripe", SECRET, stripe_charge, "charge.succeeded", "evt_1NG8Du2eZvKYlo2CUI79vXWy"),
        ("svix", STANDARD_SECRET, svix_message, "contact.created", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("standard_webhooks", STANDARD_SECRET, svix_message, "contact.created", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
    ],
)
async def test_provider_is_understood_and_its_broken_signatures_are_not_believed(
    hooks: HookServer, provider: str, secret: str, make: Any, event: str, name: str
) -> None:
    hook = await hooks.add_hook(provider=provider, secret=secret)
    body, headers = make()
    proof = next(header for header in headers if "ignature" in header or "Token" in header)
    broken = {**headers, proof: headers[proof][:-4] + "0000"}
    assert (await hooks.send(hook.token, body, **broken))[0] == 401
    if proof != "X_Gitlab_Token":  # which says nothing about the body
        assert (await hooks.send(hook.token, body + b" ", **headers))[0] == 401
    assert (await hooks.send(hook.token, body, **headers))[1]["status"] == "accepted"
    assert (await hooks.send(hook.token, body, **headers))[1]["status"] == "duplicate"
    row = (await hooks.sql("select event, dedupe_key from webhook_delivery where status = 'dispatched'"))[0]
    assert row == (event, name)


@pytest.mark.no_cover  # measuring coverage doubles the time of everything
@pytest.mark.parametrize("mode", ["run_only", "create_issue"])
async def test_large_body_of_an_unsigned_trigger_does_not_hold_the_loop(hooks: HookServer, mode: str) -> None:
    hook = await hooks.add_hook(enabled=True)
    await hooks.sql("update autopilot set execution_mode = %s", mode)
    meter, worst = LoopMeter(), []
    trio.lowlevel.add_instrument(meter)
    try:
        for number in range(7):
            body = b'{"n":%d,"a":[' % number + b"[]," * 80_000 + b"0]}"
            meter.reset()
            status, answer = await hooks.send(hook.token, body)
            assert (status, answer["status"]) == (200, "accepted")
            worst.append((meter.worst, meter.task))
    finally:
        trio.lowlevel.remove_instrument(meter)
    # The best of several: beside a busy neighbour a processor is slower, also by a thread's own clock.
    assert min(worst)[0] < 0.005, worst
