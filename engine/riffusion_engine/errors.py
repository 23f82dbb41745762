"""The one error family: every message says what is wrong and ends with what to do next."""

from __future__ import annotations


class RiffusionError(Exception):
    """Something the user can mend. ``hint`` is the next thing to do, usually a command to run."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message.rstrip(".")
        self.hint = hint.rstrip(".")

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[RiffusionError], message: str, hint: str) -> RiffusionError:
    return kind(message, hint=hint)


class RequestError(RiffusionError):
    """A setting lies outside its range, or two settings contradict each other."""


class ModelNotFoundError(RiffusionError):
    """No bundle goes by that name, folder or hub id."""


class MissingExtraError(RiffusionError):
    """An optional dependency is not installed."""


class BundleError(RiffusionError):
    """A bundle is incomplete, altered, or of another format version."""


class DeviceError(RiffusionError):
    """The device asked for is not there or refused the work."""


class EngineError(RiffusionError):
    """An engine cannot be built, is damaged, or was built for another GPU, library or state of its bundle."""


class AudioFileError(RiffusionError):
    """An audio file cannot be read or written."""


class ImageFileError(RiffusionError):
    """A picture cannot be read, or is not a spectrogram image."""


class OutputError(RiffusionError):
    """A result cannot be written where it was asked for."""


class NumericsError(RiffusionError):
    """A graph or a stage produced NaN or infinity."""


class ExportError(RiffusionError):
    """A checkpoint cannot be exported."""
