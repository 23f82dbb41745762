"""A stream promises bars that join, one loudness, steering at the next bar, and not to come late if it can help it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from riffusion_engine.errors import RequestError
from riffusion_rt import ClipRequest, Riffusion
from riffusion_rt.levelling import loudness_lufs
from riffusion_rt.stream import AudioBlock, Stream
from riffusion_rt.stream_pace import Pace
from riffusion_rt.stream_request import Steer, StreamRequest, read_mix

BAR = 32 * 441
HELD = 15 * 441


class SlowMachine:
    """A clock that stands still but for waits and for what drawing is said to cost."""

    def __init__(self) -> None:
        self.time = 0.0
        self.waited = 0.0

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += seconds
        self.waited += seconds


@pytest.fixture(scope="module")
def riffusion(toy_bundle: Path) -> Iterator[Riffusion]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as made:
        yield made


def played(stream: Stream) -> tuple[list[AudioBlock], np.ndarray]:
    blocks = list(stream)
    return blocks, np.concatenate([block.samples for block in blocks], axis=1)


def charge(stream: Stream, clock: SlowMachine, step_s: list[float]) -> None:
    """Let every denoising step take ``step_s[0]`` of the clock's time."""
    drawn = stream._drawer.denoised

    def slowly(*arguments: object, **settings: object) -> Iterator[object]:
        for done in drawn(*arguments, **settings):  # type: ignore[arg-type]
            clock.time += step_s[0]
            yield done

    stream._drawer.denoised = slowly  # type: ignore[method-assign, assignment]


def test_a_stream_lasts_as_long_as_asked_in_bars_that_follow_each_other(riffusion: Riffusion) -> None:
    stream = Stream(riffusion.model, StreamRequest("bells", steps=1, duration_s=1.5), live=False)
    blocks, sound = played(stream)
    assert sound.shape == (1, 150 * 441)
    assert [block.bar for block in blocks] == [0, 1, 2, 3, 4]
    assert [block.start for block in blocks] == [0, *(bar * BAR - HELD for bar in range(1, 5))]
    assert np.abs(sound).max() <= 1


def test_the_first_clip_is_what_generate_draws(riffusion: Riffusion) -> None:
    blocks = list(islice(Stream(riffusion.model, StreamRequest("bells", 5, steps=2), live=False), 2))
    clip = riffusion.generate("bells", seed=5, steps=2)
    drawn = np.concatenate([block.pixels for block in blocks], axis=1)
    np.testing.assert_array_equal(drawn, np.asarray(clip.image))


def test_it_wanders_from_seed_to_seed_in_four_clips(riffusion: Riffusion) -> None:
    blocks = islice(Stream(riffusion.model, StreamRequest("bells", 7, steps=1), live=False), 11)
    assert [(block.seed, block.alpha) for block in blocks][::2] == [
        (7, 1.0),
        (8, 0.25),
        (8, 0.5),
        (8, 0.75),
        (8, 1.0),
        (9, 0.25),
    ]


