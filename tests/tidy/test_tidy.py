"""What no type checker sees: arrows, unused SQL, stale generated files, shields, documents that name what is gone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.sources import tree_of

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "gateway"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_pb2.py"))
VAGUE_NAMES = {"utils", "common", "helpers", "misc", "manager", "handler", "processor"}


def test_arrows_of_the_house_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_modules_have_telling_names() -> None:
    assert not [path for path in MODULES if path.stem in VAGUE_NAMES]


def test_every_module_says_what_it_is_for() -> None:
    silent = [path for path in MODULES if not ast.get_docstring(tree_of(path))]
    assert not silent


def test_first_platform_is_named_only_where_it_is_meant() -> None:
    """Anywhere else a platform's slug is data that came with its registration."""
    named = {path.relative_to(SOURCE).as_posix() for path in MODULES if '"feishu"' in path.read_text()}
    meant = ("lark/", "simulator/", "cli/lark", "legacy/rows.py", "http/api/installations.py")
    assert not [path for path in named if not path.startswith(meant)]


NEUTRAL_ROOMS = ("channel", "core", "inbound", "observe", "outbound", "postgres", "supervisor", "webhooks", "work")
OUTSIDE_NAMES = (
    "/lark/bind", "gateway lark bind", "gateway lark unbind", "lark_chat",
    "lark_installation:created", "lark_installation:revoked", '"lark"', '"open_id"', '"union_id"', '"tenant_key"',
)  # fmt: skip
"""Names that other programs and people rely on, and that stay whatever platforms come."""
PLATFORM_WORDS = re.compile(
    r"\w*(?:lark|feishu|飞书|open_id|union_id|tenant_key|encrypt_key|verification_token)\w*", re.IGNORECASE
)
ABOUT_PLATFORMS = "channel/__init__.py"
"""Says how to add a platform, and names the first one as the example."""


def platform_words(text: str) -> list[str]:
    for name in OUTSIDE_NAMES:
        text = text.replace(name, "")
    return PLATFORM_WORDS.findall(text)


@pytest.mark.parametrize("room", NEUTRAL_ROOMS)
def test_room_without_a_platform_holds_no_word_of_one(room: str) -> None:
    found = []
    for path in (path for path in MODULES if path.is_relative_to(SOURCE / room)):
        if path.relative_to(SOURCE).as_posix() != ABOUT_PLATFORMS:
            found += [f"{path.name}: {word}" for word in platform_words(path.read_text())]
    assert not found


def test_statements_hold_no_word_of_a_platform() -> None:
    """Except for a table that has its name, and for what is imported from the reference product."""
    paths = [path for path in (ROOT / "sql").glob("*.sql") if not path.name.startswith("legacy")]
    texts = {path.name: path.read_text().replace("lark_install_session", "") for path in paths}
    assert "installation.sql" in texts
    assert not {name: words for name, text in texts.items() if (words := platform_words(text))}


ROLE_RULES = "work/people/access.py"


def roles_judged(tree: ast.AST) -> Iterator[str]:
    """Each role that a comparison, a set, a list or a dict of the module names."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                judged = [left, *others]
            case ast.Set(elts=judged) | ast.List(elts=judged) | ast.Dict(keys=judged):
                pass
            case _:
                continue
        inner = (part for each in judged if each is not None for part in ast.walk(each))
        yield from (part.value for part in inner if isinstance(part, ast.Constant) and part.value in ("admin", "guest"))


def test_roles_are_judged_in_one_module() -> None:
    # `gateway admin` is a command: the command line has a word of its own that is no role.
    rooms = [path for path in MODULES if not path.is_relative_to(SOURCE / "cli")]
    judging = [path for path in rooms if any(roles_judged(tree_of(path)))]
    assert judging == [SOURCE / ROLE_RULES]
    for judged in ('role in ("owner", "admin")', 'role != "guest"', 'LEADERS = {"owner", "admin"}'):
        assert any(roles_judged(ast.parse(judged))), judged


def shields(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and any(keyword.arg == "shield" for keyword in node.keywords):
            yield node.lineno
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Attribute) and t.attr == "shield" for t in node.targets
        ):
            yield node.lineno


def test_shields_live_in_finishing_alone() -> None:
    found = {path.relative_to(SOURCE).as_posix() for path in MODULES if any(shields(tree_of(path)))}
    assert found == {"concurrency.py"}


def statements() -> dict[str, str]:
    named = {}
    for path in sorted((ROOT / "sql").glob("*.sql")):
        for name in re.findall(r"^-- name:\s*(\w+)", path.read_text(), re.MULTILINE):
            assert name not in named, f"{name} stands in {named[name]} and {path.name}"
            named[name] = path.name
    return named


def test_every_statement_has_a_name_of_its_own_and_a_caller() -> None:
    sources = [path.read_text() for path in (*SOURCE.glob("postgres/*.py"), *SOURCE.glob("legacy/*_store.py"))]
    named = statements()
    assert named
    undeclared = [f"{file}: {name}" for name, file in named.items() if not any(f'"{name}"' in text for text in sources)]
    assert not undeclared
    declared = [(each, text) for text in sources for each in re.findall(r"(?m)^(_?[A-Z_]+) = _SQL\.", text)]
    assert declared
    assert not [name for name, text in declared if len(re.findall(rf"\b{name}\b", text)) < 2]


def test_every_statement_says_why() -> None:
    silent = []
    for path in sorted((ROOT / "sql").glob("*.sql")):
        for block in re.split(r"(?m)^(?=-- name:)", path.read_text())[1:]:
            comments = [line for line in block.splitlines()[1:] if line.startswith("--")]
            if not comments:
                silent.append(f"{path.name}: {block.splitlines()[0]}")
    assert not silent


def test_generated_protobuf_module_is_fresh(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "grpc_tools.protoc",
        "--proto_path=protocol",
        f"--python_out={tmp_path}",
        f"--pyi_out={tmp_path}",
    ]
    subprocess.run([*command, "protocol/pbbp2.proto"], cwd=ROOT, check=True)
    for name in ("pbbp2_pb2.py", "pbbp2_pb2.pyi"):
        assert (tmp_path / name).read_bytes() == (SOURCE / "lark/wire" / name).read_bytes()


def test_every_migration_has_its_rollback() -> None:
    forward = {path.name for path in (ROOT / "migrations").glob("*.sql") if ".rollback." not in path.name}
    assert forward
    assert {name.replace(".sql", ".rollback.sql") for name in forward} == {
        path.name for path in (ROOT / "migrations").glob("*.rollback.sql")
    }


def documents() -> list[Path]:
    return sorted(path for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md") + sorted(
        path for folder in ("docs", "tests", "protocol", "bench") for path in (ROOT / folder).glob("*.md")
    )


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_documents_name_only_files_that_exist(document: Path) -> None:
    text = document.read_text()
    named = re.findall(r"`((?:src|tests|sql|migrations|systemd|protocol|bench|requirements)/[\w./-]*)`", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_readme_names_only_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9_-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z0-9_-]+)", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets
