"""A scan as people and programs see it: its code at the beginning, and the reason if it connects no bot."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID


class InstallReason(StrEnum):
    """The reason that a scan did not connect a bot. Part of the API."""

    EXPIRED = "expired"
    ACCESS_DENIED = "access_denied"
    PROTOCOL_ERROR = "lark_protocol_error"
    BOT_INFO_FAILED = "bot_info_failed"
    INSTALLATION_CONFLICT = "installation_conflict"
    AGENT_HAS_BOT = "agent_has_bot"
    FORBIDDEN = "forbidden"
    INSTALLER_BIND_FAILED = "installer_bind_failed"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class BegunScan:
    """The code that a person scans, and how long they have."""

    session_id: UUID
    qr_code_url: str = field(repr=False)
    expires_in_seconds: float
    poll_interval_seconds: float

    def public(self) -> dict[str, Any]:
        """Return the JSON object of the API and of `--json`; seconds are whole."""
        return {
            "session_id": self.session_id,
            "qr_code_url": self.qr_code_url,
            "expires_in_seconds": round(self.expires_in_seconds),
            "poll_interval_seconds": max(1, round(self.poll_interval_seconds)),
        }
