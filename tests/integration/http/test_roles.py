"""Who may what, over every route for people: role × what of it is theirs × action.

A route that stands in neither table fails the first test: whoever adds one says here who may use it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import msgspec

from gateway.ids import token_hash
from gateway.keyring import KeyRing
from gateway.lark.api.client import BotIdentity
from gateway.lark.api.region import Region
from gateway.lark.api.rest import ApiAnswer, ApiRequest
from gateway.lark.install.scan import ScanService
from gateway.lark.install.service import InstallationService
from gateway.postgres.install_store import PostgresInstallStore
from gateway.postgres.installation_store import PostgresInstallationStore
from gateway.postgres.pool import Pool
from gateway.work.people.directory import Directory
from support.people import Browser, Office
from support.webhooks import HookOffice, open_hook_office

RING = KeyRing([b"\x07" * 32])
WORKSPACE = "/api/workspaces/<workspace>"
LARK = f"{WORKSPACE}/lark"
BOT = f"{LARK}/installations/<installation_id>"
PILOT = "/api/autopilots/<id>"
TRIGGER = f"{PILOT}/triggers/<trigger_id>"
DELIVERIES = f"{PILOT}/deliveries"

LINK_TOKEN = "L" * 43
HOOK_TOKEN = "awt_" + "H" * 43

# --- the table --------------------------------------------------------------------------------------------------------

LOOK, MAKE, AGENT, PILOTED, CHAT, LEAD, BEGUN, LINK, SELF = (
    "every member",
    "whoever is more than a guest",
    "leaders, and the agent's owner",
    "leaders, and who made the autopilot",
    "leaders, the agent's owner, and whose conversation it is",
    "leaders",
    "leaders, and who began",
    "every member, by a link",
    "everybody",
)

TABLE: dict[str, tuple[str, object]] = {
    "GET /api/me": (SELF, None),
    f"GET {WORKSPACE}/agents": (LOOK, None),
    f"POST {WORKSPACE}/agents": (MAKE, lambda: {"name": f"agent {uuid4()}"}),
    "PATCH /api/agents/<id>": (AGENT, {"archived": False}),
    f"GET {WORKSPACE}/squads": (LOOK, None),
    f"POST {WORKSPACE}/squads": (MAKE, lambda: {"name": f"squad {uuid4()}"}),
    f"GET {WORKSPACE}/projects": (LOOK, None),
    f"POST {WORKSPACE}/projects": (MAKE, {"name": "Rockets"}),
    f"GET {WORKSPACE}/chats": (LOOK, None),
    "GET /api/chats/<id>": (LOOK, None),
    "GET /api/chats/<id>/messages": (LOOK, None),
    "DELETE /api/chats/<id>": (CHAT, None),
    f"GET {WORKSPACE}/outbound": (LEAD, None),
    "POST /api/outbound/<id>/resend": (LEAD, None),
    f"GET {WORKSPACE}/events": (LOOK, None),
    f"GET {WORKSPACE}/deliveries": (LOOK, None),
    f"GET {LARK}/installations": (LOOK, None),
    f"POST {LARK}/install/begin": (AGENT, lambda: {"agent_id": str(AGENT_ID), "replace": True}),
    f"GET {LARK}/install/<session_id>/status": (BEGUN, None),
    f"DELETE {BOT}": (AGENT, None),
    f"GET {BOT}/audit": (AGENT, None),
    f"GET {BOT}/bindings": (LOOK, None),
    f"DELETE {BOT}/bindings/<binding_id>": (LEAD, None),
    "POST /api/lark/binding/preview": (LINK, {"token": LINK_TOKEN}),
    "POST /api/lark/binding/redeem": (LINK, {"token": LINK_TOKEN}),
    f"GET {WORKSPACE}/autopilots": (LOOK, None),
    f"POST {WORKSPACE}/autopilots": (MAKE, lambda: {"title": "T", "assignee_id": str(AGENT_ID)}),
    f"GET {PILOT}": (LOOK, None),
    f"PATCH {PILOT}": (PILOTED, {"title": "T"}),
    f"POST {PILOT}/trigger": (PILOTED, None),
    f"GET {PILOT}/runs": (LOOK, None),
    f"GET {PILOT}/runs/<run_id>": (LOOK, None),
    f"GET {PILOT}/triggers": (LOOK, None),
    f"POST {PILOT}/triggers": (PILOTED, {"kind": "webhook"}),
    f"PATCH {TRIGGER}": (PILOTED, {"label": "CI"}),
    f"DELETE {TRIGGER}": (PILOTED, None),
    f"POST {TRIGGER}/rotate-token": (PILOTED, None),
    f"PUT {TRIGGER}/signing-secret": (PILOTED, {"signing_secret": ""}),
    f"POST {TRIGGER}/signing-secrets": (PILOTED, {"signing_secret": "not-a-real-secret-1"}),
    f"DELETE {TRIGGER}/signing-secrets/<secret_id>": (PILOTED, None),
    f"GET {DELIVERIES}": (LOOK, None),
    f"GET {DELIVERIES}/<delivery_id>": (LOOK, None),
    f"POST {DELIVERIES}/<delivery_id>/replay": (PILOTED, None),
    f"POST {DELIVERIES}/replays": (PILOTED, {"filter": {"status": "rejected"}, "dry_run": True}),
    f"GET {DELIVERIES}/replays/<replay_id>": (LOOK, None),
    f"DELETE {DELIVERIES}/replays/<replay_id>": (PILOTED, None),
}

ELSEWHERE = {
    "GET /api/attachments/<id>/download",  # with a file behind it, in test_downloads.py
    "POST /api/auth/login",
    "POST /api/auth/logout",
}
"""Routes for people that this table cannot tell of."""
NOT_FOR_PEOPLE = ("/api/runtimes/", "/api/tasks/", "/api/webhooks/")

AGENT_ID, CHAT_ID, PILOT_ID, TRIGGER_ID, SECRET_ID, OUTBOUND_ID, SESSION_ID, BINDING_ID = (
    UUID(int=number) for number in range(1, 9)
)
OTHERS = UUID(int=9)
"""Who made and owns what is not the caller's."""


