"""A client's wishes in, an endless stream of blocks out, at the pace at which it says it plays them.

Each session is a thread that draws bars of a ``Stream`` while its client has less than the look-ahead to play. The
UNet is shared with everybody else through the engine's owner, which serves live sessions more often.
"""

from __future__ import annotations

import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_rt.bar_grid import BarGrid
from riffusion_rt.server.answers import error_facts, log
from riffusion_rt.server.heard_clock import HeardClock, Playing
from riffusion_rt.server.live_blocks import (
    Format,
    KeptBlocks,
    SentBlock,
    block_header,
    block_message,
    grey_png,
    told,
)
from riffusion_rt.server.session_places import SessionPlaces
from riffusion_rt.server.unet_batches import Ticket, WorkCancelled
from riffusion_rt.stream import Stream
from riffusion_rt.stream_request import LOOK_AHEAD_CLIPS, MAX_PROMPTS, StreamRequest, read_mix

if TYPE_CHECKING:
    from riffusion_rt.server.engine_owner import EngineOwner
    from riffusion_rt.server.service_settings import ServiceSettings
    from riffusion_rt.stream import AudioBlock

Message = dict[str, Any] | bytes
Listener = Callable[["Message | None"], None]
"""Is handed what is to be sent, from any thread, and must return at once; None is the end of the session."""

LOOK_S = 1.0
"""How often a waiting session looks whether its client is still there."""

MOST_FAILURES = 3
"""Blocks that may fail one after another before the session is given up."""


def mix_text(prompts: Sequence[tuple[str, float]]) -> str:
    """Prompts and weights as ``read_mix`` reads them.

    Raises:
        RequestError: there is none with a weight above 0, or there are too many.
    """
    heard = [(" ".join(text.split()), weight) for text, weight in prompts if weight > 0]
    if not heard:
        raise RequestError("There is no prompt with a weight above 0", hint="Send a prompt")
    if len(heard) > MAX_PROMPTS:
        raise RequestError(f"{len(heard)} prompts at once are too many", hint=f"Mix up to {MAX_PROMPTS}")
    if len(heard) == 1:
        return heard[0][0]
    # Within one of several prompts a plus is a word.
    return " + ".join(f"{text.replace(' + ', ' and ')}={weight:.6f}" for text, weight in heard)


