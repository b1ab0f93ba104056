from __future__ import annotations

import pytest

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.lark.wire.endpoint import ClientConfig, Endpoint
from gateway.lark.wire.frame import CONTROL, DATA, Frame, encode, ping, pong
from gateway.lark.wire.session import (
    REDELIVER,
    SETTLED,
    Deliver,
    Ignored,
    Ponged,
    Send,
    Session,
    State,
    Trigger,
    WentDeaf,
)

URL = "ws://h.invalid/?service_id=7"
ACTS = {
    Trigger.ENDPOINT: lambda session: session.endpoint_given(Endpoint(URL, 7)),
    Trigger.ESTABLISHED: lambda session: session.established(0.0),
    Trigger.REFUSAL: Session.refused,
    Trigger.SILENCE: lambda session: session.tick(1e9),
    Trigger.END: Session.ended,
}
WAY_TO = {
    State.BOOTSTRAP: [],
    State.DIAL: [Trigger.ENDPOINT],
    State.LIVE: [Trigger.ENDPOINT, Trigger.ESTABLISHED],
    State.DEAF: [Trigger.ENDPOINT, Trigger.ESTABLISHED, Trigger.SILENCE],
    State.REFUSED: [Trigger.REFUSAL],
    State.CLOSED: [Trigger.END],
}


def in_state(state: State) -> Session:
    session = Session()
    for trigger in WAY_TO[state]:
        ACTS[trigger](session)
    assert session.state is state
    return session


def live(interval: float | None = None, now: float = 0.0) -> Session:
    session = Session()
    session.endpoint_given(Endpoint(URL, 7, ClientConfig(interval)))
    session.established(now)
    return session


def event(payload: bytes | None = b"{}", **headers: str) -> Frame:
    fields = {"type": "event", "message_id": "m", **headers}
    pairs = tuple((key.encode(), value.encode()) for key, value in fields.items())
    return Frame(seq_id=5, service=7, method=DATA, headers=pairs, payload=payload)


def receive(session: Session, frame: Frame, now: float = 0.0) -> list[object]:
    return list(session.receive(encode(frame), now))


def deliver(session: Session, frame: Frame, now: float = 0.0) -> Deliver:
    (action,) = receive(session, frame, now)
    assert isinstance(action, Deliver)
    return action


AFTER = {
    (State.BOOTSTRAP, Trigger.ENDPOINT): State.DIAL,
    (State.BOOTSTRAP, Trigger.REFUSAL): State.REFUSED,
    (State.BOOTSTRAP, Trigger.END): State.CLOSED,
    (State.DIAL, Trigger.ESTABLISHED): State.LIVE,
    (State.DIAL, Trigger.REFUSAL): State.REFUSED,
    (State.DIAL, Trigger.END): State.CLOSED,
    (State.LIVE, Trigger.END): State.CLOSED,
    (State.DEAF, Trigger.END): State.DEAF,
    (State.REFUSED, Trigger.END): State.REFUSED,
    (State.CLOSED, Trigger.END): State.CLOSED,
}
"""Where a trigger leads; any other is a mistake of the caller."""


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", [trigger for trigger in Trigger if trigger is not Trigger.SILENCE])
def test_trigger_leads_where_it_should_or_is_refused(state: State, trigger: Trigger) -> None:
    session = in_state(state)
    if (state, trigger) in AFTER:
        ACTS[trigger](session)
        assert session.state is AFTER[state, trigger]
    else:
        with pytest.raises(LocalProtocolError):
            ACTS[trigger](session)
        assert session.state is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.LIVE])
def test_session_that_is_not_live_neither_ticks_nor_receives(state: State) -> None:
    session = in_state(state)
    assert session.wake_at == float("inf")
    assert session.tick(1e9) == []
    with pytest.raises(LocalProtocolError):
        session.receive(encode(ping(7)), 0.0)


def test_first_ping_goes_out_at_once_and_the_next_after_the_interval() -> None:
    session = live(30.0, now=100.0)
    assert session.tick(100.0) == [Send(ping(7))]
    assert session.wake_at == 130.0
    assert session.tick(129.9) == []
    assert session.tick(130.0) == [Send(ping(7))]


