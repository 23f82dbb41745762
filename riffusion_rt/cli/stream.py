"""A prompt in, music without an end out: through the speakers, to a file, or to the standard output."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_rt.cli.destination import check_writable
from riffusion_rt.cli.making import Stopwatch
from riffusion_rt.cli.model_options import ModelChoice, model_choice, step_options
from riffusion_rt.cli.report import Report, reporting
from riffusion_rt.cli.seed_images import SEED_IMAGE

if TYPE_CHECKING:
    from riffusion_rt.stream import AudioBlock, Stream
    from riffusion_rt.stream_output import Output

STDOUT = "-"


@click.command("stream", short_help="Music that goes on and on, and can be steered while it plays.")
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Where to: .wav, .pcm (bare 16-bit samples), or - for the standard output.  [default: the speakers]",
)
@click.option(
    "--duration", "duration_s", type=float, metavar="SECONDS", help="Where to end.  [default: Ctrl-C]"
)
@click.option(
    "--then", multiple=True, metavar="PROMPT@Ss", help="Another prompt later: bells@20s. Repeatable."
)
@click.option(
    "--steer-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Go to what its last line says whenever that changes; - is what is typed.",
)
@click.option(
    "--glide", type=int, metavar="CLIPS", help="Clips until a new prompt has arrived.  [default: 2]"
)
@click.option("--seed", type=int, default=0, show_default=True, help="Where the walk begins.")
@click.option(
    "--wander", "clips_a_seed", type=int, metavar="CLIPS", help="Clips to the next seed.  [default: 4]"
)
@click.option("--negative", "negative_prompt", default="", metavar="TEXT", help="What to stay away from.")
@step_options
@click.option("--guidance", type=float, help="How strictly to follow the prompt.  [default: the model's]")
@click.option(
    "--seed-image", type=SEED_IMAGE, metavar="NAME|FILE", help="What all clips start from; `help` lists."
)
@click.option("--strength", type=float, help="How far to go from the seed image, 0 to 1.")
@click.option(
    "--look-ahead",
    "look_ahead_s",
    type=float,
    metavar="SECONDS",
    help="Made before heard.  [default: 1.5 clips]",
)
@click.option(
    "--live/--no-live",
    default=None,
    help="Keep to the clock, fewer steps if need be.  [default: live, but for files]",
)
@click.option(
    "--format", "form", default="wav", show_default=True, help="Of the standard output: wav or s16le."
)
@model_choice
@reporting
def command(
    prompt: str,
    output: str | None,
    then: tuple[str, ...],
    steer_file: Path | None,
    live: bool | None,
    form: str,
    choice: ModelChoice,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Play PROMPT on and on, from seed to seed. PROMPT may be several: "jazz piano=2 + church bells".

    Ctrl-C ends it after its bar, a second one at once; a file is whole even so, and says how to play the same again.

    \b
      riffusion-rt stream "funky piano" --then "church bells@30s"
      riffusion-rt stream "funky piano" -o - | aplay -
    """
    report, watch = Report(as_json, quiet), Stopwatch()
    from riffusion_rt.stream import Stream
    from riffusion_rt.stream_output import STREAM_FORMATS, check_stream_suffix
    from riffusion_rt.stream_request import GLIDE_CLIPS, Steer, StreamRequest

    given = {name: value for name, value in settings.items() if value is not None}
    glide = int(given.get("glide", GLIDE_CLIPS))
    request = StreamRequest(prompt, **given, then=tuple(Steer.parse(text, glide) for text in then))
    if form not in STREAM_FORMATS:
        raise RequestError(f"There is no format {form!r}", hint="Choose wav or s16le")
    if output == STDOUT and as_json:
        raise RequestError("The standard output cannot hold sound and JSON", hint="Use -o FILE, or no --json")
    path = None if output in (None, STDOUT) else Path(str(output))
    if path is not None:
        check_stream_suffix(path)
        check_writable([path])
        if request.duration_s is None and live is None and not sys.stderr.isatty():
            live = True  # Nobody is there to end it: at least it fills the disk no faster than it plays.
    watch.imported()
    with choice.opened() as riffusion:
        stream = Stream(riffusion.model, request, live=path is None if live is None else live)
        watch.loaded()
        steering = _Steering(stream, steer_file, to_stderr=output == STDOUT or as_json, quiet=quiet)
        tally = _Tally()
        with ExitStack() as stack:
            out, end = _opened(stack, output, path, form, stream)
            _play(stream, out, steering, tally, report)
            heard = request.resolved_with(stream.steered, max(tally.samples, 1) / stream.rate)
            metadata = _metadata(heard, riffusion.manifest.name)
            if end is not None:
                end(metadata)
        name, device = riffusion.manifest.name, riffusion.device
    if output != STDOUT:
        place = "played" if path is None else str(path)
        report.line(
            f"{place}: {tally.samples / stream.rate:.2f} s, {tally.blocks} bars, {tally.late} of them late"
        )
    report.document(
        {
            "model": name,
            "device": device,
            "audio": path,
            "duration_s": tally.samples / stream.rate,
            "samples": tally.samples,
            "request": heard.settings(),
            **tally.facts(),
            "seconds": watch.seconds(),
        }
    )


