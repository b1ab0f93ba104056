"""The REST calls of the Open Platform: build a request, judge an answer. Sans-IO.

The platform's own code in the body decides before the HTTP status does. Business errors come as HTTP 400 as well as
200, with the same JSON body; so the body is decoded whatever the status.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec

from gateway.channel.errors import (
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
    PlatformUnreachable,
)
from gateway.errors import LocalProtocolError
from gateway.lark.chat.cards import Rendered

UUID_LENGTH_MAX = 50
RETRY_AFTER_DEFAULT_SECONDS = 1.0
RETRY_AFTER_MAX_SECONDS = 60.0
_REASON_LENGTH_MAX = 300

TOO_LONG = 230025
_TOKEN_INVALID = frozenset({99991663, 99991664, 99991671})
_APP_THROTTLED, _CHAT_THROTTLED = 99991400, 230020
# 10003 and 10014 are answers of the token call; the others are about the app: wrong, disabled, not available.
_APP_REFUSED = frozenset({10003, 10014, 99991543, 99991662, 99991673})
# "Still being sent" and "sending is off for now": the result is unknown, and the same uuid makes a repeat safe.
_UNDECIDED = frozenset({230049, 230101})
_TOKEN_SHAPE = re.compile(r"[!-~]+")


class TokenRejected(PlatformUnreachable):
    """The tenant token is not accepted any more. Nothing was done; the call can be repeated with a fresh token."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call. `path` starts with a slash and carries the query. Headers and body hold secrets: they have no repr."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer before it is judged. Header names are lower case."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class TenantToken:
    """A tenant token. `lifetime_seconds` counts from the moment the request was sent."""

    value: str = field(repr=False)
    lifetime_seconds: float


@dataclass(frozen=True, slots=True)
class BotInfo:
    """The bot of an app, with the open id that the app itself sees."""

    open_id: str
    app_name: str


def tenant_token_request(app_id: str, app_secret: str) -> Request:
    """Build the request for a tenant token. Raises LocalProtocolError if a credential is blank."""
    _need(app_id, "app id")
    _need(app_secret, "app secret")
    return _post(
        "/open-apis/auth/v3/tenant_access_token/internal", {"app_id": app_id, "app_secret": app_secret}, token=None
    )


def judge_tenant_token(answer: Answer) -> TenantToken:
    """Read the tenant token. Raises PlatformUnauthorized if the platform refuses it.

    Otherwise raises PlatformUnavailable or PlatformThrottled, never PlatformRefused: the caller would take that for a
    refusal of the call that needs the token, and would give up the message to be sent. The token stands at the top of
    the answer, not under `data`.
    """
    try:
        fields = judge(answer)
    except PlatformRefused as error:
        # Without a code the refusal came from a proxy, and says nothing about the app.
        kind = PlatformUnauthorized if error.code else PlatformUnavailable
        raise kind(str(error), code=error.code, log_id=error.log_id) from error
    value, lifetime = fields.get("tenant_access_token"), fields.get("expire")
    # The token goes into a header. For characters that a header cannot hold, the HTTP library raises an error that
    # quotes the whole value, so the secret would reach the log.
    if not isinstance(value, str) or not _TOKEN_SHAPE.fullmatch(value):
        raise PlatformUnavailable("the platform answered without a usable token", log_id=_log_id(answer, fields))
    return TenantToken(value, float(lifetime) if isinstance(lifetime, int | float) else 0.0)


def bot_info_request(token: str) -> Request:
    return _get("/open-apis/bot/v3/info", token)


def judge_bot_info(answer: Answer) -> BotInfo:
    """Read the app's bot. Raises the PlatformError family. `bot` stands at the top of the answer, not under `data`."""
    fields = judge(answer)
    bot = fields.get("bot")
    open_id = bot.get("open_id") if isinstance(bot, dict) else None
    if not isinstance(bot, dict) or not isinstance(open_id, str) or not open_id:
        raise PlatformUnavailable("the platform answered without the bot's open id", log_id=_log_id(answer, fields))
    name = bot.get("app_name")
    return BotInfo(open_id, name if isinstance(name, str) else "")


def person_request(token: str, open_id: str) -> Request:
    """Build the request to look up a person or a bot by open id. Raises LocalProtocolError if it is blank."""
    _need(open_id, "open id")
    return _get(f"/open-apis/contact/v3/users/{quote(open_id, safe='')}?user_id_type=open_id", token)