@dataclass(frozen=True)
class Caller:
    """Somebody with a role (None: a stranger), who left the workspace (`removed`), and what of it is or was theirs."""

    role: str | None
    owns: bool = False
    made: bool = False
    removed: bool = False

    def may(self, who: str) -> bool:
        member, leads = self.role is not None and not self.removed, self.role in {"owner", "admin"}
        more = member and self.role != "guest"
        return {
            LOOK: member,
            LINK: member,
            MAKE: more,
            AGENT: leads or (more and self.owns),
            PILOTED: leads or (more and self.made),
            CHAT: leads or (more and (self.owns or self.made)),
            LEAD: leads,
            BEGUN: leads or (member and self.made),
            SELF: True,
        }[who]

    def refusal(self, who: str) -> int:
        """How it is told: for a stranger the workspace is not there, but a link came to them from its bot."""
        if who == LINK:
            return 403
        outside = self.role is None or self.removed
        return 404 if outside or who == BEGUN else 403


CALLERS = (
    Caller("owner"),
    Caller("admin"),
    *(Caller(role, owns, made) for role in ("member", "guest") for owns, made in ((0, 0), (1, 0), (0, 1))),
    Caller("member", owns=True, made=True, removed=True),
    Caller(None),
)


def for_people(office: Office) -> set[str]:
    rules = office.app.url_map.iter_rules()
    told = {
        f"{method} {rule.rule}"
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith("/api/") and not rule.rule.startswith(NOT_FOR_PEOPLE)
    }
    return told - ELSEWHERE


