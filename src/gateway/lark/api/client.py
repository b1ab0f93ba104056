"""The Lark client of one app, over an HTTP client that all such clients share.

No secret, token or connection ticket goes into a log line or an exception's text.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol, TypeVar

import httpcore2
import httpx2
import structlog
import trio

from gateway import __version__
from gateway.channel.errors import PlatformError, PlatformUnavailable, PlatformUnreachable
from gateway.errors import ConfigError
from gateway.lark.api import rest
from gateway.lark.api.proxy import Proxies, Proxy, credentials_wanted
from gateway.lark.api.reason import why
from gateway.lark.api.tunnel import ask_for
from gateway.lark.chat.cards import Rendered
from gateway.lark.wire import endpoint

_log = structlog.get_logger()

HttpClient = httpx2.AsyncClient
"""The type that `open_http_client` yields, for modules that only pass it on."""

T = TypeVar("T")


class ResourceSink(Protocol):
    """The receiver of a download. An exception that it raises ends the download."""

    def begin(self, *, content_type: str, disposition: str, length: int | None) -> None:
        """Begin a file. Called once, when it is certain that a file comes.

        `length` is None if the platform does not say it.
        """

    async def write(self, chunk: bytes) -> None:
        """Write a piece of the file. A cancellation must not interrupt it, only the read (see `_each_chunk`)."""


CALL_TIMEOUT_SECONDS = 10.0
SEND_TIMEOUT_SECONDS = 10.0
DOWNLOAD_TIMEOUT_SECONDS = 45.0
ANSWER_BYTES_MAX = 1024 * 1024
CONNECTIONS_MAX = 100
KEEPALIVE_CONNECTIONS_MAX = 20
KEEPALIVE_SECONDS = 30.0
PROXY_AUTHENTICATION_REQUIRED = 407

TOKEN_REFRESH_EARLY_SECONDS = 180.0
TOKEN_LIFETIME_MIN_SECONDS = 120.0

# With these errors there was no connection, so no request was sent. After any later time-out or broken connection it
# is unknown what the platform did.
_NEVER_LEFT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.InvalidURL,
)


def trusted_context() -> ssl.SSLContext:
    """Return the TLS context with the trusted certificate authorities, for calls and long connections alike.

    The authorities come from SSL_CERT_FILE or SSL_CERT_DIR, else from this machine. Those of this machine are found
    even where they are not at the path that OpenSSL was built with, as happens to a binary. Raises ConfigError for a
    file that cannot be read.
    """
    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        path = os.environ.get("SSL_CERT_FILE")
        reason = error.strerror or error
        raise ConfigError(f"SSL_CERT_FILE: {path!r} is no file of certificates that can be read: {reason}") from error


@asynccontextmanager
async def open_http_client(
    *,
    proxy_url: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connections_max: int = CONNECTIONS_MAX,
) -> AsyncIterator[HttpClient]:
    """Open the connection pool that every LarkClient uses; it is closed at the end of the block.

    `proxy_url` replaces the standard proxy variables; loopback is never proxied. `ssl_context` is `trusted_context()`
    unless given. Raises ConfigError for a proxy or a file of certificates that cannot be used. Redirects are not
    followed: the platform sends none, and a token must not reach another host. Cookies are not kept: the calls of one
    app must not carry those of another.
    """
    context = trusted_context() if ssl_context is None else ssl_context
    limits = httpx2.Limits(
        max_connections=connections_max,
        max_keepalive_connections=min(KEEPALIVE_CONNECTIONS_MAX, connections_max),
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    async with httpx2.AsyncClient(
        transport=_Routed(Proxies.of(proxy_url, os.environ), context, limits),
        trust_env=False,  # The variables are read above, in the same way as for the long connections.
        headers={"accept-encoding": "identity", "user-agent": f"agent-gateway/{__version__}"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=None,  # Every call has a deadline of its own, around all of its phases.
    ) as http:
        yield http


class _Routed(httpx2.AsyncBaseTransport):
    """Sends each request directly or through the proxy that `proxies` chooses. Each of these has its own pool."""

    def __init__(self, proxies: Proxies, context: ssl.SSLContext, limits: httpx2.Limits) -> None:
        self._proxies = proxies
        ways: list[Proxy | None] = [None, *proxies.known]
        self._ways = {way: _transport(way, context, limits) for way in ways}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        proxy = self._proxies.route(url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))
        if proxy is None:
            return await self._ways[None].handle_async_request(request)
        try:
            response = await self._ways[proxy].handle_async_request(request)
        except httpx2.ProxyError as error:
            if proxy.socks:
                raise  # `_ThroughSocks` has found the words
            asked = str(error).startswith(str(PROXY_AUTHENTICATION_REQUIRED))
            words = credentials_wanted(proxy) if asked else f"the proxy {proxy} gave no way: {why(error)}"
            raise httpx2.ProxyError(words, request=request) from error
        except httpx2.ConnectError as error:
            raise httpx2.ConnectError(f"by way of the proxy {proxy}: {why(error)}", request=request) from error
        if response.status_code == PROXY_AUTHENTICATION_REQUIRED:
            await response.aclose()
            raise httpx2.ProxyError(credentials_wanted(proxy), request=request)
        return response

    async def aclose(self) -> None:
        for transport in self._ways.values():
            await transport.aclose()


def _transport(proxy: Proxy | None, context: ssl.SSLContext, limits: httpx2.Limits) -> httpx2.AsyncHTTPTransport:
    if proxy is None:
        return httpx2.AsyncHTTPTransport(verify=context, limits=limits)
    if proxy.socks:
        return _SocksTransport(proxy, context, limits)
    through = httpx2.Proxy(str(proxy), ssl_context=context if proxy.tls else None, auth=proxy.credentials)
    return httpx2.AsyncHTTPTransport(verify=context, limits=limits, proxy=through)


class _SocksTransport(httpx2.AsyncHTTPTransport):
    """Makes calls through a SOCKS proxy in the way of the long connections, which knows more versions than httpx2."""

    def __init__(self, proxy: Proxy, context: ssl.SSLContext, limits: httpx2.Limits) -> None:
        super().__init__(verify=context, limits=limits)
        # httpx2 has no parameter for the network below its pool.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=_ThroughSocks(proxy),
        )


class _ThroughSocks(httpcore2.AsyncNetworkBackend):
    """Opens connections to targets by way of a SOCKS proxy. They are the caller's."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._network = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        proxy = self._proxy
        stream = await self._network.connect_tcp(proxy.host, proxy.port, timeout, local_address, socket_options)
        sock: trio.socket.SocketType = stream.get_extra_info("socket")
        try:
            # SOCKS reads no byte more than its answers, so the other stream of the same socket misses none.
            await ask_for(trio.SocketStream(sock), proxy, host, port)
        except BaseException as error:
            sock.close()
            if isinstance(error, PlatformError):
                raise httpcore2.ProxyError(str(error)) from error
            raise
        return stream


