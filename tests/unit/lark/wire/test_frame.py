from __future__ import annotations

from gateway.lark.wire.frame import CONTROL, DATA, Frame, acknowledge, decode, encode, ping, pong

EVENT = Frame(
    seq_id=42,
    log_id=2**64 - 1,
    service=7,
    method=DATA,
    headers=(
        (b"type", b"event"),
        (b"message_id", b"m"),
        (b"sum", b"3"),
        (b"seq", b"2"),
        (b"instance_id", b"\xff\xfe"),
        (b"type", b"card"),
    ),
    payload_encoding=b"json",
    payload_type=b"kind",
    payload=b"{}",
    log_id_new=b"log",
)


def test_header_given_twice_reads_the_first() -> None:
    assert EVENT.header(b"type") == b"event"
    assert EVENT.header(b"trace_id") is None


def test_acknowledge_returns_everything_and_appends_the_time_taken() -> None:
    ack = acknowledge(EVENT, 200, 12)
    assert ack.headers == (*EVENT.headers, (b"biz_rt", b"12"))
    assert ack.payload == b'{"code":200,"headers":null,"data":null}'
    kept = ("seq_id", "log_id", "service", "method", "payload_encoding", "payload_type", "log_id_new")
    assert all(getattr(ack, name) == getattr(EVENT, name) for name in kept)


def test_acknowledge_with_500_asks_for_redelivery() -> None:
    assert acknowledge(EVENT, 500, 0).payload == b'{"code":500,"headers":null,"data":null}'


def test_ping_and_pong_are_control_frames_of_the_service() -> None:
    assert ping(7) == Frame(service=7, method=CONTROL, headers=((b"type", b"ping"),))
    assert pong(7) == Frame(service=7, method=CONTROL, headers=((b"type", b"pong"),))
    assert pong(7, b"{}").payload == b"{}"


def test_text_that_is_not_utf8_goes_through_unharmed() -> None:
    frame = Frame(headers=((b"\xff", b"\xfe"),), payload_encoding=b"\xff", payload_type=b"\xfe", log_id_new=b"\x80")
    assert decode(encode(frame)) == frame


def test_acknowledge_keeps_ids_that_a_double_cannot_hold() -> None:
    ack = acknowledge(Frame(seq_id=7166535589311706015, log_id=2**63 + 1, method=DATA), 200, 0)
    assert (ack.seq_id, ack.log_id) == (7166535589311706015, 2**63 + 1)
