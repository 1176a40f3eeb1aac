"""Two hosts, as network namespaces that a virtual cable connects. Needs the rights to create them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed.test_group import PROGRAM, STEPS, finish, results, run

HOSTS = [f"l2m{os.getpid()}a", f"l2m{os.getpid()}b"]
CABLE = "l2mcable"
ADDRESSES = ["10.197.31.1", "10.197.31.2"]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Connect two hosts. Skip where that is not allowed."""
    if shutil.which("ip") is None:
        pytest.skip("the program ip (iproute2) is not installed")
    try:
        ip("netns", "add", HOSTS[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed: {error.stderr.strip()}")
    try:
        ip("netns", "add", HOSTS[1])
        ip("link", "add", CABLE, "netns", HOSTS[0], "type", "veth", "peer", "name", CABLE, "netns", HOSTS[1])
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                ip("-n", host, "link", "set", device, "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)


def start(folder: Path, steps: int) -> list[subprocess.Popen[str]]:
    """Start the program on both hosts, which meet at the address of the first."""
    processes = []
    for rank, host in enumerate(HOSTS):
        meeting = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29511", "GLOO_SOCKET_IFNAME": CABLE, "WORLD_SIZE": "2"}
        processes.append(
            subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    host,
                    sys.executable,
                    str(PROGRAM),
                    str(folder),
                    f"steps={steps}",
                    "timeout=30",
                ],
                env={**os.environ, **meeting, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


@pytest.mark.usefixtures("hosts")
def test_two_hosts_take_the_same_global_batches_as_one(tmp_path: Path) -> None:
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    alone.mkdir()
    for status, errors in finish(start(together, STEPS)):
        assert status == 0, errors
    run(alone, 1, steps=STEPS)
    assert results(together) == results(alone)


@pytest.mark.usefixtures("hosts")
def test_a_cable_that_is_cut_gives_an_error_on_both_hosts(tmp_path: Path) -> None:
    processes = start(tmp_path, 10_000_000)
    deadline = time.monotonic() + 120
    while len(results(tmp_path)[0]) < 20:
        assert time.monotonic() < deadline, "the hosts take no batches"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    ip("-n", HOSTS[1], "link", "set", CABLE, "down")
    for status, errors in finish(processes):  # within the timeout of the group
        assert status == 1
        assert "RuntimeError" in errors
