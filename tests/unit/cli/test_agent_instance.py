from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from gateway.cli.agent_instance import NameTaken, hold_instance, instances_dir

TOKEN, OTHER_TOKEN = "gwr_not-a-real-token", "gwr_not-a-real-token-either"


def test_name_is_kept_over_a_restart(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        with hold_instance(TOKEN, None, tmp_path / "agents") as name:
            names.append(name)
    assert names[0] == names[1]
    assert (tmp_path / "agents").stat().st_mode & 0o777 == 0o700
    assert TOKEN not in "".join(path.name + path.read_text() for path in (tmp_path / "agents").iterdir())


def test_workers_at_the_same_time_have_different_names_and_the_free_one_is_taken_again(tmp_path: Path) -> None:
    with ExitStack() as others:
        with hold_instance(TOKEN, None, tmp_path) as first:
            second = others.enter_context(hold_instance(TOKEN, None, tmp_path))
            third = others.enter_context(hold_instance(TOKEN, None, tmp_path))
            assert len({first, second, third}) == 3
        with hold_instance(TOKEN, None, tmp_path) as again:
            assert again == first


def test_each_token_has_slots_of_its_own(tmp_path: Path) -> None:
    with hold_instance(TOKEN, None, tmp_path) as mine:
        pass
    with hold_instance(OTHER_TOKEN, None, tmp_path) as others:
        assert mine != others


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"zz" * 8, b"ab" * 7, b"ab" * 9, b"x" * 10_000])
def test_slot_with_something_else_in_it_gets_a_new_word(tmp_path: Path, content: bytes) -> None:
    with hold_instance(TOKEN, None, tmp_path) as before:
        pass
    (slot,) = tmp_path.iterdir()
    slot.write_bytes(content)
    with hold_instance(TOKEN, None, tmp_path) as after:
        assert after != before
    with hold_instance(TOKEN, None, tmp_path) as again:
        assert again == after


def test_given_name_is_taken_once_on_a_machine(tmp_path: Path) -> None:
    with hold_instance(TOKEN, "blue / \u00e9", tmp_path) as name:
        assert name == "blue / \u00e9"
        with pytest.raises(NameTaken, match="blue"), hold_instance(TOKEN, name, tmp_path):
            pass
        with hold_instance(OTHER_TOKEN, name, tmp_path), hold_instance(TOKEN, "green", tmp_path):
            pass
    with hold_instance(TOKEN, name, tmp_path):
        pass


def test_worker_without_a_place_to_keep_its_name_works_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    names = []
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with hold_instance(TOKEN, None, tmp_path / "file" / "agents") as name:
                names.append(name)
        with hold_instance(TOKEN, "blue", tmp_path / "file") as name:
            assert name == "blue"
    assert names[0] != names[1]
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("instance_not_kept", "warning")] * 3


def test_name_of_a_machine_with_a_long_name_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "m" * 300)
    with hold_instance(TOKEN, None, tmp_path) as name:
        assert len(name) == 200


def test_state_directory_is_systemds_or_the_persons() -> None:
    assert instances_dir({"STATE_DIRECTORY": "/a:/b", "XDG_STATE_HOME": "/x"}) == Path("/a/agents")
    assert instances_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/gateway/agents")
    assert instances_dir({"XDG_STATE_HOME": "x"}) == instances_dir({}) == Path("~/.local/state/gateway/agents")
