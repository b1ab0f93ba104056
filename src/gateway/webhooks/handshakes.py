"""The requests by which a provider tries out an address or asks for its confirmation. They bring no event.

Each has a name, so that a trigger's filters can ask for it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.webhooks.headers import RequestHeaders

_BY_HEADER = (
    ("x-github-event", frozenset({"ping"})),
    ("x-event-key", frozenset({"diagnostics:ping"})),  # Bitbucket Data Center
    ("x-discourse-event", frozenset({"ping"})),
    ("x-amz-sns-message-type", frozenset({"SubscriptionConfirmation", "UnsubscribeConfirmation"})),
    ("aeg-event-type", frozenset({"SubscriptionValidation"})),  # Azure Event Grid
)
_ASANA_SECRET = "x-hook-secret"  # noqa: S105  (a header's name)
_HEADERS = frozenset({_ASANA_SECRET, *(header for header, _ in _BY_HEADER)})
_BY_MEMBER = (
    ("type", "url_verification"),  # Slack and others
    ("event", "endpoint.url_validation"),  # Zoom
    ("event_type", "pagey.ping"),  # PagerDuty
)
_LONE_MEMBER = "challenge"
"""The member that monday.com sends with nothing that names an event beside it."""
NAMING_MEMBERS = ("event", "type", "action")
"""The members of a body that may name its event, in this order."""


def handshake(headers: RequestHeaders, members: Mapping[str, str]) -> str:
    """Return the name of the handshake that a request is, or "" if it is none. `members` are texts of its body."""
    if not _HEADERS.isdisjoint(headers) and (name := _named_by_header(headers)):
        return name
    if not members:
        return ""
    for member, name in _BY_MEMBER:
        if members.get(member) == name:
            return name
    if (members.get("type"), members.get("topic")) == ("notification_event", "ping"):  # Intercom
        return "ping"
    if any(members.get(name) for name in NAMING_MEMBERS):
        return ""
    return _LONE_MEMBER if members.get(_LONE_MEMBER) else ""


def _named_by_header(headers: RequestHeaders) -> str:
    for header, names in _BY_HEADER:
        if headers.first(header) in names:
            return headers.first(header)
    return _ASANA_SECRET if _ASANA_SECRET in headers else ""
