"""The open id of a person, which is the one id by which a bot knows them, and the ids that are taken for it."""

from __future__ import annotations

import re

from gateway.errors import Invalid

OPEN_ID_LENGTH_MAX = 128
_OPEN_ID = re.compile(r"ou_[0-9A-Za-z_-]+")
_OTHER_IDS = {
    "on_": "a union id",
    "oc_": "the id of a chat",
    "om_": "the id of a message",
    "cli_": "the id of an app",
    "od_": "the id of a department",
    "gwu_": "a token of this gateway",
}


def check_open_id(text: str) -> None:
    """Check that a text is an open id. Raises Invalid, which says what kind of id was given instead."""
    if _OPEN_ID.fullmatch(text) and len(text) <= OPEN_ID_LENGTH_MAX:
        return
    given = next((kind for prefix, kind in _OTHER_IDS.items() if text.startswith(prefix)), None)
    if given is None:
        given = "an e-mail address" if "@" in text else "a user id" if text.isalnum() else "no id of a person"
    shown = repr(text[:OPEN_ID_LENGTH_MAX]) if not text.startswith("gwu_") else "this"
    message = f"{shown} is {given}; an open id begins with ou_, and each bot has its own for a person"
    raise Invalid("invalid_account", message, field="open_id")