def _opened(
    stack: ExitStack, output: str | None, path: Path | None, form: str, stream: Stream
) -> tuple[Output, Any]:
    """Where sound goes, and what to call at its end."""
    from riffusion_rt.stream_output import PipeOutput, Speakers, sample_file

    if path is not None:
        file = stack.enter_context(sample_file(path, stream.channels, stream.rate))
        return file, file.end
    if output == STDOUT:
        pipe = sys.stdout.buffer
        return PipeOutput(pipe, stream.channels, stream.rate, wav=form == "wav"), None
    return stack.enter_context(Speakers(stream.channels, stream.rate)), None


def _play(stream: Stream, out: Output, steering: _Steering, tally: _Tally, report: Report) -> None:
    """Hand every block on until the end or Ctrl-C, after which what is left of the sound follows."""
    total = stream.request.duration_s
    try:
        with _ctrl_c() as pressed, report.progress("playing", "s") as advance:
            for block in stream:
                out.write(block.samples)
                tally.add(block)
                steering.tell(block)
                steering.look()
                done = tally.samples / stream.rate
                advance(round(done), round(total or done), " + ".join(prompt for prompt, _ in block.prompts))
                whole = total is not None and tally.samples >= round(total * stream.rate)
                if pressed.is_set() and not whole:
                    raise KeyboardInterrupt  # not from the handler: no lock or callback is cut in half
    except KeyboardInterrupt:
        tail = stream.finish()
        out.write(tail)
        tally.samples += tail.shape[1]


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, which ends the music after its bar; the second one interrupts whatever runs."""
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()
        os.write(2, b"\nEnding after this bar. Ctrl-C again ends at once\n")  # safe wherever the signal came

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _metadata(request: Any, model: str) -> dict[str, str]:
    import json

    from riffusion_rt import __version__

    return {
        "software": f"riffusion-rt {__version__}",
        "title": request.prompt,
        "model": model,
        "request": json.dumps(request.settings(), ensure_ascii=False, sort_keys=True),
    }


class _Tally:
    """What became of a stream."""

    def __init__(self) -> None:
        self.blocks = self.samples = self.late = 0
        self.slowest_s = self.late_s = 0.0
        self.least_steps: int | None = None

    def add(self, block: AudioBlock) -> None:
        self.blocks += 1
        self.samples += block.samples.shape[1]
        self.late += block.late_s > 0
        self.late_s += block.late_s
        self.slowest_s = max(self.slowest_s, block.compute_s)
        self.least_steps = min(block.steps, self.least_steps or block.steps)

    def facts(self) -> dict[str, Any]:
        return {
            "bars": self.blocks,
            "late_bars": self.late,
            "late_s": round(self.late_s, 3),
            "slowest_bar_s": round(self.slowest_s, 3),
            "least_steps": self.least_steps,
        }


class _Steering:
    """A file, or what is typed, that a stream is steered by, and what the listener is told."""

    def __init__(self, stream: Stream, source: Path | None, *, to_stderr: bool, quiet: bool) -> None:
        self._stream, self._source = stream, source
        self._to_stderr, self._quiet = to_stderr, quiet
        self._said = stream.request.prompt
        self._shown: object = None
        if source is not None and str(source) == STDOUT:
            self._source = None
            threading.Thread(target=self._read_lines, daemon=True).start()
        elif source is not None and not source.parent.is_dir():
            raise RequestError(f"There is no folder {source.parent}", hint="Check --steer-file")

    def tell(self, block: AudioBlock) -> None:
        """Say what is new in a block."""
        what = (tuple(prompt for prompt, _ in block.prompts), block.seed)
        if what != self._shown or block.note or block.late_s:
            self._shown = what
            prompts = " + ".join(f"{prompt} {share:.0%}" for prompt, share in block.prompts)
            late = f", {block.late_s:.2f} s late" if block.late_s else ""
            note = f", {block.note}" if block.note else ""
            self._say(f"{block.start / block.rate:8.2f} s  {prompts}, to seed {block.seed}{note}{late}")

    def look(self) -> None:
        """Steer to the file's last line, if that is new."""
        if self._source is None:
            return
        try:
            lines = [line.strip() for line in self._source.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError):
            return  # Not there yet, or just being written.
        self._steer(next((line for line in reversed(lines) if line), self._said))

    def _read_lines(self) -> None:
        for line in sys.stdin:
            if line.strip():
                self._steer(line.strip())

    def _steer(self, prompt: str) -> None:
        if prompt == self._said:
            return
        self._said = prompt
        try:
            self._stream.steer(prompt)
        except RiffusionError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        if not self._quiet:
            from riffusion_rt.cli.failure import printable

            click.echo(printable(text), err=self._to_stderr)
