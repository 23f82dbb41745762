"""A folder in the making promises to appear whole, to outlive a kill, and never to be taken up by other inputs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from riffusion_engine.errors import ExportError, OutputError
from riffusion_export.resume import folder_in_making, inputs_key

KEY, OTHER_KEY = "0" * 16, "f" * 16
_WORKER = """
import sys, time
from pathlib import Path
from riffusion_export.resume import folder_in_making
with folder_in_making(Path(sys.argv[1]), "0" * 16) as making:
    (making.path / "unet").mkdir()
    (making.path / "unet" / "weights").write_text("done")
    making.finish("unet", ["unet"], {"took": 3})
    (making.path / "vae").mkdir()
    print("half way", flush=True)
    time.sleep(60)
"""


def _worker_half_way(output: Path) -> subprocess.Popen[str]:
    worker = subprocess.Popen([sys.executable, "-c", _WORKER, str(output)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "half way\n"
    return worker


def _end(worker: subprocess.Popen[str], number: signal.Signals) -> None:
    os.kill(worker.pid, number)
    worker.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process as POSIX does")
def test_finished_pieces_outlive_a_kill(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    _end(_worker_half_way(output), signal.SIGKILL)
    assert not output.exists()
    with folder_in_making(output, KEY) as making:
        assert making.finished("unet", dict) == {"took": 3}
        assert making.finished("vae", dict) is None
    assert (output / "unet" / "weights").read_text() == "done"
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="holds a lock as POSIX does")
def test_two_cannot_make_the_same_folder(tmp_path: Path) -> None:
    worker = _worker_half_way(tmp_path / "bundle")
    try:
        with pytest.raises(ExportError, match="Another export"), folder_in_making(tmp_path / "bundle", KEY):
            pass
        with folder_in_making(tmp_path / "bundle", OTHER_KEY):
            assert len(list(tmp_path.iterdir())) == 2  # What somebody still works on is not swept away.
    finally:
        _end(worker, signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process as POSIX does")
def test_other_inputs_take_nothing_up_and_sweep_what_was_left(tmp_path: Path) -> None:
    _end(_worker_half_way(tmp_path / "bundle"), signal.SIGKILL)
    (tmp_path / ".bundle2.0000000000000000.part").mkdir()
    with folder_in_making(tmp_path / "bundle", OTHER_KEY) as making:
        assert making.finished("unet", dict) is None
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", ".bundle2.0000000000000000.part"}


def test_an_error_leaves_nothing_and_an_interruption_what_is_finished(tmp_path: Path) -> None:
    for error in (ExportError("no", hint="no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), folder_in_making(tmp_path / "bundle", KEY) as making:
            making.finish("text_encoder", [], 1)
            raise error
        kept = isinstance(error, KeyboardInterrupt)
        assert [path.name for path in tmp_path.iterdir()] == ([making.path.name] if kept else [])


def test_an_interruption_before_anything_is_finished_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_in_making(tmp_path / "bundle", KEY):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_damaged_note_counts_as_unfinished(tmp_path: Path) -> None:
    with folder_in_making(tmp_path / "bundle", KEY) as making:
        making.finish("unet", [], {"took": 3})
        (making.path / ".finished" / "unet.json").write_text("{")
        assert making.finished("unet", dict) is None


def test_the_key_knows_the_files_and_the_options(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_text("1")
    keys = {inputs_key({"weights": file}, {"precision": precision}) for precision in ("float16", "float32")}
    os.utime(file, (0, time.time() + 5))
    keys.add(inputs_key({"weights": file}, {"precision": "float16"}))
    file.write_text("12")
    keys.add(inputs_key({"weights": file}, {"precision": "float16"}))
    assert len(keys) == 4
    assert inputs_key({"weights": file}, {"precision": "float16"}) in keys


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"), folder_in_making(tmp_path / "file" / "b", KEY):
        pass