@dataclass(frozen=True, slots=True)
class BotIdentity:
    """The platform's ids of an app's bot; `union_id` is "" if the app may not see it."""

    open_id: str
    union_id: str = ""


@dataclass(frozen=True, slots=True)
class _HeldToken:
    value: str = field(repr=False)
    refresh_at: float


class LarkClient:
    """Makes the calls of one app to one host. Holds the app's tenant token; the caller owns and closes the HTTP client.

    Calls may run concurrently. If several find no fresh token, one fetches it and the others wait for it. A cancelled
    call leaves the client usable; the platform may still have done what was asked.
    """

    def __init__(
        self,
        app_id: str,
        app_secret: str,
        base_url: str,
        http: HttpClient,
        *,
        call_timeout_seconds: float = CALL_TIMEOUT_SECONDS,
        send_timeout_seconds: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        self._app_id = app_id
        self._app_secret = app_secret
        self._base_url = base_url.rstrip("/")
        self._http = http
        self._call_timeout = call_timeout_seconds
        self._send_timeout = send_timeout_seconds
        self._held: _HeldToken | None = None
        self._fetching = trio.Lock()

    @property
    def app_id(self) -> str:
        return self._app_id

    def __repr__(self) -> str:
        return f"<LarkClient of {self._app_id} at {self._base_url}>"

    async def fetch_endpoint(self) -> endpoint.Endpoint:
        """Return where to dial the long connection; the URL is good for one dial.

        Raises PlatformRefused for a definite no, else PlatformUnavailable.
        """
        body = endpoint.request_body(self._app_id, self._app_secret)
        request = rest.Request("POST", endpoint.PATH, tuple(endpoint.HEADERS.items()), body)
        answer = await self._exchange(request, self._call_timeout)
        return endpoint.judge_answer(answer.status, answer.body)

    async def bot_info(self) -> rest.BotInfo:
        """Return the app's bot. Raises the PlatformError family; PlatformUnauthorized for a wrong app id or secret."""
        return await self._call(rest.bot_info_request, rest.judge_bot_info)

    async def union_id(self, open_id: str) -> str:
        """Return the id under which all apps of one developer know a person or bot; "" if the app may not see it.

        Raises the PlatformError family. PlatformRefused is common, because the app may lack the contact scope.
        """
        return await self._call(lambda token: rest.person_request(token, open_id), rest.judge_union_id)

    async def identify(self) -> BotIdentity:
        """Return the bot with both of its ids.

        Raises the PlatformError family. A failure to get the union id is logged and leaves it "": many apps may not see
        it.
        """
        bot = await self.bot_info()
        try:
            return BotIdentity(bot.open_id, await self.union_id(bot.open_id))
        except PlatformError as error:
            _log.info("lark_union_id_unknown", app_id=self._app_id, code=error.code, log_id=error.log_id)
            return BotIdentity(bot.open_id)

    async def send(
        self,
        message: Rendered,
        *,
        uuid: str,
        chat_id: str = "",
        open_id: str = "",
        reply_to: str = "",
        in_thread: bool = False,
    ) -> str:
        """Send a message and return its id: a reply to `reply_to` if given, else a message to the chat or the person.

        Within an hour, a repeat with the same `uuid` creates no second message. Raises LocalProtocolError for bad input
        before anything is called, and the PlatformError family.
        """

        def request(token: str) -> rest.Request:
            if reply_to:
                return rest.reply_request(token, message_id=reply_to, message=message, uuid=uuid, in_thread=in_thread)
            if chat_id:
                return rest.send_request(
                    token, receive_id_type="chat_id", receive_id=chat_id, message=message, uuid=uuid
                )
            return rest.send_request(token, receive_id_type="open_id", receive_id=open_id, message=message, uuid=uuid)

        request(token="")  # Checks the input first, so that bad input costs no call for a token.
        return await self._call(request, rest.judge_sent, timeout=self._send_timeout)

    async def download(
        self,
        *,
        message_id: str,
        key: str,
        resource_type: rest.ResourceType,
        sink: ResourceSink,
        timeout: float = DOWNLOAD_TIMEOUT_SECONDS,
    ) -> None:
        """Fetch a file of a message into the sink, piece by piece. `timeout` bounds the whole call.

        Raises LocalProtocolError for a blank id or key, the PlatformError family, and anything that the sink raises. If
        this fails after `sink.begin`, the sink holds a part of the file.
        """

        def build(token: str) -> rest.Request:
            return rest.resource_request(token, message_id=message_id, key=key, resource_type=resource_type)

        build("")  # Checks the input first, so that bad input costs no call for a token.
        deadline = trio.current_time() + timeout
        with trio.move_on_at(deadline):
            try:
                await self._download_once(build, sink, deadline)
            except rest.TokenRejected:
                await self._download_once(build, sink, deadline)
            return
        raise PlatformUnavailable(f"the file did not arrive within {timeout:.3g} s")

    async def _download_once(self, build: Callable[[str], rest.Request], sink: ResourceSink, deadline: float) -> None:
        token = await self._token(deadline)
        request = build(token)
        try:
            async with self._http.stream(
                request.method, self._base_url + request.path, headers=request.headers
            ) as response:
                await _receive(response, sink)
        except rest.TokenRejected:
            self._drop(token)
            raise
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise PlatformUnavailable(f"no file from {self._base_url}: {type(error).__name__} {why(error)}") from error

    # --- reading back -------------------------------------------------------------------------------------------------

    async def read_message(self, message_id: str) -> rest.Page:
        """Return a message and, if it is a bundle, the messages in it. Raises the PlatformError family."""
        return await self._call(lambda token: rest.message_request(token, message_id), rest.judge_page)

    async def list_messages(
        self, *, chat_id: str, thread_id: str = "", start: int = 0, end: int = 0, page_token: str = ""
    ) -> rest.Page:
        """Return the newest messages of a chat or a topic. `start` and `end` are seconds since 1970, for a chat only.

        Raises the PlatformError family.
        """

        def request(token: str) -> rest.Request:
            return rest.messages_request(
                token, chat_id=chat_id, thread_id=thread_id, start=start, end=end, page_token=page_token
            )

        return await self._call(request, rest.judge_page)

    async def people_names(self, open_ids: Sequence[str]) -> dict[str, str]:
        """Return the names of up to 50 people by open id. Raises the PlatformError family.

        People whom the app may not see are left out.
        """
        return await self._call(lambda token: rest.people_request(token, open_ids), rest.judge_names)

    # --- reactions ----------------------------------------------------------------------------------------------------

    async def react(self, message_id: str, emoji_type: str) -> str:
        """Add the bot's reaction to a message and return its id. Raises the PlatformError family.

        A bot has at most one reaction of a kind on a message: a repeat returns the id of the one that is there.
        """
        return await self._call(
            lambda token: rest.react_request(token, message_id=message_id, emoji_type=emoji_type),
            rest.judge_reacted,
            timeout=self._send_timeout,
        )

    async def unreact(self, message_id: str, reaction_id: str) -> None:
        """Remove the bot's own reaction. Raises the PlatformError family."""
        await self._call(
            lambda token: rest.unreact_request(token, message_id=message_id, reaction_id=reaction_id),
            rest.judge_unreacted,
            timeout=self._send_timeout,
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _call(
        self, build: Callable[[str], rest.Request], judge: Callable[[rest.Answer], T], *, timeout: float | None = None
    ) -> T:
        """Make one authorised call; repeat it once with a fresh token if the platform no longer accepts the held one.

        `timeout` bounds both tries together, the calls for a token included.
        """
        deadline = trio.current_time() + (self._call_timeout if timeout is None else timeout)
        try:
            return await self._call_once(build, judge, deadline)
        except rest.TokenRejected:
            return await self._call_once(build, judge, deadline)

    async def _call_once(
        self, build: Callable[[str], rest.Request], judge: Callable[[rest.Answer], T], deadline: float
    ) -> T:
        token = await self._granted_token(deadline)
        answer = await self._exchange(build(token), deadline - trio.current_time())
        try:
            return judge(answer)
        except rest.TokenRejected:
            self._drop(token)
            raise

    async def _granted_token(self, deadline: float) -> str:
        """Return the token as `_token` does, but turn PlatformUnavailable into PlatformUnreachable.

        Without a token the call itself was never made, so it is certain that nothing was done.
        """
        try:
            return await self._token(deadline)
        except PlatformUnreachable:
            raise
        except PlatformUnavailable as error:
            raise PlatformUnreachable(str(error), code=error.code, log_id=error.log_id) from error

    async def _token(self, deadline: float) -> str:
        with trio.move_on_at(deadline):
            async with self._fetching:
                if self._held is None or trio.current_time() >= self._held.refresh_at:
                    self._held = await self._fetch_token(deadline)
                return self._held.value
        raise PlatformUnavailable("the call that fetches the tenant token took too long")

    async def _fetch_token(self, deadline: float) -> _HeldToken:
        asked_at = trio.current_time()
        request = rest.tenant_token_request(self._app_id, self._app_secret)
        answer = await self._exchange(request, deadline - trio.current_time())
        token = rest.judge_tenant_token(answer)
        # The minimum applies however short the lifetime: a token that is stale on arrival would be fetched for every
        # call.
        lifetime = max(token.lifetime_seconds, TOKEN_LIFETIME_MIN_SECONDS)
        return _HeldToken(token.value, asked_at + max(lifetime - TOKEN_REFRESH_EARLY_SECONDS, lifetime / 2))

    def _drop(self, token: str) -> None:
        """Forget a refused token, unless a fresh one replaced it already."""
        if self._held is not None and self._held.value == token:
            self._held = None

    async def _exchange(self, request: rest.Request, timeout: float) -> rest.Answer:
        return await exchange(self._http, self._base_url, request, timeout)


async def exchange(http: HttpClient, base_url: str, request: rest.Request, timeout: float) -> rest.Answer:
    """Send one request and return the answer, of any status.

    Raises PlatformUnreachable if there was no connection, PlatformUnavailable if there is no whole answer in time.
    """
    with trio.move_on_after(max(timeout, 0)):
        return await _exchange(http, base_url, request)
    raise PlatformUnavailable(f"{request.path.partition('?')[0]} was not answered within {max(timeout, 0):.3g} s")


async def _exchange(http: HttpClient, base_url: str, request: rest.Request) -> rest.Answer:
    try:
        async with http.stream(
            request.method, base_url + request.path, headers=request.headers, content=request.body
        ) as response:
            body = await _read_body(response)
    except _NEVER_LEFT as error:
        raise PlatformUnreachable(f"cannot reach {base_url}: {type(error).__name__} {why(error)}") from error
    except httpx2.HTTPError as error:
        raise PlatformUnavailable(f"no answer from {base_url}: {type(error).__name__} {why(error)}") from error
    return rest.Answer(response.status_code, body, {name.lower(): value for name, value in response.headers.items()})


async def _read_body(response: httpx2.Response) -> bytes:
    """Return the whole body, of bounded size and uncompressed, as every request asks for.

    A body that is too long is read to its end and dropped, within the call's deadline. To stop in the middle would
    leave the library's generators to the garbage collector.
    """
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise PlatformUnavailable(f"the answer is encoded as {encoding[:40]!r}, which was not asked for")
    body, length = bytearray(), 0
    async for chunk in response.aiter_raw():
        length += len(chunk)
        if length <= ANSWER_BYTES_MAX:
            body += chunk
    if length > ANSWER_BYTES_MAX:
        raise PlatformUnavailable(f"the answer has {length} bytes; the limit is {ANSWER_BYTES_MAX}")
    return bytes(body)


# Downloads.


async def _receive(response: httpx2.Response, sink: ResourceSink) -> None:
    """Pass a file on to the sink, or raise the error that the platform sent instead of it."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise PlatformUnavailable(f"the file is encoded as {encoding[:40]!r}, which was not asked for")
    headers = {name.lower(): value for name, value in response.headers.items()}
    await _each_chunk(response, _Receiver(response.status_code, headers, sink))


class _Receiver:
    """Takes the body of an answer that is a file or an error.

    A body that may be an error is held back until it is known to be the file.
    """

    def __init__(self, status: int, headers: dict[str, str], sink: ResourceSink) -> None:
        self._status = status
        self._headers = headers
        self._sink = sink
        self._held: bytearray | None = bytearray() if rest.may_be_error(status, headers) else None

    async def take(self, chunk: bytes) -> None:
        if self._held is None:
            await self._sink.write(chunk)
            return
        self._held += chunk
        if len(self._held) > rest.JSON_ERROR_BYTES_MAX:
            if self._status != 200:
                self._judge(b"")
            await self._let_go(self._held)

    def begin(self) -> None:
        if self._held is None:
            self._announce()

    async def end(self) -> None:
        if self._held is not None:
            self._judge(bytes(self._held))
            await self._let_go(self._held)

    def _judge(self, body: bytes) -> None:
        rest.judge_resource(rest.Answer(self._status, body, self._headers))

    async def _let_go(self, held: bytearray) -> None:
        self._held = None
        self._announce()
        if held:
            await self._sink.write(bytes(held))

    def _announce(self) -> None:
        length = self._headers.get("content-length", "")
        self._sink.begin(
            content_type=self._headers.get("content-type", ""),
            disposition=self._headers.get("content-disposition", ""),
            length=int(length) if length.isascii() and length.isdigit() else None,
        )


async def _each_chunk(response: httpx2.Response, receiver: _Receiver) -> None:
    """Give the body to the receiver, piece by piece.

    The library reads through nested generators. Only reading to the end, or a cancellation at the innermost read,
    closes all of them; leaving the loop early would leave them to the garbage collector. So after a failure of the
    receiver the read is cancelled, and the failure is raised afterwards.
    """
    failure: Exception | None = None
    with trio.CancelScope() as reading:
        try:
            receiver.begin()
        except Exception as error:
            failure = error
            reading.cancel()
        async for chunk in response.aiter_raw():
            if failure is not None:
                continue  # the cancellation takes effect at the next read, which may still return a chunk it has
            try:
                await receiver.take(chunk)
            except Exception as error:
                failure = error
                reading.cancel()
    if failure is not None:
        raise failure
    await receiver.end()
