"""Comparison of the installations that should run with those that do.

`Roster.reconcile` changes the roster at once and returns the steps to take. Nothing here waits. Every start has a
generation number, so that the late end of a replaced task never removes its successor.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec


@dataclass(frozen=True, slots=True)
class Start:
    """Begin to serve an installation. `after` is the older generation that must end first, if one still runs."""

    installation_id: UUID
    fingerprint: str
    generation: int
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain one generation. `gone` is True if the installation is no longer wanted, and False if it is replaced."""

    installation_id: UUID
    generation: int
    gone: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one sweep. A replacement is a stop, and a start that waits for it. Those in `keep` run on."""

    stop: tuple[Stop, ...] = ()
    start: tuple[Start, ...] = ()
    keep: tuple[UUID, ...] = ()


@dataclass(slots=True)
class Roster:
    """The installations that run in this process: one serving generation each, and the generations being drained."""

    _serving: dict[UUID, Start] = field(default_factory=dict)
    _leaving: dict[UUID, int] = field(default_factory=dict)
    _generation: int = 0

    def reconcile(self, wanted: Mapping[UUID, str]) -> Plan:
        """Change the roster to `wanted` (fingerprints by installation) and return the steps that this takes."""
        stops = [self._leave(id_, gone=id_ not in wanted) for id_ in self._outdated(wanted)]
        keep = tuple(id_ for id_ in wanted if id_ in self._serving)
        starts = [self._enter(id_, fingerprint) for id_, fingerprint in wanted.items() if id_ not in self._serving]
        return Plan(tuple(stops), tuple(starts), keep)

    def ended(self, installation_id: UUID, generation: int) -> None:
        """Record that the task of that generation has ended. A newer generation is not affected."""
        serving = self._serving.get(installation_id)
        if serving is not None and serving.generation == generation:
            del self._serving[installation_id]
        if self._leaving.get(installation_id) == generation:
            del self._leaving[installation_id]

    def _outdated(self, wanted: Mapping[UUID, str]) -> list[UUID]:
        return [id_ for id_, start in self._serving.items() if wanted.get(id_) != start.fingerprint]

    def _leave(self, installation_id: UUID, *, gone: bool) -> Stop:
        start = self._serving.pop(installation_id)
        self._leaving[installation_id] = start.generation
        return Stop(installation_id, start.generation, gone)

    def _enter(self, installation_id: UUID, fingerprint: str) -> Start:
        self._generation += 1
        start = Start(installation_id, fingerprint, self._generation, self._leaving.get(installation_id))
        self._serving[installation_id] = start
        return start


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
