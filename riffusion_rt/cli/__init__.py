"""The command line: a verb and its options in, files and one report out.

Each verb is a file of this folder, imported when it is asked for. Inside it the runtime is imported when the
verb runs, so that help comes at once.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

from riffusion_rt.cli.failure import one_line_errors

_VERBS = MappingProxyType(
    {
        "generate": "generate",
        "interpolate": "interpolate",
        "remix": "remix",
        "extend": "extend",
        "stream": "stream",
        "song": "song",
        "serve": "serve",
        "batch": "prompt_file",
        "seed-images": "seed_images",
        "encode": "encode",
        "decode": "decode",
        "inspect": "inspect_file",
        "sample-clips": "sample_clips",
        "dataset": "dataset",
        "finetune": "finetune",
        "pull": "pull",
        "export": "export",
        "export-triton": "export_triton",
        "build": "build",
        "cache": "cache",
        "bench": "bench",
        "doctor": "doctor",
    }
)
"""Verbs in the order of a newcomer's day, and the modules whose ``command`` they are."""


class VerbGroup(click.Group):
    """A group whose verbs are imported on demand and whose every error is one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in `_VERBS`' order."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb; None if there is none of that name."""
        if cmd_name not in _VERBS:
            return None
        command: click.Command = import_module(f"riffusion_rt.cli.{_VERBS[cmd_name]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; for a mistyped one, say which was meant."""
        close = difflib.get_close_matches(args[0], _VERBS, n=1)
        if args[0] not in _VERBS and close:
            raise click.UsageError(f"No such command {args[0]!r}, did you mean {close[0]!r}", ctx)
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the options before the verb."""
        with one_line_errors(show_traceback=False):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with one_line_errors(show_traceback=bool(ctx.params.get("traceback"))):
            return super().invoke(ctx)


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="riffusion-rt", prog_name="riffusion-rt")
@click.option("--traceback", is_flag=True, help="On an error, show where in the program it arose.")
def main(traceback: bool) -> None:
    """Type a prompt, get music.

    \b
      riffusion-rt generate "funky piano"

    Results go to files, reports to the standard output, progress and errors to the standard error.
    """
