"""What a server keeps and what it takes in: the same bytes again, never more than it may, and no path from outside."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from PIL import Image

from riffusion_engine import whole_file as whole_files
from riffusion_engine.errors import AudioFileError, ImageFileError, OutputError, RequestError
from riffusion_engine.manifest import SamplingDefaults
from riffusion_rt import Clip, ClipRequest, StreamRequest
from riffusion_rt.extend import ExtendRequest
from riffusion_rt.interpolation import Waypoint
from riffusion_rt.remix import RemixRequest
from riffusion_rt.request import field_range
from riffusion_rt.server.order_bodies import make_bodies
from riffusion_rt.server.request_schema import controls, request_fields
from riffusion_rt.server.result_store import AUDIO_TYPES, ResultGone, ResultStore, readable_metadata
from riffusion_rt.server.service_settings import ServiceSettings
from riffusion_rt.server.uploads import checked_recording, picture_source
from riffusion_rt.song_plan import Section, SongPlan
from riffusion_rt.spectrogram_image import MONO_PARAMS
from riffusion_rt.walk import WalkRequest

DEFAULTS = SamplingDefaults(sampler="dpm++2m", steps=15, guidance=5.0, strength=0.75)


def clip(seed: int = 0, seconds: float = 0.1) -> Clip:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (1, round(seconds * 44100))).astype(np.float32)
    return Clip(samples, Image.new("RGB", (8, 512)), MONO_PARAMS, ClipRequest("x", seed=seed), "toy", 1.0)


def store(folder: Path, most_bytes: int = 10**9, kept_s: float = 60) -> ResultStore:
    return ResultStore(folder, most_bytes=most_bytes, kept_s=kept_s)


def test_a_result_is_found_by_its_request_and_is_always_the_same_bytes(tmp_path: Path) -> None:
    kept, made = store(tmp_path), clip()
    result = kept.put("key", made, metadata=made.metadata(), compute_s=1.0)
    assert kept.find("key") is result
    assert kept.find("other") is None
    for form in AUDIO_TYPES:
        assert kept.audio(result, form) == kept.audio(result, form)
    decoded, rate = soundfile.read(io.BytesIO(kept.audio(result, "wav")), dtype="float32")
    assert rate == 44100
    np.testing.assert_allclose(decoded, made.samples[0], atol=2**-15)


def test_results_go_when_there_are_too_many_or_they_are_too_old(tmp_path: Path) -> None:
    kept = store(tmp_path, most_bytes=50_000)
    first, second = (kept.put(str(n), clip(n), metadata={}, compute_s=1.0) for n in range(2))
    kept.find("0")
    third = kept.put("2", clip(2), metadata={}, compute_s=1.0)
    assert kept.find("1") is None, "the one that was asked for last stays"
    with pytest.raises(ResultGone):
        kept.audio(second, "wav")
    assert kept.audio(third, "flac")
    assert len(list(tmp_path.iterdir())) <= 3 * len(kept)
    old = store(tmp_path / "old", kept_s=0.0)
    old.put("a", clip(), metadata={}, compute_s=1.0)
    old.tidy()
    assert len(old) == 0
    assert first.duration_s == pytest.approx(0.1)


def test_a_full_disk_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OutputError, match="no room"):
        kept.put("key", clip(), metadata={}, compute_s=1.0)
    assert kept.find("key") is None
    assert not list(tmp_path.iterdir())


def test_metadata_says_nothing_of_the_servers_folders() -> None:
    metadata = readable_metadata(clip(), {"audio": "(upload)"})
    assert json.loads(metadata["request"])["audio"] == "(upload)"


def test_a_seed_image_is_a_name_or_a_picture_and_never_a_path(tmp_path: Path) -> None:
    path = tmp_path / "beat.png"
    Image.new("L", (8, 8)).save(path)
    assert picture_source("og_beat", max_pixels=100)[0] == "beat-94"
    for text in (
        str(path),
        "../beat-94",
        "beat-94.png",
        "/etc/passwd",
        "",
        "data:,x",
        "data:image/png;base64,%%",
    ):
        with pytest.raises((RequestError, ImageFileError)):
            picture_source(text, max_pixels=100)
    sent, digest = picture_source(data_url(path.read_bytes()), max_pixels=100)
    assert isinstance(sent, Image.Image)
    assert len(digest) == 64


def test_a_picture_that_would_unpack_to_gigabytes_is_refused_unread() -> None:
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10**6), 9)), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    with pytest.raises(ImageFileError, match="9000x9000"):
        picture_source(data_url(bomb), max_pixels=2**24)


def test_recordings_are_told_by_what_is_in_them(tmp_path: Path) -> None:
    sound = np.zeros(44100, np.float32)
    for number, form in enumerate(("WAV", "FLAC", "OGG", "MP3", "AIFF")):
        path = tmp_path / f"{number}.txt"
        soundfile.write(path, sound, 44100, format=form)
        assert len(checked_recording(path, most_s=10)) == 64
    (tmp_path / "x.wav").write_bytes(b"RIFF....WAVEno sound at all")
    (tmp_path / "y.wav").write_bytes(b"#!/bin/sh\n" * 100)
    for name in ("x.wav", "y.wav"):
        with pytest.raises(AudioFileError):
            checked_recording(tmp_path / name, most_s=10)
    with pytest.raises(RequestError, match="longer"):
        checked_recording(tmp_path / "0.txt", most_s=0.5)


def test_a_recording_that_would_unpack_to_hours_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.flac"
    soundfile.write(path, np.zeros((44100 * 60, 2), np.int16), 44100, format="FLAC")
    small = path.stat().st_size
    assert small < 200_000
    with pytest.raises(RequestError, match="longer"):
        checked_recording(path, most_s=30)
    # The header may also promise what is not there: 2^36 - 1 samples.
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises((RequestError, AudioFileError)):
        checked_recording(path, most_s=30)


def test_the_apis_ranges_are_those_of_the_request_records() -> None:
    bodies = make_bodies(ServiceSettings()).named()
    for kind, model in bodies.items():
        properties = controls(model, DEFAULTS)["properties"]
        for name in ("steps", "guidance", "strength"):
            if name in properties and kind != "song":
                assert (properties[name]["minimum"], properties[name]["maximum"]) == field_range(name)
        assert properties["steps"]["default"] == 15
        assert properties["sampler"]["default"] == "dpm++2m"
    seeded = msgspec.structs.replace(DEFAULTS, seeded_guidance=8.0)
    shown = controls(bodies["remix"], seeded, seeded=True)["properties"]
    assert (shown["guidance"]["default"], shown["strength"]["default"]) == (8.0, 0.75)
    assert controls(bodies["generate"], seeded)["properties"]["guidance"]["default"] == DEFAULTS.guidance
    assert controls(bodies["live"], DEFAULTS)["properties"]["glide"]["maximum"] == 100
    sections = controls(bodies["song"], DEFAULTS)["$defs"]["SongSection"]["properties"]
    assert sections["level"]["minimum"] == -60


def test_every_field_of_a_request_can_be_sent_or_is_left_out_on_purpose() -> None:
    bodies = make_bodies(ServiceSettings())
    left_out = {
        ClipRequest: {"seed_audio"},
        WalkRequest: {"seed_audio"},
        RemixRequest: {"audio", "with_audio"},
        ExtendRequest: {"audio"},
        SongPlan: set(),
        StreamRequest: {"prompt", "duration_s", "then"},
    }
    records = (ClipRequest, WalkRequest, RemixRequest, ExtendRequest, SongPlan, StreamRequest)
    for record, model in zip(records, bodies.named().values(), strict=True):
        assert set(request_fields(record)) - set(model.model_fields) == left_out[record]
    for record in (*records, Waypoint, Section):
        assert request_fields(record)


def test_settings_outside_their_ranges_are_refused() -> None:
    for wrong in ({"at_once": 0}, {"most_audio_s": 10**6}, {"api_key": "short"}):
        with pytest.raises(RequestError):
            ServiceSettings(**wrong)  # type: ignore[arg-type]


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_the_runtime_loads_nothing_of_the_server() -> None:
    code = "import sys, riffusion_rt, riffusion_rt.pipeline, riffusion_rt.cli; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert "riffusion_rt" in loaded
    assert not loaded & {
        "fastapi",
        "starlette",
        "pydantic",
        "uvicorn",
        "prometheus_client",
        "limits",
        "anyio",
    }
