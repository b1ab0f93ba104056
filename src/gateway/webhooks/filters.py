"""Event filters: the events that a trigger reacts to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

PROVIDER_PREFIXES = ("github", "gitlab")
ACTION_MEMBERS = ("action", "state", "conclusion", "status")
FILTERS_MAX = 100
_NAME_CHARS_MAX = 255


class EventFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event by its name, and the actions that count for it. No actions means all of them."""

    event: str
    actions: tuple[str, ...] = ()


def split_event(event: str) -> tuple[str, str, str]:
    """Split an event's name into (provider, name, action).

    A first part that is not a known provider belongs to the name.
    """
    provider, dot, rest = event.partition(".")
    if not dot or provider not in PROVIDER_PREFIXES:
        provider, rest = "", event
    name, _, action = rest.rpartition(".")
    return (provider, name, action) if name else (provider, action, "")


def read_filters(stored: bytes | str | None) -> tuple[EventFilter, ...] | None:
    """Parse a trigger's filters from stored JSON.

    Empty means that every event is wanted, None that they are unreadable.
    """
    if not stored:
        return ()
    try:
        return msgspec.json.decode(stored, type=tuple[EventFilter, ...] | None) or ()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_wanted(filters: Sequence[EventFilter] | None, event: str, payload: object = None) -> bool:
    """True if one of `filters` lets the event pass.

    Unreadable filters (None) let nothing pass, empty ones everything.
    """
    if filters is None:
        return False
    if not filters:
        return True
    provider, name, suffix = split_event(event)
    names = {name, event, event.removeprefix(f"{provider}.")}
    actions = {suffix, *_actions(payload)}
    return any(
        names & {wanted.event, _without_provider(wanted.event)}
        and (not wanted.actions or not actions.isdisjoint(wanted.actions))
        for wanted in filters
    )


def names_event(filters: Sequence[EventFilter] | None, name: str) -> bool:
    """True if one of `filters` names exactly this event, whatever its actions."""
    return any(wanted.event == name for wanted in filters or ())


def filters_problem(filters: Sequence[EventFilter]) -> str | None:
    """Return the reason why these cannot be the filters of a trigger, or None when they can."""
    if len(filters) > FILTERS_MAX:
        return f"a trigger has at most {FILTERS_MAX} event filters"
    names = [name for wanted in filters for name in (wanted.event, *wanted.actions)]
    if not all(name.strip() for name in names):
        return "an event filter names an event, and no action of it may be blank"
    if any(len(name) > _NAME_CHARS_MAX or "\x00" in name for name in names) or len(names) > 10 * FILTERS_MAX:
        return f"an event filter's names have at most {_NAME_CHARS_MAX} characters each"
    return None


def _without_provider(event: str) -> str:
    provider, dot, rest = event.partition(".")
    return rest if dot and provider in PROVIDER_PREFIXES else event


def _actions(payload: Any) -> list[str]:
    """Return the actions that a payload names, in the fields that providers use for them."""
    if not isinstance(payload, dict):
        return []
    return [value for field in ACTION_MEMBERS if isinstance(value := payload.get(field), str)]
