"""A file of prompts: each clip once, whatever is killed, and a manifest that says what is there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from riffusion_engine.errors import OutputError, RequestError
from riffusion_rt.bulk import (
    MANIFEST,
    BulkFolder,
    Entry,
    MadeClip,
    check_distinct,
    make_all,
    read_prompts,
)
from riffusion_rt.cli import main


def entries_of(folder: Path, number: int, model: str = "toy") -> list[Entry]:
    path = folder / "prompts.txt"
    path.write_text("".join(f"prompt {line}\n" for line in range(number)))
    return read_prompts(path, model=model, settings={})


def pretended(entries: Sequence[Entry]) -> Iterator[MadeClip]:
    """Makes no sound: bytes that say which entry they are."""
    for entry in entries:
        yield MadeClip(
            entry.number, f"sound {entry.number}".encode(), b"picture", {"seed": entry.request.seed}
        )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def check_complete(folder: Path, number: int, suffix: str = ".wav") -> None:
    """As many distinct sounds as prompts, each with its picture and its true line, and no other file."""
    rows = rows_of(folder)
    assert [row["number"] for row in rows] == list(range(1, number + 1))
    sounds = sorted(folder.glob(f"*{suffix}"))
    assert sorted(row["audio"] for row in rows) == [path.name for path in sounds]
    assert len({row["sha256"] for row in rows}) == number
    for row in rows:
        assert hashlib.sha256((folder / row["audio"]).read_bytes()).hexdigest() == row["sha256"]
        assert (folder / row["image"]).is_file()
    assert not list(folder.glob(".*.part"))
    others = {path.name for path in folder.iterdir()} - {
        row[kind] for row in rows for kind in ("audio", "image")
    }
    assert {name for name in others if not name.startswith(".")} == {MANIFEST}


def test_a_line_is_a_prompt_and_each_has_the_next_seed(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("church bells\n\n  jazz piano \n")
    entries = read_prompts(path, model="toy", seed=7, settings={"steps": 3})
    assert [(each.request.prompt, each.request.seed) for each in entries] == [
        ("church bells", 7),
        ("jazz piano", 8),
    ]
    assert {each.request.steps for each in entries} == {3}


def test_a_json_line_may_say_its_own_settings(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "bells", "seed": 3, "steps": 9}\n{"prompt": "piano"}\n')
    first, second = read_prompts(path, model="toy", seed=20, settings={"steps": 4})
    assert (first.request.seed, first.request.steps) == (3, 9)
    assert (second.request.seed, second.request.steps) == (21, 4)


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        '{"seed": 1}',
        '{"prompt": 5}',
        '{"prompt": "x", "steps": 0}',
        '{"prompt": "x", "mask": "m.png"}',
    ],
)
def test_a_line_that_is_no_request_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(RequestError, match="line 3"):
        read_prompts(path, model="toy", settings={})


def test_the_same_clip_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "bells", "seed": 1}\n' * 2)
    with pytest.raises(RequestError, match="same clip"):
        check_distinct(read_prompts(path, model="toy", settings={}))


def test_a_run_that_broke_off_is_gone_on_with(tmp_path: Path) -> None:
    entries, out = entries_of(tmp_path, 8), tmp_path / "out"
    with BulkFolder(out, entries, ".wav") as folder:
        making = make_all(folder, pretended)
        for _ in range(3):
            next(making)
    with (out / MANIFEST).open("a") as manifest:
        manifest.write('{"number": 4, "aud')
    made: list[int] = []

    def noted(missing: Sequence[Entry]) -> Iterator[MadeClip]:
        made.extend(entry.number for entry in missing)
        yield from pretended(missing)

    with BulkFolder(out, entries, ".wav") as folder:
        list(make_all(folder, noted))
    assert made == [4, 5, 6, 7, 8]
    check_complete(out, 8)


def test_clips_that_come_out_of_order_are_listed_in_order(tmp_path: Path) -> None:
    entries, out = entries_of(tmp_path, 5), tmp_path / "out"
    with BulkFolder(out, entries, ".wav") as folder:
        list(make_all(folder, lambda missing: pretended(list(reversed(missing)))))
    check_complete(out, 5)


def test_a_clip_whose_file_was_removed_is_made_again(tmp_path: Path) -> None:
    entries, out = entries_of(tmp_path, 3), tmp_path / "out"
    with BulkFolder(out, entries, ".wav") as folder:
        list(make_all(folder, pretended))
    (out / rows_of(out)[1]["audio"]).unlink()
    with BulkFolder(out, entries, ".wav") as folder:
        assert [entry.number for entry in folder.missing] == [2]
        list(make_all(folder, pretended))
    check_complete(out, 3)


def test_a_folder_of_other_clips_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with BulkFolder(out, entries_of(tmp_path, 3), ".wav") as folder:
        list(make_all(folder, pretended))
    with (
        pytest.raises(RequestError, match="other prompts"),
        BulkFolder(out, entries_of(tmp_path, 3, "another model"), ".wav"),
    ):
        pass
    check_complete(out, 3)


def test_two_runs_never_write_one_folder(tmp_path: Path) -> None:
    entries, out = entries_of(tmp_path, 1), tmp_path / "out"
    with (
        BulkFolder(out, entries, ".wav"),
        pytest.raises(OutputError, match="Another run"),
        BulkFolder(out, entries, ".wav"),
    ):
        pass


def test_a_run_that_is_killed_leaves_whole_lines_for_whole_files(tmp_path: Path) -> None:
    entries, out = entries_of(tmp_path, 200), tmp_path / "out"
    for least in (20, 60):
        process = subprocess.Popen([sys.executable, __file__, str(tmp_path)])
        until = time.monotonic() + 60
        while not (out / MANIFEST).exists() or len((out / MANIFEST).read_text().splitlines()) < least:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with BulkFolder(out, entries, ".wav") as folder:
        assert 60 <= folder.made < 200
        list(make_all(folder, pretended))
    check_complete(out, 200)


def test_the_verb_makes_the_clips_that_generate_makes(toy_bundle: Path, tmp_path: Path) -> None:
    import soundfile

    from riffusion_rt import Riffusion

    path, out = tmp_path / "prompts.txt", tmp_path / "out"
    path.write_text("bells\npiano\n")
    options = ["--model", str(toy_bundle), "--device", "cpu", "--steps", "2"]
    for new in (2, 0):
        result = CliRunner().invoke(main, ["batch", str(path), "-o", str(out), "--json", *options])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["new"] == new
    check_complete(out, 2)
    with Riffusion(toy_bundle, device="cpu") as riffusion:
        expected = riffusion.generate("piano", seed=1, steps=2).samples
    samples, _ = soundfile.read(out / rows_of(out)[1]["audio"], dtype="float32", always_2d=True)
    assert np.abs(samples.T - expected).max() < 1e-3


if __name__ == "__main__":
    here = Path(sys.argv[1])
    with BulkFolder(here / "out", entries_of(here, 200), ".wav") as slow:
        for _ in make_all(slow, pretended):
            time.sleep(0.005)
