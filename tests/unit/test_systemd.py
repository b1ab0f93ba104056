"""The unit file: what systemd itself says of it, and the promises the daemon relies on."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.config import known_keys, variable_of

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "gateway.service"


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(UNIT)
    return parser["Service"]


def test_unit_passes_systemd_analyze_verify(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.fail("systemd-analyze is not on PATH; it comes with the package `systemd` (apt install systemd)")
    # verify insists on a program that exists: it gets one that does nothing.
    program = tmp_path / "gateway"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "gateway.service"
    text, replaced = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={program}", UNIT.read_text())
    assert replaced == 1
    unit.write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if "gateway" in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_unit_is_notified_also_by_a_child(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "all"
    assert service["KillMode"] == "mixed"


def test_unit_does_not_restart_what_only_an_operator_can_mend(service: configparser.SectionProxy) -> None:
    assert service["Restart"] == "on-failure"
    assert {"2", "78"} <= set(service["RestartPreventExitStatus"].split())


def test_unit_gives_the_drain_its_time(service: configparser.SectionProxy) -> None:
    assert int(service["TimeoutStopSec"]) > 15
    assert service["LimitNOFILE"] == "65536"
    assert service["StateDirectory"] == "gateway"


def test_environment_example_names_only_variables_that_exist() -> None:
    known = {variable_of(key) for key in known_keys()}
    named = set(re.findall(r"(?m)^#?(GATEWAY_\w+)=", (SYSTEMD / "gateway.env.example").read_text()))
    assert named
    assert named <= known
