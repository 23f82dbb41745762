"""A file of prompts over a cluster: 500 distinct files, though the run and its workers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray_cluster
from test_bulk import MANIFEST, check_complete, entries_of, rows_of

pytest.importorskip("ray", reason="Ray is not installed: pip install 'riffusion-rt[scale]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of pydantic.

assert ray_cluster.STORE_BYTES


def test_a_maker_that_is_killed_is_replaced_and_its_clip_made_once(toy_bundle: Path, tmp_path: Path) -> None:
    from riffusion_rt.bulk import BulkFolder, make_all
    from riffusion_rt.scale.bulk_cluster import made_by_cluster
    from riffusion_rt.scale.cluster_settings import ClusterSettings
    from riffusion_rt.scale.starting import LOCAL, cluster

    entries, out = entries_of(tmp_path, 16, str(toy_bundle)), tmp_path / "out"
    makers = ClusterSettings(least=2, most=2, cpus=1)
    killed = 0
    with cluster(LOCAL, num_cpus=3), BulkFolder(out, entries, ".wav") as folder:
        maker = made_by_cluster(str(toy_bundle), {"device": "cpu", "threads": 1}, ".wav", makers)
        for number, _ in enumerate(make_all(folder, maker)):
            if number == 2:
                killed = _kill_a_maker(os.getpid())
    assert killed
    check_complete(out, 16)


@pytest.mark.thorough
def test_of_500_prompts_killed_three_times_there_are_500_files(toy_bundle: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "prompts.txt", tmp_path / "out"
    path.write_text("".join(f"funky piano {line}\n" for line in range(500)))
    command = [sys.executable, "-m", "riffusion_rt", "batch", str(path), "-o", str(out), "--steps", "1"]
    command += ["--model", str(toy_bundle), "--device", "cpu", "--threads", "1", "-q"]
    command += ["--ray", "--replicas", "2"]
    for least, whom in ((100, "run"), (250, "maker and run")):
        process = subprocess.Popen(command)
        _wait_for(out, least, process)
        if whom != "run":
            assert _kill_a_maker(process.pid)
            _wait_for(out, least + 100, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(rows_of_a_killed_run(out)) < 500
    subprocess.run(command, check=True, timeout=1200)
    check_complete(out, 500)
    assert {row["prompt"] for row in rows_of(out)} == {f"funky piano {line}" for line in range(500)}


def rows_of_a_killed_run(out: Path) -> list[str]:
    """Its whole lines."""
    return (out / MANIFEST).read_text().splitlines()


def _wait_for(out: Path, least: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 900
    while not (out / MANIFEST).exists() or len(rows_of_a_killed_run(out)) < least:
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < until
        time.sleep(0.05)


def _kill_a_maker(run: int) -> int:
    """Kill one of the run's makers; 0 if there is none."""
    for pid in _descendants(run):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        if "MapWorker" in title:
            os.kill(pid, signal.SIGKILL)
            return pid
    return 0


def _descendants(of: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(folder.name))
    found, left = [], [of]
    while left:
        children = parents.get(left.pop(), [])
        found += children
        left += children
    return found
