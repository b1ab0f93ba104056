"""Registering an app by letting a person scan a code: requests, the meaning of answers, the time of polls. Sans-IO.

This is the OAuth device flow (RFC 8628) with differences of the platform's own. The body of an answer is judged before
its HTTP status, because "still pending" comes as HTTP 400. The person who scans may belong to the cloud that was not
asked. Then polling continues in that cloud with the same device code; this happens at most once.
"""

from __future__ import annotations

import base64
import gzip
import math
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from gateway.errors import GatewayError, LocalProtocolError
from gateway.lark.api.region import Region
from gateway.lark.api.rest import ApiAnswer, ApiRequest

PATH = "/oauth/v1/app/registration"

INTERVAL_DEFAULT_SECONDS = 5.0
INTERVAL_MAX_SECONDS = 60.0
LIFETIME_DEFAULT_SECONDS = 600.0
LIFETIME_MAX_SECONDS = 3600.0
SLOW_DOWN_SECONDS = 5.0

INVALID_RESPONSE = "invalid_response"
"""The code of an answer that reports success without the required values, or an error that is no plain word."""

SOURCE = "agent-gateway"
AGENT_NAME_BLANK = "Agent"
NAME_LENGTH_MAX = 64

# The permissions that a new app is to have: to receive direct messages, and group messages that address it; to read
# earlier messages of a group; to send, react and fetch files; and to look up the names of senders.
TENANT_SCOPES = (
    "contact:contact.base:readonly",
    "contact:user.base:readonly",
    "im:message.group_at_msg:readonly",
    "im:message.group_msg",
    "im:message.p2p_msg:readonly",
    "im:message.reactions:read",
    "im:message.reactions:write_only",
    "im:message:readonly",
    "im:message:send_as_bot",
    "im:resource",
)
TENANT_EVENTS = ("im.message.receive_v1",)

_TERMINAL = frozenset({"access_denied", "expired_token", "invalid_grant"})
# Errors of OAuth that are about the server's own trouble, whatever the HTTP status. The scan may still succeed.
_TRANSIENT = frozenset({"temporarily_unavailable", "server_error"})
_CODE = re.compile(r"[\w.-]{1,80}", re.ASCII)
_PLAIN = re.compile(r"[!-~]{1,512}")
_FORM = (("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json"))


# --- beginning --------------------------------------------------------------------------------------------------------


class RegistrationRefused(GatewayError):
    """The platform did not begin a registration. `code` is its own code, `http_<status>`, or `invalid_response`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class BegunRegistration:
    """A registration that has begun: the code to scan, and the values for polling. Seconds count from the answer."""

    device_code: str = field(repr=False)
    verification_url: str = field(repr=False)
    interval_seconds: float = INTERVAL_DEFAULT_SECONDS
    lifetime_seconds: float = LIFETIME_DEFAULT_SECONDS


def begin_request() -> ApiRequest:
    return _form(action="begin", archetype="PersonalAgent", auth_method="client_secret", request_user_info="open_id")


def judge_begin(answer: ApiAnswer) -> BegunRegistration:
    """Read the answer to `begin_request`. Raises RegistrationRefused.

    The field for the lifetime occurs in two spellings; without either, the lifetime is 600 s.
    """
    fields = _json_object(answer.body)
    if fields is None:
        raise RegistrationRefused(_http_code(answer))
    if (code := _error_code(fields)) is not None:
        raise RegistrationRefused(code)
    device_code, url = _text(fields, "device_code"), _text(fields, "verification_uri_complete")
    if not 200 <= answer.status < 300:
        raise RegistrationRefused(_http_code(answer))
    if not device_code or not _is_web_address(url):
        raise RegistrationRefused(INVALID_RESPONSE)
    lifetime = _seconds(fields.get("expires_in")) or _seconds(fields.get("expire_in")) or LIFETIME_DEFAULT_SECONDS
    interval = _seconds(fields.get("interval")) or INTERVAL_DEFAULT_SECONDS
    return BegunRegistration(device_code, url, min(interval, INTERVAL_MAX_SECONDS), min(lifetime, LIFETIME_MAX_SECONDS))


def name_preset(agent_name: str) -> str:
    """Return the suggested name of the new bot, which the person may change: the name of the agent."""
    return " ".join(agent_name.split())[:NAME_LENGTH_MAX].strip() or AGENT_NAME_BLANK


def scan_url(verification_url: str, name: str = "") -> str:
    """Return the address to show as a code: `verification_url` with our parameters added.

    Parameters that it has already stay as they are. An empty `name` presets no name.
    """
    parts = urlsplit(verification_url)
    present = {key for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
    wanted = {"from": "sdk", "tp": "sdk", "source": SOURCE, "name": name, "addons": addons()}
    added = urlencode({key: value for key, value in wanted.items() if value and key not in present}, quote_via=quote)
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, added)))))


def addons() -> str:
    """Return the scopes and events that a new app is to have at once, in the form that the platform's page reads.

    The text is the same every time, so that the same address always gives the same picture of a code: sorted, without
    spaces, and without a time in the gzip header.
    """
    wanted = {
        "scopes": {"tenant": TENANT_SCOPES, "user": ()},
        "events": {"items": {"tenant": TENANT_EVENTS, "user": ()}},
    }
    packed = gzip.compress(msgspec.json.encode(wanted), compresslevel=9, mtime=0)
    return base64.urlsafe_b64encode(packed).rstrip(b"=").decode()


# --- polling for the scan ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pending:
    """The person has not confirmed yet."""


@dataclass(frozen=True, slots=True)
class SlowDown:
    """The person has not confirmed yet, and we poll too often."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """The answer says nothing about the scan: it is a proxy's page, or the platform has a fault. `code` names it.

    Polling goes on until the deadline.
    """

    code: str


@dataclass(frozen=True, slots=True)
class Moved:
    """The person belongs to the other cloud, `region`: polling continues there with the same device code."""

    region: Region


@dataclass(frozen=True, slots=True)
class Granted:
    """An app was made for the person. `open_id` is the person's id as the new app sees it."""

    app_id: str
    app_secret: str = field(repr=False)
    open_id: str


