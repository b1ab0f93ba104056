"""The directory's rules that need no store."""

from __future__ import annotations

import re

import pytest

from gateway.work.people.directory import RESERVED_SLUGS, SLUG_LENGTH_MAX, slug_of


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Acme", "acme"),
        ("  Acme & Söhne, Inc. ", "acme-sohne-inc"),
        ("研发部", "yan-fa-bu"),
        ("Отдел продаж", "otdel-prodazh"),
        ("日本語", "ri-ben-yu"),
        ("🙂", "workspace"),
        ("A&#26085;B", "a-26085-b"),
        ("研发 R2", "yan-fa-r2"),
        ("Login", "workspace-login"),
        ("API", "workspace-api"),
        ("x" * 100, "x" * SLUG_LENGTH_MAX),
        ("x" * (SLUG_LENGTH_MAX - 1) + " y", "x" * (SLUG_LENGTH_MAX - 1)),
        ("---", "workspace"),
    ],
)
def test_slug_is_a_path_segment_of_its_own(name: str, slug: str) -> None:
    assert slug_of(name) == slug
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", slug)
    assert slug not in RESERVED_SLUGS
