"""Names, types and headers of files that people send: samples, and rules that hold for whatever comes."""

from __future__ import annotations

import re
import unicodedata
from email.message import EmailMessage
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.attachments import (
    NAME_CHARS_MAX,
    Described,
    KeptFile,
    checked_type,
    content_disposition,
    describe,
    display_name,
    disposition_name,
    extension_of,
    judge_type,
    to_evict,
    unable_line,
)

PNG = b"\x89PNG\r\n\x1a\n\x00\x00"
HOSTILE = 'a\r\nSet-Cookie: x\x00"; filename="b\u202egpj.exe/../../etc/passwd\\..\\évil\'%2e%2e' + "x" * 4096
anything = st.text(max_size=200) | st.text(alphabet="./\\\"'\r\n\x00;=%*\u202e\u2066\u2028 aé", max_size=60)


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("report.pdf", "report.pdf"),
        ("  Bericht  Q3 .pdf ", "Bericht Q3 .pdf"),
        ("报告 2026.docx", "报告 2026.docx"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ada\\x.pdf", "x.pdf"),
        ("..", ""),
        (".bashrc", "bashrc"),
        ("a\r\nb.txt", "a b.txt"),
        ("a\x00b.txt", "ab.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("x" * 300 + ".tar", "x" * (NAME_CHARS_MAX - 4) + ".tar"),
        ("\ud83d.png", "png"),
        ("", ""),
    ],
)
def test_display_name_shows_one_harmless_line(given_name: str, shown: str) -> None:
    assert display_name(given_name) == shown


@given(anything)
@example(HOSTILE)
def test_display_name_is_never_a_path_nor_hides_anything(text: str) -> None:
    name = display_name(text)
    assert len(name) <= NAME_CHARS_MAX
    assert not set(name) & {"/", "\\", "\0", "\r", "\n"}
    assert not name.startswith(".")
    assert name == name.strip()
    joiners = {"\u200c", "\u200d"}
    assert not [c for c in name if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and c not in joiners]
    assert display_name(name) == name


@pytest.mark.parametrize(
    ("said", "is_"),
    [
        ("image/PNG", "image/png"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("application/vnd.ms-excel", "application/vnd.ms-excel"),
        ("", ""),
        ("image", ""),
        ("image/", ""),
        ("image/png, text/html", ""),
        ("image/png\r\nX-Evil: 1", ""),
        ("image/png\n", ""),
        ('image/"png"', ""),
        ("a/" + "b" * 4096, ""),
    ],
)
def test_type_is_checked(said: str, is_: str) -> None:
    assert checked_type(said) == is_


@given(anything)
@example("text/html\r\nSet-Cookie: a=b")
def test_judged_type_can_always_stand_in_a_header(text: str) -> None:
    assert re.fullmatch(r"[!#$&^_.+a-z0-9-]+/[!#$&^_.+a-z0-9-]+", judge_type("file", text))


@pytest.mark.parametrize(
    ("kind", "said", "head", "is_"),
    [
        ("image", "image/jpeg", PNG, "image/jpeg"),
        ("image", "application/octet-stream", PNG, "image/png"),
        ("image", "", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        ("image", "", b"whatever", "application/octet-stream"),
        ("audio", "", b"OggS\x00\x02", "audio/opus"),
        ("audio", "application/octet-stream", b"\x00\x01", "audio/opus"),
        ("audio", "audio/ogg; codecs=opus", b"OggS", "audio/ogg"),
        ("video", "", b"\x00\x00\x00\x18ftypisom", "video/mp4"),
        ("file", "", b"%PDF-1.7", "application/pdf"),
        ("file", "application/json", b"{}", "application/json"),
    ],
)
def test_type_is_the_servers_word_else_what_the_first_bytes_say(kind: str, said: str, head: bytes, is_: str) -> None:
    assert judge_type(kind, said, head) == is_


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="report.pdf"', "report.pdf"),
        ("attachment; filename=report.pdf", "report.pdf"),
        ("attachment; filename=\"x.txt\"; filename*=UTF-8''%E6%8A%A5%E5%91%8A.txt", "报告.txt"),
        ('attachment; filename="%E6%8A%A5%E5%91%8A.txt"', "报告.txt"),
        ('attachment; filename="100%.txt"', "100%.txt"),
        ('attachment; filename="a\\"b.txt"', 'a"b.txt'),
        ("attachment; filename*=UTF-8''%FF%FE", ""),
        ("attachment; filename*=koi8-r''x", ""),
        ("inline", ""),
        ("", ""),
        ('attachment; filename="unterminated', ""),
    ],
)
def test_name_of_a_disposition_header_is_read(header: str, name: str) -> None:
    assert disposition_name(header) == name


