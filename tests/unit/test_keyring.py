import base64
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.keyring import KEY_BYTES, KeyRing, UnreadableSecret, generate_key

OWNER = UUID(int=1)
OLD, NEW = base64.b64encode(b"\x01" * 32).decode(), base64.b64encode(b"\x02" * 32).decode()


@given(st.binary(max_size=200), st.uuids())
def test_open_of_a_seal_returns_the_plaintext(plaintext: bytes, owner: UUID) -> None:
    ring = KeyRing.parse(NEW)
    assert ring.open(ring.seal(plaintext, owner=owner), owner=owner) == plaintext


def test_seal_of_the_same_plaintext_differs_each_time() -> None:
    ring = KeyRing.parse(NEW)
    assert ring.seal(b"fake-secret", owner=OWNER) != ring.seal(b"fake-secret", owner=OWNER)


def test_seal_layout_is_version_key_id_nonce_ciphertext_and_tag() -> None:
    sealed = KeyRing.parse(NEW).seal(b"12345", owner=OWNER)
    assert sealed[0] == 1
    assert len(sealed) == 1 + 8 + 12 + 5 + 16
    assert sealed[1:9] == KeyRing.parse(NEW).seal(b"other", owner=OWNER)[1:9]
    assert b"12345" not in sealed


def test_ring_opens_with_any_key_and_seals_with_the_newest() -> None:
    by_old = KeyRing.parse(OLD).seal(b"fake-secret", owner=OWNER)
    both = KeyRing.parse(f"{NEW}, {OLD}")
    assert both.open(by_old, owner=OWNER) == b"fake-secret"
    assert KeyRing.parse(NEW).open(both.seal(b"fake-secret", owner=OWNER), owner=OWNER) == b"fake-secret"


def test_open_without_the_key_is_unreadable_and_names_the_key_id() -> None:
    sealed = KeyRing.parse(OLD).seal(b"fake-secret", owner=OWNER)
    with pytest.raises(UnreadableSecret, match=sealed[1:9].hex()):
        KeyRing.parse(NEW).open(sealed, owner=OWNER)


def test_open_for_another_row_is_unreadable() -> None:
    ring = KeyRing.parse(NEW)
    with pytest.raises(UnreadableSecret):
        ring.open(ring.seal(b"fake-secret", owner=OWNER), owner=UUID(int=2))


def test_open_of_any_changed_byte_is_unreadable() -> None:
    ring = KeyRing.parse(NEW)
    sealed = ring.seal(b"fake-secret", owner=OWNER)
    for at in range(len(sealed)):
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        with pytest.raises(UnreadableSecret):
            ring.open(changed, owner=OWNER)


@given(st.binary(max_size=64))
def test_open_of_anything_else_is_unreadable(sealed: bytes) -> None:
    with pytest.raises(UnreadableSecret):
        KeyRing.parse(NEW).open(sealed, owner=OWNER)


def test_open_text_tolerates_wrapped_base64() -> None:
    ring = KeyRing.parse(NEW)
    sealed = ring.seal_text("fake-secret " * 20, owner=OWNER)
    wrapped = "\r\n".join(sealed[at : at + 76] for at in range(0, len(sealed), 76)) + "\n"
    assert "\n" not in sealed
    assert ring.open_text(wrapped, owner=OWNER) == "fake-secret " * 20


@pytest.mark.parametrize("sealed", ["", "!", "AAAA", "é", "fake-secret"])
def test_open_text_of_what_is_no_sealed_base64_is_unreadable(sealed: str) -> None:
    with pytest.raises(UnreadableSecret):
        KeyRing.parse(NEW).open_text(sealed, owner=OWNER)


@pytest.mark.parametrize(
    "setting",
    ["", " , ", "fake-key-not-base64!", base64.b64encode(b"\x03" * 31).decode(), f"{NEW},fake-key-not-base64!", "é"],
)
def test_parse_of_a_bad_key_is_a_config_error_that_does_not_repeat_it(setting: str) -> None:
    with pytest.raises(ConfigError, match="secret_key") as raised:
        KeyRing.parse(setting)
    for part in filter(None, map(str.strip, setting.split(","))):
        assert part not in str(raised.value)
    assert raised.value.__cause__ is None


def test_repr_shows_no_key() -> None:
    shown = repr(KeyRing.parse(f"{NEW},{OLD}"))
    assert NEW not in shown
    assert OLD not in shown
    assert (b"\x02" * 32).hex() not in shown


def test_generate_key_makes_keys_that_parse_and_differ() -> None:
    first, second = generate_key(), generate_key()
    assert len(base64.b64decode(first)) == KEY_BYTES
    assert first != second
    KeyRing.parse(f"{first},{second}")


def test_reseal_moves_a_secret_to_the_newest_key_and_only_there() -> None:
    ring = KeyRing.parse(f"{NEW},{OLD}")
    moved = ring.reseal_text(KeyRing.parse(OLD).seal_text("fake-secret", owner=OWNER), owner=OWNER)
    assert moved is not None
    assert KeyRing.parse(NEW).open_text(moved, owner=OWNER) == "fake-secret"
    assert ring.reseal_text(moved, owner=OWNER) is None


def test_reseal_of_what_does_not_open_is_unreadable_under_any_key() -> None:
    ring = KeyRing.parse(f"{NEW},{OLD}")
    for sealed in (ring.seal_text("fake-secret", owner=UUID(int=2)), "", "?", "AAAA"):
        with pytest.raises(UnreadableSecret):
            ring.reseal_text(sealed, owner=OWNER)
