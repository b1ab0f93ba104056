from __future__ import annotations

import tracemalloc

from gateway.lark.wire.assembler import Assembler, AssemblerLimits, Piece


def test_admit_of_a_piece_beyond_the_end_changes_nothing_of_its_event() -> None:
    assembler = Assembler()
    assert assembler.admit(b"m", 2, 0, b"A", 0.0) is Piece.WAITING
    assert assembler.admit(b"m", 2, 2, b"X", 0.0) is Piece.IGNORED
    assert assembler.admit(b"m", 2, 1, b"B", 0.0) == b"AB"


def test_admit_of_a_different_copy_of_a_piece_keeps_the_first() -> None:
    assembler = Assembler()
    assembler.admit(b"m", 2, 0, b"A", 0.0)
    assert assembler.admit(b"m", 2, 0, b"other", 0.0) is Piece.WAITING
    assert assembler.admit(b"m", 2, 1, b"B", 0.0) == b"AB"


def test_admit_of_a_contradicting_sum_does_not_extend_the_life_of_the_event() -> None:
    assembler = Assembler()
    assembler.admit(b"m", 2, 0, b"A", 0.0)
    assert assembler.admit(b"m", 3, 1, b"X", 4.0) is Piece.IGNORED
    assert assembler.admit(b"m", 2, 1, b"B", 5.0) is Piece.WAITING


def test_admit_after_completion_says_late_until_the_memory_ends() -> None:
    assembler = Assembler()
    assembler.admit(b"m", 2, 0, b"A", 0.0)
    assembler.admit(b"m", 2, 1, b"B", 1.0)
    assert assembler.admit(b"m", 2, 1, b"B", 5.9) is Piece.LATE
    assert assembler.admit(b"m", 2, 1, b"B", 6.0) is Piece.WAITING


def test_forget_lets_a_completed_event_come_again() -> None:
    assembler = Assembler()
    assembler.admit(b"m", 1, 0, b"A", 0.0)
    assembler.forget(b"m")
    assembler.forget(b"never seen")
    assert assembler.admit(b"m", 1, 0, b"A", 0.1) == b"A"


def test_admit_beyond_the_number_of_pending_events_ignores_the_new_one() -> None:
    assembler = Assembler(AssemblerLimits(messages_max=2))
    assert [assembler.admit(b"%d" % n, 2, 0, b"", 0.0) for n in range(3)] == [
        Piece.WAITING,
        Piece.WAITING,
        Piece.IGNORED,
    ]
    assert assembler.admit(b"0", 2, 1, b"", 0.0) == b""
    assert assembler.admit(b"2", 2, 0, b"", 0.0) is Piece.WAITING


def test_admit_beyond_the_bytes_drops_the_event_that_cannot_complete_any_more() -> None:
    assembler = Assembler(AssemblerLimits(bytes_max=1000))
    assembler.admit(b"small", 2, 0, b"s", 0.0)
    assembler.admit(b"big", 2, 0, b"x" * 300, 0.0)
    held = assembler.held_bytes
    assert assembler.admit(b"big", 2, 1, b"x" * 700, 0.0) is Piece.IGNORED
    assert assembler.held_bytes < held
    assert assembler.admit(b"small", 2, 1, b"t", 0.0) == b"st"


def test_admit_counts_what_empty_pieces_cost() -> None:
    assembler = Assembler(AssemblerLimits(bytes_max=10_000))
    outcomes = {assembler.admit(b"m", 1024, index, b"", 0.0) for index in range(1023)}
    assert Piece.IGNORED in outcomes
    assert assembler.held_bytes <= 10_000


def test_completed_ids_are_bounded_in_number() -> None:
    assembler = Assembler(AssemblerLimits(completed_max=2))
    for name in (b"a", b"b", b"c"):
        assembler.admit(name, 1, 0, b"", 0.0)
    assert assembler.admit(b"c", 1, 0, b"", 0.0) is Piece.LATE
    assert assembler.admit(b"a", 1, 0, b"", 0.0) == b""


def test_admit_of_an_overlong_id_is_ignored() -> None:
    assert Assembler().admit(b"m" * 257, 2, 0, b"", 0.0) is Piece.IGNORED


def test_admit_of_a_hostile_sum_allocates_nothing() -> None:
    assembler = Assembler()
    tracemalloc.start()
    try:
        for total in (2**31, 2**31 - 1, 10**9, 1025):
            assert assembler.admit(b"m", total, total - 1, b"x", 0.0) is Piece.IGNORED
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10_000
    assert assembler.held_bytes == 0


def test_expire_frees_the_bytes_of_an_abandoned_event() -> None:
    assembler = Assembler()
    assembler.admit(b"a", 2, 0, b"x" * 1000, 0.0)
    assembler.admit(b"b", 2, 0, b"y", 1.0)
    assembler.expire(5.0)
    assert 0 < assembler.held_bytes < 1000
    assembler.expire(6.0)
    assert assembler.held_bytes == 0
