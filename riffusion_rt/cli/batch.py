"""A file or a folder of them in, every file's result or failure out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from riffusion_engine.errors import OutputError, RequestError, RiffusionError
from riffusion_rt.cli.destination import check_writable
from riffusion_rt.cli.failure import USER_ERROR, OneLineError
from riffusion_rt.cli.report import Report

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")

RECORDING_SUFFIXES = frozenset(
    [".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64"]
)
"""What a folder's recordings are told by; a single file may be called anything."""

PICTURE_SUFFIXES = frozenset([".png", ".jpg", ".jpeg"])
"""What a folder's spectrogram pictures are told by."""


MAX_WORKERS = 64
"""Files at a time, at most: each holds its samples in memory."""

Command = TypeVar("Command", bound=Callable[..., Any])


def jobs_option(command: Command) -> Command:
    """Give a verb ``--jobs``: how many files of a folder it works on at a time."""
    return click.option(
        "--jobs",
        type=click.IntRange(1, MAX_WORKERS),
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="Files of a folder to work on at a time.  [default: the CPUs, up to 4]",
    )(command)


@dataclass(frozen=True)
class Job:
    """One file to read and one to write."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What became of a job: a result, or an error the user can mend."""

    job: Job
    result: Result | None
    error: RiffusionError | None


def plan_jobs(source: Path, output: Path | None, suffix: str, accepted: frozenset[str]) -> list[Job]:
    """Pair every file to read with the one to write.

    Args:
        source: a file, or a folder whose files with an ``accepted`` suffix are taken, at any depth.
        output: the file to write, or a folder; None writes beside a single source.
        suffix: of the files to write, with its dot.

    Raises:
        RequestError: a folder without ``output`` or without anything to read.
        OutputError: a place that cannot be written.
    """
    if not source.is_dir():
        jobs = [Job(source, _single_target(source, output, suffix))]
    else:
        if output is None:
            raise RequestError(
                f"{source} is a folder, and its results need one too", hint="Add -o FOLDER to say where"
            )
        if output.is_file():
            raise OutputError(f"{output} is a file, not a folder", hint="Name a folder with -o FOLDER")
        sources = files_in(source, accepted)
        targets = _targets(source, sources, output, suffix)
        jobs = [Job(found, target) for found, target in zip(sources, targets, strict=True)]
    check_writable([job.target for job in jobs])
    return jobs


def run_jobs(
    jobs: Sequence[Job],
    work: Callable[[Job], Result],
    *,
    title: str,
    workers: int,
    report: Report,
    describe: Callable[[Job, Result], str],
) -> list[Outcome[Result]]:
    """Do all jobs, ``workers`` at a time, and then say the results; a bad file does not stop the others.

    Raises:
        RiffusionError: the only job failed.
    """
    outcomes: dict[Job, Outcome[Result]] = {}
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with report.progress(title, "file") as advance:
        advance(0, len(jobs))
        if len(jobs) == 1:
            return [_said(Outcome(jobs[0], work(jobs[0]), None), report, describe)]
        executor = ThreadPoolExecutor(max_workers=workers)
        try:
            futures = {executor.submit(work, job): job for job in jobs}
            for done, future in enumerate(as_completed(futures), 1):
                outcomes[futures[future]] = _outcome(futures[future], future)
                advance(done, len(jobs))
        finally:
            executor.shutdown(cancel_futures=True)
    return [_said(outcomes[job], report, describe) for job in jobs]


def finish(outcomes: Sequence[Outcome[dict[str, Any]]], report: Report) -> None:
    """Report everything done and everything failed.

    Raises:
        OneLineError: with all the failures, if there are any.
    """
    failed = [(outcome.job.source, outcome.error) for outcome in outcomes if outcome.error is not None]
    report.document(
        {
            "files": [outcome.result for outcome in outcomes if outcome.result is not None],
            "failed": [
                {"source": source, "error": error.message, "hint": error.hint} for source, error in failed
            ],
        }
    )
    for _, error in failed:
        OneLineError(str(error), USER_ERROR).show()
    if failed:
        raise OneLineError(f"{len(failed)} of {len(outcomes)} files failed; the others are done", USER_ERROR)


def _outcome(job: Job, future: Future[Result]) -> Outcome[Result]:
    try:
        return Outcome(job, future.result(), None)
    except RiffusionError as error:
        return Outcome(job, None, error)


def _said(
    outcome: Outcome[Result], report: Report, describe: Callable[[Job, Result], str]
) -> Outcome[Result]:
    if outcome.result is not None:
        report.line(describe(outcome.job, outcome.result))
    return outcome


def _single_target(source: Path, output: Path | None, suffix: str) -> Path:
    if output is None:
        return source.with_suffix(suffix)
    return output / f"{source.stem}{suffix}" if output.is_dir() else output


def files_in(folder: Path, accepted: frozenset[str]) -> list[Path]:
    """All files below ``folder`` with an accepted suffix, sorted; hidden ones and those of hidden folders are not.

    Raises:
        RequestError: it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder} is not a folder", hint="Name a folder of files to read")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in accepted
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        raise RequestError(
            f"There is nothing to read in {folder}", hint=f"Looked for {', '.join(sorted(accepted))}"
        )
    return found


def _targets(folder: Path, sources: Sequence[Path], output: Path, suffix: str) -> list[Path]:
    """The same tree below ``output``. Where two sources differ in suffix alone, that stays in their names."""
    plain = [path.relative_to(folder).with_suffix(suffix) for path in sources]
    times = Counter(plain)
    return [
        output / (target if times[target] == 1 else target.with_name(f"{path.name}{suffix}"))
        for path, target in zip(sources, plain, strict=True)
    ]