def judge_union_id(answer: Answer) -> str:
    """Read the union id, "" if the app may not see it. Raises the PlatformError family."""
    user = _data(judge(answer)).get("user")
    union_id = user.get("union_id") if isinstance(user, dict) else None
    return union_id if isinstance(union_id, str) else ""


def send_request(
    token: str, *, receive_id_type: Literal["chat_id", "open_id"], receive_id: str, message: Rendered, uuid: str
) -> Request:
    """Build the request to send a new message. Repeats within an hour with the same `uuid` are one message.

    Raises LocalProtocolError for a blank receiver, and the errors of `check_message`.
    """
    _need(receive_id, receive_id_type)
    body = {"receive_id": receive_id, **_message_body(message, uuid)}
    return _post(f"/open-apis/im/v1/messages?receive_id_type={receive_id_type}", body, token=token)


def reply_request(token: str, *, message_id: str, message: Rendered, uuid: str, in_thread: bool) -> Request:
    """Build the request to send a reply that quotes `message_id`; `in_thread` starts or continues its topic.

    Raises LocalProtocolError for a blank message id, and the errors of `check_message`.
    """
    _need(message_id, "message id to reply to")
    body = {**_message_body(message, uuid), "reply_in_thread": in_thread}
    return _post(f"/open-apis/im/v1/messages/{quote(message_id, safe='')}/reply", body, token=token)


def judge_sent(answer: Answer) -> str:
    """Read the id of the message that is now in the chat. Raises the PlatformError family."""
    fields = judge(answer)
    message_id = _data(fields).get("message_id")
    if not isinstance(message_id, str) or not message_id:
        raise PlatformUnavailable("the platform took a message without naming it", log_id=_log_id(answer, fields))
    return message_id


def check_message(message: Rendered, uuid: str) -> None:
    """Refuse a message that can never be sent, before anything is called.

    Raises LocalProtocolError for an empty text, or a uuid that is not 1 to 50 characters long. Raises PlatformRefused
    with the platform's own code for a message that is over its limit: that is caused by a person or an agent, and is no
    bug.
    """
    if not message.words.strip():
        raise LocalProtocolError("the text is empty")
    if not 0 < len(uuid) <= UUID_LENGTH_MAX:
        raise LocalProtocolError(f"a uuid has 1 to {UUID_LENGTH_MAX} characters, not {len(uuid)}")
    if message.request_bytes > message.request_bytes_max:
        limit = message.request_bytes_max
        raise PlatformRefused(f"the message takes {message.request_bytes} bytes; the limit is {limit}", code=TOO_LONG)


def judge(answer: Answer) -> dict[str, Any]:
    """Return the body of a call that succeeded. Raises the PlatformError family if it failed."""
    fields = _json_object(answer.body)
    code = None if fields is None else fields.get("code")
    if fields is None or not isinstance(code, int) or isinstance(code, bool):
        raise _without_code(answer)
    if code == 0 and 200 <= answer.status < 300:
        return fields
    raise _refusal(answer, fields, code)


def _refusal(answer: Answer, fields: dict[str, Any], code: int) -> Exception:
    log_id = _log_id(answer, fields)
    said = f"the platform answered {code} (HTTP {answer.status}): {_reason(fields)}"
    if code in _TOKEN_INVALID:
        return TokenRejected(said, code=code, log_id=log_id)
    if code in {_APP_THROTTLED, _CHAT_THROTTLED} or answer.status == 429:
        whole_app = code != _CHAT_THROTTLED
        return PlatformThrottled(said, retry_after=_retry_after(answer), code=code, log_id=log_id, whole_app=whole_app)
    if code in _APP_REFUSED:
        return PlatformUnauthorized(said, code=code, log_id=log_id)
    if code in _UNDECIDED or answer.status >= 500:
        return PlatformUnavailable(said, code=code, log_id=log_id)
    return PlatformRefused(said, code=code, log_id=log_id)


def _without_code(answer: Answer) -> Exception:
    """Return the error for a body that is not the platform's: a proxy in between answered, so only the status counts.

    Only a 4xx means that nothing was done. A success status without the platform's JSON leaves the result unknown.
    """
    log_id = _log_id(answer, {})
    said = f"HTTP {answer.status} with {len(answer.body)} bytes that are not an answer of the platform"
    if answer.status == 429:
        return PlatformThrottled(said, retry_after=_retry_after(answer), log_id=log_id)
    if 400 <= answer.status < 500 and answer.status != 408:
        return PlatformRefused(said, log_id=log_id)
    return PlatformUnavailable(said, log_id=log_id)


