from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.core.autopilot import (
    PAYLOAD_CHARS_MAX,
    Assignee,
    admission_reason,
    cadence,
    content_of,
    describe_run,
    error_type,
    judge_assignee,
    render_title,
    run_error_type,
    template_problem,
)

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parent / "cases" / "autopilot.json").read_bytes()
)
NOON = datetime(2026, 6, 3, 12, 0, tzinfo=UTC)
READY = Assignee(
    "agent",
    squad_found=True,
    squad_archived=False,
    has_leader=True,
    agent_found=True,
    agent_archived=False,
    has_runtime=True,
    runtime_online=True,
)


def cases(group: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("given", "expected"), [pytest.param(case["input"], case["expected"], id=case["id"]) for case in CASES[group]]
    )


@cases("title_template")
def test_title_template_is_rendered(given: dict[str, str], expected: str) -> None:
    noon = datetime.fromisoformat(f"{given['date']}T12:00:00+00:00")
    assert render_title(given["template"], "unused", noon) == expected


@cases("title_template_valid")
def test_title_template_is_judged(given: str, expected: bool) -> None:
    assert (template_problem(given) is None) is expected


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{{date}} {{ trigger_id }}", "{{ trigger_id }}"),
        ("{{Date}}", "{{Date}}"),
        ("{{}}", "{{}}"),
        ("{{payload}}", "{{payload}}"),
        ("{{payload.}}", "{{payload.}}"),
        ("{{payload.a..b}}", "{{payload.a..b}}"),
        ("{{payloads.a}}", "{{payloads.a}}"),
        ("{{event.a}}", "{{event.a}}"),
        ("{{payload" + ".a" * 11 + "}}", "{{payload" + ".a" * 11 + "}}"),
        ("{{payload." + "a" * 101 + "}}", "{{payload." + "a" * 101 + "}}"),
        ("{{payload" + ".a" * 10 + "}} {{ payload.0.a-b }} {{event}}", None),
        ("{date} {{date", None),
        ("", None),
    ],
)
def test_unknown_placeholder_is_named_as_it_is_written(template: str, named: str | None) -> None:
    problem = template_problem(template)
    assert (problem is None) if named is None else problem is not None and problem.startswith(f"{named} means nothing")


def test_template_has_a_number_of_placeholders() -> None:
    assert template_problem("{{event}}" * 10) is None
    assert "at most 10" in (template_problem("{{event}}" * 11) or "")


PAYLOAD = rb"""{
  "a": {"b": [{"c": "found"}, 2]}, "n": 0.12345678901234567890, "big": 1e400, "yes": true, "nothing": null,
  "object": {"x":[1,2]}, "quoted": "say \"hi\"\n\tto\u0007 all\u202e\ud83d\ude00", "long": "%s", "0": "zero",
  "\u006bey": "named"
}""" % (b"w" * 300)


@pytest.mark.parametrize(
    ("template", "title"),
    [
        ("{{event}}: {{payload.a.b.0.c}}", "github.push: found"),
        ("{{ payload.a.b.1 }}", "2"),
        ("{{payload.n}} {{payload.big}} {{payload.yes}}", "0.12345678901234567890 1e400 true"),
        ("x {{payload.nothing}}{{payload.absent}}{{payload.a.b.9.c}}{{payload.a.b.c}}{{payload.n.x}}", "x"),
        ("{{payload.object}}", '{"x":[1,2]}'),
        ("{{payload.quoted}}", 'say "hi" to all\U0001f600'),
        ("{{payload.0}} {{payload.key}}", "zero named"),
        ("{{payload.long}}", "w" * 199 + "…"),
        ("{{payload.absent}}", "Own title"),
        ("{{payload.a.b.100}}", "Own title"),
        ("{{payload.a.b.¹}}", "Own title"),
        ("{{payload.long}}" * 5, ("w" * 199 + "…") * 2 + "w" * 100),
    ],
)
def test_title_sees_the_event_and_the_payload(template: str, title: str) -> None:
    assert render_title(template, "Own title", NOON, event="github.push", payload=PAYLOAD) == title


def test_title_of_a_firing_without_a_payload_has_none() -> None:
    assert render_title("by {{event}} {{payload.a}}", "Own title", NOON, event="manual") == "by manual"


def test_title_of_a_payload_that_is_an_array_goes_by_its_places() -> None:
    assert render_title("{{payload.1.a}}", "Own title", NOON, payload=b'[0,{"a":"b"}]') == "b"


@pytest.mark.parametrize(
    ("template", "timezone", "title"),
    [
        ("{{date}} to {{ date }}", "UTC", "2026-06-03 to 2026-06-03"),
        ("{{date}}", "Pacific/Kiritimati", "2026-06-04"),
        ("{{date}}", "Mars/Olympus", "2026-06-03"),
        ("{{date}}", "../../etc/passwd", "2026-06-03"),
        ("{{date}}", "", "2026-06-03"),
        ("", "UTC", "Own title {{date}}"),
        ("  ", "UTC", "Own title {{date}}"),
    ],
)
def test_title_has_the_date_of_the_triggers_zone(template: str, timezone: str, title: str) -> None:
    assert render_title(template, "Own title {{date}}", NOON, timezone) == title


def test_description_without_words_is_the_note_alone() -> None:
    said = describe_run(" ", source="manual", fired_at=NOON)
    assert said == "Autopilot run of 2026-06-03 12:00 (UTC), started by: manual."


