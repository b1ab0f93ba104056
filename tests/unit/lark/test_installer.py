"""Everything an installer decides before it writes, on a store in memory."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from gateway.channel.errors import (
    PlatformError,
    PlatformRefused,
    PlatformThrottled,
    PlatformUnauthorized,
    PlatformUnavailable,
)
from gateway.channel.installation import (
    AgentHome,
    AppHolder,
    BotInPlace,
    DroppedMessage,
    InstallationDraft,
    InstallationView,
)
from gateway.errors import Conflict, DomainError, Invalid, NotFound, StoreConflict, Unavailable
from gateway.keyring import KeyRing, open_config
from gateway.lark.api.client import BotIdentity
from gateway.lark.api.region import Region
from gateway.lark.install.service import InstallationService, NewApp

RING = KeyRing([b"\x07" * 32])
AGENT, WORKSPACE, OWNER = UUID(int=10), UUID(int=11), UUID(int=12)
APP = NewApp(agent_id=AGENT, app_id="cli_0123456789abcdef", app_secret="fake-app-secret")


class MemoryStore:
    """One agent, and rows that others made appear as the test says."""

    def __init__(self) -> None:
        self.home: AgentHome | None = AgentHome(WORKSPACE, archived=False, owner_id=OWNER)
        self.members = {"eve@acme.example": UUID(int=13)}
        self.row: UUID | None = None
        self.drafts: list[InstallationDraft] = []
        self.holder: AppHolder | None = None
        self.in_place: BotInPlace | None = None
        self.appears: BotInPlace | None = None  # between the look and the write
        self.lost_races = 0

    async def agent_home(self, agent_id: UUID) -> AgentHome | None:
        return self.home if agent_id == AGENT else None

    async def member_by_email(self, workspace_id: UUID, email: str) -> UUID | None:
        return self.members.get(email) if workspace_id == WORKSPACE else None

    async def id_of(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> UUID | None:
        return self.row

    async def bot_in_place(self, workspace_id: UUID, agent_id: UUID, channel_type: str) -> BotInPlace | None:
        return self.in_place

    async def save(self, draft: InstallationDraft) -> InstallationView | BotInPlace | None:
        in_place = self.appears or self.in_place
        if in_place is not None and not draft.replaces and in_place.app_id != draft.config["app_id"]:
            return in_place
        if self.holder is not None:
            raise StoreConflict("duplicate key", constraint="channel_installation_app_key")
        if self.lost_races:
            self.lost_races -= 1
            self.row = uuid4()
            return None
        self.drafts.append(draft)
        return view(draft)

    async def app_holder(self, channel_type: str, app_id: str) -> AppHolder | None:
        return self.holder

    async def revoke(self, installation_id: UUID, workspace_id: UUID) -> InstallationView | None:
        return replace(view(self.drafts[0]), status="revoked")

    async def find(self, installation_id: UUID, workspace_id: UUID | None = None) -> InstallationView | None:
        own = (each for each in self.drafts if workspace_id in {None, each.workspace_id})
        return next((view(draft) for draft in own if draft.id == installation_id), None)

    async def drops(self, installation_id: UUID, limit: int, offset: int) -> list[DroppedMessage]:
        return []

    async def list(self, workspace_id: UUID | None = None) -> list[InstallationView]:
        return [view(draft) for draft in self.drafts]


def view(draft: InstallationDraft) -> InstallationView:
    return InstallationView(
        id=draft.id,
        workspace_id=draft.workspace_id,
        agent_id=draft.agent_id,
        channel_type=draft.channel_type,
        app_id=draft.config["app_id"],
        settings={key: value for key, value in draft.config.items() if not key.endswith("_encrypted")},
        status="active",
        installer_user_id=draft.installer_user_id,
        installed_at=datetime(2026, 1, 1, tzinfo=UTC),
        state="standby",
        code=0,
        detail="",
        last_frame_at=None,
        last_event_at=None,
        pong_ms=None,
    )


class Platform:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Region]] = []
        self.error: PlatformError | None = None

    async def identify(self, app_id: str, app_secret: str, region: Region) -> BotIdentity:
        self.asked.append((app_id, app_secret, region))
        if self.error is not None:
            raise self.error
        return BotIdentity("ou_bot", "on_bot")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def service(store: MemoryStore, platform: Platform) -> InstallationService:
    return InstallationService(store, RING, platform.identify)


async def test_add_stores_the_bot_and_the_sealed_secret(
    service: InstallationService, store: MemoryStore, platform: Platform
) -> None:
    installed = await service.add(APP)
    (draft,) = store.drafts
    sealed = draft.config.pop("app_secret_encrypted")
    assert draft.config == {
        "app_id": APP.app_id,
        "region": "feishu",
        "event_mode": "socket",
        "bot_open_id": "ou_bot",
        "bot_union_id": "on_bot",
    }
    assert RING.open_text(sealed, owner=draft.id) == "fake-app-secret"
    assert (draft.workspace_id, draft.installer_user_id, draft.channel_type) == (WORKSPACE, OWNER, "feishu")
    assert platform.asked == [(APP.app_id, "fake-app-secret", Region.FEISHU)]
    assert installed.warning == ""
    assert installed.installation.public()["connection"]["state"] == "standby"


async def test_add_for_http_events_seals_the_console_secrets_too(
    service: InstallationService, store: MemoryStore
) -> None:
    await service.add(
        replace(
            APP,
            region="lark",
            event_mode="http",
            encrypt_key="fake-encrypt-key",
            verification_token="fake-token",
            allow_bots=True,
        )
    )
    (draft,) = store.drafts
    assert "fake" not in repr(draft)
    assert "fake" not in str(draft.config)
    opened = open_config(draft.config, RING, draft.id)
    assert opened == {
        "app_id": APP.app_id,
        "app_secret": "fake-app-secret",
        "encrypt_key": "fake-encrypt-key",
        "verification_token": "fake-token",
        "region": "lark",
        "event_mode": "http",
        "bot_open_id": "ou_bot",
        "bot_union_id": "on_bot",
        "allow_bots": True,
    }


async def test_add_for_an_agent_with_a_row_seals_for_that_rows_id(
    service: InstallationService, store: MemoryStore
) -> None:
    store.row = uuid4()
    installed = await service.add(APP)
    assert installed.installation.id == store.row
    assert RING.open_text(store.drafts[0].config["app_secret_encrypted"], owner=store.row) == "fake-app-secret"


async def test_add_that_loses_a_race_for_the_row_seals_again_for_the_winners_id(
    service: InstallationService, store: MemoryStore
) -> None:
    store.lost_races = 1
    await service.add(APP)
    (draft,) = store.drafts
    assert draft.id == store.row
    assert RING.open_text(draft.config["app_secret_encrypted"], owner=draft.id) == "fake-app-secret"


async def test_add_that_loses_every_race_gives_up(service: InstallationService, store: MemoryStore) -> None:
    store.lost_races = 99
    with pytest.raises(Conflict) as raised:
        await service.add(APP)
    assert raised.value.code == "installation_changed"


async def test_add_takes_a_named_installer(service: InstallationService, store: MemoryStore) -> None:
    await service.add(replace(APP, installer_email="eve@acme.example"))
    assert store.drafts[0].installer_user_id == UUID(int=13)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"app_id": ""}, "app_id"),
        ({"app_id": "cli_short"}, "app_id"),
        ({"app_id": "app_0123456789abcdef"}, "app_id"),
        ({"app_id": "cli_0123456789abcdef\n"}, "app_id"),
        ({"app_id": "cli_" + "0" * 65}, "app_id"),
        ({"app_secret": ""}, "app_secret"),
        ({"app_secret": "fake secret "}, "app_secret"),
        ({"app_secret": "fake\x00secret"}, "app_secret"),
        ({"app_secret": "f" * 513}, "app_secret"),
        ({"encrypt_key": "fake\n"}, "encrypt_key"),
        ({"verification_token": "f" * 513}, "verification_token"),
        ({"region": "intl"}, "region"),
        ({"event_mode": "carrier pigeon"}, "event_mode"),
        ({"installer_email": "nobody@acme.example"}, "installer"),
    ],
)
async def test_add_with_bad_input_is_rejected_and_names_the_field(
    service: InstallationService, store: MemoryStore, platform: Platform, change: dict[str, str], field: str
) -> None:
    with pytest.raises(Invalid) as raised:
        await service.add(replace(APP, **change))
    assert raised.value.extra == {"field": field}
    assert "fake" not in str(raised.value)
    assert (store.drafts, platform.asked) == ([], [])


@pytest.mark.parametrize("app_id", ["cli_0123456789abcdef", "cli_A1b2C3d4E5f6G7h8", "cli_" + "9" * 20])
async def test_add_takes_any_plausible_app_id(service: InstallationService, app_id: str) -> None:
    assert (await service.add(replace(APP, app_id=app_id))).installation.app_id == app_id


@pytest.mark.parametrize(
    ("home", "error", "code"),
    [
        (None, NotFound, "agent_not_found"),
        (AgentHome(WORKSPACE, archived=True, owner_id=OWNER), Conflict, "agent_archived"),
        (AgentHome(WORKSPACE, archived=False, owner_id=None), Invalid, "no_installer"),
    ],
)
async def test_add_for_an_agent_that_cannot_have_it_is_rejected(
    service: InstallationService, store: MemoryStore, home: AgentHome | None, error: type[DomainError], code: str
) -> None:
    store.home = home
    with pytest.raises(error) as raised:
        await service.add(APP)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PlatformUnauthorized("app secret invalid", code=10014), "bad_credentials"),
        (PlatformRefused("no bot", code=11205), "bot_info_failed"),
    ],
)
async def test_add_that_the_platform_refuses_stores_nothing(
    service: InstallationService, store: MemoryStore, platform: Platform, error: PlatformError, code: str
) -> None:
    platform.error = error
    with pytest.raises(Invalid, match=str(error)) as raised:
        await service.add(APP)
    assert raised.value.code == code
    assert store.drafts == []


@pytest.mark.parametrize("error", [PlatformUnavailable("no answer"), PlatformThrottled("too many", retry_after=1)])
async def test_add_while_the_platform_is_away_stores_with_a_warning(
    service: InstallationService, store: MemoryStore, platform: Platform, error: PlatformError
) -> None:
    platform.error = error
    installed = await service.add(APP)
    assert str(error) in installed.warning
    assert "bot_open_id" not in store.drafts[0].config


@pytest.mark.parametrize(("dead", "code"), [(False, "installation_conflict"), (True, "installation_closing")])
async def test_add_of_an_app_that_another_installation_has_is_a_conflict(
    service: InstallationService, store: MemoryStore, dead: bool, code: str
) -> None:
    store.holder = AppHolder(id=uuid4(), agent_id=uuid4(), dead=dead)
    with pytest.raises(Conflict) as raised:
        await service.add(APP)
    assert raised.value.code == code


async def test_add_without_a_key_ring_is_unavailable(store: MemoryStore, platform: Platform) -> None:
    with pytest.raises(Unavailable) as raised:
        await InstallationService(store, None, platform.identify).add(APP)
    assert raised.value.code == "secret_key_missing"
    assert platform.asked == []


async def test_revoke_of_an_unknown_or_foreign_installation_is_not_found(service: InstallationService) -> None:
    installed = await service.add(APP)
    for installation_id, workspace_id in ((uuid4(), None), (installed.installation.id, uuid4())):
        with pytest.raises(NotFound):
            await service.revoke(installation_id, workspace_id)
    assert (await service.revoke(installed.installation.id)).status == "revoked"


def test_new_app_repr_hides_its_secrets() -> None:
    shown = repr(replace(APP, encrypt_key="fake-encrypt-key", verification_token="fake-token"))
    assert "fake" not in shown
