"""Keeps the secrets of `agent run` from its programs: the runtime's token, and the rest of the worker's environment.

A program is another author's code, run as the same user. It gets an environment of its own instead of the worker's.

Every process of the user can read the worker's environment and command line under /proc. So the token must leave both:
the worker replaces itself by a new process image, and hands its secrets over through a pipe. Then it makes itself
undumpable, so that no process of the user can read its memory or its descriptors. Root can still read them, and so can
a program of a worker that runs as root.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec
import structlog

from gateway.observe.log import HIDDEN

logger = structlog.get_logger(__name__)

TOKEN_VARIABLE = "AGENT_TOKEN"  # noqa: S105 (the variable's name; GATEWAY_ ones belong to the daemon's configuration)
SECRETS_OPTION = "--secrets-fd"
SECRETS_BYTES_MAX = 65_536
"""The most bytes of secrets. A pipe takes so many without a reader, on every system."""
_SCRUBBED_CHARS_MIN = 8
"""The shortest value that is hidden in texts. A shorter one occurs by chance in too many places."""
_PR_SET_DUMPABLE = 4

PASSED_ON = frozenset({
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE"),
})  # fmt: skip
"""The worker's variables that every program gets, besides those that begin with LC_.

They describe the machine it runs on, and its way to the network.
"""


NO_TERMINAL = {"NO_COLOR": "1", "TERM": "dumb"}


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets that a worker hands to itself: its token, and the variables that `--env` named for its programs."""

    token: str = field(repr=False)
    variables: dict[str, str] = field(default_factory=dict, repr=False)

    def hide(self, text: str) -> str:
        """Return `text` with the token and the variables' values hidden: a program may have printed its own key."""
        for value in (self.token, *self.variables.values()):
            if len(value) >= _SCRUBBED_CHARS_MIN:
                text = text.replace(value, HIDDEN)
        return text


def named_variables(wanted: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `--env NAME` and `--env NAME=VALUE`.

    Raises ValueError for a malformed name, for the token's variable, and for a name without a value that is not set.
    """
    found: dict[str, str] = {}
    for each in wanted:
        name, given, value = each.partition("=")
        if not name or "\x00" in each:
            raise ValueError(f"{each!r} is not the name of a variable")
        if name == TOKEN_VARIABLE:
            raise ValueError(f"{TOKEN_VARIABLE} is the runtime's own: a program may not act in its name")
        if not given and name not in environment:
            raise ValueError(f"{name} is not set here; set it, or give {name}=VALUE")
        found[name] = value if given else environment[name]
    return found


def program_environment(worker: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a program: the worker's harmless variables, and those that `--env` named.

    It says that there is no terminal, because the output goes into a chat.
    """
    harmless = {name: value for name, value in worker.items() if name in PASSED_ON or name.startswith("LC_")}
    return harmless | NO_TERMINAL | dict(variables)


def start_anew(arguments: Sequence[str], command: Sequence[str], secrets: Secrets) -> NoReturn:
    """Replace this process by `gateway ARGUMENTS -- COMMAND`. The secrets are only in a pipe that it inherits.

    The process id stays the same. Raises ValueError if the secrets are larger than a pipe's buffer.
    """
    data = msgspec.json.encode(secrets)
    if len(data) > SECRETS_BYTES_MAX:
        raise ValueError(f"the variables have {len(data)} bytes together, more than {SECRETS_BYTES_MAX}")
    reading, writing = os.pipe()
    # Nothing reads the pipe before the exec, so its buffer has to take everything. A blocking write would wait for
    # ever, and a short write would lose secrets.
    os.set_blocking(writing, False)
    if os.write(writing, data) != len(data):
        raise ValueError(f"the variables have {len(data)} bytes together, more than this system's pipes take")
    os.close(writing)
    os.set_inheritable(reading, True)
    handed = [SECRETS_OPTION, str(reading), "--", *command]
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    # Raises OSError where this interpreter may not be executed again: the caller says so in a line.
    os.execve(sys.executable, [*own_command(sys.orig_argv, sys.argv), *arguments, *handed], environment)  # noqa: S606 (this very program)


def own_command(original: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the command that started this process, without the program's own arguments.

    That is the interpreter, its options, and the program.
    """
    if getattr(sys, "frozen", False):
        return [sys.executable]
    ours = len(arguments) - 1
    if ours and list(original[-ours:]) == list(arguments[1:]):
        return [sys.executable, *original[1:-ours]]
    return [sys.executable, "-m", "gateway"]


def take_secrets(descriptor: int) -> Secrets:
    """Read the secrets from the descriptor and close it. Raises ValueError if it holds none."""
    try:
        with open(descriptor, "rb") as pipe:
            return msgspec.json.decode(pipe.read(SECRETS_BYTES_MAX + 1), type=Secrets)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError(f"descriptor {descriptor} holds no secrets of this program") from error


def conceal_process() -> None:
    """Keep other processes of this user from reading this process, and its forks until they execute a program.

    Logs a warning where that is impossible: as root, which may read everything, and on a system that cannot do it.
    """
    if os.geteuid() == 0:
        logger.warning(
            "programs_can_read_the_token",
            reason="this worker runs as root: nothing can be hidden from a program of the same user; use another user",
        )
    if not _make_undumpable() and os.geteuid() != 0:
        logger.warning("programs_can_read_the_token", reason="this system cannot hide a process from its own user")


def _make_undumpable() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        answer: int = ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    except (OSError, AttributeError):
        return False
    return answer == 0
