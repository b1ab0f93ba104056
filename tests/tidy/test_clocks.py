"""Which clock may be read where.

Intervals, limits, back-offs and caches use the monotonic clock. Sessions, tokens, leases and claims use the database's.
The wall clock of this machine may jump by an hour: what reads it stands here, with the reason why it may.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from support.sources import tree_of

SOURCE = Path(__file__).parents[2] / "src" / "gateway"

ALLOWED = {
    "cli/agent_server.py": "a deadline is measured against it when the server sends no Date",
    "cli/doctor.py": "shows how long ago something was",
    "cli/lark_install.py": "shows until when a code can be scanned",
    "daemon/foundation.py": "judges timestamps that senders sign, and the ends that people give to secrets",
    "lark/chat/connection.py": "shows when a bot last heard something",
    "postgres/migrate.py": "notes beside a migration when it was applied",
    "simulator/clock.py": "plays a platform, whose events carry wall time",
    "supervisor/lease.py": "a gauge that Prometheus compares with its own wall clock",
    "work/tasks/file_cache.py": "file systems stamp files with it; a jump only changes which file is fetched again",
}
WALL = {
    "time": {"time", "time_ns", "gmtime", "localtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}
LIMITER = "rate_limit.py"
WALL_LIMITERS = {"FixedWindowRateLimiter", "SlidingWindowCounterRateLimiter", "MemoryStorage", "storage_from_string"}
"""What of the library `limits` asks the wall clock by itself."""


def _reads(tree: ast.AST) -> Iterator[str]:
    """Each use of the wall clock: called or handed on."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if node.attr in WALL.get(owner, ()):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (alias.name for alias in node.names if alias.name in WALL["time"])


def _modules() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).as_posix(), tree_of(path)


def test_wall_clock_is_read_only_where_there_is_a_reason() -> None:
    reading = {name for name, tree in _modules() if any(_reads(tree))}
    assert reading == set(ALLOWED)


def test_every_use_of_the_wall_clock_is_noticed() -> None:
    uses = (
        "import time\ntime.time()",
        "from time import time",
        "import datetime\ndatetime.datetime.now()",
        "from datetime import datetime\nclock = datetime.now",
        "from datetime import date\ndate.today()",
    )
    assert all(any(_reads(ast.parse(use))) for use in uses)
    assert not any(_reads(ast.parse("import time\ntime.monotonic()")))


def test_limits_are_counted_by_our_own_storage() -> None:
    for name, tree in _modules():
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "limits"
            for alias in node.names
        }
        assert not imported & (WALL_LIMITERS - ({"MemoryStorage"} if name == LIMITER else set())), name
