"""Connecting a bot by scanning a code: beginning, polling under a row lease, and storing the granted app.

The database owns every session, and any process may take the next step of any session. So a lost process delays a scan
by some seconds and nothing else. A step is one exchange with the platform, or the storing of the app that it granted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import structlog
import trio

from gateway.channel.errors import PlatformError, PlatformThrottled, PlatformUnavailable
from gateway.channel.installation import BotInPlace, DroppedMessage, InstallationView
from gateway.channel.installs import (
    InstallerAccount,
    InstallStore,
    NewScan,
    ScanInHand,
    ScanRefusal,
    ScanRequest,
    ScanStatus,
)
from gateway.concurrency import Signal, finishing, reached
from gateway.errors import (
    DomainError,
    Invalid,
    NotFound,
    StoreConflict,
    StoreError,
    StoreUnavailable,
    TooMany,
    UpstreamFailed,
)
from gateway.ids import new_id
from gateway.keyring import KeyRing, UnreadableSecret
from gateway.lark.api.client import CALL_TIMEOUT_SECONDS, HttpClient, exchange
from gateway.lark.api.region import Region, accounts_base_url
from gateway.lark.api.rest import Answer, Request
from gateway.lark.install.device_flow import (
    Ended,
    Granted,
    Moved,
    Outcome,
    RegistrationRefused,
    Unclear,
    begin_request,
    first_pace,
    is_over,
    judge_begin,
    judge_poll,
    name_preset,
    next_pace,
    poll_request,
    scan_url,
)
from gateway.lark.install.service import InstallationService, NewApp
from gateway.lark.install.session import BegunScan, InstallReason
from gateway.lark.install.shown import shown
from gateway.recorder import SILENT, Recorder

_log = structlog.get_logger()

STEP_SECONDS = 40.0
"""The time limit of one step: a poll, then two calls about the new bot, each with a time limit of its own."""
LEASE_SECONDS = 8.0
"""The time that a step holds its session without renewing. A lost process delays a scan by this much."""
RENEW_SECONDS = 2.5
RELEASE_SECONDS = 1.0
FINISH_SECONDS = 120.0
"""The least time that a granted app gets, from the grant, until the platform has to name its bot."""
RETRY_SECONDS = 3.0
KEEP_SECONDS = 600.0
"""The time that a step with a granted app waits for an unavailable database. No other process knows the secret."""
KEEP_RETRY_SECONDS = 0.5
DRAIN_SECONDS = 4.0
"""The time that a step may go on when the process stops: the answer under way may be the grant of an app."""
STEPS_AT_ONCE_MAX = 8
PENDING_MAX = 50
"""The most pending sessions of one workspace: each of them is polled every few seconds."""
IDLE_SECONDS = 5.0
PAUSE_SECONDS_MIN = 0.2
_SAVE_ATTEMPTS = 3
_MESSAGE_LENGTH_MAX = 300

NO_ANSWER = "no_answer"
"""The problem code of an unanswered poll; answers that say nothing about the scan have `http_<status>`."""

_REASONS = {
    "access_denied": InstallReason.ACCESS_DENIED,
    "expired_token": InstallReason.EXPIRED,
    "invalid_grant": InstallReason.EXPIRED,
}


@dataclass(eq=False, slots=True)
class _Step:
    """One step under way. `knows` is True while it holds a grant that is not stored and cannot be fetched again."""

    scope: trio.CancelScope
    knows: bool = False


Ask = Callable[[str, Request], Awaitable[Answer]]
"""(base URL, request) → the answer, whatever its status. Raises PlatformUnavailable."""


def ask_over(http: HttpClient) -> Ask:
    async def ask(base_url: str, request: Request) -> Answer:
        return await exchange(http, base_url, request, CALL_TIMEOUT_SECONDS)

    return ask


class ScanService:
    """Begins scans and takes them further. Implements gateway.http.api.installations.Installs.

    The secrets that the platform sends are sealed with `ring` for the session's id before they are stored.
    """

    def __init__(
        self,
        store: InstallStore,
        installations: InstallationService,
        ring: KeyRing,
        ask: Ask,
        *,
        accounts_base_override: str | None = None,
        recorder: Recorder = SILENT,
    ) -> None:
        self._store = store
        self._installations = installations
        self._ring = ring
        self._ask = ask
        self._accounts_base_override = accounts_base_override
        self._recorder = recorder
        self.wake = Signal()
        """Set by a new session, to wake `run_installs` in this process."""

    # --- requests of people -------------------------------------------------------------------------------------------

    async def request_for(
        self, agent_id: UUID, region: str, installer_email: str | None, *, replaces: bool = False
    ) -> ScanRequest:
        """Return an operator's request; the installer defaults to the workspace's owner.

        Raises DomainError as `InstallationService.add` does.
        """
        home, installer = await self._installations.installer_of(agent_id, installer_email)
        return ScanRequest(home.workspace_id, agent_id, home.name, installer, region, replaces=replaces, vouched=True)

    async def begin(self, request: ScanRequest) -> BegunScan:
        """Begin a scan.

        Raises Invalid for a bad region, TooMany for too many scans at once, UpstreamFailed if the platform refuses,
        Conflict if the agent has a live bot that the request does not replace, and NotFound if the agent or the member
        is deleted at this moment.
        """
        if request.region not in {region.value for region in Region}:
            message = f"region {request.region[:40]!r} is not one of {', '.join(Region)}"
            raise Invalid("invalid_region", message, field="region")
        if not request.replaces:
            # A scan makes a new app, so that app is never the bot in place.
            await self._installations.require_no_bot(request.workspace_id, request.agent_id, request.agent_name)
        try:
            begun = judge_begin(await self._ask(self._base_url(request.region), begin_request()))
        except PlatformUnavailable as error:
            raise _not_begun(NO_ANSWER, str(error)) from error
        except RegistrationRefused as error:
            raise _not_begun(error.code, error.code) from error
        session_id, pace = new_id(), first_pace(begun)
        scan = NewScan(
            id=session_id,
            request=request,
            device_code=self._ring.seal(begun.device_code.encode(), owner=session_id),
            interval_seconds=pace.interval_seconds,
            delay_seconds=pace.delay_seconds,
            lifetime_seconds=begun.lifetime_seconds,
        )
        if not await self._add(scan):
            message = (
                f"{PENDING_MAX} codes of this workspace wait for a scan; use one of them, or wait until they expire"
            )
            raise TooMany("too_many_scans", message, retry_after=round(begun.lifetime_seconds))
        self.wake.set()
        url = scan_url(begun.verification_url, name_preset(request.agent_name))
        _log.info("lark_install_begun", session_id=str(session_id), agent_id=str(request.agent_id))
        return BegunScan(session_id, url, begun.lifetime_seconds, pace.interval_seconds)

    async def _add(self, scan: NewScan) -> bool:
        try:
            return await self._store.add(scan, PENDING_MAX)
        except StoreConflict as error:
            message = f"agent {scan.request.agent_id}, or who asked, is not there any more"
            raise NotFound("agent_not_found", message, field="agent_id") from error

    async def status(self, session_id: UUID, workspace_id: UUID) -> ScanStatus | None:
        return await self._store.status(session_id, workspace_id)

    async def list(self, workspace_id: UUID) -> Sequence[InstallationView]:
        return await self._installations.list(workspace_id)

    async def find(self, workspace_id: UUID, installation_id: UUID) -> InstallationView:
        return await self._installations.find(installation_id, workspace_id)

    async def revoke(self, workspace_id: UUID, installation_id: UUID) -> InstallationView:
        return await self._installations.revoke(installation_id, workspace_id)

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> Sequence[DroppedMessage]:
        return await self._installations.drops(installation_id, limit, offset)

    def shown(self, installation: InstallationView, public_url: str | None) -> dict[str, Any]:
        return shown(installation, public_url)

    # --- one step -----------------------------------------------------------------------------------------------------

    async def take(self, session_id: UUID | None = None) -> ScanInHand | None:
        """Lease a due session for its next step: the one of `session_id`, or any. Raises StoreUnavailable."""
        return await self._store.take(new_id(), LEASE_SECONDS, session_id)

    async def seconds_to_next(self) -> float | None:
        return await self._store.seconds_to_next()

    async def advance(self, scan: ScanInHand) -> None:
        """Take the next step, and renew the session's row lease meanwhile.

        A step raises nothing: an unexpected exception is logged and ends this one scan. If it is cancelled, or the
        database is unavailable, the session stays pending, and any process takes the step later.
        """
        done = False
        try:
            async with trio.open_nursery() as nursery:
                step = _Step(nursery.cancel_scope)
                step.scope.deadline = trio.current_time() + STEP_SECONDS
                nursery.start_soon(self._hold, scan, step)
                done = await self._guarded_step(scan, step)
                nursery.cancel_scope.cancel()
        finally:
            if not done:
                await self._let_go(scan)

    async def _hold(self, scan: ScanInHand, step: _Step) -> None:
        """Renew the row lease, and cancel the step once another process holds it.

        Without the lease, the writes of the step change no row. A step with a grant that is not stored yet is not
        cancelled: a grant can be stored without the lease.
        """
        while True:
            await trio.sleep(RENEW_SECONDS)
            try:
                held = await self._store.hold(scan, LEASE_SECONDS)
            except StoreError:
                continue
            if not held and not step.knows:
                step.scope.cancel()
                return

    async def _let_go(self, scan: ScanInHand) -> None:
        _log.info("lark_install_step_abandoned", session_id=str(scan.id))
        with finishing(RELEASE_SECONDS):
            try:
                await self._store.hold(scan, 0)
            except StoreError:
                return  # The lease then runs out by itself.

    async def _guarded_step(self, scan: ScanInHand, step: _Step) -> bool:
        """Take the step. Return True if it ended, even by failing; False if StoreUnavailable postponed it."""
        try:
            await self._step(scan, step)
        except StoreUnavailable as error:
            _log.warning("lark_install_step_postponed", session_id=str(scan.id), error=str(error))
            return False
        except UnreadableSecret as error:
            await self._end_badly(scan, f"the session cannot be read: {error}")
        except Exception:
            _log.exception("lark_install_step_failed", session_id=str(scan.id))
            self._recorder.count("unexpected_errors", unit="install")
            await self._end_badly(scan, "an unexpected error; the log has its traceback")
        return True

    async def _end_badly(self, scan: ScanInHand, message: str) -> None:
        try:
            await self._fail(scan, InstallReason.INTERNAL_ERROR, message)
        except StoreUnavailable as error:
            _log.warning("lark_install_step_postponed", session_id=str(scan.id), error=str(error))

    async def _step(self, scan: ScanInHand, step: _Step) -> None:
        if scan.credentials is not None:
            await self._complete(scan, self._opened_grant(scan, scan.credentials))
        else:
            await self._poll(scan, step)

    async def _poll(self, scan: ScanInHand, step: _Step) -> None:
        """Poll, also when the deadline has passed.

        The app may have been granted in the last seconds, or in an hour in which no process ran.
        """
        outcome = await self._outcome(scan)
        over = is_over(scan.seconds_left)
        if isinstance(outcome, Granted):
            await self._grant(scan, outcome, step)
        elif isinstance(outcome, Ended):
            unknown = InstallReason.EXPIRED if over else InstallReason.PROTOCOL_ERROR
            await self._fail(scan, _REASONS.get(outcome.code, unknown), outcome.code)
        elif over and not isinstance(outcome, Moved):
            trouble = f" ({outcome.code})" if isinstance(outcome, Unclear) else ""
            await self._fail(scan, InstallReason.EXPIRED, f"nobody scanned the code in time{trouble}")
        else:
            await self._put_back(scan, outcome)

    async def _outcome(self, scan: ScanInHand) -> Outcome:
        device_code = self._ring.open(scan.device_code, owner=scan.id).decode()
        polled = Region.of(scan.polled_region)
        try:
            answer = await self._ask(self._base_url(polled), poll_request(device_code))
        except PlatformUnavailable as error:
            _log.warning("lark_install_poll_unanswered", session_id=str(scan.id), error=str(error))
            return Unclear(NO_ANSWER)
        return judge_poll(answer, polled, moved=scan.polled_region != scan.region)

    async def _put_back(self, scan: ScanInHand, outcome: Outcome) -> None:
        if isinstance(outcome, Unclear):
            _log.info("lark_install_poll_unclear", session_id=str(scan.id), problem=outcome.code)
        pace = next_pace(outcome, scan.interval_seconds, scan.seconds_left)
        await self._store.put_back(
            scan,
            region=outcome.region if isinstance(outcome, Moved) else scan.polled_region,
            interval_seconds=pace.interval_seconds,
            delay_seconds=pace.delay_seconds,
            problem=outcome.code if isinstance(outcome, Unclear) else "",
        )

    # --- an app was granted -------------------------------------------------------------------------------------------

    async def _grant(self, scan: ScanInHand, granted: Granted, step: _Step) -> None:
        """Store the grant before anything else, even when cancelled: the platform may send it only once."""
        sealed = self._ring.seal(msgspec.json.encode(granted), owner=scan.id)
        # While the grant is known to this step only, a lost row lease must not cancel the step: see `_hold`.
        step.knows, step.scope.deadline = True, trio.current_time() + KEEP_SECONDS
        kept = await self._keep(scan, sealed)
        step.knows, step.scope.deadline = False, trio.current_time() + STEP_SECONDS
        reached("lark.install_granted")
        if kept:
            await self._complete(scan, granted)

    async def _keep(self, scan: ScanInHand, sealed: bytes) -> bool:
        """Store the grant. Return True if this step is to finish the scan. Waits for an unavailable database."""
        while True:
            problem = f"no answer from the database within {DRAIN_SECONDS:g} s"
            with finishing(DRAIN_SECONDS):
                try:
                    return await self._store.grant(
                        scan, credentials=sealed, lease_seconds=LEASE_SECONDS, finish_seconds=FINISH_SECONDS
                    )
                except StoreUnavailable as error:
                    problem = str(error)
            _log.warning("lark_install_grant_waits", session_id=str(scan.id), error=problem)
            await trio.sleep(KEEP_RETRY_SECONDS)

    def _opened_grant(self, scan: ScanInHand, credentials: bytes) -> Granted:
        return msgspec.json.decode(self._ring.open(credentials, owner=scan.id), type=Granted)

    async def _complete(self, scan: ScanInHand, granted: Granted) -> None:
        region = Region.of(scan.polled_region)
        try:
            bot = await self._installations.identify(granted.app_id, granted.app_secret, region)
        except (PlatformUnavailable, PlatformThrottled) as error:
            await self._retry(scan, str(error))
            return
        except PlatformError as error:
            await self._fail(scan, InstallReason.BOT_INFO_FAILED, str(error))
            return
        app = NewApp(scan.agent_id, granted.app_id, granted.app_secret, region=region.value, replaces=scan.replaces)
        account = InstallerAccount(granted.open_id, scan.initiator_user_id, new_id())
        for _ in range(_SAVE_ATTEMPTS):
            try:
                draft = await self._installations.draft(app, scan.initiator_user_id, bot)
                outcome = await self._store.finish(scan, draft, account)
            except DomainError as refusal:  # the agent was archived meanwhile
                await self._fail(scan, InstallReason.INSTALLATION_CONFLICT, str(refusal))
                return
            except StoreConflict:
                taken = await self._installations.taken(granted.app_id)
                if taken is None:
                    continue
                await self._fail(scan, InstallReason.INSTALLATION_CONFLICT, str(taken))
                return
            if outcome is not ScanRefusal.ROW_CHANGED:
                await self._conclude(scan, outcome)
                return
        await self._retry(scan, "the agent's installation keeps changing")

    async def _conclude(self, scan: ScanInHand, outcome: InstallationView | BotInPlace | ScanRefusal) -> None:
        if isinstance(outcome, InstallationView):
            _log.info("lark_installation_added", installation_id=str(outcome.id), app_id=outcome.app_id)
        elif isinstance(outcome, BotInPlace):
            message = (
                f"the agent got a bot meanwhile: app {outcome.app_id}, installation {outcome.id}. It stays, and the "
                "scanned app is not connected; to put one in its place, begin again with replace"
            )
            await self._fail(scan, InstallReason.AGENT_HAS_BOT, message)
        elif outcome is ScanRefusal.FORBIDDEN:
            message = (
                "who began may not manage this agent's bot any more; its owner, or an owner or admin, can begin again"
            )
            await self._fail(scan, InstallReason.FORBIDDEN, message)
        elif outcome is ScanRefusal.NOT_BOUND:
            message = "who began is no member any more, or the account that scanned is bound to somebody else"
            await self._fail(scan, InstallReason.INSTALLER_BIND_FAILED, message)
        else:
            _log.warning("lark_install_taken_over", session_id=str(scan.id))

    async def _retry(self, scan: ScanInHand, problem: str) -> None:
        """Try a granted app again later; once its time is over, end the session with the problem as its reason."""
        if scan.credentials is not None and is_over(scan.seconds_left):
            await self._fail(scan, InstallReason.BOT_INFO_FAILED, problem)
            return
        await self._store.put_back(
            scan,
            region=scan.polled_region,
            interval_seconds=scan.interval_seconds,
            delay_seconds=RETRY_SECONDS,
            problem=problem[:_MESSAGE_LENGTH_MAX],
        )

    async def _fail(self, scan: ScanInHand, reason: InstallReason, message: str) -> None:
        if await self._store.fail(scan, reason.value, message[:_MESSAGE_LENGTH_MAX]):
            _log.info("lark_install_failed", session_id=str(scan.id), reason=reason.value, detail=message)

    def _base_url(self, region: str) -> str:
        return accounts_base_url(region, self._accounts_base_override)


async def run_installs(
    service: ScanService, *, stop: trio.Event, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Take the next step of every due scan until `stop` is set. Steps under way then get `DRAIN_SECONDS` to end.

    Any number of processes may run this. It waits for an unavailable database.
    """
    slots = trio.Semaphore(STEPS_AT_ONCE_MAX)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_wake_on_stop, service, stop)
        task_status.started()
        while not stop.is_set():
            await slots.acquire()
            scan = await _take(service)
            if scan is not None:
                nursery.start_soon(_advance, service, scan, slots)
            else:
                slots.release()
                await service.wake.wait(await _pause(service))
        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_SECONDS


async def _wake_on_stop(service: ScanService, stop: trio.Event) -> None:
    await stop.wait()
    service.wake.set()


async def _take(service: ScanService) -> ScanInHand | None:
    try:
        return await service.take()
    except StoreUnavailable as error:
        _log.warning("lark_installs_postponed", error=str(error))
        return None


async def _pause(service: ScanService) -> float:
    """Return the seconds until the next session is due, bounded, because other processes begin scans too."""
    try:
        seconds = await service.seconds_to_next()
    except StoreUnavailable:
        return IDLE_SECONDS
    return IDLE_SECONDS if seconds is None else min(max(seconds, PAUSE_SECONDS_MIN), IDLE_SECONDS)


async def _advance(service: ScanService, scan: ScanInHand, slots: trio.Semaphore) -> None:
    try:
        await service.advance(scan)
    finally:
        slots.release()
        # The next step may be due already: a scan that moved to the other cloud is polled there at once.
        service.wake.set()


def _not_begun(code: str, why: str) -> UpstreamFailed:
    message = (
        f"the platform did not begin to register an app ({why}); try again, or connect one with `gateway lark add`"
    )
    return UpstreamFailed("lark_begin_failed", message, reason=code)
