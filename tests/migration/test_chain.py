"""The chain of migrations: up, down and up again; concurrent; interrupted; and the checked-in dump of its result."""

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.assets import asset_dir
from gateway.errors import StoreConflict, StoreError, StoreUnavailable
from gateway.postgres import migrate
from gateway.postgres.driver import TrioConnection
from gateway.postgres.migrate import announce_daemon, dump_schema, migrate_down, migrate_up, pending, status, steps_back
from migration.dump_schema import SCHEMA_FILE
from support.database import TEMPLATE, fresh_database

IDS = sorted(path.stem for path in asset_dir("migrations").glob("*.sql") if ".rollback" not in path.name)


@pytest.fixture
async def empty(postgres):
    async with fresh_database(postgres, template="template0") as conninfo:
        yield conninfo


@pytest.fixture
async def empty_on_either(either_postgres):
    async with fresh_database(either_postgres, template="template0") as conninfo:
        yield conninfo


async def schema_of(conninfo):
    """The dump, without what some minor versions of 15 note beside every column for themselves."""
    dump = await dump_schema(conninfo)
    return "\n".join(line for line in dump.splitlines() if " SET (pg_attver=" not in line)


async def execute(conninfo, *statements):
    async with await TrioConnection.connect(conninfo) as connection:
        for statement in statements:
            cursor = await connection.execute(statement)
        return await cursor.fetchall() if cursor.description else []


async def test_schema_sql_is_the_dump_of_the_chain(database):
    assert await dump_schema(database) == SCHEMA_FILE.read_text(), "run `make schema`"


async def test_up_down_up_gives_equal_dumps(empty_on_either):
    nothing = await schema_of(empty_on_either)
    assert await pending(empty_on_either) == IDS
    assert await migrate_up(empty_on_either) == IDS
    first = await schema_of(empty_on_either)
    assert await migrate_up(empty_on_either) == []
    assert await pending(empty_on_either) == []

    assert await migrate_down(empty_on_either, steps=len(IDS)) == IDS[::-1]
    assert await schema_of(empty_on_either) == nothing
    assert await migrate_up(empty_on_either) == IDS
    assert await schema_of(empty_on_either) == first


WORDS = {
    r'{"a": "x\u0041y"}': "'a' 'xay'",
    r'{"a": "nul\u0000byte"}': "'a' 'byte' 'nul'",
    r'{"a": "\u4f60\u597d"}': "'a' '你好'",
    # No JSON: the escapes stay as they are.
    r"path\u0041 c:\users": "'c' 'path' 'u0041' 'users'",
    r'{"a": "x\u0041y"': "'a' 'u0041y' 'x'",
    # JSON by its syntax alone, which cannot be decoded: half of a pair.
    r'{"half": "\ud83d"}': "'half' 'ud83d'",
    "payload=%7B%22a%22%3A%22%5Cu0041%22%7D": "'a' 'payload' 'u0041'",
    "plain words": "'plain' 'words'",
}


@pytest.mark.parametrize("body", WORDS)
async def test_words_of_a_body_are_the_same_on_every_version(either_postgres, body):
    statement = "select webhook_words(%s)::text"
    async with await TrioConnection.connect(make_conninfo(either_postgres, dbname=TEMPLATE)) as connection:
        cursor = await connection.execute(statement, (body.encode(),))
        assert await cursor.fetchone() == (WORDS[body],)


async def test_each_step_can_be_taken_back_and_applied_again(empty_on_either, tmp_path, monkeypatch):
    everything = asset_dir("migrations")
    monkeypatch.setattr(migrate, "asset_dir", lambda _name: tmp_path)
    # yoyo's own tables come with the first call.
    assert await migrate_up(empty_on_either) == []
    before = await schema_of(empty_on_either)
    for each in IDS:
        for name in (f"{each}.sql", f"{each}.rollback.sql"):
            (tmp_path / name).symlink_to(everything / name)
        assert await migrate_up(empty_on_either) == [each]
        applied = await schema_of(empty_on_either)
        assert await migrate_down(empty_on_either) == [each]
        assert await schema_of(empty_on_either) == before, each
        assert await migrate_up(empty_on_either) == [each]
        before = applied
    assert before == await schema_of(empty_on_either)


async def test_down_to_a_step_keeps_that_step(database):
    assert await migrate_down(database, to=IDS[0]) == IDS[:0:-1]
    assert [(each.id, each.applied_at is not None) for each in await status(database)] == [
        (each, each == IDS[0]) for each in IDS
    ]


async def test_down_to_an_unknown_step_is_refused(database):
    with pytest.raises(StoreError, match="no migration 9999"):
        await migrate_down(database, to="9999_nothing")


@pytest.mark.parametrize("steps", [-1, 0, len(IDS) + 1])
async def test_number_of_steps_that_do_not_exist_is_refused_before_the_first(database, steps):
    with pytest.raises(StoreError, match=f"{steps} steps cannot be taken back, because {len(IDS)} are applied"):
        await migrate_down(database, steps=steps)
    assert await pending(database) == []


async def test_steps_of_a_newer_version_are_not_passed_over(database):
    row = "insert into _yoyo_migration (migration_hash, migration_id, applied_at_utc) values (%s, %s, now())"
    async with await TrioConnection.connect(database) as connection:
        await connection.execute(row, ("fake", "9999_newer"))
    with pytest.raises(StoreError, match="9999_newer came from another version"):
        await migrate_down(database)
    assert await pending(database) == []


