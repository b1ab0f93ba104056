"""Signature checks: decide from the raw bytes of a request's body if its sender knows the trigger's secret.

A provider's way of signing is described by data (`Scheme`): the headers, the format of the signature, the bytes that
are signed, and the maximal age. Any content of a header leads to a verdict, never to an exception. Comparisons take
constant time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from gateway.webhooks.headers import RequestHeaders, header_bytes

TOLERANCE_SECONDS = 300
"""Maximal distance of a signed time from now. It keeps a recorded request from being accepted later."""
SIGNATURES_MAX = 20
"""Signatures that are read from one header. A sender that rotates its secret writes two."""
SECRET_CHARS_MIN = 16
SECRET_CHARS_MAX = 512
STANDARD_PREFIX = "whsec_"
KEY_BYTES_ADVISED = 24
"""The least length of a key in the Standard Webhooks specification. A shorter one is taken, with a warning."""

_SECONDS = re.compile(r"[0-9]{1,16}")
_URL_SAFE = str.maketrans("-_", "+/")


class SignatureStatus(StrEnum):
    NOT_REQUIRED = "not_required"
    VALID = "valid"
    INVALID = "invalid"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """A secret in the clear, which `repr` never shows. `value` is None for a stored secret that cannot be opened."""

    id: UUID
    value: str | None
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"<Secret {self.id}>"


@dataclass(frozen=True, slots=True)
class SignatureVerdict:
    """The result of a signature check. `secret_id` is the secret that matched.

    `detail` says what is wrong, and repeats nothing that the sender wrote. `undecided`: no readable secret matched, but
    one secret could not be read. The request is not accepted then, and the fault may be the server's.
    """

    status: SignatureStatus
    secret_id: UUID | None = None
    detail: str = ""
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class SignatureClaim:
    """The claim that the headers make: one of `signatures` signs `prefix` and the body, and was made at `timestamp`."""

    signatures: tuple[bytes, ...]
    prefix: bytes = b""
    timestamp: int | None = None


@dataclass(frozen=True, slots=True)
class HeaderNames:
    """The headers of one dialect. A timestamp or an id with a header of its own is part of the signed bytes."""

    signature: str
    timestamp: str = ""
    id: str = ""


class Malformed(Exception):
    """The headers hold no signature that can be checked. The text says why. Never leaves this module."""


Reader = Callable[[RequestHeaders, HeaderNames], SignatureClaim]
KeyOf = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Scheme:
    """A provider's way of signing. `digest` is None if the header holds the secret itself."""

    dialects: tuple[HeaderNames, ...]
    read: Reader
    key_of: KeyOf
    digest: str | None = "sha256"
    tolerance_seconds: int | None = None

    @property
    def signature_headers(self) -> tuple[str, ...]:
        return tuple(names.signature for names in self.dialects)


# --- how headers are read ---------------------------------------------------------------------------------------------


def _read_hex(headers: RequestHeaders, names: HeaderNames) -> SignatureClaim:
    """Read a header of the form `sha256=<hex>`."""
    kind, found, digits = _only(headers, names.signature).partition("=")
    if not found or kind != "sha256":
        raise Malformed("the signature does not begin with sha256=")
    return SignatureClaim((_unhex(digits),))


def _read_plain(headers: RequestHeaders, names: HeaderNames) -> SignatureClaim:
    return SignatureClaim((header_bytes(_only(headers, names.signature)),))


