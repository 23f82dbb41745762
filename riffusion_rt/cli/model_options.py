"""The options that every verb of a model shares: which model, where it runs, and how steps are taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from riffusion_engine.errors import RequestError

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)


def model_options(command: Command) -> Command:
    """Give a verb ``--model``, ``--device`` and ``--threads``."""
    for option in (
        click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: as many as help]"),
        click.option(
            "--device", default="auto", show_default=True, help="cpu or cuda; see `riffusion-rt doctor`."
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
