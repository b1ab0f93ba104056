"""Every setting, its bound and its unit, in one place.

Precedence: flags > `GATEWAY_*` environment (nested with `__`) > TOML file > systemd credentials directory > defaults.
An unknown key or an unknown `GATEWAY_*` variable raises a ConfigError that names it.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from gateway.address import PROXY_PORTS, parse_bind
from gateway.core.lease import LeaseSettings
from gateway.errors import ConfigError

ENV_PREFIX = "GATEWAY_"
ENV_NESTING = "__"


def _bind(text: str) -> str:
    parse_bind(text)
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an http:// or https:// URL")
    if parts.query or parts.fragment:
        raise ValueError("a base URL has no query and no fragment")
    return text.rstrip("/")


_PLAIN_SEGMENT = re.compile(r"[0-9A-Za-z._~-]+")


def _base_url(text: str) -> str:
    if "@" in urlsplit(text).netloc:
        raise ValueError("this URL may not carry a user name or password")
    return _url(text)


def _public_url(text: str) -> str:
    """Check the address of this server. Its path ends up in links and cookies, so it has only plain segments."""
    url = _base_url(text)
    for segment in urlsplit(url).path.split("/")[1:]:
        if not _PLAIN_SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            raise ValueError(f"the path holds {segment!r}: its segments have letters, digits and -._~ only")
    return url


def _proxy_url(secret: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(secret.get_secret_value())
        usable = parts.scheme in PROXY_PORTS and bool(parts.hostname)
    except ValueError:  # whose text may repeat the password
        usable = False
    if not usable:
        raise ValueError(f"not the URL of a proxy, which begins with {', '.join(f'{s}://' for s in PROXY_PORTS)}")
    return secret


def _comma_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _network(value: object) -> object:
    return ip_network(value) if isinstance(value, str) else value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_blank(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("is empty; remove the key to leave it unset")
    return secret


def _conninfo(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.startswith(("postgres://", "postgresql://")) and "=" not in text:
        raise ValueError("is neither a postgresql:// URI nor a list of key=value pairs")
    return secret


def _path_given(value: object) -> object:
    # An empty path would mean the current directory of the process.
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; remove the key for the default")
    return value


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError("this account has no home directory; give an absolute path") from None


BindAddress = Annotated[str, AfterValidator(_bind)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
SecretText = Annotated[SecretStr, AfterValidator(_not_blank)]
Conninfo = Annotated[SecretStr, AfterValidator(_not_blank), AfterValidator(_conninfo)]
ProxyUrl = Annotated[SecretStr, AfterValidator(_proxy_url)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_comma_list)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
ByteCount = Annotated[int, Field(gt=0, le=1 << 30)]
Days = Annotated[float, Field(gt=0, le=3_650, allow_inf_nan=False)]
StorageBytes = Annotated[int, Field(ge=0, le=1 << 50)]
Count = Annotated[int, Field(gt=0, le=100_000)]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class HttpSettings(_Group):
    bind: BindAddress = "127.0.0.1:8420"
    public_url: PublicUrl | None = None
    """The base URL at which people and webhook providers reach this server. Links and webhook URLs start with it."""
    trusted_proxies: Networks = ()
    """Networks of reverse proxies. Only their requests may name the client's address in a header."""


class MetricsSettings(_Group):
    bind: BindAddress | None = None
    """Address of the metrics listener. Unset: there is none."""


class LarkSettings(_Group):
    open_base_url: BaseUrl | None = None
    """Replaces the region's host for REST and for the long connection's bootstrap."""
    accounts_base_url: BaseUrl | None = None
    """Replaces the region's host for the device flow."""
    proxy_url: ProxyUrl | None = None
    """HTTP or SOCKS proxy for connections to the platform. The URL may carry a user and password.

    Unset: the standard proxy environment variables apply, but never to loopback addresses.
    """


