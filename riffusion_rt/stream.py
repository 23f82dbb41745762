"""A prompt in, music without an end out, bar by bar; it wanders, and can be steered while it plays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.bar_grid import BARS_A_CLIP, BarGrid
from riffusion_rt.levelling import ClipLeveller
from riffusion_rt.place_drawing import Place, PlaceDrawer, mixed_place
from riffusion_rt.stream_pace import AudioClock, Pace, WallClock
from riffusion_rt.stream_request import LOOK_AHEAD_CLIPS, Steer, StreamRequest, read_mix

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_rt.joining import ClipJoiner
    from riffusion_rt.open_model import OpenModel


@dataclass(frozen=True, eq=False)
class AudioBlock:
    """One bar of a stream, and what it was made of.

    Sound follows its picture by ``held`` samples (150 ms): so much is settled only when the next bar is known. So a
    block's samples begin that much before its bar does, and the last block brings what is left.
    """

    samples: NDArray[np.float32]
    """(channels, n) in ±1."""
    rate: int
    start: int
    """Sample of the stream with which the block begins."""
    bar: int
    """Bars of the stream before this one."""
    clip: int
    """Clips drawn before this bar's one."""
    prompts: tuple[tuple[str, float], ...]
    """What is heard, with shares that sum to 1."""
    seed: int
    """Seed that the walk goes to."""
    alpha: float
    """How far on the way to it and to the last prompt steered to: 1 has arrived."""
    steps: int
    """Denoising steps taken."""
    compute_s: float
    """Seconds that this block took; the second bar of a clip takes next to none."""
    ahead_s: float
    """Seconds until its first sample is heard."""
    late_s: float
    """Seconds by which it came too late; 0 in a stream that keeps up."""
    note: str
    """What the listener should know: that the machine is too slow for the steps asked for, or no longer."""
    pixels: NDArray[np.uint8]
    """(bands, columns of the bar, 3)."""

    @property
    def picture(self) -> Image.Image:
        """The bar's part of the spectrogram picture."""
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(self.pixels))

    def header(self) -> dict[str, Any]:
        """All but samples and picture, as plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del values["samples"], values["pixels"]
        for name in ("compute_s", "ahead_s", "late_s"):
            values[name] = round(values[name], 4)
        return {**values, "samples": self.samples.shape[1], "start_s": round(self.start / self.rate, 4)}


@dataclass(frozen=True, eq=False)
class _Clip:
    """A drawn clip whose bars are handed out one after another."""

    first_bar: int
    """Of the clip, 0 or 1: a steer may come in its middle."""
    bars: tuple[NDArray[np.float32], ...]
    """Samples that each bar completes, at no particular level."""
    joiners: tuple[ClipJoiner, ...]
    """The joiner as it is after each of the bars."""
    pixels: NDArray[np.uint8]
    gains_db: tuple[float, ...]
    """Of each bar."""
    steps: int
    note: str


class Stream:
    """Iterate over it for blocks, a bar each; ``steer`` it from any thread.

    Args:
        model: the graphs.
        request: what to play.
        live: hand blocks out as they are to be heard, at most a look-ahead before, and adapt the steps to keep up;
            else as fast as can be, all steps taken.
        clock: what a live stream is played by.

    Raises:
        RequestError, BundleError: a setting is out of range, or the model's pictures hold no whole bars.
    """

    def __init__(
        self,
        model: OpenModel,
        request: StreamRequest,
        *,
        live: bool = True,
        clock: AudioClock | None = None,
    ) -> None:
        from riffusion_rt.joining import ClipJoiner

        manifest = model.manifest
        self.grid = BarGrid.of(manifest)
        self.request = request
        self.rate = manifest.spectrogram.sample_rate
        self.channels = manifest.spectrogram.channels
        self.steered: list[Steer] = []
        """What the stream was steered to so far, with the seconds at which it was heard."""
        self._model = model
        self._params = manifest.spectrogram
        self._drawer = PlaceDrawer(model, request.as_clip())
        look_ahead = request.look_ahead_s or LOOK_AHEAD_CLIPS * self.grid.clip_s
        self._pace = Pace(self._drawer.steps, self.grid.clip_s, look_ahead, clock or WallClock())
        self._live = live
        self._joiner = ClipJoiner(self._params)
        self._leveller = ClipLeveller(self.rate)
        self._lock = threading.Lock()
        self._waiting = sorted(request.then, key=lambda steer: steer.at_s or 0.0)
        self._from = self._to = request.place(read_mix(request.prompt), request.seed)
        self._seed, self._gone, self._legs = request.seed, 1, 1
        self._configured: StreamRequest | None = None
        self._clip: _Clip | None = None
        self._clips = self._bars = self._start = self._first_of_clip = 0
        self._last_note = ""

    @property
    def played_s(self) -> float:
        """Seconds of a live stream that have been heard."""
        return self._pace.played_s

    @property
    def wanted_steps(self) -> int:
        """Denoising steps of a clip where the machine is quick enough."""
        return self._pace.wanted_steps

    @property
    def clip_pixels(self) -> NDArray[np.uint8] | None:
        """(bands, columns, 3) of the clip whose bars are handed out at the moment, all of its columns."""
        return None if self._clip is None else self._clip.pixels

    def configure(self, request: StreamRequest) -> None:
        """Go on with another request's settings from the next bar; may be called from any thread.

        Its prompt, seed, duration and look-ahead are of no account: the walk stays where it is.
        """
        with self._lock:
            self._configured = request

    def steer(
        self, prompt: str, *, glide: int | None = None, seed: int | None = None, at_s: float | None = None
    ) -> None:
        """Go to another prompt, or to several with weights (``"piano=2 + drums"``); may be called from any thread.

        It is heard from the next bar that is not yet handed out: within the look-ahead and one bar.

        Args:
            prompt: where to.
            glide: clips until it has arrived; 1 is at once.
            seed: a new seed; None stays at this one.
            at_s: not before the first bar that begins at or after so many seconds of the stream.

        Raises:
            RequestError: a value is out of range.
        """
        steer = Steer(prompt, self.request.glide if glide is None else glide, seed, at_s)
        self.request.place(steer.mix, self._seed)
        with self._lock:
            self._waiting.append(steer)

    def __iter__(self) -> Iterator[AudioBlock]:
        end = self.request.duration_s
        columns = None if end is None else max(1, round(end * self.rate / self.grid.hop))
        while columns is None or self._bars * self.grid.columns < columns:
            start_s = self._bars * self.grid.bar_s
            left = None if columns is None else columns - self._bars * self.grid.columns
            if self._live:
                self._pace.wait_for(start_s)
            yield self._next_bar(start_s, left)

    def finish(self) -> NDArray[np.float32]:
        """The last samples (channels, n), which waited for another bar; ends the stream wherever it is.

        A stream with a duration has done so by itself.
        """
        tail = self._leveller.apply(self._joiner.finish(), self._leveller.current_db, 0)
        self._start += tail.shape[1]
        return tail

    def _next_bar(self, start_s: float, columns_left: int | None) -> AudioBlock:
        began = self._pace.now()
        steers, configured = self._taken(start_s), self._reconfigured()
        clip = self._clip
        bar = 0 if clip is None else self._bars - self._first_of_clip
        if steers or configured or clip is None or bar >= len(clip.bars):
            within = (0 if clip is None else clip.first_bar + bar) % BARS_A_CLIP
            if steers or clip is None or bar >= len(clip.bars):
                self._advance(steers)
            clip = self._clip = self._draw(within)
            self._first_of_clip, bar = self._bars, 0
            self._clips += 1
        pixels = clip.pixels[:, (clip.first_bar + bar) * self.grid.columns :][:, : self.grid.columns]
        samples, joint = clip.bars[bar], self._bars * self.grid.bar_samples - self._start
        if columns_left is not None and columns_left <= self.grid.columns:
            pixels = pixels[:, :columns_left]
            samples = np.concatenate([self._joiner.push(self._mel(pixels)), self._joiner.finish()], axis=1)
        else:
            self._joiner = clip.joiners[bar].twin()
        sound = self._leveller.apply(samples, clip.gains_db[bar], joint)
        start = self._start
        self._start += sound.shape[1]
        self._bars += 1
        compute_s = self._pace.now() - began
        ahead = start / self.rate - self._pace.played_s
        late = self._pace.delivered(start / self.rate) if self._live else 0.0
        return AudioBlock(
            samples=sound,
            rate=self.rate,
            start=start,
            bar=self._bars - 1,
            clip=self._clips - 1,
            prompts=_prompts(self._place()),
            seed=self._seed,
            alpha=self._gone / self._legs,
            steps=clip.steps,
            compute_s=compute_s,
            ahead_s=ahead if self._live else 0.0,
            late_s=late,
            note=clip.note if bar == 0 else "",
            pixels=pixels,
        )

    def _taken(self, start_s: float) -> list[Steer]:
        with self._lock:
            due = [steer for steer in self._waiting if (steer.at_s or 0.0) <= start_s]
            self._waiting = [steer for steer in self._waiting if (steer.at_s or 0.0) > start_s]
        # Only the last one counts: nobody will hear the others.
        self.steered += [replace(steer, at_s=start_s) for steer in due[-1:]]
        return due[-1:]

    def _reconfigured(self) -> bool:
        """Take other settings over, if there are any."""
        with self._lock:
            request, self._configured = self._configured, None
        if request is None:
            return False
        now = self.request
        self.request = replace(
            request,
            prompt=now.prompt,
            seed=now.seed,
            duration_s=now.duration_s,
            look_ahead_s=now.look_ahead_s,
        )
        self._from, self._to = self._retold(self._from), self._retold(self._to)
        self._drawer = PlaceDrawer(self._model, self.request.as_clip())
        self._pace.wanted_steps = self._drawer.steps
        return True

    def _retold(self, place: Place) -> Place:
        negative, guidance = self.request.negative_prompt, self.request.guidance
        return tuple(
            (replace(point, negative_prompt=negative, guidance=guidance), share) for point, share in place
        )

    def _place(self) -> Place:
        return mixed_place(self._from, self._to, self._gone / self._legs)

    def _advance(self, steers: list[Steer]) -> None:
        """Go one clip further: to what was steered to, else on the way, else off to the next seed."""
        for steer in steers:
            self._seed = self._seed if steer.seed is None else steer.seed
            self._from, self._to = self._place(), self.request.place(steer.mix, self._seed)
            self._gone, self._legs = 0, steer.glide
        if self._clip is None and not steers:
            return
        if self._gone == self._legs:
            self._seed += 1
            self._from, self._gone, self._legs = self._to, 0, self.request.clips_a_seed
            self._to = tuple((replace(point, seed=self._seed), share) for point, share in self._to)
        self._gone += 1

    def _draw(self, first_bar: int) -> _Clip:
        pace, start_s = self._pace, self._start / self.rate
        began = pace.now()
        planned, quick = pace.steps_for(start_s) if self._live else (self._drawer.steps, False)
        for done in self._drawer.denoised((self._place(),), steps=planned):
            step_s = (pace.now() - began) / done.step
            if self._live and done.step < done.steps and pace.must_stop(start_s, step_s, quick):
                break
        cut = done.step < done.steps
        # Cut short: the picture that the network expects by now is better than silence.
        latents = done.preview() if cut else done.latents
        denoised = pace.now()
        (pixels,) = self._drawer.pictures(latents)
        bars, joiners, joiner = [], [], self._joiner
        for bar in range(first_bar, BARS_A_CLIP):
            joiner = joiner.twin(preset="fast" if quick else "balanced")
            bars.append(joiner.push(self._mel(pixels[:, bar * self.grid.columns :][:, : self.grid.columns])))
            joiners.append(joiner)
        joint = self._bars * self.grid.bar_samples - self._start
        gains = self._leveller.bar_gains_db([bars[0][:, joint:], *bars[1:]])
        # Image to image walks a share of the steps planned: learn what a planned one costs.
        pace.drew(planned, (denoised - began) * done.steps / done.step, pace.now() - denoised, quick)
        note = self._note(done.step if cut else planned, f" of {done.steps} evaluations" if cut else "")
        return _Clip(first_bar, tuple(bars), tuple(joiners), pixels, gains, done.step, note)

    def _mel(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        from riffusion_rt.picture_sound import mel_of_pixels

        return mel_of_pixels(pixels, self._params)

    def _note(self, taken: int, of_them: str) -> str:
        """Said once when the steps change, not at every clip; ``of_them`` where a clip was cut short.

        Samplers that evaluate the network oftener than once a step may be cut after as many evaluations as steps.
        """
        wanted = self._pace.wanted_steps
        slower = of_them or taken < wanted
        said = f"this machine is too slow for {wanted} steps: {taken}{of_them}" if slower else ""
        changed, self._last_note = said != self._last_note, said
        return (said or f"back to {wanted} steps") if changed else ""


def _prompts(place: Place) -> tuple[tuple[str, float], ...]:
    shares: dict[str, float] = {}
    for waypoint, share in place:
        shares[waypoint.prompt] = round(shares.get(waypoint.prompt, 0.0) + share, 4)
    return tuple(shares.items())