def test_the_same_request_plays_the_same_samples(riffusion: Riffusion) -> None:
    request = StreamRequest("bells", steps=1, duration_s=1, then=(Steer("drums", at_s=0.3),))
    first, second = (played(Stream(riffusion.model, request, live=False))[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_steer_is_heard_from_the_next_bar_even_in_the_middle_of_a_clip(riffusion: Riffusion) -> None:
    stream = Stream(riffusion.model, StreamRequest("bells", steps=1), live=False)
    blocks = iter(stream)
    assert next(blocks).prompts == (("bells", 1.0),)
    threading.Thread(target=stream.steer, args=("drums",), kwargs={"glide": 1}).start()
    while not stream._waiting:
        pass
    second = next(blocks)
    assert (second.bar, second.clip, second.prompts) == (1, 1, (("drums", 1.0),))
    whole = riffusion.generate("drums", steps=1)
    np.testing.assert_array_equal(second.pixels, np.asarray(whole.image)[:, 32:])
    assert second.start == BAR - HELD


def test_a_steer_changes_nothing_before_its_bar_and_all_after_it(riffusion: Riffusion) -> None:
    request = StreamRequest("bells", steps=2, duration_s=1.92)
    _, plain = played(riffusion.stream(request, live=False))
    steered = replace(request, then=(Steer("drums", 1, seed=5, at_s=0.96),))
    _, sound = played(Stream(riffusion.model, steered, live=False))
    differs = np.flatnonzero(np.abs(sound - plain)[0] > 1e-4)
    # Frames are 100 ms wide: those before the joint that hold the new bar's sound may change with it.
    assert 3 * BAR - HELD <= differs[0] < 3 * BAR + 4410
    assert np.abs(sound - plain)[0, 3 * BAR :].mean() > 0.1 * np.abs(plain).mean()


def test_a_glide_goes_evenly_and_from_wherever_the_stream_is(riffusion: Riffusion) -> None:
    stream = Stream(riffusion.model, StreamRequest("bells", steps=1), live=False)
    blocks = iter(stream)
    list(islice(blocks, 2))
    stream.steer("drums", glide=4)
    half = list(islice(blocks, 4))[-1]
    assert dict(half.prompts) == {"bells": 0.5, "drums": 0.5}
    stream.steer("flute=3 + choir", glide=2)
    mixed = next(blocks)
    assert dict(mixed.prompts) == {"bells": 0.25, "drums": 0.25, "flute": 0.375, "choir": 0.125}


def test_steers_known_beforehand_come_with_the_first_bar_after_their_time(riffusion: Riffusion) -> None:
    request = StreamRequest("bells", steps=1, duration_s=2, then=(Steer("drums", 1, at_s=0.7),))
    stream = Stream(riffusion.model, request, live=False)
    heard = [block.prompts[0][0] for block in stream]
    assert heard == ["bells"] * 3 + ["drums"] * 4
    assert [steer.at_s for steer in stream.steered] == [pytest.approx(0.96)]


def test_a_steered_stream_can_be_played_again(riffusion: Riffusion) -> None:
    stream = Stream(riffusion.model, StreamRequest("bells", steps=1), live=False)
    blocks, heard = iter(stream), []
    for number in range(6):
        heard.append(next(blocks).samples)
        if number == 2:
            stream.steer("drums", seed=9)
    heard.append(stream.finish())
    sound = np.concatenate(heard, axis=1)
    request = stream.request.resolved_with(stream.steered, sound.shape[1] / stream.rate)
    again = StreamRequest(**{name: value for name, value in request.settings().items() if name != "verb"})
    np.testing.assert_allclose(played(Stream(riffusion.model, again, live=False))[1], sound, atol=1e-5)


def test_a_live_stream_is_no_further_ahead_than_asked(riffusion: Riffusion) -> None:
    clock = SlowMachine()
    request = StreamRequest("bells", steps=2, look_ahead_s=0.5)
    blocks = list(islice(Stream(riffusion.model, request, clock=clock), 12))
    assert all(block.ahead_s <= 0.5 + 1e-9 for block in blocks[1:])
    assert clock.waited == pytest.approx(11 * 0.32 - 0.5, abs=1e-6)


def test_a_slow_machine_takes_fewer_steps_and_is_not_late(riffusion: Riffusion) -> None:
    clock = SlowMachine()
    stream = Stream(riffusion.model, StreamRequest("bells", steps=20), clock=clock)
    pace = [0.015]
    charge(stream, clock, pace)
    blocks = iter(stream)
    fast = list(islice(blocks, 4))
    pace[0] = 0.1
    slow = list(islice(blocks, 8))
    pace[0] = 0.015
    recovered = list(islice(blocks, 14))
    assert all(block.late_s == 0 for block in [*fast, *slow, *recovered])
    assert {block.steps for block in fast} == {20}
    assert max(block.steps for block in slow) <= 10
    assert any("too slow for 20 steps" in block.note for block in slow)
    assert recovered[-1].steps == 20
    assert any(block.note == "back to 20 steps" for block in recovered)


def test_a_clip_cut_before_its_last_evaluation_says_so(
    riffusion: Riffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = StreamRequest("bells", sampler="dpm++2m-karras-restart", steps=8)
    stream = Stream(riffusion.model, request, clock=SlowMachine())
    whole = list(islice(stream, 2))
    assert not any(block.note for block in whole)
    asked = itertools.count(1)
    monkeypatch.setattr(stream._pace, "must_stop", lambda *_: next(asked) == 8)
    cut = list(islice(stream, 4))
    assert [block.note for block in cut if block.note] == [
        "this machine is too slow for 8 steps: 8 of 9 evaluations",
        "back to 8 steps",
    ]


def test_phases_are_quick_only_when_steps_run_short() -> None:
    clock = SlowMachine()
    pace = Pace(20, clip_s=5, look_ahead_s=5, clock=clock)
    assert pace.steps_for(0) == (20, False)
    pace.drew(20, 1.0, 1.0, quick=False)
    pace.delivered(0)
    assert pace.steps_for(5) == (20, False)
    pace.drew(20, 1.0, 3.9, quick=False)
    steps, quick = pace.steps_for(5)
    assert quick and steps == 20
    for _ in range(20):
        pace.drew(20, 1.0, 0.65, quick=True)
    assert pace.steps_for(5) == (20, False)


def test_a_stream_that_cannot_keep_up_says_how_late_it_is(riffusion: Riffusion) -> None:
    clock = SlowMachine()
    stream = Stream(riffusion.model, StreamRequest("bells", steps=8), clock=clock)
    charge(stream, clock, [5.0])
    blocks = list(islice(stream, 4))
    assert blocks[2].late_s > 3
    assert blocks[2].steps == 1


def test_clips_are_equally_loud(riffusion: Riffusion) -> None:
    request = StreamRequest("bells", steps=2, duration_s=3.84, clips_a_seed=1)
    _, sound = played(Stream(riffusion.model, request, live=False))
    clip = 2 * BAR
    levels = [loudness_lufs(sound[:, at : at + clip], 44_100) for at in range(0, 6 * clip, clip)]
    assert np.abs(np.diff(levels)).max() < 1


def test_a_header_is_json_and_names_what_is_heard(riffusion: Riffusion) -> None:
    import json

    block = next(iter(Stream(riffusion.model, StreamRequest("bells", 3, steps=2), live=False)))
    header = json.loads(json.dumps(block.header()))
    assert (header["seed"], header["steps"], header["prompts"]) == (3, 2, [["bells", 1.0]])
    assert header["samples"] == block.samples.shape[1]
    assert block.picture.size == (32, 64)


@pytest.mark.parametrize(
    ("text", "mix"),
    [
        ("funky piano", {"funky piano": 1.0}),
        ("piano + drums", {"piano": 0.5, "drums": 0.5}),
        ("(jazz:1.2) piano=3 + c++ bells=1", {"(jazz:1.2) piano": 0.75, "c++ bells": 0.25}),
    ],
)
def test_prompts_are_mixed_as_people_write_them(text: str, mix: dict[str, float]) -> None:
    assert dict(read_mix(text)) == mix


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: read_mix("piano=0"),
        lambda: read_mix("piano=1.2.3"),
        lambda: read_mix(" + ".join("abcdefghijklmnopq")),
        lambda: Steer.parse("bells"),
        lambda: Steer.parse("bells@1.2.3s"),
        lambda: Steer("bells", glide=0),
        lambda: Steer("bells", at_s=-1),
        lambda: Steer("bells", seed=-1),
        lambda: StreamRequest("bells", glide=0),
        lambda: StreamRequest("bells", clips_a_seed=0),
        lambda: StreamRequest("bells", duration_s=float("nan")),
        lambda: StreamRequest("bells", look_ahead_s=0),
        lambda: StreamRequest("bells", strength=0.5),
        lambda: StreamRequest("bells", steps=0),
    ],
)
def test_bad_requests_are_refused(wrong: object) -> None:
    with pytest.raises(RequestError):
        wrong()  # type: ignore[operator]


def test_then_says_what_and_when() -> None:
    assert Steer.parse("church bells@20s") == Steer("church bells", at_s=20)
    assert ClipRequest("x").seed == 0
