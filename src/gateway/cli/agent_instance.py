"""The name of one worker among several on the same token. The worker keeps it when it is started again.

By that name a restarted worker returns its former tasks to the queue at once, and leaves the tasks of other workers
alone. So no two living workers may have the same name; on one machine a lock ensures it. A worker without a given name
takes the first free slot of its token in the state directory. A slot's file holds a random word, made once. The name
begins with the machine's name, because machines are copied and directories are shared.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import structlog

from gateway.errors import GatewayError

logger = structlog.get_logger(__name__)

SLOTS_MAX = 256
"""The most workers of one token on one machine that keep their names."""
NAME_CHARS_MAX = 200
_WORD_BYTES = 8


class NameTaken(GatewayError):
    """Another worker of the same name runs on this machine."""


def instances_dir(environment: Mapping[str, str]) -> Path:
    """Return the directory of the slots: in systemd's state directory, else in the user's."""
    if systemd := environment.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0]) / "agents"
    named = Path(environment.get("XDG_STATE_HOME", ""))
    # The XDG base directory specification says that a relative path is to be ignored.
    return (named if named.is_absolute() else Path("~", ".local", "state")) / "gateway" / "agents"


@contextmanager
def hold_instance(token: str, name: str | None, directory: Path) -> Iterator[str]:
    """Hold the worker's name: no other worker on this machine can have it until the block or the process ends.

    Without `name` it is the name of the first free slot. Raises NameTaken for a given name that another worker holds.
    If no file can be kept, or every slot is taken, no lock is held; without `name` the worker then gets a name for this
    process alone, and after its death its tasks return to the queue only when it has been silent for long enough.
    """
    try:
        directory = directory.expanduser()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = _take(directory, token, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home directory
        logger.warning("instance_not_kept", reason=str(error), hint="give --instance NAME, or a state directory")
        held = None
    if held is None:
        yield name or f"{socket.gethostname()}-{secrets.token_hex(_WORD_BYTES)}"[-NAME_CHARS_MAX:]
        return
    file, instance = held
    with file:
        yield instance


def _take(directory: Path, token: str, name: str | None) -> tuple[BinaryIO, str] | None:
    """Return a locked file and the name that it stands for, or None if every slot is taken."""
    if name is not None:
        file = _lock(directory / f"{_digest(token)}-named-{_digest(name)}")
        if file is None:
            raise NameTaken(
                f"another worker called {name!r} runs on this machine; give each --instance a name of its own"
            )
        return file, name
    for slot in range(SLOTS_MAX):
        file = _lock(directory / f"{_digest(token)}-{slot}")
        if file is not None:
            return file, f"{socket.gethostname()}-{_word(file)}"[-NAME_CHARS_MAX:]
    logger.warning(
        "instance_not_kept", reason=f"{SLOTS_MAX} workers of this token run here", hint="give --instance NAME"
    )
    return None


def _lock(path: Path) -> BinaryIO | None:
    """Open and lock a file, or return None if another process has locked it.

    The lock lasts until the file is closed, which the end of this process does in any case.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        file.close()
        raise
    return file


def _word(file: BinaryIO) -> str:
    """Return the slot's random word. It is made at the first use, and also if the file holds something else."""
    text = file.read(2 * _WORD_BYTES + 1)
    with suppress(ValueError):
        if len(bytes.fromhex(text.decode("ascii"))) == _WORD_BYTES:
            return text.decode("ascii")
    word = secrets.token_hex(_WORD_BYTES)
    file.seek(0)
    file.truncate()
    file.write(word.encode("ascii"))
    return word


def _digest(text: str) -> str:
    """Return a digest that tells tokens apart, and from which no token can be derived."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
