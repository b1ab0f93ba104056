"""Comparison of the installations that should run with those that do.

Both decisions here are pure. The caller keeps the record of what runs, and takes the steps.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one sweep. An installation in both `drain` and `start` is replaced. Those in `keep` run on."""

    start: tuple[UUID, ...] = ()
    drain: tuple[UUID, ...] = ()
    keep: tuple[UUID, ...] = ()


def plan(wanted: Mapping[UUID, str], running: Mapping[UUID, str]) -> Plan:
    """Return the steps from `running` to `wanted`. Both map installations to fingerprints.

    `running` leaves out what is being drained already. So an installation that comes back during its drain is started.
    """
    return Plan(
        start=tuple(id_ for id_, wish in wanted.items() if running.get(id_) != wish),
        drain=tuple(id_ for id_, present in running.items() if wanted.get(id_) != present),
        keep=tuple(id_ for id_, wish in wanted.items() if running.get(id_) == wish),
    )


def fingerprint(
    key: bytes, channel_type: str, stored: Mapping[str, Any], opened: Mapping[str, Any], identity: Iterable[str]
) -> str:
    """Return a digest of what a link depends on: the `identity` keys of a config, and its opened secrets.

    Sealing the same secret again does not change it. Neither does a key that is neither identity nor secret. The digest
    is keyed because it is derived from secrets. `key` lives as long as the process, because digests are compared only
    within one process.
    """
    revealed = {name: value for name, value in opened.items() if name not in stored or stored[name] != value}
    said = (channel_type, {name: opened.get(name) for name in identity}, revealed)
    return hmac.new(key, msgspec.json.encode(said, order="sorted"), hashlib.sha256).hexdigest()
