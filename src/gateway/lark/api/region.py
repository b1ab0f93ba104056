"""Hosts by region: Feishu and Lark International are two clouds with the same paths and separate accounts."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import quote, urlsplit


class Region(StrEnum):
    """The cloud of an app. Tokens, ids and credentials of one cloud are unknown to the other."""

    FEISHU = "feishu"
    LARK = "lark"

    @classmethod
    def of(cls, stored: object) -> Region:
        """Return the region of a stored value. Any unknown value is feishu, the region of every old row."""
        return cls.LARK if stored == cls.LARK.value else cls.FEISHU

    @property
    def open_host(self) -> str:
        """Base URL of the Open Platform: REST calls and the bootstrap of the long connection."""
        return _OPEN_HOSTS[self]

    @property
    def accounts_host(self) -> str:
        """Base URL of the accounts server, which registers apps for people who scan a code."""
        return _ACCOUNTS_HOSTS[self]


_OPEN_HOSTS = {Region.FEISHU: "https://open.feishu.cn", Region.LARK: "https://open.larksuite.com"}
_ACCOUNTS_HOSTS = {Region.FEISHU: "https://accounts.feishu.cn", Region.LARK: "https://accounts.larksuite.com"}


def open_base_url(region: object, override: str | None = None) -> str:
    """Return the base URL of the Open Platform, without a trailing slash.

    A non-blank `override` replaces the host of every region.
    """
    return (override or "").strip().rstrip("/") or Region.of(region).open_host


def accounts_base_url(region: object, override: str | None = None) -> str:
    """Return the base URL of the accounts server, without a trailing slash.

    The device flow has an override of its own; a non-blank one replaces the host of every region.
    """
    return (override or "").strip().rstrip("/") or Region.of(region).accounts_host


def console_url(region: object, app_id: str) -> str:
    """Return the address of the page on which a person manages an app.

    No override applies: this address is for browsers, and only the platform itself has pages.
    """
    return f"{Region.of(region).open_host}/app/{quote(app_id, safe='')}"


def is_international(override: str | None) -> bool:
    """True if an override of the open host names the international platform itself, not a proxy or a test server."""
    try:
        parts = urlsplit((override or "").strip())
        own_port = parts.port in {None, 443 if parts.scheme == "https" else 80}
    except ValueError:
        return False
    named = parts.scheme in {"http", "https"} and own_port
    return named and parts.hostname == urlsplit(Region.LARK.open_host).hostname