@dataclass
class Stage:
    """An office with one of everything, put back before each action."""

    hooks: HookOffice
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def office(self) -> Office:
        return self.hooks.office

    async def seed(self, caller: UUID, at: Caller) -> None:
        place, office = self.office.place, self.office
        owner, maker = (caller if at.owns else OTHERS), (caller if at.made else OTHERS)
        ws, bot = place.workspace_id, office.installation_id
        async with office.pool.transaction() as conn:
            for statement, values in (
                ("update agent set owner_id = %s, archived_at = null where id = %s", (owner, AGENT_ID)),
                ("update channel_installation set status = 'active' where id = %s", (bot,)),
                ("delete from channel_user_binding", ()),
                ("delete from channel_binding_token", ()),
                ("delete from lark_install_session", ()),
                ("delete from webhook_signing_secret", ()),
                (
                    "insert into channel_user_binding (id, workspace_id, user_id, installation_id, channel_type,"
                    " channel_user_id) values (%s, %s, %s, %s, 'feishu', 'ou_other')",
                    (BINDING_ID, ws, place.owner_id, bot),
                ),
                (
                    "insert into channel_binding_token (token_hash, workspace_id, installation_id, channel_type,"
                    " channel_user_id, expires_at) values (%s, %s, %s, 'feishu', 'ou_eve', now() + interval '9 min')",
                    (token_hash(LINK_TOKEN), ws, bot),
                ),
                (
                    "insert into chat_session (id, workspace_id, agent_id, creator_id, title) values (%s, %s, %s, %s,"
                    " 'talk') on conflict (id) do update set creator_id = excluded.creator_id",
                    (CHAT_ID, ws, AGENT_ID, maker),
                ),
                ("update autopilot set created_by_id = %s where id = %s", (maker, PILOT_ID)),
                (
                    "insert into autopilot_trigger (id, workspace_id, autopilot_id, kind, webhook_token, provider,"
                    " label) values (%s, %s, %s, 'webhook', %s, 'generic', '') on conflict (id) do nothing",
                    (TRIGGER_ID, ws, PILOT_ID, HOOK_TOKEN),
                ),
                (
                    "insert into webhook_signing_secret (id, workspace_id, trigger_id, secret_encrypted, last_four)"
                    " values (%s, %s, %s, 'sealed', '1234')",
                    (SECRET_ID, ws, TRIGGER_ID),
                ),
                (
                    "insert into outbound_message (id, workspace_id, installation_id, kind, recipient_id, content,"
                    " uuid, status) values (%s, %s, %s, 'answer', 'oc_1', 'words', %s, 'failed')"
                    " on conflict (id) do update set status = 'failed'",
                    (OUTBOUND_ID, ws, bot, str(OUTBOUND_ID)),
                ),
                (
                    "insert into lark_install_session (id, workspace_id, agent_id, initiator_user_id, region,"
                    " polled_region, device_code, interval_seconds, next_poll_at, deadline) values (%s, %s, %s, %s,"
                    " 'feishu', 'feishu', 'x', 5, now(), now() + interval '9 min')",
                    (SESSION_ID, ws, AGENT_ID, maker),
                ),
            ):
                await conn.execute(statement.encode(), values)

    def path(self, rule: str) -> str:
        """The rule with its parameters filled in; `<id>` is of what stands before it."""
        whose = re.sub(r"/(\w+)/<id>", lambda found: f"/{found[1]}/{self.ids[found[1]]}", rule)
        return re.sub(r"<(\w+)>", lambda found: self.ids[found[1]], whose)


