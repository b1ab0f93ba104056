"""Opening of the database and the key ring, for the daemon and for the commands."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.keyring import KeyRing, generate_key, open_config
from gateway.postgres.inspection import refuse_elsewhere
from gateway.postgres.migrate import migrate_up, pending
from gateway.postgres.pool import Pool, checked_conninfo, open_pool

if TYPE_CHECKING:
    from gateway.channel.installation import StoredInstallation
    from gateway.supervisor.ports import ActiveInstallation

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """The addresses of the database. `conninfo` may lead to a pooler, `direct` (if given) leads past it.

    LISTEN and migrations need a session of their own, and use `for_sessions`.
    """

    conninfo: str = field(repr=False)
    direct: str | None = field(default=None, repr=False)

    @property
    def for_sessions(self) -> str:
        return self.direct or self.conninfo


@asynccontextmanager
async def open_database(settings: Settings, *, attach: bool) -> AsyncIterator[Pool]:
    """Open a pool on the configured database and bring its schema up to date. The pool is closed with the block.

    Without `database_url` the embedded server is used. The daemon owns it with `attach=False`. With `attach=True` a
    running server is joined, or else one is started for the block. Raises ConfigError or StoreUnavailable.
    """
    async with open_migrated(settings, attach=attach) as address, open_pool_on(address, settings) as pool:
        yield pool


@asynccontextmanager
async def open_migrated(settings: Settings, *, attach: bool) -> AsyncIterator[DatabaseAddress]:
    """Yield the address of the configured database once its schema is up to date; see `open_database`.

    Raises ConfigError as well when the database, its settings or the rights of the role do not let the gateway run.
    """
    async with open_address(settings, attach=attach) as address:
        waiting = await pending(address.for_sessions)
        await refuse_two_databases(address)
        if waiting:
            applied = await migrate_up(address.for_sessions)
            log.info("migrated", applied=applied)
        yield address


@asynccontextmanager
async def open_address(settings: Settings, *, attach: bool) -> AsyncIterator[DatabaseAddress]:
    """Yield the address of the configured database, whatever its schema; see `open_database`."""
    if settings.database_url is not None:
        conninfo, direct = checked_conninfo(settings.database_url.get_secret_value()), None
        if settings.database_direct_url is not None:
            direct = checked_conninfo(settings.database_direct_url.get_secret_value(), named="database_direct_url")
        yield DatabaseAddress(conninfo, direct)
        return
    # Imported here, because only the embedded server needs it and the import would slow down every other command.
    from gateway.postgres.embedded import open_embedded

    async with open_embedded(settings.state_dir, attach=attach, database_user=settings.database_user) as conninfo:
        yield DatabaseAddress(conninfo)


async def refuse_two_databases(address: DatabaseAddress) -> None:
    """Raise ConfigError if `database_direct_url` leads to another database than `database_url`."""
    if address.direct is not None:
        await refuse_elsewhere(address.direct, address.conninfo)


def open_pool_on(
    address: DatabaseAddress, settings: Settings, *, size_max: int | None = None, timeout_seconds: float | None = None
) -> AbstractAsyncContextManager[Pool]:
    """Open a pool within the configured limits.

    `size_max` replaces the configured number of connections, `timeout_seconds` the configured time for a connection.
    """
    limits = settings.limits
    return open_pool(
        address.conninfo,
        pooled=address.direct is not None,
        size_max=size_max or limits.database_connections_max,
        connect_timeout_seconds=timeout_seconds or limits.database_connect_timeout_seconds,
    )


def open_keyring(settings: Settings) -> KeyRing | None:
    """Return the keys that seal and open stored secrets. None when there is no key, which turns Lark off.

    With the embedded database a missing key is made once and kept beside it, mode 0600, so that key and data are lost
    or kept together. Raises ConfigError for an invalid key.
    """
    if settings.secret_key is not None:
        return KeyRing.parse(settings.secret_key.get_secret_value())
    if not settings.embedded:
        return None
    return KeyRing.parse(_own_key(settings.state_dir / "secret.key"))


def required_keyring(settings: Settings) -> KeyRing:
    """Return the configured keys. Raises ConfigError if there is no key."""
    ring = open_keyring(settings)
    if ring is None:
        raise ConfigError("secret_key: is unset, so no secret can be sealed; `gateway keygen` prints a key")
    return ring


def open_secrets(ring: KeyRing | None, installation: ActiveInstallation | StoredInstallation) -> dict[str, Any]:
    """Return an installation's config with its secrets decrypted. Raises UnreadableSecret."""
    return open_config(installation.config, ring, installation.id)


def _own_key(path: Path) -> str:
    try:
        path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir: {path.parent} cannot be used: {error.strerror}") from error
    try:
        if not path.exists():
            _write_key(path)
        _close_to_others(path)
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"secret_key: {path} cannot be used: {error}") from error


def _close_to_others(path: Path) -> None:
    """Restrict the key file to its owner: a copy or a restore may have widened its mode.

    On a read-only disk the mode stays as it is. Either way a wide mode is logged.
    """
    if path.stat().st_mode & 0o077:
        with suppress(OSError):
            path.chmod(0o600)
        log.warning("secret_key_was_readable", path=str(path), closed=not path.stat().st_mode & 0o077)


def _write_key(path: Path) -> None:
    """Create the key file atomically, so that neither a reader nor a crash ever leaves or sees half a key."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(generate_key() + "\n")
            file.flush()
            os.fsync(file.fileno())
        if os.geteuid() == 0:
            # Root may run a command before the first start of a daemon that runs as another account. The file gets the
            # owner of the state directory, so that the daemon can read it.
            place = path.parent.stat()
            os.chown(draft, place.st_uid, place.st_gid, follow_symlinks=False)
        # The link fails if another process made the file first. That process's key is used then.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
