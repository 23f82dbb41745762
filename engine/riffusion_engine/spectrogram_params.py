"""The numbers that tie a picture to sound. They stand in every manifest and in every picture's EXIF."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpectrogramParams:
    """How sound becomes a mel spectrogram picture and back (defaults: Riffusion's v1 checkpoint).

    A column is one STFT frame, ``step_ms`` apart; a row is one mel band. The analysis window is ``window_ms`` long
    and zero-padded to ``padded_ms`` before the transform.
    """

    sample_rate: int = 44_100
    """Samples a second."""
    stereo: bool = False
    """Two channels, in the picture's green (left) and blue (right); else one, in all three."""
    step_ms: int = 10
    """Time from a column to the next, in milliseconds."""
    window_ms: int = 100
    """Length of the Hann window, in milliseconds."""
    padded_ms: int = 400
    """Length of the transform, in milliseconds: the window plus its zero padding."""
    bands: int = 512
    """Mel bands: the height of the picture."""
    f_min: int = 0
    """Lower edge of the lowest band, in hertz."""
    f_max: int = 10_000
    """Upper edge of the highest band, in hertz."""
    power: float = 0.25
    """Exponent from relative magnitude to relative darkness."""

    @property
    def hop_length(self) -> int:
        """Samples from a column to the next (441)."""
        return int(self.step_ms / 1000 * self.sample_rate)

    @property
    def win_length(self) -> int:
        """Samples under the window (4,410)."""
        return int(self.window_ms / 1000 * self.sample_rate)

    @property
    def n_fft(self) -> int:
        """Samples in a transform (17,640)."""
        return int(self.padded_ms / 1000 * self.sample_rate)

    @property
    def channels(self) -> int:
        """1 or 2."""
        return 2 if self.stereo else 1
