from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.dedupe import KEY_CHARS_MAX, DedupeKey, dedupe_key
from gateway.webhooks.headers import RequestHeaders
from gateway.webhooks.signature import SCHEMES

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parent / "cases" / "webhooks.json").read_bytes()
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["dedupe_key"]])
def test_key_is_the_expected_one(case: dict[str, Any]) -> None:
    found = dedupe_key(case["input"]["provider"], RequestHeaders(case["input"]["headers"].items()))
    assert found is not None
    assert [found.key, found.source] == case["expected"]


@pytest.mark.parametrize(
    ("provider", "headers", "body", "key"),
    [
        ("generic", {}, {"id": "evt_1"}, None),
        ("generic", {"Idempotency-Key": "  "}, None, None),
        ("generic", {"X-GitHub-Delivery": " d1 "}, None, ("d1", "x-github-delivery")),
        ("gitlab", {"X-Gitlab-Event-UUID": "u", "Idempotency-Key": "k"}, None, ("k", "idempotency-key")),
        ("gitlab", {"X-Gitlab-Event-UUID": "u"}, None, ("u", "x-gitlab-event-uuid")),
        ("gitlab", {"Webhook-Id": "w", "X-Gitlab-Event-UUID": "u", "Idempotency-Key": "k"}, None, ("w", "webhook-id")),
        ("stripe", {"Idempotency-Key": "k"}, {"id": "evt_1"}, ("evt_1", "stripe-event-id")),
        ("stripe", {"Idempotency-Key": "k"}, {"id": 1}, ("k", "idempotency-key")),
        ("stripe", {}, ["evt_1"], None),
        ("standard_webhooks", {"webhook-id": "m1", "Idempotency-Key": "k"}, None, ("m1", "webhook-id")),
        ("svix", {"svix-id": "m1"}, None, ("m1", "svix-id")),
        ("none", {"Idempotency-Key": "k"}, None, ("k", "idempotency-key")),
    ],
)
def test_key_by_provider(provider: str, headers: dict[str, str], body: object, key: tuple[str, str] | None) -> None:
    assert dedupe_key(provider, RequestHeaders(headers.items()), body) == (None if key is None else DedupeKey(*key))


@given(st.sampled_from(sorted(SCHEMES)), st.text(), st.text(max_size=400))
def test_key_always_fits_its_index(provider: str, header: str, identity: str) -> None:
    found = dedupe_key(provider, RequestHeaders([("idempotency-key", header)]), {"id": identity})
    assert found is None or (0 < len(found.key) <= KEY_CHARS_MAX and "\x00" not in found.key and found.key.encode())


def test_long_keys_stay_apart() -> None:
    keys = {dedupe_key("generic", RequestHeaders([("Idempotency-Key", "k" * 300 + end)])) for end in "ab"}
    assert len(keys) == 2