def _read_pairs(headers: RequestHeaders, names: HeaderNames) -> SignatureClaim:
    """Read a header of the form `t=<seconds>,v1=<hex>,…`. Pairs with other names are of other versions and ignored."""
    pairs = [part.strip().partition("=") for part in _only(headers, names.signature).split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    if len(times) != 1:
        raise Malformed("the signature header has not exactly one time")
    signatures = tuple(_readable(_unhex, (value for name, _, value in pairs if name == "v1")))
    return SignatureClaim(signatures, header_bytes(times[0]) + b".", _seconds(times[0]))


def _read_versions(headers: RequestHeaders, names: HeaderNames) -> SignatureClaim:
    """Read a header of the form `v1,<base64>`, repeated with blanks between. Id and time have headers of their own."""
    identity, time = _only(headers, names.id), _only(headers, names.timestamp)
    versions = [part.partition(",") for part in _only(headers, names.signature).split()]
    signatures = tuple(_readable(_unbase64, (value for version, _, value in versions if version == "v1")))
    return SignatureClaim(signatures, header_bytes(identity) + b"." + header_bytes(time) + b".", _seconds(time))


def _only(headers: RequestHeaders, name: str) -> str:
    """Return the only value of a header. Raises Malformed for several, because the right one is unknown."""
    values = headers.every(name)
    if len(values) != 1:
        raise Malformed(f"the header {name} is {'missing' if not values else 'there more than once'}")
    return values[0]


def _seconds(text: str) -> int:
    if not _SECONDS.fullmatch(text):
        raise Malformed("the signed time is not a number of seconds")
    return int(text)


def _readable(decode: Callable[[str], bytes], texts: Iterable[str]) -> Iterator[bytes]:
    """Yield the signatures that can be decoded. A bad signature does not invalidate a good one beside it."""
    for count, text in enumerate(texts):
        if count == SIGNATURES_MAX:
            return
        try:
            yield decode(text)
        except Malformed:
            continue


def _unhex(text: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except ValueError as error:
        raise Malformed("the signature is not hexadecimal") from error


def _unbase64(text: str) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet, with or without padding. Raises Malformed."""
    digits = text.rstrip("=").translate(_URL_SAFE)
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError as error:
        raise Malformed("the signature is not base64") from error


def _text_key(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")


def _standard_key(secret: str) -> bytes:
    """Decode a secret written in base64, with or without `whsec_` before it. Raises Malformed."""
    return _unbase64(secret.removeprefix(STANDARD_PREFIX))


_WEBHOOK = HeaderNames("webhook-signature", "webhook-timestamp", "webhook-id")
_SVIX = HeaderNames("svix-signature", "svix-timestamp", "svix-id")


def _standard(*dialects: HeaderNames) -> Scheme:
    return Scheme(dialects, _read_versions, _standard_key, tolerance_seconds=TOLERANCE_SECONDS)


_HUB = Scheme((HeaderNames("x-hub-signature-256"),), _read_hex, _text_key)
_GITLAB_TOKEN = Scheme((HeaderNames("x-gitlab-token"),), _read_plain, _text_key, digest=None)
_STRIPE = Scheme((HeaderNames("stripe-signature"),), _read_pairs, _text_key, tolerance_seconds=TOLERANCE_SECONDS)

SCHEMES: dict[str, tuple[Scheme, ...]] = {
    "generic": (_HUB,),
    "github": (_HUB,),
    # GitLab 19 signs with a signing token, and older ones send the secret token itself. With both set up it sends both.
    # The signature decides then, because it also covers the body.
    "gitlab": (_standard(_WEBHOOK), _GITLAB_TOKEN),
    "stripe": (_STRIPE,),
    "standard_webhooks": (_standard(_WEBHOOK, _SVIX),),
    "svix": (_standard(_SVIX, _WEBHOOK),),
    "none": (),
}
"""Every provider that a trigger can name, with its ways of signing, the preferred one first.

The headers of a request select one of them. A provider without any never signs.
"""
SECRET_EXPECTED = frozenset({"github", "gitlab", "stripe"})
"""Providers that sign whenever they are given a secret, so that a trigger without one is likely an oversight."""


# --- the verdict ------------------------------------------------------------------------------------------------------


def asks_for_signature(provider: str, secrets: Sequence[SigningSecret]) -> bool:
    """True if requests must be signed: the trigger has a secret, and its provider signs."""
    return bool(secrets) and bool(SCHEMES.get(provider))


def judge_signature(
    provider: str, secrets: Sequence[SigningSecret], headers: RequestHeaders, body: bytes, now: datetime
) -> SignatureVerdict:
    """Judge a request by the secrets of its trigger.

    Expired secrets match nothing, but they still require a signature. A trigger whose secrets have all expired accepts
    no request.
    """
    if not asks_for_signature(provider, secrets):
        return SignatureVerdict(SignatureStatus.NOT_REQUIRED)
    selected = _selected(provider, headers)
    if selected is None:
        return SignatureVerdict(SignatureStatus.MISSING, detail="the request carries no signature")
    scheme, names = selected
    try:
        claim = scheme.read(headers, names)
        _check_time(claim, scheme, now)
    except Malformed as error:
        return SignatureVerdict(SignatureStatus.INVALID, detail=str(error))
    return _match(scheme, claim, secrets, body, now)


def unread_signature(provider: str, secrets: Sequence[SigningSecret], headers: RequestHeaders) -> SignatureStatus:
    """Return the status for a request whose body was not read to its end: nothing can be valid about it."""
    if not asks_for_signature(provider, secrets):
        return SignatureStatus.NOT_REQUIRED
    return SignatureStatus.MISSING if _selected(provider, headers) is None else SignatureStatus.INVALID


def _selected(provider: str, headers: RequestHeaders) -> tuple[Scheme, HeaderNames] | None:
    """Return the way of signing whose header the request has."""
    ways = ((scheme, names) for scheme in SCHEMES.get(provider, ()) for names in scheme.dialects)
    return next(((scheme, names) for scheme, names in ways if names.signature in headers), None)


def secret_problem(provider: str, secret: str) -> str | None:
    """Return the reason why `secret` cannot sign for `provider`, or None when it can."""
    schemes = SCHEMES.get(provider)
    if not schemes:
        return "this provider does not sign: a secret would never be checked"
    if not SECRET_CHARS_MIN <= len(secret) <= SECRET_CHARS_MAX:
        return f"a signing secret has {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters"
    if not secret.isprintable():
        return "a signing secret has no control characters"
    if not any(_key(scheme, secret) for scheme in schemes):
        return f"a signing secret of this provider is base64, with or without {STANDARD_PREFIX} before it"
    return None


def secret_warning(provider: str, secret: str) -> str | None:
    """Return a warning about a secret that is accepted, but whose key is shorter than advised."""
    schemes = SCHEMES.get(provider, ())
    decoding = next((scheme for scheme in schemes if scheme.key_of is _standard_key), None)
    is_text = len(schemes) > 1 and not secret.startswith(STANDARD_PREFIX)
    key = None if decoding is None or is_text else _key(decoding, secret)
    if not key or len(key) >= KEY_BYTES_ADVISED:
        return None
    return f"the signing secret's key has {len(key)} bytes; at least {KEY_BYTES_ADVISED} random ones are advised"


def _key(scheme: Scheme, secret: str) -> bytes | None:
    try:
        return scheme.key_of(secret)
    except Malformed:
        return None


def signature_headers(provider: str) -> tuple[str, ...]:
    """Return the headers that may hold this provider's signature."""
    return tuple(name for scheme in SCHEMES.get(provider, ()) for name in scheme.signature_headers)


def _check_time(claim: SignatureClaim, scheme: Scheme, now: datetime) -> None:
    if claim.timestamp is None or scheme.tolerance_seconds is None:
        return
    if abs(now.timestamp() - claim.timestamp) <= scheme.tolerance_seconds:
        return
    is_thousandfold = abs(now.timestamp() - claim.timestamp / 1000) <= scheme.tolerance_seconds
    hint = "; milliseconds? It is signed in seconds" if is_thousandfold else ""
    raise Malformed(f"the signed time is more than {scheme.tolerance_seconds} s away from now{hint}")


def _match(
    scheme: Scheme, claim: SignatureClaim, secrets: Sequence[SigningSecret], body: bytes, now: datetime
) -> SignatureVerdict:
    unread = False
    for secret in secrets:
        if secret.expires_at is not None and secret.expires_at <= now:
            continue
        if secret.value is None:
            unread = True
        elif _matches(scheme, claim, secret.value, body):
            return SignatureVerdict(SignatureStatus.VALID, secret.id)
    if unread:
        return SignatureVerdict(SignatureStatus.INVALID, detail="a stored secret cannot be read", undecided=True)
    return SignatureVerdict(SignatureStatus.INVALID, detail="the signature matches no live secret")


def _matches(scheme: Scheme, claim: SignatureClaim, secret: str, body: bytes) -> bool:
    key = _key(scheme, secret)
    if not key:
        return False
    expected = key if scheme.digest is None else _signed(scheme.digest, key, claim.prefix, body)
    # Every signature is compared, without a short circuit, so that the time taken does not reveal which one matched.
    return any([hmac.compare_digest(expected, signature) for signature in claim.signatures])  # noqa: C419


def _signed(digest: str, key: bytes, prefix: bytes, body: bytes) -> bytes:
    mac = hmac.new(key, prefix, getattr(hashlib, digest))
    mac.update(body)
    return mac.digest()
