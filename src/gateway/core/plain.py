"""Text of programs as people should see it: without the codes of a terminal, and of whole characters. Pure."""

from __future__ import annotations

import re

_TERMINAL_CODE = re.compile(
    r"""
      (?: \x1b\[ | \x9b ) [0-?]* [ -/]* [@-~]                         # colours, cursor movements (CSI)
    | (?: \x1b[\]PX^_] | [\x9d\x90\x98\x9e\x9f] ) [^\x07\x1b\x9c\n]* (?: \x07 | \x1b\\ | \x9c )   # titles, links (OSC)
    | \x1b [ -/]* [0-~]                                               # anything shorter, or without its end
    """,
    re.VERBOSE,
)
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
"""Control characters except the line end and the tab, and the byte order mark."""
# Matches every escape of JSON whole, so that no match begins inside another escape. The group holds one half of a
# surrogate pair that stands without its other half.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def plain(text: str) -> str:
    """Return what a terminal would have left on the screen, as text that can be stored and sent.

    Of a line that a program wrote over again and again (a spinner, a progress bar) the last state is left. The two
    halves of a surrogate pair become one character, and a half without its other half becomes U+FFFD.
    """
    whole = text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if not _UNSEEN.search(whole):
        return whole
    drawn = _TERMINAL_CODE.sub("", whole).replace("\r\n", "\n")
    if "\r" in drawn:
        drawn = "\n".join(_last_state(line) for line in drawn.split("\n"))
    return _UNSEEN.sub("", drawn)


def _last_state(line: str) -> str:
    states = [state for state in line.split("\r") if state]
    return states[-1] if states else ""


def with_whole_characters(json: bytes) -> bytes:
    """Return JSON with U+FFFD in place of each escaped half of a surrogate pair that stands without its other half.

    Senders produce such halves when they cut a text in the middle of an emoji.
    """
    if b"\\ud" not in json and b"\\uD" not in json:
        return json
    return _ESCAPE.sub(lambda found: found[0] if found[1] is None else b"\\ufffd", json)
