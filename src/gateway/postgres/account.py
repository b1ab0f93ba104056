"""The account that an embedded server runs as: one that no other program of the machine uses.

A process that shares the server's account can read its files, attach to it and connect to it. A daemon that runs as
root therefore gives its server an account of its own, and never the account `nobody`, which many services share.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import trio

from gateway.errors import ConfigError
from gateway.postgres.binaries import ServerAccount

OWN_ACCOUNT = "gateway-db"
SHARED_NAMES = frozenset({"nobody", "nfsnobody"})
SHARED_UID = 65534
"""The kernel's uid for users that it cannot map (the overflow uid)."""

MAKE_TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = 0.2
# The directories of the system's tools. The PATH of this process is not trusted for them.
_TOOL_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_PURPOSE = "embedded database of gateway"
_NOLOGIN_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false")
# The exit status of useradd while another tool has locked the account file.
_USERADD_BUSY = 1

log = structlog.get_logger()


def name_of(uid: int) -> str | None:
    """Return the name of an account; None when the machine has no name for the uid."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


async def server_account(owner: ServerAccount, named: str | None) -> ServerAccount:
    """Choose the account for the server of a state directory that belongs to `owner`.

    `named` is the setting `database_user`. An ordinary user's server runs as that user. If root starts it and the state
    directory belongs to another account, it runs as that account, because that account's daemon must be able to use the
    files too. Otherwise it runs as `named`, or as `gateway-db`, which is created when missing. Raises ConfigError.
    """
    if os.geteuid() != 0:
        account = ServerAccount(os.geteuid(), os.getegid())
        if name_of(account.uid) is None:
            raise ConfigError(_nameless(account.uid))
        return account
    chosen = None if named is None else _named(named)
    if owner.uid != 0:
        if chosen is not None and chosen.uid != owner.uid:
            raise ConfigError(
                f"database_user {named}: the state directory belongs to {_shown(owner.uid)}, whose server it runs as:"
                " give the directory to root, or unset database_user"
            )
        _refuse_shared(owner.uid, "the state directory belongs to it: give the directory to root")
        return owner
    if chosen is not None:
        return chosen
    return _looked_up(OWN_ACCOUNT) or await _make(OWN_ACCOUNT)


def require_name(account: ServerAccount) -> None:
    """Raise ConfigError for an account without a name, because initdb needs one."""
    if name_of(account.uid) is None:
        raise ConfigError(_nameless(account.uid))


def _nameless(uid: int) -> str:
    return (
        f"uid {uid} has no entry in the user database, by which Postgres identifies who connects:"
        " add one to /etc/passwd, or set database_url"
    )


def _named(name: str) -> ServerAccount:
    account = _looked_up(name)
    if account is None:
        raise ConfigError(f"database_user {name}: there is no such account; make it, or unset database_user")
    if account.uid == 0:
        raise ConfigError(f"database_user {name}: Postgres does not run as root; name an account of its own")
    _refuse_shared(account.uid, "name an account that nothing else runs as")
    return account


def _refuse_shared(uid: int, remedy: str) -> None:
    if uid == SHARED_UID or name_of(uid) in SHARED_NAMES:
        raise ConfigError(
            f"root does not start the embedded Postgres as {_shown(uid)}, an account that other services share:"
            f" {remedy}"
        )


def _shown(uid: int) -> str:
    return name_of(uid) or f"uid {uid}"


def _looked_up(name: str) -> ServerAccount | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return ServerAccount(entry.pw_uid, entry.pw_gid)


async def _make(name: str) -> ServerAccount:
    """Create a system account with the machine's own tool, once, even if several gateway processes want it now."""
    words = "another process is making it"
    with trio.move_on_after(MAKE_TIMEOUT_SECONDS), _open_etc() as etc:
        while True:
            if not _try_lock(etc):
                await trio.sleep(_RETRY_SECONDS)
                continue
            if (account := _looked_up(name)) is not None:
                return account
            status, words = await _run_tool(name)
            if (account := _looked_up(name)) is not None:
                log.info("database_account_made", account=name, uid=account.uid)
                return account
            if status != _USERADD_BUSY:
                raise ConfigError(_cannot_make(name, words))
            await trio.sleep(_RETRY_SECONDS)
    raise ConfigError(_cannot_make(name, f"tried for {MAKE_TIMEOUT_SECONDS:g} s: {words}"))


@contextmanager
def _open_etc() -> Iterator[int]:
    """Open /etc, the directory of the account files, so that the caller can lock it.

    useradd checks for the name before it takes its own lock. Two of them at a time would create one name twice, with
    different uids.
    """
    descriptor = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _run_tool(name: str) -> tuple[int, str]:
    """Run the tool that creates the account. Returns its exit status, and a sentence with its output for the error."""
    command = _making(name)
    if command is None:
        raise ConfigError(_cannot_make(name, "there is no useradd and no adduser"))
    environment = {"PATH": _TOOL_PATH, "LC_ALL": "C"}
    ended = await trio.run_process(
        command, capture_stdout=True, capture_stderr=True, check=False, env=environment, stdin=b""
    )
    words = (ended.stderr or ended.stdout).decode(errors="replace").strip()
    return ended.returncode, f"{Path(command[0]).name} ended with {ended.returncode}: {words}"


def _cannot_make(name: str, why: str) -> str:
    return (
        f"the embedded Postgres of root needs an account of its own, and {name} cannot be made ({why}): make a system"
        f" account {name} in the machine's image, name another one in database_user, start the gateway as an ordinary"
        " user, or set database_url"
    )


def _making(name: str) -> list[str] | None:
    """Return the command that creates the account: shadow's useradd, else busybox's adduser; None without either."""
    shell = next((each for each in _NOLOGIN_SHELLS if Path(each).exists()), _NOLOGIN_SHELLS[-1])
    if useradd := shutil.which("useradd", path=_TOOL_PATH):
        group = ["--gid", name] if _has_group(name) else ["--user-group"]
        options = ["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", shell]
        return [useradd, *options, "--comment", _PURPOSE, *group, name]
    if adduser := shutil.which("adduser", path=_TOOL_PATH):
        return [adduser, "-S", "-D", "-H", "-h", "/nonexistent", "-s", shell, "-g", _PURPOSE, name]
    return None


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True
