"""The name of one worker among several on the same token, which it keeps when it is started again.

By that name a worker that is back gets the tasks back that it had, at once, and leaves those of the others alone. So no
two living workers may have the same name: on one machine a lock sees to it. Where no name was given, a worker takes the
first free slot of its token in the state directory; a slot's file holds a random word, made once. The name has the
machine's in front, because machines are copied and directories are shared.
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
"""Workers of one token on one machine that keep their names."""
NAME_CHARS_MAX = 200
_WORD_BYTES = 8


class NameTaken(GatewayError):
    """Another worker of the same name runs on this machine."""


def instances_dir(environment: Mapping[str, str]) -> Path:
    """Where the slots are: systemd's state directory, else the person's."""
    if systemd := environment.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0]) / "agents"
    named = Path(environment.get("XDG_STATE_HOME", ""))
    # The XDG rules ask that a relative path is ignored.
    return (named if named.is_absolute() else Path("~", ".local", "state")) / "gateway" / "agents"


@contextmanager
def hold_instance(token: str, name: str | None, directory: Path) -> Iterator[str]:
    """Hold the worker's name: no other worker on this machine has it until the block or the process ends.

    Without `name` the first free slot's. Raises NameTaken for a name that is held. Where nothing can be kept, the name
    is good for this process alone, and what it had returns to the queue by its silence.
    """
    try:
        directory = directory.expanduser()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = _take(directory, token, name)
    except (OSError, RuntimeError) as error:  # the latter: there is no home
        logger.warning("instance_not_kept", reason=str(error), hint="give --instance NAME, or a state directory")
        held = None
    if held is None:
        yield name or f"{socket.gethostname()}-{secrets.token_hex(_WORD_BYTES)}"[-NAME_CHARS_MAX:]
        return
    file, instance = held
    with file:
        yield instance


def _take(directory: Path, token: str, name: str | None) -> tuple[BinaryIO, str] | None:
    """A locked file and the name it stands for; None when every slot is taken."""
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
    """The file, locked until this process ends, however it does; None when another one has it."""
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
    """The slot's random word, made when it is used for the first time, or when something else stands in the file."""
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
    """Enough to tell tokens apart, and nothing from which one could be told."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
