"""Text of people, on its way into Markdown."""

from __future__ import annotations


def without_links(text: str) -> str:
    """`text` in which nobody can mint a link: a space between `]` and `(`. Doing it twice changes nothing more.

    A definition (`[name]: address`) stays as it is: it shows its address.
    """
    return text.replace("](", "] (")


def without_mentions(text: str) -> str:
    """`text` that calls nobody: chats read `<at …>` as a mention, even of everybody."""
    return text.replace("<at", "< at")


def shortened(text: str, *, chars_max: int) -> str:
    """`text` of at most that many characters, on one line, with an ellipsis where something was cut off."""
    line = " ".join(text.split())
    return line if len(line) <= chars_max else line[: chars_max - 1].rstrip() + "…"