async def test_rows_from_before_the_rules_are_put_right(database):
    await migrate_down(database, to="0022_shared_rules")
    for region in ('{"region": "mars"}', '{"region": ""}', '{"region": 7}', '{"region": "lark"}', "{}"):
        await execute(
            database,
            "insert into channel_installation (id, workspace_id, agent_id, channel_type, config)"
            f" values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'feishu', '{region}')",
        )
    await migrate_up(database)
    found = await execute(database, "select config ->> 'region' from channel_installation order by created_at")
    assert found == [("feishu",), ("feishu",), ("feishu",), ("lark",), (None,)]


async def test_down_waits_for_no_daemon_and_lets_none_join(database):
    async with await TrioConnection.connect(database) as daemon, await TrioConnection.connect(database) as late:
        await announce_daemon(daemon)
        async with await TrioConnection.connect(database) as second:
            await announce_daemon(second)  # several daemons share one database
        with pytest.raises(StoreConflict, match=rf"a daemon runs .* \(sessions: [0-9, ]*{daemon.info.backend_pid}"):
            await migrate_down(database)
        assert await pending(database) == []
        await daemon.close()
        await late.execute("select pg_advisory_lock(%s)", (migrate._DAEMON_KEY,))  # as migrate_down does
        async with await TrioConnection.connect(database) as another:
            with pytest.raises(StoreUnavailable, match="being taken back"):
                await announce_daemon(another)


async def test_down_takes_back_what_was_agreed_and_nothing_else(database):
    agreed = await steps_back(database)
    await migrate_down(database)  # by another operator
    with pytest.raises(StoreConflict, match=f"would take back {IDS[-2]} by now"):
        await migrate_down(database, agreed=agreed)
    assert await migrate_down(database, agreed=[IDS[-2]]) == [IDS[-2]]


async def test_down_is_refused_while_a_bot_is_held(database):
    held = (
        "insert into channel_installation (id, workspace_id, agent_id, channel_type, config, installer_user_id,"
        " ws_lease_token, ws_lease_expires_at) values (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(),"
        " 'feishu', '{}', gen_random_uuid(), 'node-g1', now() + interval '9 seconds')"
    )
    await execute(database, held)
    with pytest.raises(StoreConflict, match=r"holds 1 bots .* end in 9 s"):
        await migrate_down(database)
    await execute(database, "update channel_installation set ws_lease_expires_at = now()")
    assert await migrate_down(database) == [IDS[-1]]


async def test_status_of_an_empty_database_changes_nothing(empty):
    assert [each.applied_at for each in await status(empty)] == [None] * len(IDS)
    assert await execute(empty, "select count(*) from pg_tables where schemaname = 'public'") == [(0,)]


async def test_two_processes_migrating_at_once_apply_each_step_once(empty):
    done = []

    async def up():
        done.extend(await migrate_up(empty))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(up)
        nursery.start_soon(up)
    assert sorted(done) == IDS


async def test_lock_held_elsewhere_is_unavailable_in_bounded_time(empty):
    async with await TrioConnection.connect(empty) as other:
        await other.execute("select pg_advisory_lock(%s)", (migrate._LOCK_KEY,))
        with pytest.raises(StoreUnavailable, match="another process"):
            await migrate_up(empty, lock_timeout_seconds=0.3)
    assert await migrate_up(empty) == IDS


async def test_lock_row_left_by_a_killed_process_does_not_block(database):
    await execute(database, "insert into yoyo_lock (locked, ctime, pid) values (1, now(), 1)")
    assert await migrate_down(database) == [IDS[-1]]
    assert await migrate_up(database) == [IDS[-1]]


async def test_failing_step_is_named_and_leaves_nothing(database, tmp_path, monkeypatch):
    (tmp_path / "0001_fails.sql").write_text("create table half (a int);\nselect 1/0;\n")
    monkeypatch.setattr(migrate, "asset_dir", lambda _name: tmp_path)
    with pytest.raises(StoreError, match="0001_fails failed: division by zero"):
        await migrate_up(database)
    assert await execute(database, "select to_regclass('half')::text") == [(None,)]


async def test_step_without_a_rollback_file_is_not_taken_back(empty, tmp_path, monkeypatch):
    (tmp_path / "0001_final.sql").write_text("create table final (a int);\n")
    monkeypatch.setattr(migrate, "asset_dir", lambda _name: tmp_path)
    await migrate_up(empty)
    with pytest.raises(StoreError, match="no rollback file"):
        await migrate_down(empty)
    assert [each.id for each in await status(empty) if each.applied_at] == ["0001_final"]


async def test_unreachable_database_is_unavailable():
    with pytest.raises(StoreUnavailable):
        await migrate_up("host=/nonexistent user=u dbname=d")


async def test_several_hosts_and_a_dead_first_one(empty):
    params = conninfo_to_dict(empty)
    several = f"host=/nonexistent,{params['host']} user={params['user']} dbname={params['dbname']}"
    several += " port=5432 target_session_attrs=read-write"
    assert await migrate_up(several) == IDS
    assert await pending(several) == []
    url = f"postgresql://{params['user']}@/{params['dbname']}?host=/nonexistent,{params['host']}&port=5432,5432"
    assert await migrate_down(url) == [IDS[-1]]


def test_every_migration_has_a_rollback_file():
    for each in IDS:
        assert (asset_dir("migrations") / f"{each}.rollback.sql").is_file()