def test_ping_interval_without_a_usable_value_is_120_seconds() -> None:
    assert live().ping_interval_seconds == 120.0


def test_pong_gives_the_round_trip_of_the_last_ping() -> None:
    session = live(30.0)
    session.tick(0.0)
    assert receive(session, pong(7), 0.25) == [Ponged(0.25)]
    assert receive(session, pong(7), 0.5) == [Ponged(None)]


def test_pong_with_a_shorter_interval_moves_the_next_ping_forward() -> None:
    session = live(120.0)
    session.tick(0.0)
    receive(session, pong(7, b'{"PingInterval":10}'), 1.0)
    assert session.wake_at == 10.0


@pytest.mark.parametrize("payload", [b'{"PingInterval":0}', b'{"PingInterval":-9}', b"{}", b"null", b"[]", b""])
def test_pong_without_a_usable_interval_keeps_the_last_good_one(payload: bytes) -> None:
    session = live(33.0)
    assert receive(session, pong(7, payload)) == [Ponged(None)]
    assert session.ping_interval_seconds == 33.0


@pytest.mark.parametrize("payload", [b"not json", b"\xff", b"{"])
def test_pong_that_is_not_json_keeps_the_interval_and_is_noted(payload: bytes) -> None:
    session = live(33.0)
    _, ignored = receive(session, pong(7, payload))
    assert isinstance(ignored, Ignored)
    assert session.ping_interval_seconds == 33.0


def test_silence_of_two_intervals_and_ten_seconds_ends_the_session() -> None:
    session = live(30.0)
    for now in (0.0, 30.0, 60.0):
        assert session.tick(now) == [Send(ping(7))]
    assert session.wake_at == 70.0
    assert session.tick(69.9) == []
    assert session.tick(70.0) == [WentDeaf(70.0)]
    assert session.state is State.DEAF


@pytest.mark.parametrize("frame", [pong(7), ping(7), event(), Frame(method=9)])
def test_any_frame_breaks_the_silence(frame: Frame) -> None:
    session = live(30.0)
    receive(session, frame, 60.0)
    assert session.tick(129.9) == [Send(ping(7))]
    assert session.tick(130.0) == [WentDeaf(70.0)]


def test_malformed_bytes_are_refused_and_do_not_break_the_silence() -> None:
    session = live(30.0)
    with pytest.raises(RemoteProtocolError):
        session.receive(b"\xff", 60.0)
    assert session.tick(70.0) == [WentDeaf(70.0)]


def test_silence_while_we_do_not_read_proves_nothing() -> None:
    session = live(30.0)
    session.pause()
    assert session.tick(1000.0) == [Send(ping(7))]
    session.resume(1000.0)
    assert session.tick(1069.9) == [Send(ping(7))]
    assert session.tick(1070.0) == [WentDeaf(70.0)]


def test_ping_of_the_platform_is_answered() -> None:
    assert receive(live(), ping(99)) == [Send(pong(7))]


@pytest.mark.parametrize("method", [2, -1, 2**31 - 1])
def test_method_that_is_neither_control_nor_data_is_ignored(method: int) -> None:
    (action,) = receive(live(), Frame(method=method, headers=event().headers, payload=b"{}"))
    assert isinstance(action, Ignored)


def test_control_frame_of_unknown_type_is_ignored() -> None:
    (action,) = receive(live(), Frame(method=CONTROL, headers=((b"type", b"event"),)))
    assert isinstance(action, Ignored)


@pytest.mark.parametrize("sum_", ["1", "0", "abc", "", "1_0", "9" * 5000])
def test_event_that_is_not_split_is_delivered_as_it_is(sum_: str) -> None:
    assert deliver(live(), event(b"not json", sum=sum_)).payload == b"not json"


def test_event_without_any_header_but_method_is_delivered() -> None:
    assert deliver(live(), Frame(method=DATA)).payload == b""