@dataclass(frozen=True, slots=True)
class RegistrationEnded:
    """The registration ended without an app. `code` is the platform's code, or `invalid_response`."""

    code: str


PollResult = Pending | SlowDown | Unclear | Moved | Granted | RegistrationEnded


def poll_request(device_code: str) -> ApiRequest:
    """Build the request of one poll. Raises LocalProtocolError for a blank device code."""
    if not device_code.strip():
        raise LocalProtocolError("the device code is empty")
    return _form(action="poll", device_code=device_code)


def judge_poll(answer: ApiAnswer, polled: Region, *, moved: bool = False) -> PollResult:
    """Judge an answer of the `polled` cloud. `moved` is True if the one switch between clouds was made already.

    The person's brand is read before the credentials: the wrong cloud confirms with an app id and an empty secret.
    """
    fields = _json_object(answer.body)
    if fields is None:
        return Unclear(_http_code(answer))
    if (code := _error_code(fields)) is not None:
        return _judge_error(code, answer)
    person = fields.get("user_info")
    person = person if isinstance(person, dict) else {}
    if not moved and (home := _brand(person)) not in {None, polled}:
        return Moved(home)
    app_id, secret, open_id = _text(fields, "client_id"), _text(fields, "client_secret"), _text(person, "open_id")
    if not app_id or not secret:
        return Unclear(_http_code(answer)) if _is_trouble(answer) else Pending()
    if not all(map(_PLAIN.fullmatch, (app_id, secret, open_id))):
        return RegistrationEnded(INVALID_RESPONSE)
    return Granted(app_id, secret, open_id)


def _judge_error(code: str, answer: ApiAnswer) -> PollResult:
    if code == "authorization_pending":
        return Pending()
    if code == "slow_down":
        return SlowDown()
    if code in _TRANSIENT and not _is_trouble(answer):
        return Unclear(code)
    # With HTTP 5xx or 429, any other error is about the platform's own trouble, not about this scan.
    if code not in _TERMINAL and _is_trouble(answer):
        return Unclear(_http_code(answer))
    return RegistrationEnded(code)


def _brand(person: dict[str, Any]) -> Region | None:
    brand = person.get("tenant_brand")
    return Region(brand) if isinstance(brand, str) and brand in {region.value for region in Region} else None


# --- when to ask again ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PollPace:
    """The seconds between two polls from now on, and the seconds until the next poll."""

    interval_seconds: float
    delay_seconds: float


def first_pace(begun: BegunRegistration) -> PollPace:
    """Return the pace of the first poll: one interval after the code is shown, because no scan can come before."""
    return PollPace(begun.interval_seconds, min(begun.interval_seconds, begun.lifetime_seconds))


def next_pace(outcome: PollResult, interval_seconds: float, seconds_left: float) -> PollPace:
    """Return the pace after an outcome that does not end the session.

    After a move to the other cloud the next poll is due at once. No poll is set beyond the deadline.
    """
    if isinstance(outcome, Moved):
        return PollPace(interval_seconds, 0.0)
    if isinstance(outcome, SlowDown):
        interval_seconds = min(interval_seconds + SLOW_DOWN_SECONDS, INTERVAL_MAX_SECONDS)
    return PollPace(interval_seconds, max(0.0, min(interval_seconds, seconds_left)))


def is_over(seconds_left: float) -> bool:
    return seconds_left <= 0


# --- parts ------------------------------------------------------------------------------------------------------------


def _form(**fields: str) -> ApiRequest:
    return ApiRequest("POST", PATH, _FORM, urlencode(fields).encode())


def _is_trouble(answer: ApiAnswer) -> bool:
    return answer.status >= 500 or answer.status == 429


def _http_code(answer: ApiAnswer) -> str:
    return f"http_{answer.status}"


def _error_code(fields: dict[str, Any]) -> str | None:
    """Return the error of an answer, fit to be stored and shown; None if there is none.

    An error that is not a plain word becomes `invalid_response`.
    """
    error = fields.get("error")
    if error is None or error == "":
        return None
    return error if isinstance(error, str) and _CODE.fullmatch(error) else INVALID_RESPONSE


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _seconds(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if math.isfinite(value) and value > 0 else None


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and url.isprintable() and " " not in url


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
