"""Exceptions in, one line on the standard error and an exit code out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from unicodedata import category

import click

from riffusion_engine.errors import RiffusionError

USER_ERROR = 2
"""Something the user can mend: bad input, a missing model, an unwritable place."""
BUG = 1
"""Something the user cannot mend."""
INTERRUPTED = 130
"""128 + SIGINT, as shells count."""


class OneLineError(click.ClickException):
    """Shown as ``riffusion-rt: MESSAGE``, on one line whatever the message holds."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class, and reads it here

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the line to the standard error."""
        click.echo(f"riffusion-rt: {printable(self.format_message())}", err=True, file=file)


@contextmanager
def one_line_errors(*, show_traceback: bool) -> Iterator[None]:
    """Turn whatever the body raises into a `OneLineError`, after its traceback if that is asked for."""
    try:
        yield
    except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError, OneLineError):
        raise
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "riffusion-rt"
        message = error.format_message().rstrip(".")
        raise OneLineError(f"{message}. See `{where} --help`", USER_ERROR) from error
    except RiffusionError as error:
        _show(error, show_traceback)
        raise OneLineError(str(error), USER_ERROR) from error
    except (KeyboardInterrupt, click.Abort) as error:
        _show(error, show_traceback)
        raise OneLineError("Interrupted", INTERRUPTED) from error
    except BrokenPipeError:
        raise  # click ends quietly when the reader of its output has gone
    except Exception as error:
        _show(error, show_traceback)
        hint = "Run `riffusion-rt --traceback VERB …` to see where, and report it"
        raise OneLineError(f"Unexpected {type(error).__name__}: {error}. {hint}", BUG) from error


def printable(text: str) -> str:
    """``text`` without control characters and half surrogate pairs, which terminals act on or choke on."""
    return "".join(
        letter if letter.isprintable() or category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def _show(error: BaseException, wanted: bool) -> None:
    if wanted:
        import traceback

        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