class LiveSession:
    """One client's endless music. Its methods return at once and may be called from any thread."""

    def __init__(
        self, owner: EngineOwner, request: StreamRequest, form: Format, settings: ServiceSettings
    ) -> None:
        self.id = secrets.token_urlsafe(12)
        self.form: Format = form
        grid = BarGrid.of(owner.manifest)
        self.grid = grid
        self.look_ahead_s = max(request.look_ahead_s or LOOK_AHEAD_CLIPS * grid.clip_s, grid.clip_s)
        self.channels = owner.manifest.spectrogram.channels
        self._owner, self._settings = owner, settings
        self._ticket = Ticket(f"live {self.id}", live=True)
        self._model = owner.model_for(self._ticket)
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._clock = HeardClock(self._over)
        self._playing = Playing(grid.rate)
        self._kept = KeptBlocks(grid.rate)
        self._listener: Listener | None = None
        self._wanted = False
        self._state = "paused"
        self._heard_from = self._lost_at = time.monotonic()
        self._sent = self._base = self._clips = self._last_clip = self._steers = self._failures = 0
        self._times_real_time: float | None = None
        self._restart: int | None = None
        self._request = request
        self._stream = self._new_stream(request)
        self._blocks: Iterator[AudioBlock] = iter(self._stream)
        self._target = told(read_mix(request.prompt))
        self._thread = threading.Thread(target=self._run, name=f"live-{self.id[:6]}", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return self._listener is not None

    def facts(self) -> dict[str, Any]:
        """The ``ready`` message."""
        return {
            "type": "ready",
            "session": self.id,
            "sample_rate": self.grid.rate,
            "channels": self.channels,
            "format": self.form,
            "look_ahead_s": round(self.look_ahead_s, 4),
            "bar_s": self.grid.bar_s,
            "steps": self._stream.wanted_steps,
        }

    def attach(self, listener: Listener, from_frame: int = 0) -> None:
        """Send to this listener from now on, first what it lacks of what was sent; another one is told the end."""
        with self._changed:
            before, self._listener = self._listener, listener
            self._touch()
            self._playing.say(min(from_frame, self._sent))
            # All of it before the lock is let go: a new block must not overtake those that were missed.
            listener(self.facts())
            for block in self._kept.since(from_frame):
                listener(block.message)
            listener(self._status())
            self._changed.notify_all()
        if before is not None:
            before(None)

    def detach(self, listener: Listener) -> None:
        """The connection was lost."""
        with self._changed:
            if self._listener == listener:
                self._listener, self._lost_at = None, time.monotonic()
                self._changed.notify_all()

    def picture(self, clip: int) -> bytes | None:
        """A clip's picture, if it is still kept."""
        return self._kept.picture(clip)

    def play(self, wanted: bool) -> None:
        """Go on, or stop drawing."""
        with self._changed:
            self._touch()
            self._wanted = wanted
            self._playing.say(self._playing.frames)
            self._changed.notify_all()
        self._tell_state()

    def acknowledge(self, frames: int) -> None:
        """The client has played so many frames of the session."""
        with self._changed:
            self._touch()
            self._playing.say(min(frames, self._sent))
            self._changed.notify_all()

    def steer(self, prompts: Sequence[tuple[str, float]], glide: int | None, seed: int | None) -> None:
        """Go to other prompts.

        Raises:
            RequestError: they cannot be.
        """
        text = mix_text(prompts)
        with self._changed:
            self._touch()
            self._stream.steer(text, glide=glide, seed=seed)
            self._target = told(read_mix(text))
            self._changed.notify_all()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Take other settings over, those that are named.

        Raises:
            RequestError: one is out of its range.
        """
        given = dict(values)
        seed = given.pop("seed", None)
        with self._changed:
            self._touch()
            given.pop("look_ahead_s", None)
            if given.get("seed_image", self._request.seed_image) is None:
                given["strength"] = None
            # The stream takes the last one of several only: each holds what those before it changed.
            self._request = dataclasses.replace(self._request, **given)
            self._stream.configure(self._request)
            if seed is not None:
                text = mix_text([(each["text"], each["weight"]) for each in self._target])
                self._stream.steer(text, seed=seed)
            self._changed.notify_all()

    def reset(self, seed: int | None) -> None:
        """Begin anew, with the newest prompts, from a seed; frames are counted on."""
        with self._changed:
            self._touch()
            self._restart = self._request.seed if seed is None else seed
            self._changed.notify_all()

    def close(self) -> None:
        """End it; its listener is told."""
        with self._changed:
            if self._over.is_set():
                return
            self._over.set()
            listener, self._listener = self._listener, None
            self._changed.notify_all()
        self._owner.cancel(self._ticket)
        if listener is not None:
            listener(None)

    def join(self) -> None:
        """Wait for its thread, once it is closed."""
        self._thread.join()

    def _touch(self) -> None:
        self._heard_from = time.monotonic()

    def _new_stream(self, request: StreamRequest) -> Stream:
        return Stream(self._model, request, live=True, clock=self._clock)

    def _run(self) -> None:
        try:
            while self._may_go_on() and self._played_on():
                pass
        finally:
            self.close()

    def _played_on(self) -> bool:
        """Draw one block and send it; False when nobody wants it any more."""
        try:
            self._set_clock()
            self._publish(next(self._blocks))
            self._failures = 0
        except WorkCancelled:
            return False
        except Exception as error:
            self._failed(error)
        return True

    def _may_go_on(self) -> bool:
        """Wait until another block is wanted; False when all is over."""
        while not self._over.is_set():
            with self._changed:
                now = time.monotonic()
                if self._listener is None and now - self._lost_at > self._settings.resumable_s:
                    return False
                if self._wanted and now - self._heard_from > self._settings.idle_s:
                    self._wanted = False
                elif self._wanted and self._has_room():
                    self._begin_anew()
                    break
                else:
                    self._changed.wait(LOOK_S)
                    continue
            self._tell_state("idle")
        self._tell_state()
        return not self._over.is_set()

    def _has_room(self) -> bool:
        # As a stream has it: a bar is made when it begins within the look-ahead.
        ahead = self._sent - self._playing.frames
        return self._restart is not None or ahead <= self.look_ahead_s * self.grid.rate

    def _begin_anew(self) -> None:
        if self._restart is None:
            return
        prompt = mix_text([(each["text"], each["weight"]) for each in self._target])
        self._request = dataclasses.replace(self._request, prompt=prompt, seed=self._restart)
        self._restart = None
        self._base, self._steers = self._sent, 0
        self._clips = self._last_clip + 1
        self._stream = self._new_stream(self._request)
        self._blocks = iter(self._stream)
        # What was sent is not to be heard any more: the client goes on with the first new frame.
        self._playing.say(self._sent)
        self._tell({"type": "reset", "from_frame": self._sent})

    def _set_clock(self) -> None:
        """Move the stream's clock to where the client is."""
        with self._changed:
            heard = self._playing.heard_s(self._sent, going_on=self._wanted) - self._base / self.grid.rate
            if self._sent > self._base:
                self._clock.hold_back(self._stream.played_s - max(0.0, heard))

    def _publish(self, block: AudioBlock) -> None:
        pixels = self._stream.clip_pixels
        clip = self._clips + block.clip
        if pixels is not None and self._kept.picture(clip) is None:
            self._kept.add_picture(clip, grey_png(pixels))
            # Only the bar with which a clip begins takes time, and that is the whole clip's.
            self._times_real_time = round(self.grid.clip_s / max(block.compute_s, 1e-3), 3)
        self._last_clip = clip
        # From seed to seed nothing else comes up.
        up_next = None if self._target == told(block.prompts) else self._target
        header = block_header(
            block,
            self.id,
            base=self._base,
            first_clip=self._clips,
            bar_samples=self.grid.bar_samples,
            up_next=up_next,
        )
        message = block_message(header, block.samples, self.form)
        sent = SentBlock(header["start_frame"], header["frames"], message)
        steers = self._stream.steered
        with self._changed:
            self._kept.add(sent, self._playing.frames)
            self._sent = sent.end
            if len(steers) > self._steers:
                self._steers = len(steers)
                self._tell({"type": "steered", "prompts": told(steers[-1].mix), "from_frame": sent.start})
            self._tell(message)
            self._tell(self._status(block))

    def _failed(self, error: Exception) -> None:
        """Say so and stop: the client may press play again."""
        facts = error_facts(error)
        if not isinstance(error, RiffusionError):
            log.error("A live session failed", exc_info=error)
        self._failures += 1
        self._blocks = iter(self._stream)
        self._tell({"type": "error", **facts.model_dump()})
        if self._failures >= MOST_FAILURES:
            self.close()
        self.play(False)

    def _status(self, block: AudioBlock | None = None) -> dict[str, Any]:
        with self._changed:
            heard = self._playing.heard_s(self._sent, going_on=self._wanted)
            buffered = self._sent / self.grid.rate - heard
        return {
            "type": "status",
            "state": self._state,
            "steps": self._stream.wanted_steps if block is None else block.steps,
            "wanted_steps": self._stream.wanted_steps,
            "times_real_time": self._times_real_time,
            "behind_s": 0.0 if block is None else round(block.late_s, 3),
            "buffer_s": round(max(0.0, buffered), 3),
            "note": "" if block is None else block.note,
        }

    def _tell_state(self, state: str | None = None) -> None:
        stopped = "idle" if self._state == "idle" else "paused"
        now = state or ("playing" if self._wanted else stopped)
        if now != self._state:
            self._state = now
            self._tell(self._status())

    def _tell(self, message: Message) -> None:
        listener = self._listener
        if listener is not None:
            listener(message)


class LiveSessions(SessionPlaces[LiveSession]):
    """All live sessions of a server."""

    def __init__(self, owner: EngineOwner, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self._owner = owner

    def open(self, request: StreamRequest, form: Format) -> LiveSession:
        """A new session, paused.

        Raises:
            ServerBusy: there are as many as can be.
            RequestError, BundleError: it cannot be played.
        """
        with self._lock:
            self._make_room()
            session = LiveSession(self._owner, request, form, self._settings)
            self._sessions[session.id] = session
            return session

    def close(self) -> None:
        """End all of them."""
        self.refuse_more()
        for session in list(self._sessions.values()):
            session.join()
