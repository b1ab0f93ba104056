from collections.abc import Callable, Sequence
from uuid import UUID

from gateway.keyring import KeyRing
from gateway.work.secrets import PASSES_MAX, ResealResult, StoredSecret, open_secrets, rotate_secrets

OLD, NEW, LOST = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
RING = KeyRing([NEW, OLD])
Key = tuple[UUID, str]


class Table:
    """Secrets in memory; `meddle` is what somebody else does right before a replacement."""

    kind = "drawer"

    def __init__(self) -> None:
        self.kept: dict[Key, str] = {}
        self.writes = 0
        self.meddle: Callable[[StoredSecret], None] = lambda _secret: None

    def put(self, number: int, plaintext: str, key: bytes, name: str = "s") -> Key:
        owner = UUID(int=number)
        self.kept[owner, name] = KeyRing([key]).seal_text(plaintext, owner=owner)
        return owner, name

    def opened(self, key: Key) -> str:
        return KeyRing([NEW]).open_text(self.kept[key], owner=key[0])

    async def count(self) -> int:
        return len(self.kept)

    async def page(self, after: StoredSecret | None, rows_max: int) -> Sequence[StoredSecret]:
        keys = sorted(key for key in self.kept if after is None or key > (after.owner_id, after.name))
        return [StoredSecret(*key, self.kept[key]) for key in keys[: min(rows_max, 2)]]

    async def replace(self, secret: StoredSecret, sealed: str) -> bool:
        self.meddle(secret)
        key = (secret.owner_id, secret.name)
        if self.kept.get(key) != secret.sealed:
            return False
        self.kept[key] = sealed
        self.writes += 1
        return True


def silent(_what: str, _done: int, _total: int) -> None: ...


async def test_rotate_moves_what_is_under_an_older_key_and_leaves_the_rest() -> None:
    table = Table()
    old = [table.put(number, f"fake-{number}", OLD) for number in range(5)]
    new = table.put(9, "fake-9", NEW)
    before = table.kept[new]
    rotation = await rotate_secrets([table], RING, silent)
    assert [table.opened(key) for key in old] == [f"fake-{number}" for number in range(5)]
    assert table.kept[new] == before
    assert (rotation.count(ResealResult.RESEALED), rotation.count(ResealResult.CURRENT)) == (5, 1)
    assert rotation.troubles == []
    again = await rotate_secrets([table], RING, silent)
    assert (again.count(ResealResult.RESEALED), again.count(ResealResult.CURRENT)) == (0, 6)
    assert table.writes == 5


async def test_rotate_names_what_does_not_open_and_goes_on() -> None:
    table = Table()
    lost = table.put(1, "fake-lost", LOST, "app")
    before, old = table.kept[lost], table.put(2, "fake-2", OLD)
    table.kept[UUID(int=3), "s"] = "None"
    rotation = await rotate_secrets([table], RING, silent)
    assert table.opened(old) == "fake-2"
    assert table.kept[lost] == before
    assert [(each.kind, each.owner_id.int, each.name) for each in rotation.troubles] == [
        ("drawer", 1, "app"),
        ("drawer", 3, "s"),
    ]
    assert rotation.count(ResealResult.UNREADABLE) == 2
    assert "fake" not in repr(rotation)


async def test_rotate_finds_a_forged_value_under_the_newest_key_unreadable() -> None:
    table = Table()
    table.kept[UUID(int=2), "s"] = table.kept[table.put(1, "fake-1", NEW)]
    rotation = await rotate_secrets([table], RING, silent)
    assert [trouble.owner_id.int for trouble in rotation.troubles] == [2]


async def test_rotate_never_overwrites_what_was_changed_meanwhile() -> None:
    table = Table()
    key = table.put(1, "fake-before", OLD)

    def change_once(_secret: StoredSecret) -> None:
        table.meddle = lambda _secret: None
        table.put(1, "fake-after", OLD)

    table.meddle = change_once
    rotation = await rotate_secrets([table], RING, silent)
    assert table.opened(key) == "fake-after"
    assert (rotation.count(ResealResult.RESEALED), rotation.troubles) == (1, [])


async def test_rotate_gives_up_on_what_never_holds_still() -> None:
    table = Table()
    seen: list[StoredSecret] = []

    def change(secret: StoredSecret) -> None:
        seen.append(secret)
        table.put(1, f"fake-{len(seen)}", OLD)

    table.meddle = change
    table.put(1, "fake-0", OLD)
    rotation = await rotate_secrets([table], RING, silent)
    assert len(seen) == PASSES_MAX
    assert rotation.count(ResealResult.CHANGING) == len(rotation.troubles) == 1


async def test_rotate_forgets_what_was_taken_away_meanwhile() -> None:
    table = Table()
    key = table.put(1, "fake-1", OLD)
    table.meddle = lambda _secret: table.kept.clear()
    rotation = await rotate_secrets([table], RING, silent)
    assert key not in table.kept
    assert rotation.troubles == []


async def test_rotate_tells_how_far_it_is() -> None:
    table, told = Table(), []
    for number in range(3):
        table.put(number, "fake", OLD)
    await rotate_secrets([table], RING, lambda what, done, total: told.append((what, done, total)))
    assert told[:3] == [("secrets", 1, 3), ("secrets", 2, 3), ("secrets", 3, 3)]
    assert set(told[3:]) == {("secrets", 3, 3)}


async def test_open_tries_every_secret_and_changes_none() -> None:
    table = Table()
    for number, key in enumerate((OLD, NEW, LOST, NEW)):
        table.put(number, f"fake-{number}", key)
    table.kept[UUID(int=9), "s"] = "None"
    before = dict(table.kept)
    opened = await open_secrets([table, table], RING)
    assert (opened.total, [each.owner_id.int for each in opened.troubles]) == (10, [2, 9, 2, 9])
    assert "fake" not in repr(opened)
    assert table.kept == before
    assert len((await open_secrets([table], None)).troubles) == 5
