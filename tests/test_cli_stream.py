"""stream promises whole files however it ends, sound on a pipe, steering from files, and one line for every error."""

from __future__ import annotations

import io
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from riffusion_rt.audio_file import read_audio, read_metadata
from riffusion_rt.cli import main
from riffusion_rt.cli.stream import _ctrl_c
from riffusion_rt.stream_output import SampleFile, pcm16, wav_header

BAR = 32 * 441


@pytest.fixture
def play(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str, code: int = 0) -> Result:
        words = ["stream", *arguments, "--model", str(toy_bundle), "--steps", "1", "--threads", "1"]
        result = CliRunner().invoke(main, words, prog_name="riffusion-rt")
        assert result.exit_code == code, result.output
        return result

    return go


def test_a_stream_to_a_file_is_as_long_as_asked_and_made_again_from_it(
    play: Callable[..., Result], tmp_path: Path, toy_bundle: Path
) -> None:
    then = ("--then", "drums + flute=3@0.3s", "--glide", "1")
    content = json.loads(play("bells", "--duration", "1.5", "-o", "s.wav", "--json", *then).stdout)
    samples, _ = read_audio(tmp_path / "s.wav")
    assert samples.shape[1] == content["samples"] == 150 * 441
    assert content["late_bars"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s.wav"]
    again = json.loads(CliRunner().invoke(main, ["inspect", "s.wav", "--json"]).stdout)["again"]
    words = shlex.split(again)[1:]
    words[words.index("--model") + 1] = str(toy_bundle)
    CliRunner().invoke(
        main, [*words[:1], "-o", "t.wav", "--threads", "1", *words[1:]], catch_exceptions=False
    )
    np.testing.assert_array_equal(read_audio(tmp_path / "t.wav")[0], samples)


@pytest.mark.parametrize("form", ["wav", "s16le"])
def test_the_standard_output_carries_sound_and_nothing_else(
    play: Callable[..., Result], tmp_path: Path, form: str
) -> None:
    result = play("bells", "--duration", "0.7", "-o", "-", "--format", form, "--no-live")
    play("bells", "--duration", "0.7", "-o", "s.pcm", "-q")
    header = wav_header(1, 44_100) if form == "wav" else b""
    assert result.stdout_bytes == header + (tmp_path / "s.pcm").read_bytes()
    assert "bells" in result.stderr


def test_ctrl_c_leaves_a_whole_file(tmp_path: Path, toy_bundle: Path) -> None:
    path = tmp_path / "s.wav"
    words = [
        "stream",
        "bells",
        "--no-live",
        "--steps",
        "1",
        "--model",
        str(toy_bundle),
        "-o",
        str(path),
        "--json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "riffusion_rt", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A job that a shell starts in the background, as tests may be, ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size > 6 * BAR for part in tmp_path.glob(".*.part")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    content = json.loads(out)
    samples, _ = read_audio(path)
    assert samples.shape[1] == content["samples"] == content["bars"] * BAR
    assert json.loads(read_metadata(path)["request"])["duration_s"] == pytest.approx(content["duration_s"])


@pytest.fixture
def listening() -> Iterator[None]:
    """Ctrl-C as a program in the foreground has it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("listening")
def test_the_first_ctrl_c_is_remembered_and_the_second_interrupts() -> None:
    with _ctrl_c() as pressed:
        assert not pressed.is_set()
        signal.raise_signal(signal.SIGINT)
        assert pressed.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_steer_file_is_followed_and_its_mistakes_are_told(
    play: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "steer.txt").write_text("flute=0\n\n")
    told = play("bells", "--duration", "0.7", "-o", "s.wav", "--steer-file", "steer.txt")
    assert "has no weight" in told.output
    (tmp_path / "steer.txt").write_text("flute\ndrums\n")
    told = play("bells", "--duration", "1", "-o", "s.wav", "--steer-file", "steer.txt", "--glide", "1")
    assert "drums 100%" in told.output and "flute" not in told.output
    assert json.loads(read_metadata(tmp_path / "s.wav")["request"])["then"][0]["prompt"] == "drums"


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("no format", ("bells", "-o", "-", "--format", "mp3")),
        ("sound and JSON", ("bells", "-o", "-", "--json")),
        ("cannot be written as .mp3", ("bells", "-o", "s.mp3")),
        ("does not say when", ("bells", "-o", "s.wav", "--then", "drums")),
        ("no weight above 0", ("bells=0", "-o", "s.wav")),
        ("no folder", ("bells", "-o", "s.wav", "--steer-file", "absent/steer.txt")),
        ("duration_s must be", ("bells", "-o", "s.wav", "--duration", "0")),
        ("does not exist", ("bells", "-o", "s.wav", "--seed-image", "absent.png")),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    play: Callable[..., Result], tmp_path: Path, said: str, arguments: tuple[str, ...]
) -> None:
    result = play(*arguments, code=2)
    assert said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_without_the_library_the_speakers_say_what_to_install(
    play: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert "riffusion-rt[play]" in play("bells", code=2).stderr


def test_speakers_play_what_they_are_given_and_silence_when_starved(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from riffusion_rt.stream_output import Speakers

    class Card:
        def __init__(self, *, callback: Callable[..., None], **_: object) -> None:
            self.callback = callback

        def start(self) -> None: ...

        def close(self) -> None: ...

    card = SimpleNamespace(OutputStream=Card, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    with Speakers(2, 44_100) as speakers:
        sound = np.arange(20, dtype=np.float32).reshape(2, 10)
        for part in (sound[:, :3], sound[:, 3:]):
            speakers.write(part)
        heard = np.full((16, 2), 9, np.float32)
        for first in range(0, 16, 4):
            speakers._device.callback(heard[first : first + 4], 4, None, None)
    np.testing.assert_array_equal(heard[:10].T, sound)
    assert not heard[10:].any()


def test_half_a_block_left_by_an_interruption_is_cut_off() -> None:
    file = io.BytesIO()
    sound = SampleFile(file, 2, 44_100, wav=True)
    samples = np.linspace(-1, 1, 200, dtype=np.float32).reshape(2, 100)
    sound.write(samples)
    file.write(b"half a block")
    sound.end({"title": "x"})
    data = file.getvalue()
    assert data[44:444] == pcm16(samples)
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    assert data[444:448] == b"LIST"
