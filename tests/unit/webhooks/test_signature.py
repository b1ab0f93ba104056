"""Verdicts on signatures. The signing side is written out here, apart from the code that checks."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.headers import RequestHeaders
from gateway.webhooks.signature import (
    SCHEMES,
    SignatureStatus,
    SignatureVerdict,
    SigningSecret,
    judge_signature,
    secret_problem,
    secret_warning,
)

CASES: dict[str, list[dict[str, Any]]] = msgspec.json.decode(
    (Path(__file__).parent / "cases" / "webhooks.json").read_bytes()
)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
BODY = b'{"hello":"\xff world"}'
TEXT = "not-a-real-secret-1"
STANDARD = "whsec_" + base64.b64encode(b"not-a-real-secret-of-32-bytes-xx").decode()


def mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()


def hub(secret: str, body: bytes = BODY) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + mac(secret.encode(), body).hex()}


def stripe(secret: str, at: int = SECONDS, body: bytes = BODY) -> dict[str, str]:
    return {"Stripe-Signature": f"t={at},v1={mac(secret.encode(), b'%d.%s' % (at, body)).hex()},v0=00"}


def standard(secret: str, at: int = SECONDS, body: bytes = BODY, family: str = "webhook") -> dict[str, str]:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = base64.b64encode(mac(key, b"msg_1.%d.%s" % (at, body))).decode()
    return {f"{family}-id": "msg_1", f"{family}-timestamp": str(at), f"{family}-signature": f"v1,{signed}"}


def gitlab(secret: str) -> dict[str, str]:
    return {"X-Gitlab-Token": secret.encode().decode("latin-1")}


def judge(provider: str, headers: dict[str, str], *secrets: SigningSecret, body: bytes = BODY) -> SignatureVerdict:
    return judge_signature(provider, secrets, RequestHeaders(headers.items()), body, NOW)


def secret(value: str | None, expires_at: datetime | None = None) -> SigningSecret:
    return SigningSecret(uuid4(), value, expires_at)


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES["signature_status"]])
@pytest.mark.parametrize("provider", ["generic", "github"])
def test_verdict_is_the_expected_one(provider: str, case: dict[str, Any]) -> None:
    value, header = case["input"]["secret"], case["input"]["header"]
    headers = {} if header is None else hub(value) if header == "<correct>" else {"X-Hub-Signature-256": header}
    assert judge(provider, headers, *([secret(value)] if value else [])).status == case["expected"]


SIGNED = [
    ("generic", TEXT, hub(TEXT)),
    ("github", TEXT, hub(TEXT)),
    ("gitlab", "geheimnis-mit-ümlaut", gitlab("geheimnis-mit-ümlaut")),
    ("stripe", TEXT, stripe(TEXT)),
    ("standard_webhooks", STANDARD, standard(STANDARD)),
    ("standard_webhooks", STANDARD, standard(STANDARD, family="svix")),
    ("svix", STANDARD, standard(STANDARD, family="svix")),
    ("gitlab", STANDARD, standard(STANDARD)),
    ("gitlab", STANDARD, {**standard(STANDARD), **gitlab("an-older-secret-token")}),
]


@pytest.mark.parametrize(("provider", "value", "headers"), SIGNED)
def test_right_signature_is_valid_and_names_its_secret(provider: str, value: str, headers: dict[str, str]) -> None:
    other, right = secret(STANDARD[::-1]), secret(value)
    assert judge(provider, headers, other, right) == SignatureVerdict(SignatureStatus.VALID, right.id)


@pytest.mark.parametrize(("provider", "value", "headers"), SIGNED)
def test_wrong_secret_body_or_age_is_invalid(provider: str, value: str, headers: dict[str, str]) -> None:
    wrong = STANDARD.replace("n", "m") if value == STANDARD else value + "x"
    assert judge(provider, headers, secret(wrong)).status == "invalid"
    assert judge(provider, headers, secret(value, NOW)).status == "invalid"
    assert judge(provider, headers, secret(value, NOW + timedelta(seconds=1))).status == "valid"
    if provider != "gitlab" or "webhook-signature" in headers:
        assert judge(provider, headers, secret(value), body=BODY + b" ").status == "invalid"


@pytest.mark.parametrize("provider", [name for name, scheme in SCHEMES.items() if scheme])
def test_absent_signature_is_missing(provider: str) -> None:
    assert judge(provider, {}, secret(STANDARD)).status == "missing"
    assert judge(provider, {"X-Hub-Signature-256": " ", "X-Gitlab-Token": ""}, secret(STANDARD)).status == "missing"
    assert judge(provider, {}, secret(STANDARD, NOW - timedelta(days=1))).status == "missing"
    assert judge(provider, {}).status == "not_required"


def test_provider_without_signatures_requires_none() -> None:
    assert judge("none", {}, secret(TEXT)).status == "not_required"


@pytest.mark.parametrize(("age", "status"), [(300, "valid"), (-300, "valid"), (301, "invalid"), (-301, "invalid")])
def test_signed_time_may_be_five_minutes_away(age: int, status: str) -> None:
    assert judge("stripe", stripe(TEXT, SECONDS - age), secret(TEXT)).status == status
    assert judge("svix", standard(STANDARD, SECONDS - age), secret(STANDARD)).status == status


def test_one_good_signature_among_several_is_enough() -> None:
    good = standard(STANDARD)
    good["webhook-signature"] = f"v1a,xx v1,not-base64 v1,AAAA {good['webhook-signature']} v2,zz"
    assert judge("svix", good, secret(STANDARD)).status == "valid"
    pairs = stripe(TEXT)
    pairs["Stripe-Signature"] = "v1=zz,v1=00," + pairs["Stripe-Signature"]
    assert judge("stripe", pairs, secret(TEXT)).status == "valid"


@pytest.mark.parametrize(
    ("provider", "headers"),
    [
        ("github", {"X-Hub-Signature-256": "sha256="}),
        ("github", {"X-Hub-Signature-256": mac(TEXT.encode(), BODY).hex()}),
        ("github", {"X-Hub-Signature-256": "sha1=" + mac(TEXT.encode(), BODY).hex()}),
        ("github", {"X-Hub-Signature-256": "sha256=zz"}),
        ("github", {"X-Hub-Signature-256": hub(TEXT)["X-Hub-Signature-256"][:-2]}),
        ("github", {"X-Hub-Signature-256": "sha256=ü"}),
        ("stripe", {"Stripe-Signature": "t=,v1=00"}),
        ("stripe", {"Stripe-Signature": f"t={SECONDS}"}),
        ("stripe", {"Stripe-Signature": f"t={SECONDS},t={SECONDS},v1=00"}),
        ("stripe", {"Stripe-Signature": f"t=+{SECONDS},v1=00"}),
        ("stripe", {"Stripe-Signature": "t=" + "9" * 5000 + ",v1=00"}),
        ("stripe", {"Stripe-Signature": "t=١٢٣,v1=00"}),
        ("svix", {"svix-signature": "v1,AAAA"}),
        ("svix", {"svix-signature": "v1,AAAA", "svix-id": "m", "svix-timestamp": "soon"}),
        ("svix", {"svix-signature": "v1", "svix-id": "m", "svix-timestamp": str(SECONDS)}),
    ],
)
def test_malformed_header_is_invalid(provider: str, headers: dict[str, str]) -> None:
    assert judge(provider, headers, secret(STANDARD if provider == "svix" else TEXT)).status == "invalid"


def test_header_given_twice_is_invalid() -> None:
    pairs = [*hub(TEXT).items(), *hub(TEXT).items()]
    assert judge_signature("github", [secret(TEXT)], RequestHeaders(pairs), BODY, NOW).status == "invalid"


def test_secret_that_cannot_be_read_believes_nobody_and_says_so() -> None:
    unread = secret(None)
    verdict = judge("github", hub(TEXT), unread)
    assert (verdict.status, verdict.undecided) == ("invalid", True)
    assert judge("github", hub(TEXT), unread, secret(TEXT)).status == "valid"
    assert not judge("github", {"X-Hub-Signature-256": "x"}, unread).undecided


KEY = b"\xff\xfe\xfbnot-a-real-secret-of-32-byte"
UNPADDED = base64.b64encode(KEY).decode().rstrip("=")
URL_SAFE = base64.urlsafe_b64encode(KEY).decode()


@pytest.mark.parametrize("value", [UNPADDED, URL_SAFE, URL_SAFE.rstrip("="), base64.b64encode(KEY).decode()])
@pytest.mark.parametrize("provider", ["standard_webhooks", "svix", "gitlab"])
def test_base64_is_taken_in_either_alphabet_and_without_padding(provider: str, value: str) -> None:
    assert {"-", "_"} & set(URL_SAFE)
    assert len(KEY) % 3
    assert secret_problem(provider, f"whsec_{value}") is None
    for signature in (base64.b64encode, base64.urlsafe_b64encode):
        signed = signature(mac(KEY, b"msg_1.%d.%s" % (SECONDS, BODY))).decode()
        headers = {"webhook-id": "msg_1", "webhook-timestamp": str(SECONDS)}
        for text in (signed, signed.rstrip("=")):
            verdict = judge(provider, {**headers, "webhook-signature": f"v1,{text}"}, secret(f"whsec_{value}"))
            assert verdict.status == "valid"


def test_gitlab_request_is_judged_by_the_header_that_it_has() -> None:
    token = "a-secret-token-of-old"
    assert judge("gitlab", gitlab(token), secret(STANDARD), secret(token)).status == "valid"
    forged = {**standard(STANDARD[:-4] + "0000"), **gitlab(token)}
    assert judge("gitlab", forged, secret(STANDARD), secret(token)).status == "invalid"


@pytest.mark.parametrize("at", [SECONDS * 1000, SECONDS * 1000 - 299_000])
@pytest.mark.parametrize("provider", ["stripe", "svix", "standard_webhooks", "gitlab"])
def test_time_in_milliseconds_is_refused_with_a_hint(provider: str, at: int) -> None:
    value, sign = (TEXT, stripe) if provider == "stripe" else (STANDARD, standard)
    verdict = judge(provider, sign(value, at), secret(value))
    assert verdict.status == "invalid"
    assert "milliseconds?" in verdict.detail
    assert "milliseconds" not in judge(provider, sign(value, SECONDS - 301), secret(value)).detail


@pytest.mark.parametrize(
    ("provider", "value", "is_warned"),
    [
        ("standard_webhooks", "whsec_" + base64.b64encode(b"8 bytes!").decode(), True),
        ("svix", base64.b64encode(b"x" * 23).decode(), True),
        ("svix", base64.b64encode(b"x" * 24).decode(), False),
        ("gitlab", "whsec_" + base64.b64encode(b"8 bytes!").decode(), True),
        ("gitlab", "sixteen-chars-ab", False),
        ("github", "sixteen-chars-ab", False),
    ],
)
def test_short_key_is_taken_with_a_warning(provider: str, value: str, is_warned: bool) -> None:
    assert secret_problem(provider, value) is None
    assert (secret_warning(provider, value) is not None) is is_warned


HEADERS = [name for schemes in SCHEMES.values() for scheme in schemes for name in scheme.signature_headers]
NAMES = st.sampled_from([*HEADERS, "webhook-id", "webhook-timestamp", "svix-id", "svix-timestamp"])
VALUES = st.one_of(
    st.text(),
    st.from_regex(r"(t=[0-9]*|v1=[0-9a-f]*|v1,[A-Za-z0-9+/=]*|sha256=[0-9a-f]*|[, ]|\w)*"),
    st.just(str(SECONDS)),
)


@given(
    st.sampled_from(sorted(SCHEMES)),
    st.lists(st.tuples(NAMES, VALUES), max_size=8),
    st.binary(max_size=40),
    st.lists(st.one_of(st.none(), st.text(max_size=30)), max_size=3),
)
def test_any_request_gets_a_verdict_and_no_guess_is_valid(
    provider: str, pairs: list[tuple[str, str]], body: bytes, values: list[str | None]
) -> None:
    secrets = [SigningSecret(UUID(int=1), value) for value in values]
    verdict = judge_signature(provider, secrets, RequestHeaders(pairs), body, NOW)
    assert isinstance(verdict.status, SignatureStatus)
    if provider not in {"gitlab"}:
        assert verdict.status is not SignatureStatus.VALID


@pytest.mark.parametrize(
    ("provider", "value", "is_fine"),
    [
        ("generic", "x" * 15, False),
        ("generic", "x" * 16, True),
        ("generic", "x" * 513, False),
        ("stripe", "whsec_not_base64!", True),
        ("svix", STANDARD, True),
        ("svix", STANDARD.removeprefix("whsec_"), True),
        ("svix", "whsec_not_base64!", False),
        ("none", "x" * 20, False),
    ],
)
def test_secret_is_judged_when_written(provider: str, value: str, is_fine: bool) -> None:
    assert (secret_problem(provider, value) is None) is is_fine


def test_kept_headers_never_hold_what_proves_identity() -> None:
    pairs = [
        *hub(TEXT).items(),
        ("Authorization", "Bearer x"),
        ("Cookie", "a=b"),
        ("User-Agent", "hook\x00\ud800" * 200),
    ]
    kept = RequestHeaders(pairs).kept(["x-hub-signature-256"])
    assert set(kept) == {"user-agent", "signature_present"}
    assert kept["signature_present"] is True
    assert len(str(kept["user-agent"])) <= 500
