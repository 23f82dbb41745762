"""The package's seed images keep the tempo that their names say, and answer to Riffusion's names too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from riffusion_engine.errors import RequestError
from riffusion_rt import Riffusion
from riffusion_rt.cli import main
from riffusion_rt.seed_image_set import ALIASES, FOLDER, SeedImage, seed_image, seed_image_path, seed_images
from riffusion_rt.seed_picture import open_picture
from riffusion_rt.spectrogram_image import load_image

REFERENCE_NAMES = {"og_beat", "agile", "marim", "motorway", "vibes"}


def beats_in(picture: np.ndarray, among: tuple[int, ...]) -> int:
    """How often a picture's rhythm repeats best."""
    rise = np.maximum(np.diff(255 - picture.astype(np.float64), axis=1, append=0), 0).sum(axis=0)
    spectrum = np.abs(np.fft.rfft(rise - rise.mean()))
    # Eighths are twice, sixteenths four times as many: their harmonics count for the beat.
    return max(among, key=lambda beats: spectrum[[beats, 2 * beats, 4 * beats]].sum())


@pytest.mark.parametrize("each", seed_images(), ids=lambda each: each.name)
def test_a_seed_image_is_a_small_spectrogram_of_its_tempo(each: SeedImage) -> None:
    picture = np.asarray(load_image(each.path).convert("L"))
    assert picture.shape == (512, 512)
    # Six slow beats in eighths are twelve quick ones: neither is a tempo to mistake the other for.
    others = [beats for beats in (6, 8, 10, 12) if {beats, each.beats} != {6, 12}]
    assert beats_in(picture, tuple(others)) == each.beats
    assert each.bpm == pytest.approx(60 * each.beats / 5.12, abs=0.01)
    assert each.name.endswith(f"-{round(each.bpm)}")


def test_there_are_several_tempi_in_less_than_a_megabyte_with_their_licence() -> None:
    assert len({each.bpm for each in seed_images()}) >= 4
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2**20
    assert "CC0" in (FOLDER / "LICENSE").read_text()


def test_the_references_names_are_known() -> None:
    assert set(ALIASES) == REFERENCE_NAMES
    assert seed_image("og_beat").name == "beat-94"
    assert all(seed_image(name).bpm == 93.75 for name in REFERENCE_NAMES)
    with pytest.raises(RequestError, match="beat-94"):
        seed_image("og_beet")


def test_a_name_stands_for_its_picture_unless_a_file_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_picture("vibes").size == (512, 512)
    assert seed_image_path("mine.png") == "mine.png"
    Path("vibes").write_bytes(b"my own")
    assert seed_image_path("vibes") == "vibes"


def test_a_clip_starts_from_a_seed_image_by_name(toy_bundle: Path) -> None:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        named, same, other = (
            riffusion.generate("bells", steps=2, seed_image=name, strength=0.5)
            for name in ("beat-94", Path("og_beat"), "beat-141")
        )
    np.testing.assert_array_equal(named.samples, same.samples)
    assert not np.array_equal(named.samples, other.samples)
    assert named.request.settings()["seed_image"] == "beat-94"


def test_the_command_line_lists_them() -> None:
    listing = json.loads(CliRunner().invoke(main, ["seed-images", "--json"]).stdout)
    assert {each["name"] for each in listing["seed_images"]} >= set(ALIASES.values())
    lines = CliRunner().invoke(main, ["generate", "x", "--seed-image", "help"])
    assert lines.exit_code == 0
    assert "93.75 BPM" in lines.output and "also og_beat" in lines.output


def test_the_pictures_can_be_drawn_again() -> None:
    pytest.importorskip("torch")
    from riffusion_train.seed_patterns import PATTERNS, drawn

    beat = next(each for each in PATTERNS if each.name == "beat-94")
    kept = np.asarray(load_image(seed_image("beat-94").path).convert("L"), np.int16)
    assert np.abs(drawn(beat).astype(np.int16) - kept).max() <= 16
