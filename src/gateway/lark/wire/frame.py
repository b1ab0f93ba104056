"""One frame of the Lark long connection, and its encoding.

A binary WebSocket message holds exactly one frame. Control frames carry pings and pongs. Data frames carry events to us
and their acknowledgements back. Strings stay bytes here: an acknowledgement sends the fields of the
received frame back, and nothing may be re-encoded on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from gateway.errors import LocalProtocolError, RemoteProtocolError
from gateway.lark.wire import pbbp2_pb2

CONTROL = 0
"""Method of pings and pongs."""
DATA = 1
"""Method of events and their acknowledgements."""

HEADERS_MAX = 256
"""A frame with more headers is refused. Real ones carry about eight; each takes many times its size in memory."""

_FRAME_FIELDS = frozenset(range(1, 10))
_HEADER_FIELDS = frozenset((1, 2))
_ACK_PAYLOAD = b'{"code":%d,"headers":null,"data":null}'


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame. `payload` is None if absent, b"" if present and empty; `service` and `method` are int32."""

    seq_id: int = 0
    log_id: int = 0
    service: int = 0
    method: int = CONTROL
    headers: tuple[tuple[bytes, bytes], ...] = ()
    payload_encoding: bytes = b""
    payload_type: bytes = b""
    payload: bytes | None = None
    log_id_new: bytes = b""

    def header(self, key: bytes) -> bytes | None:
        """Return the first value under `key`; None if there is none. A repeated key does not override the first."""
        for name, value in self.headers:
            if name == key:
                return value
        return None


def encode(frame: Frame) -> bytes:
    """Return the bytes that the platform's own marshaller would emit.

    Every field is written, empty ones too, except an absent payload. Raises LocalProtocolError if a number does not fit
    its field.
    """
    try:
        message = pbbp2_pb2.Frame(
            seq_id=frame.seq_id,
            log_id=frame.log_id,
            service=frame.service,
            method=frame.method,
            headers=[pbbp2_pb2.Header(key=key, value=value) for key, value in frame.headers],
            payload_encoding=frame.payload_encoding,
            payload_type=frame.payload_type,
            payload=frame.payload,  # None leaves the field out
            log_id_new=frame.log_id_new,
        )
    except (ValueError, TypeError) as error:
        raise LocalProtocolError(f"a frame cannot be encoded: {error}") from error
    return message.SerializeToString()


def decode(data: bytes) -> Frame:
    """Read one frame as the most tolerant of the known clients would: absent fields are zero, unknown ones dropped.

    Raises RemoteProtocolError for an empty message, malformed bytes, a known field of the wrong wire type, or more
    than `HEADERS_MAX` headers.
    """
    if not data:
        raise RemoteProtocolError("an empty message is not a frame")
    message = pbbp2_pb2.Frame()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise RemoteProtocolError(f"a message of {len(data)} bytes is not a frame: {error}") from error
    _refuse_wrong_wire_types(message, _FRAME_FIELDS)
    if len(message.headers) > HEADERS_MAX:
        raise RemoteProtocolError(f"a frame has {len(message.headers)} headers, at most {HEADERS_MAX} are read")
    return Frame(
        seq_id=message.seq_id,
        log_id=message.log_id,
        service=message.service,
        method=message.method,
        headers=tuple(_read_headers(message.headers)),
        payload_encoding=message.payload_encoding,
        payload_type=message.payload_type,
        payload=message.payload if message.HasField("payload") else None,
        log_id_new=message.log_id_new,
    )


def _read_headers(headers: Iterable[pbbp2_pb2.Header]) -> Iterable[tuple[bytes, bytes]]:
    for header in headers:
        _refuse_wrong_wire_types(header, _HEADER_FIELDS)
        yield header.key, header.value


def _refuse_wrong_wire_types(message: Message, known: frozenset[int]) -> None:
    # The library does not fail for a known field with another wire type. It lists such a field among the unknown ones.
    unknown = UnknownFieldSet(message)
    for field in (unknown[index] for index in range(len(unknown))):
        if field.field_number in known:
            raise RemoteProtocolError(f"field {field.field_number} came with wire type {field.wire_type}")


def ping(service: int) -> Frame:
    """Return the frame that keeps the connection alive. We send it at the interval that the platform asks for."""
    return Frame(service=service, headers=((b"type", b"ping"),))


def pong(service: int, payload: bytes | None = None) -> Frame:
    """Return the answer to a ping. The platform's pong carries a JSON ClientConfig, ours nothing."""
    return Frame(service=service, headers=((b"type", b"pong"),), payload=payload)


def acknowledge(inbound: Frame, code: int, elapsed_ms: int) -> Frame:
    """Return the answer to a data frame: 200 settles it, 500 asks for it again.

    All headers go back as received, in order: one of them is the return address of the platform's server that waits for
    the answer.
    """
    headers = (*inbound.headers, (b"biz_rt", b"%d" % elapsed_ms))
    return replace(inbound, headers=headers, payload=_ACK_PAYLOAD % code)