def _retry_after(answer: Answer) -> float:
    """Return the seconds to wait. The platform has a header of its own for them and sends no Retry-After."""
    try:
        seconds = float(answer.headers.get("x-ogw-ratelimit-reset", ""))
    except ValueError:
        return RETRY_AFTER_DEFAULT_SECONDS
    if not math.isfinite(seconds) or seconds <= 0:
        return RETRY_AFTER_DEFAULT_SECONDS
    return min(seconds, RETRY_AFTER_MAX_SECONDS)


def _log_id(answer: Answer, fields: dict[str, Any]) -> str:
    error = fields.get("error")
    log_id = error.get("log_id") if isinstance(error, dict) else None
    return log_id if isinstance(log_id, str) else answer.headers.get("x-tt-logid", "")


def _reason(fields: dict[str, Any]) -> str:
    said = fields.get("msg")
    return said[:_REASON_LENGTH_MAX] if isinstance(said, str) and said else "no reason given"


def _data(fields: dict[str, Any]) -> dict[str, Any]:
    data = fields.get("data")
    return data if isinstance(data, dict) else {}


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _message_body(message: Rendered, uuid: str) -> dict[str, Any]:
    check_message(message, uuid)
    return {"msg_type": message.type, "content": message.content, "uuid": uuid}


def _need(value: str, name: str) -> None:
    if not value.strip():
        raise LocalProtocolError(f"the {name} is empty")


def _post(path: str, body: dict[str, Any], *, token: str | None) -> Request:
    headers = (("content-type", "application/json; charset=utf-8"), *_authorization(token))
    return Request("POST", path, headers, msgspec.json.encode(body))


def _get(path: str, token: str) -> Request:
    return Request("GET", path, _authorization(token))


def _authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"Bearer {token}"),)


# --- reactions --------------------------------------------------------------------------------------------------------


def react_request(token: str, *, message_id: str, emoji_type: str) -> Request:
    """Build the request to add the bot's reaction to a message. Raises LocalProtocolError for a blank value.

    `emoji_type` is one of the platform's names; upper and lower case matter.
    """
    _need(message_id, "message id to react to")
    _need(emoji_type, "emoji type")
    return _post(_reactions(message_id), {"reaction_type": {"emoji_type": emoji_type}}, token=token)


def judge_reacted(answer: Answer) -> str:
    """Read the id of the reaction that is there now. Raises the PlatformError family."""
    fields = judge(answer)
    reaction_id = _data(fields).get("reaction_id")
    if not isinstance(reaction_id, str) or not reaction_id:
        raise PlatformUnavailable("the platform took a reaction without naming it", log_id=_log_id(answer, fields))
    return reaction_id


def unreact_request(token: str, *, message_id: str, reaction_id: str) -> Request:
    """Build the request to remove the bot's own reaction. Raises LocalProtocolError for a blank id."""
    _need(message_id, "message id to react to")
    _need(reaction_id, "reaction id")
    path = f"{_reactions(message_id)}/{quote(reaction_id, safe='')}"
    return Request("DELETE", path, _authorization(token))


def judge_unreacted(answer: Answer) -> None:
    """Check that the reaction was removed. Raises the PlatformError family."""
    judge(answer)


def _reactions(message_id: str) -> str:
    return f"/open-apis/im/v1/messages/{quote(message_id, safe='')}/reactions"


# --- reading back -----------------------------------------------------------------------------------------------------

PAGE_MESSAGES_MAX = 50
NAMES_MAX = 50
_CARDS_AS_SENT = {"card_msg_content_type": "user_card_content"}
"""Asks for cards as they were sent. Without it the platform returns them degraded, and of schema 2.0 no word at all."""


@dataclass(frozen=True, slots=True)
class Page:
    """Messages as the platform shows them, newest first, and the token of the next page ("" after the last).

    `complete` is True if the answer itself says whether another page follows. Only then does the absence of a message
    mean that it was not sent: a broken answer looks like an empty page.
    """

    items: tuple[Any, ...] = field(repr=False)
    next_token: str = field(default="", repr=False)
    complete: bool = False


