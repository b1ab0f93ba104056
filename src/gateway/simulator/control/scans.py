"""Control calls for registrations by scanned code: listing them, and deciding as a person."""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from gateway.simulator.control.calls import Body, Calls, read, seconds
from gateway.simulator.control.people import AppOptions
from gateway.simulator.exchange import Request
from gateway.simulator.scans import Scan, ScanLink, read_link
from gateway.simulator.simulator import Simulator


class Authorization(AppOptions):
    """The agreement of `person`. `brand` is the person's cloud; if empty, it is the cloud where the scan began.

    `url` is the address that the code stood for. Only that address holds the name and the other presets. App options
    given here override what it asks for.
    """

    person: str = ""
    brand: str = ""
    url: str = ""


class Decision(Body):
    """The body of a decision that needs no further input: nothing, or an empty object."""


def calls(simulator: Simulator) -> Calls:
    scans = ScanCalls(simulator)
    return [
        ("GET", "scans", scans.list_scans),
        ("GET", "scans/{code}", scans.read_scan),
        ("POST", "scans/{code}/authorize", scans.authorize),
        ("POST", "scans/{code}/deny", scans.deny),
        ("POST", "scans/{code}/expire", scans.expire),
    ]


class ScanCalls:
    """Has one method for each call. A code is a user code or a device code."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._scans = simulator.scans

    async def list_scans(self, request: Request) -> object:
        """List every registration. With `wait_count` it waits up to `wait_seconds` until there are so many."""
        wanted = int(request.argument("wait_count", "0"))
        with trio.move_on_after(seconds(request.argument("wait_seconds", "0"))):
            await self._simulator.until(lambda: True if len(self._scans.all()) >= wanted else None)
        return [_shown(scan) for scan in self._scans.all()]

    async def read_scan(self, request: Request) -> object:
        """Return one registration. With `url` its link shows the presets of that address."""
        scan = self._find(request)
        url = request.argument("url")
        link = read_link(url, scan.user_code) if url else scan.link
        return _shown(scan) | {"link": msgspec.to_builtins(link)}

    async def authorize(self, request: Request) -> object:
        scan, given = self._find(request), read(request, Authorization)
        link = read_link(given.url, scan.user_code) if given.url else ScanLink()
        person = self._simulator.platform.person(given.person)
        self._scans.authorize(
            scan,
            person,
            self._simulator.clock.now(),
            brand=given.brand or scan.region,
            link=link,
            options=given.given(),
        )
        return _shown(scan)

    async def deny(self, request: Request) -> object:
        read(request, Decision)
        self._scans.deny(scan := self._find(request), self._simulator.clock.now())
        return _shown(scan)

    async def expire(self, request: Request) -> object:
        read(request, Decision)
        self._scans.expire(scan := self._find(request), self._simulator.clock.now())
        return _shown(scan)

    def _find(self, request: Request) -> Scan:
        return self._scans.find(request.params["code"])


def _shown(scan: Scan) -> dict[str, Any]:
    """Return a registration without its device code, which is a secret, and without the app's secret."""
    return {
        "user_code": scan.user_code,
        "region": scan.region,
        "state": scan.state,
        "interval": scan.interval,
        "polls": scan.polls,
        "brand": scan.brand,
        "person": scan.person,
        "app_id": scan.app_id,
        "link": msgspec.to_builtins(scan.link),
    }
