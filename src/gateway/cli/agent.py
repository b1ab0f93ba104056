"""`gateway agent`: runs any program as an agent. It starts one process per task.

The program reads the task as JSON from stdin and writes its reply to stdout.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import click

from gateway.cli.agent_guard import guard_programs
from gateway.cli.agent_instance import NAME_CHARS_MAX, hold_instance, instances_dir
from gateway.cli.agent_privacy import (
    SECRETS_OPTION,
    TOKEN_VARIABLE,
    Secrets,
    conceal_process,
    named_variables,
    start_anew,
    take_secrets,
)
from gateway.cli.output import config_option


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command line, except for the secrets."""

    servers: tuple[str, ...]
    instance: str | None
    concurrency: int
    drain_seconds: float
    config: Path | None

    @property
    def arguments(self) -> list[str]:
        """Return these options as arguments for the command line with which this process starts itself again."""
        said = [part for server in self.servers for part in ("--server", server)]
        said += ["--concurrency", str(self.concurrency), "--drain-seconds", str(self.drain_seconds)]
        said += [] if self.instance is None else ["--instance", self.instance]
        return said + ([] if self.config is None else ["--config", str(self.config)])


@click.group()
def agent() -> None:
    """Run agent programs against a server."""


@agent.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--server",
    "servers",
    required=True,
    multiple=True,
    metavar="URL",
    help="The gateway's address, such as http://127.0.0.1:8420. Again for each further one of the same gateway: the"
    " next is used while one is away.",
)
@click.option(
    "--token",
    envvar=TOKEN_VARIABLE,
    show_envvar=True,
    help="The runtime's token (gwr_...). It is moved out of flags and variables at once; until then, other users of"
    " this machine can read flags, but not variables.",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="A variable for the program, such as the key of its model. It gets no other, but for PATH, HOME, the"
    " language, TZ, TMPDIR, those of proxies and certificates, and NO_COLOR=1 and TERM=dumb.",
)
@click.option(
    "--instance",
    metavar="NAME",
    help="What this worker is called among those of the same token, also after a restart: by it, it gets back at once"
    " what it had. By default a name that is kept in the state directory.",
)
@click.option("--concurrency", default=1, show_default=True, type=click.IntRange(1, 64), help="Tasks at a time.")
@click.option(
    "--drain-seconds",
    default=20.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="How long running programs may go on after SIGTERM.",
)
@click.option("--secrets-fd", type=click.IntRange(min=3), hidden=True)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@config_option
def run(
    *,
    servers: tuple[str, ...],
    token: str | None,
    variables: tuple[str, ...],
    instance: str | None,
    concurrency: int,
    drain_seconds: float,
    secrets_fd: int | None,
    command: tuple[str, ...],
    config: Path | None,
) -> None:
    """Work on tasks with COMMAND until SIGTERM.

    COMMAND is started once per task. It reads the task as JSON from stdin and writes its reply to stdout. With exit
    status 0 its stdout is the answer; any other status fails the task with the end of stderr. Of a configuration file
    only log.format is used.

    A program may keep a memory of its own by the task's chat_session_id. It must forget it when context_generation is
    higher than before: a person started the conversation afresh with /new.
    """
    _set_up_logging(config)
    for server in servers:
        _check_server(server)
    if instance is not None:
        instance = _checked_instance(instance)
    if shutil.which(command[0]) is None:
        raise click.BadParameter(f"{command[0]!r} is not a program that can be run", param_hint="COMMAND")
    options = Options(servers, instance, concurrency, drain_seconds, config)
    if secrets_fd is None:
        _start_anew(options, command, Secrets(_checked_token(token), _checked_variables(variables)))
    else:
        _work(options, command, secrets_fd)


def _set_up_logging(config: Path | None) -> None:
    from gateway.observe.log import configure_logging

    log_format = None
    # Only a file that --config names is read. The daemon's own file need not be readable on this machine.
    if config is not None:
        from gateway.config import load_settings

        log_format = load_settings(config).log.format
    configure_logging(log_format, level="INFO")


def _work(options: Options, command: tuple[str, ...], secrets_fd: int) -> None:
    """Work on tasks in the process that was started again.

    The imports stand here so that the first process, which only starts this one, does not pay for them.
    """
    conceal_process()
    # The guard is forked before this process has read the token, and while it has only one thread.
    with guard_programs() as guard:
        from gateway.cli.agent_worker import Programs, Terms, run_worker

        try:
            secrets = take_secrets(secrets_fd)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=SECRETS_OPTION) from error
        with hold_instance(secrets.token, options.instance, instances_dir(os.environ)) as name:
            terms = Terms(options.servers, name, options.concurrency, options.drain_seconds)
            run_worker(terms, Programs(command, guard, secrets))


def _start_anew(options: Options, command: tuple[str, ...], secrets: Secrets) -> NoReturn:
    try:
        start_anew(["agent", "run", *options.arguments], command, secrets)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--env") from error
    except OSError as error:
        message = f"this interpreter cannot be executed again, which hides the token: {error.strerror}"
        raise click.ClickException(message) from error


def _check_server(server: str) -> None:
    try:
        parts = urlsplit(server)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query
        # No credentials in a URL: every process on this machine can read the command line.
        sound = sound and parts.username is None and parts.password is None
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise click.BadParameter("give an address such as http://127.0.0.1:8420", param_hint="--server")


def _checked_token(token: str | None) -> str:
    if token is None:
        raise click.UsageError(f"Missing option '--token' (env var: '{TOKEN_VARIABLE}').")
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise click.BadParameter("this is not a runtime's token (gwr_...)", param_hint="--token")
    return token


def _checked_variables(wanted: tuple[str, ...]) -> dict[str, str]:
    try:
        return named_variables(wanted, os.environ)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--env") from error


def _checked_instance(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise click.BadParameter(f"a name has 1 to {NAME_CHARS_MAX} printable characters", param_hint="--instance")
    return name
