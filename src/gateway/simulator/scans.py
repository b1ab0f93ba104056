"""Apps registered by scanning a code: what a device asks for, what a person decides, what the device is told.

Nothing here waits or looks at a clock; every `now` is an argument in seconds.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from gateway.simulator.platform import REGIONS, App, Person, Platform, derive, open_id

SCAN_SECONDS = 600.0
INTERVAL_SECONDS = 5.0
SLOW_DOWN_SECONDS = 5.0
"""How much longer the interval gets for a device that asks too often."""
EARLY = 0.8
"""A poll counts as too early before this part of the interval has passed."""
SCANS_MAX = 1000
ADDONS_BYTES_MAX = 1024 * 1024
AVATARS_MAX = 6
PENDING = 20094
HEARS_BOTS = "im:message.group_at_msg.include_bot:readonly"
SEES_USER_IDS = "contact:user.employee_id:readonly"


@dataclass(frozen=True, slots=True)
class Link:
    """What the address behind a code says beyond its user code: presets that the person sees before they agree.

    `addons` are the scopes, events and callbacks that the app is to have. `client_id` names an app to connect again
    instead of creating one, unless `create_only`.
    """

    name: str = ""
    desc: str = ""
    avatars: tuple[str, ...] = ()
    addons: dict[str, Any] = field(default_factory=dict)
    create_only: bool = False
    client_id: str = ""
    source: str = ""


@dataclass(eq=False, slots=True)
class Scan:
    """One registration. `state`: pending · authorized · denied · expired. `region` is the host where it began."""

    device_code: str = field(repr=False)
    user_code: str
    region: str
    expires_at: float
    interval: float
    state: str = "pending"
    brand: str = ""
    person: str = ""
    app_id: str = ""
    link: Link = field(default_factory=Link)
    polls: int = 0
    polled_at: dict[str, float] = field(default_factory=dict)
    sent_elsewhere: bool = False


class Scans:
    """Registrations by either of their codes; `changed` is called when one begins or is decided.

    `expiry_member` is the name under which the device reads how long it has: expires_in, or expire_in as some expect.
    With `regions_apart` a tenant's app is handed out on the hosts of its own brand alone; otherwise, for a device that
    knows one host only, it is sent to the other host once and then served where it is.
    """

    def __init__(self, platform: Platform, *, changed: Callable[[], None]) -> None:
        self.expiry_member = "expires_in"
        self.seconds = SCAN_SECONDS
        self.interval = INTERVAL_SECONDS
        self.regions_apart = True
        self._platform = platform
        self._changed = changed
        self._scans: OrderedDict[str, Scan] = OrderedDict()
        self._numbers = itertools.count(1)

    # -- the device

    def begin(self, region: str, base_url: str, now: float) -> dict[str, Any]:
        """Open a registration; returns what the device is told."""
        number = str(next(self._numbers))
        user_code = derive("", "user code", number, str(now), digits=8).upper()
        user_code = f"{user_code[:4]}-{user_code[4:]}"
        device_code = derive("", "device code", number, str(now))
        self._scans[device_code] = Scan(device_code, user_code, region, now + self.seconds, self.interval)
        while len(self._scans) > SCANS_MAX:
            self._scans.popitem(last=False)
        self._changed()
        page = f"{base_url}/page/launcher"
        return {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={user_code}",
            "interval": _short(self.interval),
            self.expiry_member: _short(self.seconds),
        }

    def poll(self, device_code: str, region: str, now: float) -> dict[str, Any]:
        """What the device is told: credentials, or a document with `error`."""
        scan = self._scans.get(device_code)
        if scan is None:
            return _error("invalid_grant", "the device code is unknown")
        scan.polls += 1
        if self._too_early(scan, region, now):
            scan.interval += SLOW_DOWN_SECONDS
            return _error("slow_down", "the device polls too often")
        match self._state(scan, now):
            case "pending":
                return {**_error("authorization_pending", "nobody has agreed yet"), "code": PENDING}
            case "authorized":
                return self._credentials(scan, region)
            case "denied":
                return _error("access_denied", "the person refused")
            case _:
                return _error("expired_token", "the device code is too old")

    def _too_early(self, scan: Scan, region: str, now: float) -> bool:
        last = scan.polled_at.get(region)
        scan.polled_at[region] = now
        return last is not None and now - last < scan.interval * EARLY

    def _credentials(self, scan: Scan, region: str) -> dict[str, Any]:
        app = self._platform.apps[scan.app_id]
        person = {"open_id": open_id(app.app_id, scan.person), "tenant_brand": scan.brand}
        here = scan.brand == region or (scan.sent_elsewhere and not self.regions_apart)
        if not here:
            scan.sent_elsewhere = True
            scan.polled_at.clear()  # whoever is sent to another host may ask there at once
        return {"client_id": app.app_id, "client_secret": app.secret if here else "", "user_info": person}

    # -- the person

    def all(self) -> tuple[Scan, ...]:
        """Every registration remembered, oldest first."""
        return tuple(self._scans.values())

    def find(self, code: str) -> Scan:
        """A registration by its user code or device code. Raises LookupError."""
        for scan in self._scans.values():
            if code in (scan.user_code, scan.device_code):
                return scan
        raise LookupError(f"scan {code} is unknown")

    def authorize(
        self, scan: Scan, person: Person, now: float, *, brand: str, link: Link, options: dict[str, Any]
    ) -> App:
        """The person agrees: the app is created with `options`, or connected again, in a tenant of `brand`.

        Raises ValueError when it is decided already or the brand is unknown.
        """
        self._decide(scan, now)
        if brand not in REGIONS:
            raise ValueError(f"a tenant's brand is one of {', '.join(REGIONS)}, not {brand!r}")
        if link.client_id and not link.create_only:
            app = self._platform.app(link.client_id)
        else:
            name = link.name.replace("{user}", person.name) or f"{person.name}'s agent"
            app = self._platform.add_app(name, region=brand, **{**_granted(link), **options})
        self._platform.direct_chat(person, app)
        scan.state, scan.brand, scan.link = "authorized", brand, link
        scan.person, scan.app_id = person.union_id, app.app_id
        return app

    def deny(self, scan: Scan, now: float) -> None:
        """The person refuses. Raises ValueError when it is decided already."""
        self._decide(scan, now)
        scan.state = "denied"

    def expire(self, scan: Scan, now: float) -> None:
        """Its time is up at once. Raises ValueError when it is decided already."""
        self._decide(scan, now)
        scan.state = "expired"

    def _decide(self, scan: Scan, now: float) -> None:
        if self._state(scan, now) != "pending":
            raise ValueError(f"scan {scan.user_code} is {scan.state} already")

    def _state(self, scan: Scan, now: float) -> str:
        if scan.state == "pending" and now >= scan.expires_at:
            scan.state = "expired"
        return scan.state


def read_link(url: str, user_code: str) -> Link:
    """The presets in the address behind a code. Raises ValueError for another code's, or what the page refuses."""
    query = parse_qs(urlsplit(url).query)
    first = {name: values[0] for name, values in query.items()}
    if first.get("user_code") != user_code:
        raise ValueError(f"the address is of scan {first.get('user_code')}, not {user_code}")
    avatars = tuple(query.get("avatar", ()))
    if len(avatars) > AVATARS_MAX:
        raise ValueError(f"{len(avatars)} avatars, at most {AVATARS_MAX}")
    return Link(
        name=first.get("name", ""),
        desc=first.get("desc", ""),
        avatars=avatars,
        addons=_read_addons(first["addons"]) if "addons" in first else {},
        create_only=first.get("createOnly") == "true",
        client_id=first.get("clientID", ""),
        source=first.get("source", ""),
    )


def _read_addons(text: str) -> dict[str, Any]:
    """JSON, compressed with gzip, in base64url without padding. Raises ValueError."""
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        unpacked = zlib.decompressobj(wbits=31).decompress(packed, ADDONS_BYTES_MAX)
        return msgspec.json.decode(unpacked, type=dict[str, Any])
    except (binascii.Error, zlib.error, msgspec.DecodeError) as error:
        raise ValueError(f"addons cannot be read: {error}") from error


def _granted(link: Link) -> dict[str, bool]:
    """What the scopes asked for give the app beyond what every app has here."""
    scopes = link.addons.get("scopes")
    asked = scopes.get("tenant") if isinstance(scopes, dict) else None
    scope_options = {HEARS_BOTS: "hears_bots", SEES_USER_IDS: "shows_user_ids"}
    return {scope_options[scope]: True for scope in asked or () if scope in scope_options}


def _error(error: str, description: str) -> dict[str, Any]:
    return {"error": error, "error_description": description}


def _short(seconds: float) -> float:
    """Whole seconds as an integer, as the platform writes them."""
    return int(seconds) if seconds == int(seconds) else seconds