class HubSettings(_Group):
    """Timings of the bots' leases, replies and runs.

    The process that holds a bot's lease renews it every `renew_seconds`. It stops `expiry_margin_seconds` before
    another process may take over. A standby process looks every `poll_seconds`. If `lease_ttl_seconds` is the only one
    of these four that is given, the other three are derived from it.
    """

    lease_ttl_seconds: Seconds = 15
    renew_seconds: Seconds = 4
    poll_seconds: Seconds = 4
    expiry_margin_seconds: Seconds = 2
    reply_timeout_seconds: Seconds = 2.5
    """The limit of one attempt to send a message."""
    stale_after_seconds: Seconds = 600
    """If a message is older than this when it arrives, the agent is told its age along with it."""
    batch_window_seconds: SecondsOrZero = 3
    """The time for which a conversation's next run waits for further messages. 0: it does not wait."""

    @model_validator(mode="before")
    @classmethod
    def _derive_timings(cls, given: object) -> object:
        timings = {"renew_seconds", "poll_seconds", "expiry_margin_seconds"}
        if not isinstance(given, dict) or "lease_ttl_seconds" not in given or timings & given.keys():
            return given
        try:
            ttl = float(given["lease_ttl_seconds"])
        except (TypeError, ValueError):
            return given
        if not 0 < ttl < math.inf:
            return given  # the bounds of the field itself refuse it later, and their error names this field alone
        try:
            derived = LeaseSettings.derived(ttl)
        except ConfigError:
            return given  # the bounds of the field itself refuse such a number with a clearer message
        return given | {
            "renew_seconds": derived.renew_seconds,
            "poll_seconds": derived.poll_seconds,
            "expiry_margin_seconds": derived.margin_seconds,
        }

    @model_validator(mode="after")
    def _timings_fit(self) -> HubSettings:
        if self.renew_seconds >= self.lease_ttl_seconds:
            raise ValueError(_misfit("renew_seconds", self.renew_seconds, "below lease_ttl_seconds", self))
        if self.poll_seconds > self.renew_seconds:
            raise ValueError(_misfit("poll_seconds", self.poll_seconds, "at most renew_seconds", self))
        if self.expiry_margin_seconds >= self.lease_ttl_seconds - self.renew_seconds:
            margin = self.expiry_margin_seconds
            raise ValueError(_misfit("expiry_margin_seconds", margin, "below lease_ttl_seconds - renew_seconds", self))
        return self


def _misfit(name: str, value: float, limit: str, hub: HubSettings) -> str:
    timings = f"lease_ttl_seconds {hub.lease_ttl_seconds:g}, renew_seconds {hub.renew_seconds:g}"
    return f"hub.{name}: {value:g} must be {limit} ({timings})"


class GithubSettings(_Group):
    app_slug: str | None = None
    webhook_secret: SecretText | None = None
    app_id: Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^[0-9]+$")] | None = None
    private_key: SecretText | None = None
    """The private key of the GitHub App, as PEM text."""
    api_base_url: BaseUrl | None = None


class WebhookSettings(_Group):
    per_token_per_minute: CountOrZero = 60
    """The limit for one trigger. Beyond it, requests that fail or that need no signature are refused.

    Requests with a valid signature wait for their turn instead. They are refused only above ten times the limit.
    0 disables the limit, and likewise for `per_ip_per_minute`. Each replica counts for itself.
    """
    per_ip_per_minute: CountOrZero = 30
    """The limit of requests with bad credentials from one client address. Other requests are not counted."""
    body_bytes_max: ByteCount = 262_144
    retention_days: Annotated[int, Field(ge=0, le=36_500)] = 90
    """The days for which deliveries are kept, whatever their outcome. 0 keeps them for ever."""