def message_request(token: str, message_id: str) -> Request:
    """Build the request for one message and, if it is a bundle, the messages in it.

    Raises LocalProtocolError for a blank id.
    """
    _need(message_id, "message id")
    query = urlencode({"user_id_type": "open_id", **_CARDS_AS_SENT})
    return _get(f"/open-apis/im/v1/messages/{quote(message_id, safe='')}?{query}", token)


def messages_request(
    token: str, *, chat_id: str, thread_id: str = "", start: int = 0, end: int = 0, page_token: str = ""
) -> Request:
    """Build the request for the newest messages of a chat, or of one topic, up to `PAGE_MESSAGES_MAX`.

    `start` and `end` are seconds since 1970, 0 for no bound. The platform takes neither for a topic, so they are left
    out there. Raises LocalProtocolError if both ids are blank.
    """
    _need(thread_id or chat_id, "chat or thread id")
    query = {
        "container_id_type": "thread" if thread_id else "chat",
        "container_id": thread_id or chat_id,
        "sort_type": "ByCreateTimeDesc",
        "page_size": str(PAGE_MESSAGES_MAX),
        "user_id_type": "open_id",
        **_CARDS_AS_SENT,
        "page_token": page_token,
        "start_time": str(start) if start and not thread_id else "",
        "end_time": str(end) if end and not thread_id else "",
    }
    return _get(f"/open-apis/im/v1/messages?{urlencode({name: it for name, it in query.items() if it})}", token)


def judge_page(answer: Answer) -> Page:
    """Read the messages of an answer to `message_request` or `messages_request`. Raises the PlatformError family."""
    data = _data(judge(answer))
    items, token, has_more = data.get("items"), data.get("page_token"), data.get("has_more")
    more = has_more is True and isinstance(token, str)
    complete = has_more is False or (more and bool(token))
    return Page(tuple(items) if isinstance(items, list) else (), str(token) if more else "", complete)


def people_request(token: str, open_ids: Sequence[str]) -> Request:
    """Build the request for up to `NAMES_MAX` people. Raises LocalProtocolError for none and for more."""
    if not 0 < len(open_ids) <= NAMES_MAX:
        raise LocalProtocolError(f"1 to {NAMES_MAX} people can be looked up at once, not {len(open_ids)}")
    query = [*(("user_ids", open_id) for open_id in open_ids), ("user_id_type", "open_id")]
    return _get(f"/open-apis/contact/v3/users/batch?{urlencode(query)}", token)


def judge_names(answer: Answer) -> dict[str, str]:
    """Read the names by open id. Raises the PlatformError family.

    People who have no name, or whom the app may not see, are left out.
    """
    items = _data(judge(answer)).get("items")
    people = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    named = ((person.get("open_id"), person.get("name")) for person in people)
    return {open_id: name for open_id, name in named if isinstance(open_id, str) and isinstance(name, str) and name}


# --- resources: files inside messages --------------------------------------------------------------------------------

ResourceType = Literal["image", "file"]

JSON_ERROR_BYTES_MAX = 64 * 1024
"""The longest error of the platform. A longer JSON body is the file that was asked for."""


def resource_request(token: str, *, message_id: str, key: str, resource_type: ResourceType) -> Request:
    """Build the request for a file of a message. The platform knows two types: an image, and everything else.

    Raises LocalProtocolError for a blank id or key.
    """
    _need(message_id, "message id")
    _need(key, "file key")
    path = f"/open-apis/im/v1/messages/{quote(message_id, safe='')}/resources/{quote(key, safe='')}"
    return _get(f"{path}?type={resource_type}", token)


def may_be_error(status: int, headers: Mapping[str, str]) -> bool:
    """True if the body may be an error, so that it has to be read before it is known to be the file.

    An error comes as JSON, also with HTTP 200. A file may be JSON too, but unlike an error it comes with a
    `content-disposition` header.
    """
    if status != 200:
        return True
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type in {"application/json", "text/json"} and "content-disposition" not in headers


def judge_resource(answer: Answer) -> None:
    """Return if the body is the file after all. Raises the PlatformError family if it is an error.

    An error is an object with a code other than 0 and a message; any other JSON with HTTP 200 is the file.
    """
    if answer.status == 200:
        fields = _json_object(answer.body)
        code = None if fields is None else fields.get("code")
        if fields is None or not isinstance(code, int) or isinstance(code, bool) or code == 0:
            return
        if not isinstance(fields.get("msg"), str):
            return
    judge(answer)
    raise PlatformUnavailable(
        f"the platform answered HTTP {answer.status} instead of a file", log_id=_log_id(answer, {})
    )