async def _open_stage(pool: Pool) -> Stage:
    async def ask(_base_url: str, _request: ApiRequest) -> ApiAnswer:
        body = {"device_code": "d", "user_code": "u", "verification_uri_complete": "https://a.example/v?user_code=u"}
        return ApiAnswer(200, msgspec.json.encode(body))

    async def identify(_app_id: str, _secret: str, _region: Region) -> BotIdentity:
        return BotIdentity("ou_bot")

    bots = InstallationService(PostgresInstallationStore(pool), RING, identify)
    hooks = await open_hook_office(pool, ring=RING, installs=ScanService(PostgresInstallStore(pool), bots, RING, ask))
    stage, office = Stage(hooks), hooks.office
    office.people.feed.end()  # a stream of events that is over says whether it was opened
    await office.sql("update agent set id = %s", AGENT_ID)
    await office.sql("update channel_installation set agent_id = %s", AGENT_ID)
    await office.sql("insert into app_user (id, email) values (%s, 'others@acme.example')", OTHERS)
    owner = await _token(office, office.place.owner_email)
    made = {"title": "T", "assignee_id": str(AGENT_ID), "execution_mode": "run_only"}
    status, pilot = await owner.ask("POST", "/api/workspaces/acme/autopilots", made)
    assert status == 201, pilot
    await office.sql("update autopilot set id = %s", PILOT_ID)
    await stage.seed(office.place.owner_id, Caller("owner", owns=True, made=True))
    stage.ids = {
        "workspace": "acme", "agents": str(AGENT_ID), "chats": str(CHAT_ID), "outbound": str(OUTBOUND_ID),
        "autopilots": str(PILOT_ID), "installation_id": str(office.installation_id), "session_id": str(SESSION_ID),
        "binding_id": str(BINDING_ID), "trigger_id": str(TRIGGER_ID), "secret_id": str(SECRET_ID),
    }  # fmt: skip
    await office.sql("delete from webhook_signing_secret")
    await office.app.test_client().post(f"/api/webhooks/autopilots/{HOOK_TOKEN}", data=b"{}")
    run = await owner.ask("POST", f"/api/autopilots/{PILOT_ID}/trigger")
    plan = {"filter": {"status": "dispatched"}, "dry_run": False, "budget": 1}
    replay = await owner.ask("POST", f"/api/autopilots/{PILOT_ID}/deliveries/replays", plan)
    _, log = await owner.ask("GET", f"/api/autopilots/{PILOT_ID}/deliveries")
    stage.ids |= {
        "run_id": run[1]["id"], "replay_id": replay[1]["id"], "delivery_id": log["deliveries"][0]["id"],
    }  # fmt: skip
    return stage


async def _token(office: Office, email: str) -> Browser:
    directory: Directory = office.people.directory
    _, secret = await directory.add_user_token(await directory.user(email))
    return office.browser(origin=None, headers={"Authorization": f"Bearer {secret}"})


async def _callers(office: Office) -> list[tuple[Caller, UUID, Browser]]:
    found = []
    for number, caller in enumerate(CALLERS):
        person = await office.add_person(f"p{number}@acme.example", caller.role)
        if caller.removed:
            place = await office.people.directory.workspace("acme")
            await office.people.directory.remove_member(place, person)
        found.append((caller, person.id, await _token(office, person.email)))
    return found


async def test_every_route_says_who_may_use_it_and_keeps_to_that(pool: Pool) -> None:
    stage = await _open_stage(pool)
    assert for_people(stage.office) == set(TABLE)
    wrong: list[str] = []
    for caller, user_id, browser in await _callers(stage.office):
        for rule, (who, body) in TABLE.items():
            method, _, path = rule.partition(" ")
            if method != "GET" or caller.owns or caller.made:
                await stage.seed(user_id, caller)
            sent = body() if isinstance(body, Callable) else body  # type: ignore[arg-type]
            response = await browser.send(method, stage.path(path), sent)
            status = response.status_code
            refused = status in {401, 403, 404}
            if refused == caller.may(who) or (refused and status != caller.refusal(who)) or status >= 500:
                wrong.append(f"{caller}: {rule} ({who}) is answered {status}: {await response.get_data()!r}")
    assert not wrong, "\n".join(wrong)
