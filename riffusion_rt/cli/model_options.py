"""The options that verbs of a model share, as one choice: which model, where and how it runs; how steps are taken."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from riffusion_engine.errors import RequestError

if TYPE_CHECKING:
    from riffusion_rt.pipeline import Riffusion

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def model_options(command: Command) -> Command:
    """Give a verb ``--model``, ``--device`` and ``--threads``."""
    for option in (
        click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: as many as help]"),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, openvino, cuda, ...; see `riffusion-rt doctor`.",
        ),
        click.option(
            "--model",
            default="riffusion-mini",
            show_default=True,
            metavar="NAME",
            help="A short name, a bundle's folder, or a hub id.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and how it runs; see ``riffusion_rt.Riffusion``."""

    model: str
    device: str
    threads: int | None
    fused: bool
    reuse: int
    low_memory: bool

    def opened(self) -> Riffusion:
        """Open it."""
        from riffusion_rt.pipeline import Riffusion

        return Riffusion(**vars(self))


def model_choice(command: Command) -> Callable[..., Any]:
    """Give a verb the options of a model and of ways to run it that are off unless asked for, as one ``choice``."""

    @functools.wraps(command)
    def with_choice(*args: Any, **given: Any) -> Any:
        chosen = {field.name: given.pop(field.name) for field in fields(ModelChoice)}
        check_threads(chosen["threads"])
        return command(*args, choice=ModelChoice(**chosen), **given)

    whole: Callable[..., Any] = model_options(with_choice)
    for option in (
        click.option(
            "--low-memory",
            is_flag=True,
            help="One network open at a time, on a CPU its weights left in their files: a fraction of the memory.",
        ),
        click.option(
            "--reuse",
            type=int,
            default=1,
            metavar="N",
            help="Compute the network's deep features at every Nth step only: quicker, less exact.",
        ),
        click.option("--fused", is_flag=True, help="Rewrite graphs to quicker operators, for more memory."),
    ):
        whole = option(whole)
    return whole


def step_options(command: Command) -> Command:
    """Give a verb ``--steps`` and ``--sampler``."""
    for option in (
        click.option("--sampler", metavar="NAME", help="How steps are taken.  [default: the model's]"),
        click.option("--steps", type=int, help="Denoising steps; more take longer.  [default: the model's]"),
    ):
        command = option(command)
    return command


def output_option(default: str) -> Callable[[Command], Command]:
    """Give a verb ``-o``; ``default`` says what a result is called without it."""
    return click.option(
        "-o",
        "--output",
        type=FILE,
        metavar="FILE",
        help=f"Where to: .wav, .flac, .ogg, .mp3 or a folder; the picture beside it.  [default: {default}]",
    )


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that is none.

    Raises:
        RequestError: it is below 1.
    """
    if threads is not None and threads < 1:
        raise RequestError(f"threads must be 1 or more, not {threads}", hint="Leave --threads out")
