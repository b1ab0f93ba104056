"""How many bytes the body of a request may have, by its route.

The bound is judged before a byte of the body is read. A route that is not listed gets `SMALL`, and so does every
method that has no use for a body.
"""

from __future__ import annotations

from collections.abc import Mapping

SMALL = 4_096
FORM = 16_384
JSON = 65_536
HEARTBEAT = 131_072
"""Up to a thousand tasks, each with its attempt."""
DESCRIPTION = 786_432
"""A description of 100,000 characters, each of them escaped in six bytes."""

FIELDS_MAX = 50
"""Fields of a form, and names in a query string."""
ACCEPT_LANGUAGE_CHARS_MAX = 256

_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_TRIGGERS = "/api/autopilots/<id>/triggers"


def body_bounds(*, reports: int, deliveries: int | None = None) -> dict[str, int]:
    """The bound of each route that needs more than `SMALL`, by its rule.

    `reports` is for what a runtime says of its tasks and for events that a platform posts, `deliveries` for webhooks.
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
    return bounds if deliveries is None else bounds | {"/api/webhooks/autopilots/<token>": deliveries}


def bound_of(method: str, rule: str, bounds: Mapping[str, int], small: int) -> int:
    """The bound of one request; `small` is for methods that have no use for a body, and for rules without a bound."""
    return bounds.get(rule, small) if method in _METHODS_WITH_BODY else small
