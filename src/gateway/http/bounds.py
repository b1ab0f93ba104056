"""The most bytes that a request's body may have, by its route.

The bound is judged before a byte of the body is read. A route that is not listed gets `SMALL`. So does a request whose
method has no use for a body.
"""

from __future__ import annotations

from collections.abc import Mapping

SMALL = 4_096
FORM = 16_384
JSON = 65_536
HEARTBEAT = 131_072
"""Room for up to a thousand tasks, each with its attempt."""
DESCRIPTION = 786_432
"""Room for a description of 100,000 characters, each of them escaped in six bytes."""

FIELDS_MAX = 50
"""The most fields of a form, and the most names in a query string."""
ACCEPT_LANGUAGE_CHARS_MAX = 256

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
DELIVERIES = ("/api/webhooks/autopilots/<token>", "/api/webhooks/autopilots/<token>/")
"""The rules of the endpoint for webhooks. Some senders write a slash at the end.

It judges the bound of a body itself, by the trigger that the token belongs to.
"""
_TRIGGERS = "/api/autopilots/<id>/triggers"


def body_bounds(*, reports: int, deliveries: int | None = None) -> dict[str, int]:
    """Return the bound, by rule, of each route that needs more than `SMALL`.

    `reports` bounds a runtime's reports about its tasks, and the events that a platform posts. `deliveries` bounds
    webhooks; without it, webhooks have no bound of their own.
    """
    bounds = {
        "/login": FORM,
        "/lark/bind": FORM,
        "/api/runtimes/register": JSON,
        "/api/runtimes/<id>/heartbeat": HEARTBEAT,
        "/api/tasks/<id>/progress": JSON,
        "/api/tasks/<id>/complete": reports,
        "/api/tasks/<id>/fail": reports,
        "/api/webhooks/lark/<installation_id>": reports,
        "/api/workspaces/<workspace>/agents": JSON,
        "/api/agents/<id>": JSON,
        "/api/workspaces/<workspace>/squads": JSON,
        "/api/workspaces/<workspace>/projects": JSON,
        "/api/workspaces/<workspace>/autopilots": DESCRIPTION,
        "/api/autopilots/<id>": DESCRIPTION,
        "/api/autopilots/<id>/trigger": JSON,
        "/api/autopilots/<id>/deliveries/replays": JSON,
        _TRIGGERS: JSON,
        f"{_TRIGGERS}/<trigger_id>": JSON,
    }
    return bounds if deliveries is None else bounds | dict.fromkeys(DELIVERIES, deliveries)


def bound_of(method: str, rule: str, bounds: Mapping[str, int], small: int) -> int:
    """Return the bound of one request.

    It is `small` for a method that has no use for a body, and for a rule that `bounds` does not list.
    """
    return bounds.get(rule, small) if method in _METHODS_WITH_BODY else small
