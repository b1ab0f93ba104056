"""Bots that are being connected by scanning a code, in Postgres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.channel.installation import BotInPlace, InstallationDraft, InstallationView
from gateway.channel.installs import (
    SESSION_KEEP_SECONDS,
    InstallerAccount,
    NewScan,
    ScanInHand,
    ScanRefusal,
    ScanStatus,
)
from gateway.postgres.binding_store import bind_member
from gateway.postgres.driver import TrioConnection
from gateway.postgres.installation_store import NotSaved, find_installation, save_installation
from gateway.postgres.pool import Pool
from gateway.postgres.statements import load
from gateway.work.people.access import may_manage_agent
from gateway.work.people.bindings import RedeemRefusal


@dataclass(frozen=True, slots=True)
class Standing:
    """A member's role, and the owner of the agent to which they connect a bot."""

    role: str
    agent_owner_id: UUID | None


_Q = load("install.sql", ScanInHand, ScanStatus, Standing)


class _Refused(Exception):
    """Raised to roll back the transaction that stores a bot. Caught in this module."""

    def __init__(self, refusal: ScanRefusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class PostgresInstallStore:
    """Implements gateway.channel.installs.InstallStore on a pool that the caller owns."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, scan: NewScan, pending_max: int) -> bool:
        async with self._pool.connection() as conn:
            added: int = await _Q.add_install_session(
                conn,
                id=scan.id,
                workspace_id=scan.request.workspace_id,
                agent_id=scan.request.agent_id,
                initiator_user_id=scan.request.initiator_user_id,
                region=scan.request.region,
                device_code=scan.device_code,
                interval_seconds=scan.interval_seconds,
                delay_seconds=scan.delay_seconds,
                lifetime_seconds=scan.lifetime_seconds,
                replaces=scan.request.replaces,
                vouched=scan.request.vouched,
                pending_max=pending_max,
            )
            return added > 0

    async def take(self, poller: UUID, lease_seconds: float, session_id: UUID | None = None) -> ScanInHand | None:
        async with self._pool.connection() as conn:
            scan: ScanInHand | None = await _Q.take_install_session(
                conn, poller=poller, lease_seconds=lease_seconds, id=session_id
            )
            return scan

    async def put_back(
        self, scan: ScanInHand, *, region: str, interval_seconds: float, delay_seconds: float, problem: str
    ) -> bool:
        async with self._pool.connection() as conn:
            changed: int = await _Q.put_back_install_session(
                conn,
                id=scan.id,
                workspace_id=scan.workspace_id,
                poller=scan.poller,
                polled_region=region,
                interval_seconds=interval_seconds,
                delay_seconds=delay_seconds,
                problem=problem,
            )
            return changed > 0

    async def hold(self, scan: ScanInHand, lease_seconds: float) -> bool:
        async with self._pool.connection() as conn:
            changed: int = await _Q.hold_install_session(
                conn, id=scan.id, workspace_id=scan.workspace_id, poller=scan.poller, lease_seconds=lease_seconds
            )
            return changed > 0

    async def grant(self, scan: ScanInHand, *, credentials: bytes, lease_seconds: float, finish_seconds: float) -> bool:
        async with self._pool.connection() as conn:
            changed: int = await _Q.grant_install_session(
                conn,
                id=scan.id,
                workspace_id=scan.workspace_id,
                poller=scan.poller,
                credentials=credentials,
                lease_seconds=lease_seconds,
                finish_seconds=finish_seconds,
            )
            return changed > 0

    async def finish(
        self, scan: ScanInHand, draft: InstallationDraft, installer: InstallerAccount
    ) -> InstallationView | BotInPlace | ScanRefusal:
        try:
            async with self._pool.transaction() as conn:
                return await _finish(conn, scan, draft, installer)
        except _Refused as refused:
            return refused.refusal
        except NotSaved as not_saved:
            return ScanRefusal.ROW_CHANGED if not_saved.obstacle is None else not_saved.obstacle

    async def fail(self, scan: ScanInHand, reason: str, message: str) -> bool:
        async with self._pool.connection() as conn:
            return await _end(conn, scan, status="error", reason=reason, message=message)

    async def status(self, session_id: UUID, workspace_id: UUID) -> ScanStatus | None:
        async with self._pool.connection() as conn:
            found: ScanStatus | None = await _Q.install_session_status(
                conn, id=session_id, workspace_id=workspace_id, keep_seconds=SESSION_KEEP_SECONDS
            )
            return found

    async def seconds_to_next(self) -> float | None:
        async with self._pool.connection() as conn:
            seconds: float | None = await _Q.seconds_to_next_install(conn)
            return seconds


async def _finish(
    conn: TrioConnection[Any], scan: ScanInHand, draft: InstallationDraft, installer: InstallerAccount
) -> InstallationView:
    if not await _Q.lock_install_session(conn, id=scan.id, workspace_id=scan.workspace_id, poller=scan.poller):
        raise _Refused(ScanRefusal.SESSION_OVER)
    await _require_standing(conn, scan)
    await save_installation(conn, draft)
    bound = await bind_member(
        conn,
        binding_id=installer.binding_id,
        workspace_id=draft.workspace_id,
        installation_id=draft.id,
        channel_user_id=installer.channel_user_id,
        user_id=installer.user_id,
    )
    if isinstance(bound, RedeemRefusal):
        raise _Refused(ScanRefusal.NOT_BOUND)
    if not await _end(conn, scan, status="success", installation_id=draft.id):
        raise _Refused(ScanRefusal.SESSION_OVER)
    view = await find_installation(conn, draft.id)
    if view is None:
        # The workspace is being deleted at this moment, and the session with it.
        raise _Refused(ScanRefusal.SESSION_OVER)
    return view


async def _require_standing(conn: TrioConnection[Any], scan: ScanInHand) -> None:
    """Check again that the member may connect this bot, and lock the rows that this depends on until the commit.

    The check is repeated because a code is valid for minutes. Raises _Refused.
    """
    standing: Standing | None = await _Q.lock_standing(
        conn, workspace_id=scan.workspace_id, agent_id=scan.agent_id, user_id=scan.initiator_user_id
    )
    if standing is None:
        raise _Refused(ScanRefusal.NOT_BOUND)
    manages = may_manage_agent(owner_id=standing.agent_owner_id, user_id=scan.initiator_user_id, role=standing.role)
    if not scan.vouched and not manages:
        raise _Refused(ScanRefusal.FORBIDDEN)


async def _end(
    conn: TrioConnection[Any],
    scan: ScanInHand,
    *,
    status: str,
    reason: str | None = None,
    message: str = "",
    installation_id: UUID | None = None,
) -> bool:
    changed: int = await _Q.end_install_session(
        conn,
        id=scan.id,
        workspace_id=scan.workspace_id,
        poller=scan.poller,
        status=status,
        error_reason=reason,
        error_message=message,
        installation_id=installation_id,
    )
    return changed > 0