class LogSettings(_Group):
    format: Literal["json", "console"] | None = None
    """Unset: `console` on a terminal, otherwise `json`."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """At every level, log lines contain no message content, secret, token or ticket."""


class Limits(_Group):
    """Bounds that rarely need changing. Each applies to one process."""

    drain_seconds: Seconds = 15
    """Time from SIGTERM to the end of the process. Work that is still in flight then is abandoned."""
    database_connections_max: Count = 10
    database_connect_timeout_seconds: Seconds = 10
    http_body_bytes_max: ByteCount = 1_048_576
    """The limit for what a runtime posts about its tasks and for events that a platform posts.

    Every other route has a smaller bound.
    """
    frame_bytes_max: ByteCount = 4_194_304
    """The limit of one message on a platform's long connection. A larger one makes it close and reconnect."""
    chunk_bytes_max: ByteCount = 16_777_216
    """The total size of the parts of incomplete events that one connection may hold."""
    events_in_flight_max: Count = 1024
    """Events of one connection that were received and are not settled yet.

    One chat may have half of them. Events beyond that are answered with 500, and the platform sends them again.
    """
    live_streams_max: Count = 500
    """Event streams that pages keep open. Further ones are refused here, and another replica can serve them."""
    live_streams_per_person_max: Count = 8
    """Event streams of one person in one workspace."""
    downloads_max: Count = 200
    """Files that people are downloading at the same time."""
    downloads_per_person_max: Count = 16
    claims_waiting_max: Count = 5_000
    """Requests of runtimes that are waiting for a task."""
    claims_waiting_per_runtime_max: Count = 100
    runtime_silence_seconds: Seconds = 150
    """A runtime that is silent for this long loses its tasks: they return to the queue, and the chats are told."""
    attachment_bytes_max: ByteCount = 104_857_600
    """The size limit of one file that a person sends. A larger one is not fetched."""
    attachments_at_once_max: Count = 8
    """Files that are fetched from the platform at the same time."""
    attachment_storage_bytes_max: StorageBytes = 5_368_709_120
    """The total size of the fetched files under `state_dir`.

    Beyond it the files that were unused for longest are deleted first. They are fetched again when requested.
    """
    attachment_storage_days_max: Days = 7
    """A fetched file that was not requested for this long is deleted."""
    history_days_max: Days = 90
    """The days for which records are kept of messages sent to chats, and of messages that were dropped and why.

    Conversations are kept for good.
    """


def default_state_dir() -> Path:
    """Return the default directory for the gateway's own files.

    It is systemd's `STATE_DIRECTORY` if set, `/var/lib/gateway` for root, and otherwise below the XDG state directory
    of the user.
    """
    if systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/gateway")
    return _xdg_home("XDG_STATE_HOME", ".local/state") / "gateway"


def _xdg_home(variable: str, fallback: str) -> Path:
    # The XDG Base Directory specification says that a relative path must be ignored.
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else Path("~", fallback)


