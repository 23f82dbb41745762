"""A file appears whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from riffusion_engine.errors import OutputError
from riffusion_engine.whole_file import whole_file


def test_the_file_appears_with_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "riff.bin"
    with whole_file(path) as file:
        file.write(b"sound")
        assert not path.exists()
    assert path.read_bytes() == b"sound"
    assert [entry.name for entry in path.parent.iterdir()] == ["riff.bin"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "riff.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["riff.bin"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "riff.bin"
    path.write_bytes(b"a longer old content")
    with whole_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"


def test_what_was_written_can_be_sought_in(tmp_path: Path) -> None:
    with whole_file(tmp_path / "riff.bin") as file:
        file.write(b"....data")
        file.seek(0)
        file.write(b"RIFF")
    assert (tmp_path / "riff.bin").read_bytes() == b"RIFFdata"


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_file_has_the_mode_of_an_ordinary_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with whole_file(tmp_path / "riff.bin") as file:
        file.write(b"sound")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "riff.bin")}
    assert len(modes) == 1


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "riff.bin").mkdir()
    with pytest.raises(OutputError, match=r"riff\.bin"), whole_file(tmp_path / "riff.bin"):
        pass


def test_a_file_in_place_of_the_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(OutputError, match="Cannot write") as caught,
        whole_file(tmp_path / "file" / "riff.bin"),
    ):
        pass
    assert "-o" in caught.value.hint
