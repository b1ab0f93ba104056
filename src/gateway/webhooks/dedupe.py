"""The names that senders give their deliveries. A second attempt at the same delivery is recognised by its name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from gateway.webhooks.headers import RequestHeaders

KEY_CHARS_MAX = 255
IDEMPOTENCY_KEY = "idempotency-key"
GITHUB_DELIVERY = "x-github-delivery"
WEBHOOK_ID = "webhook-id"
EVENT_ID_MEMBER = "id"
STRIPE_EVENT = "stripe-event-id"
"""Names the source of a key that is no header: Stripe puts the id of an event in the body."""

# The places where each provider writes the name of a delivery, the most specific first. GitLab repeats an event's UUID
# for hooks that its own hooks caused, so the names that its signature covers and its idempotency key come before it.
_FIRST: dict[str, tuple[str, ...]] = {
    "github": (GITHUB_DELIVERY,),
    "gitlab": (WEBHOOK_ID, IDEMPOTENCY_KEY, "x-gitlab-event-uuid"),
    "stripe": (STRIPE_EVENT,),
    "standard_webhooks": (WEBHOOK_ID, "svix-id"),
    "svix": ("svix-id", WEBHOOK_ID),
}
_ALWAYS = (IDEMPOTENCY_KEY, GITHUB_DELIVERY)


@dataclass(frozen=True, slots=True)
class DedupeKey:
    """The name of a delivery within its trigger, and the header (or body field) that it came from."""

    key: str
    source: str

    def of_other_body(self, digest: str) -> DedupeKey:
        """Return the name of a delivery that repeats this name with another body. Its own repeats share it."""
        return DedupeKey(f"{self.key}#{digest}", self.source)


def dedupe_key(provider: str, headers: RequestHeaders, body: object = None) -> DedupeKey | None:
    """Return the name of this delivery, or None for a request without one, which always counts as new.

    `body` is the parsed JSON, or the members of it that are read here.
    """
    for source in (*_FIRST.get(provider, ()), *_ALWAYS):
        value = _event_id(body) if source == STRIPE_EVENT else headers.first(source)
        if value:
            return DedupeKey(_bounded(value), source)
    return None


def body_digest(body: bytes) -> str:
    """Return a digest that tells the bodies of one name apart."""
    return hashlib.sha256(body).hexdigest()[:16]


def _event_id(body: object) -> str:
    identity = body.get(EVENT_ID_MEMBER) if isinstance(body, dict) else None
    return identity.strip() if isinstance(identity, str) else ""


def _bounded(key: str) -> str:
    """Return the key itself, or its hash if the index could not hold the key."""
    if len(key) <= KEY_CHARS_MAX and key.isprintable():
        return key
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