class Settings(BaseSettings):
    """The configuration of one process. Immutable and made by `load_settings`. Its repr masks secrets."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_NESTING,
        enable_decoding=False,
        validate_default=True,
    )

    state_dir: Annotated[Path, BeforeValidator(_path_given), AfterValidator(_absolute)] = Field(
        default_factory=default_state_dir
    )
    database_url: Conninfo | None = None
    """A libpq URI or keyword string. Unset: an embedded Postgres under `state_dir`."""
    database_direct_url: Conninfo | None = None
    """The same database without a connection pooler in between, for LISTEN and migrations. Unset: `database_url`."""
    database_user: Annotated[str, Field(min_length=1)] | None = None
    """The account that the embedded server runs as when root starts it. Unset: `gateway-db`, created if missing."""
    secret_key: SecretText | None = None
    """The keys for stored secrets, newest first. `keyring.KeyRing.parse` parses and validates them."""
    http: HttpSettings = HttpSettings()
    metrics: MetricsSettings = MetricsSettings()
    lark: LarkSettings = LarkSettings()
    hub: HubSettings = HubSettings()
    github: GithubSettings = GithubSettings()
    webhooks: WebhookSettings = WebhookSettings()
    log: LogSettings = LogSettings()
    limits: Limits = Limits()

    @field_validator("database_direct_url")
    @classmethod
    def _belongs_to_a_pooler(cls, given: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if given is not None and info.data.get("database_url", given) is None:
            raise ValueError("is set without database_url; set database_url to the pooler's address")
        return given

    @property
    def embedded(self) -> bool:
        """True if the gateway runs its own Postgres server, because `database_url` is unset."""
        return self.database_url is None


def load_settings(config_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings from all sources. Raises ConfigError with one line that names every key at fault.

    `config_file` is the value of `--config`. Without it, the first of `default_config_files()` that exists is read.
    `overrides` are the flags by dotted key. None means that the flag was not given.
    """
    _refuse_unknown_variables(os.environ)
    flags = _nested({key: value for key, value in (overrides or {}).items() if value is not None})
    file = _file_values(config_file)
    credentials = _credential_values(os.environ)

    class Sourced(Settings):
        @classmethod
        def settings_customise_sources(  # type: ignore[override]
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            **_: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            below = (InitSettingsSource(settings_cls, values) for values in (file, credentials))
            return (init_settings, env_settings, *below)

    try:
        return Sourced(**flags)
    except ValidationError as error:
        raise ConfigError("; ".join(_complaints(error))) from None


def default_config_files() -> tuple[Path, ...]:
    """Return the paths where a configuration file is looked for when `--config` is not given, first match first."""
    own = _xdg_home("XDG_CONFIG_HOME", ".config") / "gateway" / "config.toml"
    # For an account without a home directory the "~" stays in the path, and no such file exists.
    return (Path(os.path.expanduser(own)), Path("/etc/gateway/config.toml"))  # noqa: PTH111


def known_keys() -> dict[str, bool]:
    """Return every key in dotted form. The value is True if the key holds a secret."""
    return dict(_keys_of(Settings))


def variable_of(key: str) -> str:
    """Return the name of the environment variable of a dotted key."""
    return ENV_PREFIX + key.upper().replace(".", ENV_NESTING)


def _keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Group):
            yield from _keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, "SecretStr" in repr(field.annotation)


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {variable_of(key) for key in known_keys()}
    unknown = sorted(name for name in environ if name.upper().startswith(ENV_PREFIX) and name not in known)
    if unknown:
        raise ConfigError(f"unknown environment variable {', '.join(unknown)}: unset it or correct its name")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[name] = value
    return tree


def _file_values(config_file: Path | None) -> dict[str, Any]:
    for path in (config_file,) if config_file is not None else default_config_files():
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            if config_file is not None:
                raise ConfigError(f"--config: {path} does not exist") from error
        except OSError as error:
            raise ConfigError(f"--config: cannot read {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config: {path} is not TOML: {error}") from error
    return {}


def _credential_values(environ: Mapping[str, str]) -> dict[str, Any]:
    """Read the credentials that systemd passed: one file per key, named like the key (`github.webhook_secret`)."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    try:
        files = sorted(path for path in Path(directory).iterdir() if path.is_file())
        values = {path.name: path.read_text(encoding="utf-8").strip() for path in files}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"CREDENTIALS_DIRECTORY: cannot read the credentials in {directory}: {error}") from error
    if unknown := [name for name in values if name not in known_keys()]:
        raise ConfigError(f"unknown credential {', '.join(unknown)} in {directory}: credentials are named like keys")
    return _nested(values)


def _complaints(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        yield _complaint(problem["loc"], problem["type"], problem["msg"], problem["input"])


def _complaint(location: tuple[int | str, ...], kind: str, message: str, given: object) -> str:
    """Format one problem as `key: what is wrong`. The value is shown only if its key is known to hold no secret."""
    key = _dotted(location)
    if kind == "extra_forbidden":
        return f"{key}: unknown key"
    if kind == "model_type":
        return f"{key}: is a table of keys ([{key}] in TOML), not a value"
    text = message.removeprefix("Value error, ")
    if text.startswith(f"{key}."):
        return text  # a validator over several keys has already put the key at fault first
    text = text[:1].lower() + text[1:]
    if known_keys().get(key) is False and isinstance(given, str | int | float) and repr(given) not in text:
        text = f"{text}, got {given!r}"
    source = f" (from {variable_of(key)})" if variable_of(key) in os.environ else ""
    return f"{key}: {text}{source}"


def _dotted(location: tuple[int | str, ...]) -> str:
    """Return the key of a problem's location, without what pydantic adds below a key (a union member, an index)."""
    parts: list[str] = []
    for part in location:
        parts.append(str(part))
        if ".".join(parts) in known_keys():
            break
    return ".".join(parts)
