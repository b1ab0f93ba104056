"""The command line: parses, prints, exits. One module per command group, imported when it is used.

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import click

from gateway.errors import ConfigError, GatewayError

EXIT_FAILED = 1
EXIT_CONFIG = 78
OUR_VARIABLES = ("GATEWAY_", "LARK_", "AGENT_")
"""The beginnings of the environment variables that commands read."""

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve", "Run the daemon until SIGTERM."),
    "demo": ("demo", "Play a morning with a simulated platform and an echo agent."),
    "migrate": ("migrate", "Bring the database's schema up, down, or show where it stands."),
    "doctor": ("doctor", "Say what works and what does not, and exit 1 if something does not."),
    "keygen": ("keygen", "Print a new secret_key."),
    "version": ("version", "Print the version."),
    "admin": ("admin", "People, workspaces, agents, runtimes and tokens."),
    "lark": ("lark", "Lark and Feishu bots and who is bound to them."),
    "task": ("task", "Runs of agents: what became of them and why."),
    "secrets": ("secrets", "Stored secrets and the keys they are sealed under."),
    "legacy": ("legacy", "Move in from the reference product's database."),
    "agent": ("agent", "Run agent programs against a server."),
    "sim": ("sim", "Run the simulated platform alone."),
}
"""Maps a command's name to its module in this package and to its line in --help.

The module exports a click command of the module's name.
"""


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs. `gateway --help` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"{__name__}.{module}"), module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from gateway import __version__

        click.echo(__version__)
        context.exit(0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Its version.")
def cli() -> None:
    """Connects Lark and Feishu bots to AI agents: one durable message in, exactly one answer out."""
    from gateway.observe.log import configure_logging

    # Logs go to stderr, because stdout is for a command's output. `serve` configures its logs again by its settings.
    configure_logging(level="WARNING")


def main() -> None:
    """Run the `gateway` script. An expected error becomes one line on stderr and its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line in this process and return its exit code.

    Errors of usage, of configuration and of the gateway itself are printed. Any other exception is a bug and is raised.
    """
    try:
        _refuse_undecodable(arguments)
        _refuse_undecodable_variables(os.environ)
        outcome: Any = cli.main(args=arguments, prog_name="gateway", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _report_interrupt()
    except GatewayError as error:
        return _report(error)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            return _report_interrupt()
        expected = _expected(group)
        if expected is None:
            raise
        return _report(expected)
    return outcome if isinstance(outcome, int) else 0


def _report_interrupt() -> int:
    print("aborted", file=sys.stderr)
    return EXIT_FAILED


def _refuse_undecodable(arguments: list[str]) -> None:
    """Refuse arguments that are no text in the file system's encoding. Raises click.UsageError.

    Arguments after `--` are not checked: an agent program gets them as they are.
    """
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    for argument in ours:
        if not argument.isascii() and not _is_text(argument):
            raise click.UsageError(f"the argument {argument!r} is not text in {sys.getfilesystemencoding()}")


def _refuse_undecodable_variables(environ: Mapping[str, str]) -> None:
    """Refuse variables of ours that are no text.

    Raises ConfigError, which never repeats a value: it may be a secret.
    """
    for name, value in environ.items():
        if name.upper().startswith(OUR_VARIABLES) and not value.isascii() and not _is_text(value):
            raise ConfigError(f"{name!r}: the variable is not text in {sys.getfilesystemencoding()}")


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _report(error: GatewayError) -> int:
    # Always one line, even if the message has several, because operators grep for it.
    print("gateway: " + " ".join(str(error).split()), file=sys.stderr)
    return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED


def _expected(group: BaseExceptionGroup[BaseException]) -> GatewayError | None:
    """Return the error to report out of a group that trio's nurseries made. None means that the group holds a bug."""
    ours, others = group.split(GatewayError)
    if ours is None or others is not None:
        return None
    leaves = list(_leaves(ours))
    return next((leaf for leaf in leaves if isinstance(leaf, ConfigError)), leaves[0])


def _leaves(group: BaseExceptionGroup[GatewayError]) -> Iterator[GatewayError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
