"""A byte stream that can be frozen, ended, torn and reset from outside, at once and without waiting."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

import trio

_ESTABLISHED = 1  # a value of tcpi_state, which is the first byte of TCP_INFO
_TORN_FRAME = b"\x82\x7e\x04\x00" + b"\x08\x01\x10\x01"  # a WebSocket frame that announces 1,024 bytes and brings 4


class Valve(trio.abc.Stream):
    """Passes bytes to and from `stream` until it is frozen or ended.

    While frozen it neither hands on nor sends any bytes, but the connection stays up, as with a peer behind a dead
    link. `hang_up`, `reset` and `tear` need a socket underneath; on another stream they only stop the passing of bytes.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._open = trio.Event()
        self._open.set()
        self._cut = False

    # -- the stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._stream.receive_some(max_bytes)
        while not self._open.is_set():
            await self._open.wait()
        if self._cut:
            raise trio.ClosedResourceError("cut by the simulator")
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        while not self._open.is_set():
            await self._open.wait()
        if self._cut:
            raise trio.ClosedResourceError("cut by the simulator")
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def send_eof(self) -> None:
        """End the sending direction, if the stream can do that."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()

    @property
    def socket(self) -> trio.socket.SocketType | None:
        """Return the socket underneath, or None if there is none."""
        return self._stream.socket if isinstance(self._stream, trio.SocketStream) else None

    # -- the taps

    @property
    def frozen(self) -> bool:
        return not self._open.is_set()

    def freeze(self) -> None:
        if not self.frozen:
            self._open = trio.Event()

    def thaw(self) -> None:
        self._open.set()

    def hang_up(self) -> None:
        """Close the TCP connection without a WebSocket close. The peer reads an end of file."""
        self._cut = True
        self.thaw()
        if self.socket is not None:
            self.socket.close()

    def reset(self) -> None:
        """Close the TCP connection with RST. Bytes that were still on their way are lost."""
        if self.socket is not None:
            # With a linger time of 0 the kernel sends RST at the close.
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()

    def tear(self) -> None:
        """Send the beginning of a WebSocket frame, then hang up."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                os.write(self.socket.fileno(), _TORN_FRAME)
        self.hang_up()

    def peer_left(self) -> bool:
        """True if the peer has ended or reset the connection, even if no task has read that far yet (Linux only)."""
        if self._cut:
            return True
        if self.socket is None or not hasattr(socket, "TCP_INFO"):
            return False
        try:
            state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except OSError:
            return True
        return state[0] != _ESTABLISHED
