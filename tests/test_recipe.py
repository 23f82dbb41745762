"""The whole recipe in one command, at the smallest size: data set, networks, checkpoint, and a bundle that plays."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from riffusion_rt import Riffusion
from riffusion_train.__main__ import main
from riffusion_train.rendered_clips import MANNERS_FOLDER, read_facts
from riffusion_train.rendering import DEBIAN_SOUNDFONT

pytest.importorskip("fluidsynth", reason="FluidSynth is not here: apt-get install libfluidsynth3")
pytestmark = pytest.mark.skipif(
    not DEBIAN_SOUNDFONT.exists(),
    reason="the data set's soundfont is not here: apt-get install musescore-general-soundfont-small",
)


@pytest.mark.thorough
def test_everything_is_one_command(tmp_path: Path) -> None:
    from riffusion_export.bundle import export_bundle

    run, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    asked = ["everything", "--run", str(run), "-o", str(checkpoint), "--count=48", "--mannered=12"]
    asked += ["--duos=4", "--steps=2"]
    done = CliRunner().invoke(main, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(read_facts(run / "clips")) == 48
    assert len(read_facts(run / MANNERS_FOLDER)) == 12
    assert len(read_facts(run / "duos")) == 4
    list(export_bundle(checkpoint, tmp_path / "bundle"))
    with Riffusion(tmp_path / "bundle") as riffusion:
        clip = riffusion.generate("piano", steps=1)
    assert clip.image.size == (512, 512)
