"""Results in, either lines for people or one JSON document for programs out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from riffusion_rt.cli.failure import printable

Command = TypeVar("Command", bound=Callable[..., Any])


class Advance(Protocol):
    """Told how many units of how many are done, and what is being done now."""

    def __call__(self, done: int, total: int, stage: str = "") -> None: ...


@dataclass(frozen=True)
class Report:
    """How a verb tells what it did. Results go to the standard output, progress to the standard error."""

    as_json: bool
    quiet: bool

    def line(self, text: str) -> None:
        """Say one line, unless quiet or writing JSON."""
        if not (self.as_json or self.quiet):
            click.echo(printable(text))

    def document(self, content: Mapping[str, Any]) -> None:
        """Print the one JSON document of this run, if JSON is wanted."""
        if self.as_json:
            click.echo(json.dumps(content, indent=2, default=_plain))

    @contextmanager
    def progress(self, title: str, unit: str) -> Iterator[Advance]:
        """A bar on the standard error, where that is a terminal; yields what is told how far the work is."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total, stage="": None
            return
        from tqdm import tqdm

        with tqdm(desc=title, unit=unit, leave=False, file=sys.stderr) as bar:

            def advance(done: int, total: int, stage: str = "") -> None:
                bar.total, bar.n = total, done
                bar.set_postfix_str(stage, refresh=False)
                bar.refresh()

            yield advance


def reporting(command: Command) -> Command:
    """Give a verb ``--json`` and ``-q``: it receives ``as_json`` and ``quiet``."""
    quiet = click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors; no progress bar.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Report as one JSON document.")
    return as_json(quiet(command))


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
