"""Apps registered by scanning a code: the device's requests, the person's decision, and the device's answers.

Nothing here waits or reads a clock; every `now` is an argument in seconds.
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

from gateway.simulator.platform import REGIONS, App, Person, SimPlatform, derive, open_id

SCAN_SECONDS = 600.0
INTERVAL_SECONDS = 5.0
SLOW_DOWN_SECONDS = 5.0
"""The time by which the interval grows for a device that polls too often."""
EARLY = 0.8
"""A poll is too early before this part of the interval has passed."""
SCANS_MAX = 1000
ADDONS_BYTES_MAX = 1024 * 1024
AVATARS_MAX = 6
PENDING = 20094
HEARS_BOTS = "im:message.group_at_msg.include_bot:readonly"
SEES_USER_IDS = "contact:user.employee_id:readonly"


@dataclass(frozen=True, slots=True)
class ScanLink:
    """The presets in the address behind a code. The person sees them before agreeing.

    `addons` are the scopes, events and callbacks that the app is to have. `client_id` names an existing app to connect
    again instead of creating one, unless `create_only` is set.
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
    """One registration. `state`: pending · authorized · denied · expired. `region` is the cloud where it began."""

    device_code: str = field(repr=False)
    user_code: str
    region: str
    expires_at: float
    interval: float
    state: str = "pending"
    brand: str = ""
    person: str = ""
    app_id: str = ""
    link: ScanLink = field(default_factory=ScanLink)
    polls: int = 0
    polled_at: dict[str, float] = field(default_factory=dict)
    sent_elsewhere: bool = False


class Scans:
    """Registrations, found by either of their codes. `changed` is called when one begins.

    `expiry_member` is the name under which the device reads how long the code is valid: expires_in, or expire_in as
    some clients expect. With `regions_apart` an app's credentials are handed out only on the hosts of its tenant's own
    brand. Without it a device is sent to the other host once, and is then served on either host; that is for setups
    where one address stands for both clouds.
    """

    def __init__(self, platform: SimPlatform, *, changed: Callable[[], None]) -> None:
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
        """Open a registration and return the answer for the device."""
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
        """Return the answer to a device's poll: credentials, or a document with `error`."""
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
            scan.polled_at.clear()  # a device that is sent to another host may poll there at once
        return {"client_id": app.app_id, "client_secret": app.secret if here else "", "user_info": person}

    # -- the person

    def all(self) -> tuple[Scan, ...]:
        """Return every remembered registration, the oldest first."""
        return tuple(self._scans.values())

    def find(self, code: str) -> Scan:
        """Return a registration by its user code or device code. Raises LookupError."""
        for scan in self._scans.values():
            if code in (scan.user_code, scan.device_code):
                return scan
        raise LookupError(f"scan {code} is unknown")

    def authorize(
        self, scan: Scan, person: Person, now: float, *, brand: str, link: ScanLink, options: dict[str, Any]
    ) -> App:
        """Agree as the person. The app is created with `options` in a tenant of `brand`, or connected again.

        Raises ValueError if the registration is decided already or the brand is unknown, LookupError for an unknown app
        to connect again.
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
        """Refuse as the person. Raises ValueError if the registration is decided already."""
        self._decide(scan, now)
        scan.state = "denied"

    def expire(self, scan: Scan, now: float) -> None:
        """Let the registration expire at once. Raises ValueError if it is decided already."""
        self._decide(scan, now)
        scan.state = "expired"

    def _decide(self, scan: Scan, now: float) -> None:
        if self._state(scan, now) != "pending":
            raise ValueError(f"scan {scan.user_code} is {scan.state} already")

    def _state(self, scan: Scan, now: float) -> str:
        if scan.state == "pending" and now >= scan.expires_at:
            scan.state = "expired"
        return scan.state


def read_link(url: str, user_code: str) -> ScanLink:
    """Return the presets in the address behind a code.

    Raises ValueError for the address of another code, for too many avatars, and for unreadable addons.
    """
    query = parse_qs(urlsplit(url).query)
    first = {name: values[0] for name, values in query.items()}
    if first.get("user_code") != user_code:
        raise ValueError(f"the address is of scan {first.get('user_code')}, not {user_code}")
    avatars = tuple(query.get("avatar", ()))
    if len(avatars) > AVATARS_MAX:
        raise ValueError(f"{len(avatars)} avatars, at most {AVATARS_MAX}")
    return ScanLink(
        name=first.get("name", ""),
        desc=first.get("desc", ""),
        avatars=avatars,
        addons=_read_addons(first["addons"]) if "addons" in first else {},
        create_only=first.get("createOnly") == "true",
        client_id=first.get("clientID", ""),
        source=first.get("source", ""),
    )


def _read_addons(text: str) -> dict[str, Any]:
    """Decode addons: JSON, compressed with gzip, in base64url without padding. Raises ValueError."""
    try:
        packed = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        unpacked = zlib.decompressobj(wbits=31).decompress(packed, ADDONS_BYTES_MAX)
        return msgspec.json.decode(unpacked, type=dict[str, Any])
    except (binascii.Error, zlib.error, msgspec.DecodeError) as error:
        raise ValueError(f"addons cannot be read: {error}") from error


def _granted(link: ScanLink) -> dict[str, bool]:
    """Return the app options that the requested scopes turn on, beyond those that every app has here."""
    scopes = link.addons.get("scopes")
    asked = scopes.get("tenant") if isinstance(scopes, dict) else None
    scope_options = {HEARS_BOTS: "hears_bots", SEES_USER_IDS: "shows_user_ids"}
    return {scope_options[scope]: True for scope in asked or () if scope in scope_options}


def _error(error: str, description: str) -> dict[str, Any]:
    return {"error": error, "error_description": description}


def _short(seconds: float) -> float:
    """Return whole seconds as an integer, as the platform writes them."""
    return int(seconds) if seconds == int(seconds) else seconds