@pytest.mark.parametrize("kind", ["card", "ping", "", "something new"])
def test_data_of_another_type_is_settled_without_delivery(kind: str) -> None:
    (action,) = receive(live(), event(type=kind))
    assert isinstance(action, Send)
    assert action.frame.payload == b'{"code":200,"headers":null,"data":null}'


def test_settle_acknowledges_the_frame_with_the_milliseconds_taken() -> None:
    session = live()
    delivery = deliver(session, event(), 10.0)
    (ack,) = session.settle(delivery, SETTLED, 10.1234)
    assert ack.headers == (*event().headers, (b"biz_rt", b"123"))


def test_settle_of_a_split_event_acknowledges_the_piece_that_completed_it() -> None:
    session = live()
    assert receive(session, event(b"B", sum="2", seq="1")) == []
    last = event(b"A", sum="2", seq="0")
    delivery = deliver(session, last)
    assert delivery.payload == b"AB"
    (ack,) = session.settle(delivery, SETTLED, 0.0)
    assert ack.headers[: len(last.headers)] == last.headers


def test_late_piece_of_a_settled_event_is_acknowledged_and_not_delivered() -> None:
    session = live()
    receive(session, event(b"A", sum="2", seq="0"))
    session.settle(deliver(session, event(b"B", sum="2", seq="1")), SETTLED, 0.0)
    (action,) = receive(session, event(b"A", sum="2", seq="0"), 4.0)
    assert isinstance(action, Send)
    assert b'"code":200' in (action.frame.payload or b"")


@pytest.mark.parametrize("code", [SETTLED, REDELIVER])
def test_late_piece_of_an_undecided_event_waits_for_the_outcome(code: int) -> None:
    session = live()
    receive(session, event(b"A", sum="2", seq="0"))
    delivery = deliver(session, event(b"B", sum="2", seq="1"))
    for _ in range(100):
        assert receive(session, event(b"A", sum="2", seq="0")) == []
    acks = session.settle(delivery, code, 0.0)
    assert 2 <= len(acks) <= 17
    assert {ack.payload for ack in acks} == {b'{"code":%d,"headers":null,"data":null}' % code}


def test_split_event_that_failed_is_delivered_again_when_it_comes_again() -> None:
    session = live()
    receive(session, event(b"A", sum="2", seq="0"))
    session.settle(deliver(session, event(b"B", sum="2", seq="1")), REDELIVER, 0.0)
    assert receive(session, event(b"A", sum="2", seq="0"), 0.1) == []
    assert deliver(session, event(b"B", sum="2", seq="1"), 0.1).payload == b"AB"


def test_settle_of_an_event_whose_id_was_used_again_leaves_the_newer_one_alone() -> None:
    session = live()
    receive(session, event(b"A", sum="2", seq="0"), 0.0)
    old = deliver(session, event(b"B", sum="2", seq="1"), 0.0)
    receive(session, event(b"C", sum="2", seq="0"), 6.0)
    new = deliver(session, event(b"D", sum="2", seq="1"), 6.0)
    receive(session, event(b"C", sum="2", seq="0"), 6.1)
    assert len(session.settle(old, SETTLED, 7.0)) == 1
    assert len(session.settle(new, SETTLED, 7.0)) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"seq": "2"},
        {"seq": "-1"},
        {"seq": "x"},
        {"sum": "2147483648"},
        {"sum": "9" * 4000},
        {"sum": "-2"},
        {"message_id": ""},
    ],
)
def test_piece_that_makes_no_sense_is_ignored(headers: dict[str, str]) -> None:
    (action,) = receive(live(), event(b"A", **{"sum": "2", "seq": "0", **headers}))
    assert isinstance(action, Ignored)


def test_piece_without_an_index_is_ignored() -> None:
    (action,) = receive(live(), event(b"A", sum="2"))
    assert isinstance(action, Ignored)


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"PingInterval":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
def test_pong_nested_deeper_than_the_parser_goes_is_ignored(payload: bytes) -> None:
    session = Session()
    session.endpoint_given(Endpoint("wss://platform.invalid/ws", 7, ClientConfig()))
    session.established(0.0)
    actions = session.receive(encode(pong(7, payload)), 1.0)
    assert any(isinstance(action, Ignored) for action in actions)
