"""The platform's side of the frames: cutting an event into chunks, and judging acknowledgements."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gateway.lark.wire.frame import DATA, Frame

EVENT_OK = 200
ADDED_BY_CLIENT = b"biz_rt"


@dataclass(frozen=True, slots=True)
class AckJudgement:
    """The judgement on an acknowledgement: accepted with its `code`, or not, with the `reason`."""

    accepted: bool
    code: int = 0
    reason: str = ""


def cut(
    payload: bytes, *, chunks: int, service: int, message_id: str, instance_id: str, now_ms: int, entropy: random.Random
) -> list[Frame]:
    """Return the frames of one event, whole or in `chunks` parts of nearly the same size.

    All carry the same transport message id and trace id. These are not the ids of the chat message inside.
    """
    trace_id = f"{entropy.getrandbits(128):032x}"
    log_id = entropy.getrandbits(62) | 1 << 61 | 1  # odd and large: a client that reads it as a double loses digits
    first = entropy.getrandbits(31) + 1
    chunks = max(1, min(chunks, len(payload)))  # no part may be empty: clients would wait for it for ever
    frames = []
    for seq in range(chunks):
        headers = {
            "type": "event",
            "message_id": message_id,
            "trace_id": trace_id,
            "timestamp": str(now_ms),
            "sum": str(chunks),
            "seq": str(seq),
            "instance_id": instance_id,
        }
        frames.append(
            Frame(
                seq_id=first + seq,
                log_id=log_id,
                service=service,
                method=DATA,
                headers=tuple((name.encode(), value.encode()) for name, value in headers.items()),
                payload=payload[len(payload) * seq // chunks : len(payload) * (seq + 1) // chunks],
                log_id_new=f"{log_id:020d}".encode(),
            )
        )
    return frames


def judge(ack: Frame, pushed: Sequence[Frame]) -> AckJudgement:
    """Judge an acknowledgement. It counts if it echoes every header of one of the event's frames. It may add `biz_rt`.

    The frame's numbers are not compared. The platform is known to tolerate their loss, but not the loss of a header.
    """
    echoed = sorted(header for header in ack.headers if header[0] != ADDED_BY_CLIENT)
    if not any(echoed == sorted(frame.headers) for frame in pushed):
        return AckJudgement(False, reason=_difference(dict(echoed), dict(pushed[-1].headers)))
    try:
        answer = msgspec.json.decode(ack.payload or b"")
    except msgspec.DecodeError:
        return AckJudgement(False, reason="the payload is not JSON")
    code = answer.get("code") if isinstance(answer, dict) else None
    if not isinstance(code, int):
        return AckJudgement(False, reason="the payload has no numeric code")
    return AckJudgement(True, code)


def _difference(echoed: dict[bytes, bytes], expected: dict[bytes, bytes]) -> str:
    missing = [key.decode() for key in expected if key not in echoed]
    changed = [key.decode() for key in expected if key in echoed and echoed[key] != expected[key]]
    added = [key.decode(errors="replace") for key in echoed if key not in expected]
    return f"headers missing: {missing}, changed: {changed}, added: {added}"