def test_description_tells_the_time_in_the_triggers_zone() -> None:
    assert "2026-06-03 21:00 (Asia/Tokyo)" in describe_run("x", source="webhook", fired_at=NOON, timezone="Asia/Tokyo")
    assert "2026-06-03 12:00 (UTC)" in describe_run("x", source="webhook", fired_at=NOON, timezone="Nowhere")


def described(envelope: object, description: str = "x", *, source: str = "webhook") -> str:
    content = content_of(msgspec.json.encode(envelope))
    return describe_run(description, source=source, fired_at=NOON, content=content)


def test_description_keeps_the_digits_of_numbers() -> None:
    content = content_of(b'{"event":"e","eventPayload":{"n":1e400,"m":0.12345678901234567890123,"k":1.50}}')
    said = describe_run("x", source="webhook", fired_at=NOON, content=content)
    assert '"n": 1e400,\n  "m": 0.12345678901234567890123,\n  "k": 1.50' in said


def test_description_shows_a_webhooks_event_and_payload() -> None:
    envelope = {"event": "github.push", "eventPayload": {"ref": "main"}, "request": {"contentType": "secret"}}
    said = described(envelope, "Look at it.")
    assert said.startswith("Look at it.\n\nAutopilot run of ")
    assert "Event: `github.push`" in said
    assert said.endswith('```json\n{\n  "ref": "main"\n}\n```')
    assert "secret" not in said


def test_description_shows_a_payload_without_envelope_whole() -> None:
    said = described([1])
    assert "Event: `webhook.received`" in said
    assert said.endswith("```json\n[\n  1\n]\n```")


@pytest.mark.parametrize("source", ["manual", "schedule", "api"])
def test_description_shows_no_payload_that_no_webhook_brought(source: str) -> None:
    assert "hidden" not in described({"eventPayload": "hidden"}, source=source)


def test_payload_cannot_end_the_block_that_holds_it() -> None:
    said = described({"event": "a`\n# b", "eventPayload": "`````"})
    assert "\n``````json\n" in said
    assert said.endswith("\n``````")
    assert "Event: `a' # b`\n" in said


def test_payload_of_any_length_is_shown_up_to_a_limit() -> None:
    said = described({"eventPayload": "y" * (2 * PAYLOAD_CHARS_MAX)})
    assert len(said) < PAYLOAD_CHARS_MAX + 1_000
    assert "cut; the delivery has all of it" in said


def test_payload_that_is_nested_deep_is_not_blown_up_by_indentation() -> None:
    deep: object = [1] * 20_000
    for _ in range(200):
        deep = [deep]
    said = described({"eventPayload": deep})
    assert len(said) < 50_000


@cases("admission_reason")
def test_admission_reason_is_worded(given: list[str], expected: str) -> None:
    assert admission_reason(*given) == expected


@pytest.mark.parametrize(
    ("changes", "mode", "code", "text"),
    [
        ({}, "run_only", None, ""),
        ({"runtime_online": False}, "create_issue", None, ""),
        ({"runtime_online": False}, "run_only", "runtime_offline", "agent runtime is offline at dispatch time"),
        ({"has_runtime": False}, "create_issue", "no_runtime", "agent has no runtime bound"),
        ({"agent_archived": True}, "create_issue", "agent_archived", "agent is archived"),
        ({"agent_found": False}, "create_issue", "agent_not_found", "agent does not exist"),
        ({"assignee_type": "squad"}, "run_only", None, ""),
        ({"assignee_type": "squad", "squad_found": False}, "run_only", "squad_not_found", "squad does not exist"),
        ({"assignee_type": "squad", "squad_archived": True}, "run_only", "squad_archived", "squad is archived"),
        ({"assignee_type": "squad", "has_leader": False}, "run_only", "squad_without_leader", "squad has no leader"),
        (
            {"assignee_type": "squad", "agent_archived": True},
            "run_only",
            "agent_archived",
            "squad leader agent is archived",
        ),
        (
            {"assignee_type": "squad", "runtime_online": False},
            "run_only",
            "runtime_offline",
            "squad leader agent runtime is offline at dispatch time",
        ),
    ],
)
def test_assignee_is_admitted_or_skipped(changes: dict[str, Any], mode: str, code: str | None, text: str) -> None:
    skip = judge_assignee(replace(READY, **changes), mode=mode)
    assert (None if skip is None else skip.code, "" if skip is None else skip.text) == (code, text)


@cases("autopilot_error_type")
def test_failure_text_has_its_bucket(given: str, expected: str) -> None:
    assert error_type(given) == expected


@pytest.mark.parametrize(
    ("text", "bucket"),
    [
        ("unknown execution_mode: cron", "configuration"),
        ("Issue cancelled", "issue_terminal"),
        ("dispatch failed", "dispatch_error"),
        ("task failed", "task_error"),
        ("agent_error.provider_network", "task_error"),
        ("", "autopilot_error"),
    ],
)
def test_failure_text_of_any_kind_has_a_bucket(text: str, bucket: str) -> None:
    assert error_type(text) == bucket


def test_failure_that_a_task_reports_is_the_tasks_whatever_it_says() -> None:
    assert run_error_type("task_failed", "issue cancelled") == "task_error"
    assert run_error_type("issue_cancelled", "issue cancelled") == "issue_terminal"
    assert run_error_type(None, None) == "autopilot_error"


def test_cadence_is_the_clock_an_event_or_a_person() -> None:
    assert [cadence(source) for source in ("schedule", "webhook", "api", "manual")] == [
        "scheduled",
        "event",
        "event",
        "manual",
    ]
