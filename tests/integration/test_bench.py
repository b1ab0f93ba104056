"""The bench of webhooks, with numbers too small to mean anything: it must go on working."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

ROOT = Path(__file__).parents[2]


async def test_bench_of_webhooks_measures_both_sides_and_the_log() -> None:
    small = ["--rounds", "1", "--requests", "40", "--rows", "300", "--searched", "100"]
    with trio.fail_after(240):
        done = await trio.run_process(
            [sys.executable, "-m", "bench.webhooks", *small], cwd=ROOT, capture_stdout=True, check=False
        )
    report = done.stdout.decode()
    assert done.returncode == 0, report
    assert "of the bare endpoint" in report
    assert "300 rows: first page and total" in report
    assert "100 rows: search by prefix" in report
