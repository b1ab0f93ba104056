"""Messages that did not arrive: who sees them, and sending one again."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from gateway.postgres.pool import Pool
from support.people import Office, open_office
from support.purging import purge


@pytest.fixture
async def office(pool: Pool) -> Office:
    return await open_office(pool)


async def _add(office: Office, status: str, *, days_old: int = 0) -> UUID:
    row_id = uuid4()
    await office.sql(
        "insert into outbound_message (id, workspace_id, installation_id, kind, recipient_id, content, uuid, status,"
        " attempts, error, first_attempt_at, lease_epoch, created_at)"
        " values (%s, %s, %s, 'answer', 'oc_1', 'fake words', %s, %s, 3, 'refused', now(), 7,"
        " now() - make_interval(days => %s))",
        row_id,
        office.place.workspace_id,
        office.installation_id,
        str(row_id),
        status,
        days_old,
    )
    return row_id


async def test_outgoing_is_listed_for_admins_without_its_words(office: Office) -> None:
    failed, unknown, _ = await _add(office, "failed"), await _add(office, "unknown"), await _add(office, "sent")
    admin = await office.signed_in("root@acme.example", "admin")
    path = f"/api/workspaces/{office.place.workspace_id}/outbound"
    status, body = await admin.ask("GET", path)
    assert (status, body["total"], len(body["messages"])) == (200, 3, 3)
    assert "fake words" not in str(body)
    _, one = await admin.ask("GET", f"{path}?status=failed&limit=1")
    assert [message["id"] for message in one["messages"]] == [str(failed)]
    _, other = await admin.ask("GET", f"{path}?status=unknown")
    assert [message["id"] for message in other["messages"]] == [str(unknown)]
    assert (await admin.ask("GET", f"{path}?status=lost"))[0] == 400


@pytest.mark.parametrize(("role", "expected"), [("member", 403), ("guest", 403), (None, 404)])
async def test_outgoing_is_not_for_everybody(office: Office, role: str | None, expected: int) -> None:
    row_id = await _add(office, "failed")
    somebody = await office.signed_in("eve@acme.example", role)
    assert (await somebody.ask("GET", f"/api/workspaces/{office.place.workspace_id}/outbound"))[0] == expected
    assert (await somebody.ask("POST", f"/api/outbound/{row_id}/resend"))[0] == expected
    assert await office.sql("select status from outbound_message") == [("failed",)]


@pytest.mark.parametrize("former", ["failed", "unknown"])
async def test_resent_message_is_queued_anew_under_another_key(office: Office, former: str) -> None:
    row_id = await _add(office, former, days_old=3)
    admin = await office.signed_in("root@acme.example", "owner")
    status, body = await admin.ask("POST", f"/api/outbound/{row_id}/resend")
    assert (status, body["status"], body["attempts"], body["error"]) == (200, "queued", 0, None)
    rows = await office.sql(
        "select uuid <> %s, first_attempt_at, lease_epoch, content, created_at > now() - interval '1 minute'"
        " from outbound_message",
        str(row_id),
    )
    assert rows == [(True, None, None, "fake words", True)]


@pytest.mark.parametrize("status", ["queued", "sending", "sent"])
async def test_message_that_is_not_over_is_not_resent(office: Office, status: str) -> None:
    row_id = await _add(office, status)
    admin = await office.signed_in("root@acme.example", "owner")
    assert (await admin.ask("POST", f"/api/outbound/{row_id}/resend"))[0] == 409
    assert await office.sql("select status, uuid from outbound_message") == [(status, str(row_id))]


async def test_resend_of_nothing_is_404(office: Office) -> None:
    admin = await office.signed_in("root@acme.example", "owner")
    assert (await admin.ask("POST", f"/api/outbound/{uuid4()}/resend"))[0] == 404
    assert (await admin.ask("POST", "/api/outbound/x/resend"))[0] == 400


async def test_settled_messages_and_audit_rows_go_after_their_time_and_open_ones_stay(office: Office) -> None:
    kept = {await _add(office, "sent", days_old=1), await _add(office, "queued", days_old=100)}
    for status in ("sent", "failed", "unknown"):
        await _add(office, status, days_old=91)
    for days in (1, 91):
        await office.sql(
            "insert into channel_inbound_audit (channel_type, drop_reason, received_at)"
            " values ('feishu', 'duplicate', now() - make_interval(days => %s))",
            days,
        )
    assert await purge(office.pool, "outbound_messages", rows_max=2) == 3
    assert await purge(office.pool, "inbound_audit", rows_max=2) == 1
    assert {row_id for (row_id,) in await office.sql("select id from outbound_message")} == kept