@given(anything)
@example(HOSTILE)
def test_disposition_header_of_any_name_is_one_header_that_clients_read_back(text: str) -> None:
    header = content_disposition(text)
    assert header.isascii()
    assert header.isprintable()
    parsed = EmailMessage()
    parsed["Content-Disposition"] = header
    assert parsed.get_content_disposition() == "attachment"
    plain, _, full = header.removeprefix('attachment; filename="').partition("\"; filename*=UTF-8''")
    assert '"' not in plain
    assert unquote(full) == (display_name(text) or "file")
    assert disposition_name(header) == (display_name(text) or "file")


@given(anything, anything, anything, st.binary(max_size=64), st.sampled_from(["image", "file", "audio", "video"]))
def test_description_is_harmless_whatever_comes(name: str, header: str, said: str, head: bytes, kind: str) -> None:
    described = describe(kind, name, disposition=header, content_type=said, head=head)
    assert described.name
    assert display_name(described.name) == described.name or len(described.name) > NAME_CHARS_MAX
    assert "\n" not in described.name
    assert "/" not in described.name
    assert described.mime_type.count("/") == 1
    # Described once more (a file that is fetched again, a row that is shown), it stays what it is.
    assert describe(kind, described.name, content_type=described.mime_type) == described


@pytest.mark.parametrize(
    ("kind", "name", "disposition", "said", "described"),
    [
        ("image", "", "", "image/png", Described("image.png", "image/png")),
        ("image", "", 'attachment; filename="cat.jpg"', "image/jpeg", Described("cat.jpg", "image/jpeg")),
        ("file", "report", "", "application/pdf", Described("report.pdf", "application/pdf")),
        ("file", "a.pdf", 'attachment; filename="other.pdf"', "", Described("a.pdf", "application/octet-stream")),
        ("audio", "", "", "", Described("audio.opus", "audio/opus")),
        ("video", "clip.mov", "", "video/mp4", Described("clip.mov", "video/mp4")),
        ("file", "notes", "", "", Described("notes", "application/octet-stream")),
    ],
)  # fmt: skip
def test_file_is_described_by_message_then_header_then_kind(
    kind: str, name: str, disposition: str, said: str, described: Described
) -> None:
    assert describe(kind, name, disposition=disposition, content_type=said) == described


@pytest.mark.parametrize(
    ("name", "extension"),
    [("a.PDF", ".pdf"), ("a.tar.gz", ".gz"), ("a", ""), (".x", ""), ("a.", ""), ("a.b c", ""), ("v1.0 final", "")],
)
def test_extension_is_what_could_be_one(name: str, extension: str) -> None:
    assert extension_of(name) == extension


def test_file_that_could_not_be_had_is_named_honestly() -> None:
    assert unable_line("file", "report.pdf") == "[report.pdf: unable to fetch]"
    assert unable_line("image", "") == "[Image: unable to fetch]"


def kept(key: str, size: int, used_at: float) -> KeptFile[str]:
    return KeptFile(key, size, used_at)


def test_longest_unused_files_go_until_the_rest_fits() -> None:
    files = [kept("new", 50, 30), kept("old", 40, 10), kept("middle", 30, 20)]
    assert to_evict(files, bytes_max=200, used_after=0) == []
    assert to_evict(files, bytes_max=100, used_after=0) == ["old"]
    assert to_evict(files, bytes_max=50, used_after=0) == ["old", "middle"]
    assert to_evict(files, bytes_max=0, used_after=0) == ["old", "middle", "new"]
    assert to_evict(files, bytes_max=200, used_after=15) == ["old"]
