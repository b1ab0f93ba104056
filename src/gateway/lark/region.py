"""Which hosts serve an app: Feishu and Lark International are two clouds with the same paths and separate accounts."""

from __future__ import annotations

from enum import StrEnum


class Region(StrEnum):
    """The cloud an app lives in. Tokens, ids and credentials of one are unknown to the other."""

    FEISHU = "feishu"
    LARK = "lark"

    @classmethod
    def of(cls, stored: object) -> Region:
        """The region of a stored value; anything unknown is feishu, where every old row lives."""
        return cls.LARK if stored == cls.LARK.value else cls.FEISHU

    @property
    def open_host(self) -> str:
        """Base URL of the Open Platform: REST calls and the bootstrap of the long connection."""
        return _OPEN_HOSTS[self]


_OPEN_HOSTS = {Region.FEISHU: "https://open.feishu.cn", Region.LARK: "https://open.larksuite.com"}


def open_base_url(region: object, override: str | None = None) -> str:
    """Base URL without a trailing slash. A non-blank `override` replaces the host of every region."""
    return (override or "").strip().rstrip("/") or Region.of(region).open_host
