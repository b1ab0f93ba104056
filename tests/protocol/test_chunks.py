from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.lark.wire.assembler import Assembler, AssemblerLimits, Piece
from support.vectors import vectors


@vectors("chunks")
def test_pieces_of_a_vector_deliver_what_it_says(vector: dict[str, Any]) -> None:
    assembler, now, delivered = Assembler(), 1000.0, []
    for step in vector["pieces"]:
        if isinstance(step, float):
            now += step
            continue
        message_id, total, index, text = step
        outcome = assembler.admit(message_id.encode(), total, index, text.encode(), now)
        if isinstance(outcome, bytes):
            delivered.append([message_id, outcome.decode()])
    assert delivered == vector["delivered"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_pieces_in_any_order_complete_with_the_last_one(order: tuple[int, ...]) -> None:
    assembler = Assembler()
    outcomes = [assembler.admit(b"m", 5, index, b"%d" % index, 0.0) for index in order]
    assert outcomes == [*[Piece.WAITING] * 4, b"01234"]
    assert assembler.held_bytes == 0


@given(
    st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 3)), max_size=80),
    st.lists(st.floats(0, 3), min_size=80, max_size=80),
)
def test_pieces_of_interleaved_events_never_mix_or_leak(steps: list[tuple[bytes, int]], waits: list[float]) -> None:
    assembler, now = Assembler(), 0.0
    for (message_id, index), wait in zip(steps, waits, strict=False):
        now += wait
        outcome = assembler.admit(message_id, 4, index, message_id + b"%d" % index, now)
        if isinstance(outcome, bytes):
            assert outcome == b"".join(message_id + b"%d" % piece for piece in range(4))
    assembler.expire(now + 5)
    assert assembler.held_bytes == 0


@given(st.lists(st.tuples(st.binary(max_size=300), st.integers(), st.integers(), st.binary(max_size=50))))
def test_pieces_of_any_kind_stay_within_the_limits(pieces: list[tuple[bytes, int, int, bytes]]) -> None:
    assembler = Assembler(AssemblerLimits(bytes_max=1000))
    for message_id, total, index, payload in pieces:
        assembler.admit(message_id, total, index, payload, 0.0)
        assert assembler.held_bytes <= 1000
