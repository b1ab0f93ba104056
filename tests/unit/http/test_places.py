"""Places at what stays open: for the process, and for each who asks."""

from __future__ import annotations

from contextlib import ExitStack
from io import BytesIO

import pytest

from gateway.errors import TooMany
from gateway.http.api.attachments import FileBody
from gateway.http.places import RETRY_SECONDS, Places


def refusal(places: Places, holder: str) -> TooMany:
    with pytest.raises(TooMany) as refused:
        places.require(holder)
    return refused.value


def test_holder_who_has_their_share_keeps_nobody_else_out() -> None:
    places = Places("live streams", total=10, each=2)
    with places.take("ann"), places.take("ann"):
        refused = refusal(places, "ann")
        assert refused.code == "too_many_live_streams"
        assert refused.extra == {"retry_after": RETRY_SECONDS}
        places.require("bob")
        with pytest.raises(TooMany), places.take("ann"):
            raise AssertionError("there was no place")
        assert places.taken == 2
    places.require("ann")
    assert not places._taken


def test_process_has_only_so_many() -> None:
    places = Places("downloads", total=3, each=2)
    with ExitStack() as stack:
        for holder in ("ann", "ann", "bob"):
            stack.enter_context(places.take(holder))
        assert refusal(places, "cyd").code == "too_many_downloads"
        assert not places._taken["cyd"]


def test_place_is_given_back_whatever_ends_its_block() -> None:
    places = Places("claims", total=1, each=1)
    with pytest.raises(ZeroDivisionError), places.take("ann"):
        raise ZeroDivisionError
    places.require("ann")


async def test_download_holds_its_place_until_it_is_over() -> None:
    places = Places("downloads", total=1, each=1)
    file = BytesIO(b"some words")
    async with FileBody(file, places.take("ann")) as body:
        assert [chunk async for chunk in body] == [b"some words"]
        refusal(places, "bob")
        late = BytesIO()
        with pytest.raises(TooMany):
            await FileBody(late, places.take("bob")).__aenter__()
        assert late.closed
    assert file.closed
    places.require("bob")
