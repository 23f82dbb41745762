"""A finished piece of sound with its picture and its request: play it, show it, save it, and make it again."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_rt import __version__
from riffusion_rt.request import SoundRequest

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.spectrogram_params import SpectrogramParams


@dataclass(frozen=True, eq=False)
class Clip:
    """What ``Riffusion.generate`` returns."""

    samples: NDArray[np.float32]
    """(channels, n) in ±1; n is columns × hop length: 225,792 for 512 columns."""
    image: Image.Image
    """The spectrogram image, RGB, one column a hop."""
    params: SpectrogramParams
    """How picture and sound belong together."""
    request: SoundRequest
    """What makes it again: for a clip of its own a ``ClipRequest`` with every default filled in."""
    model: str
    """Name of the bundle."""
    max_value: float
    """Magnitude of a black pixel."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds spent in each stage."""
    rate: int | None = None
    """Samples a second, where they are not the spectrogram's: a remix plays at its recording's rate."""

    @property
    def sample_rate(self) -> int:
        """Samples a second."""
        return self.rate or self.params.sample_rate

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return float(self.samples.shape[1] / self.sample_rate)

    def metadata(self) -> dict[str, str]:
        """What the files carry, so that the clip can be made again: software, model and the request as JSON."""
        return {
            "software": f"riffusion-rt {__version__}",
            "title": self.request.prompt,
            "model": self.model,
            "request": json.dumps(self.request.settings(), ensure_ascii=False, sort_keys=True),
        }

    def save(self, path: Path | str) -> tuple[Path, Path]:
        """Write the audio to ``path`` (.wav, .flac, .ogg, .mp3) and the picture beside it (.png): both or neither.

        Returns:
            The two paths.

        Raises:
            AudioFileError: the suffix is none of the four.
            OutputError: the place cannot be written.
        """
        from riffusion_engine.whole_file import whole_file
        from riffusion_rt.audio_file import check_audio_suffix, encode_audio
        from riffusion_rt.spectrogram_image import png_bytes

        audio_path = Path(path)
        image_path = audio_path.with_suffix(".png")
        suffix, metadata = check_audio_suffix(audio_path), self.metadata()
        sound = encode_audio(self.samples, self.sample_rate, suffix, metadata)
        picture = png_bytes(self.image, self.params, self.max_value, metadata)
        # Both are on the disk before either gets its name: there is never one without the other.
        with whole_file(audio_path) as audio_file, whole_file(image_path) as image_file:
            audio_file.write(sound)
            audio_file.flush()
            image_file.write(picture)
        return audio_path, image_path

    def to_wav(self) -> bytes:
        """The clip as a 16-bit WAV file in memory."""
        from riffusion_rt.audio_file import encode_audio

        return encode_audio(self.samples, self.sample_rate, ".wav")

    def _repr_html_(self) -> str:
        """A player above the spectrogram, for notebooks."""
        from riffusion_rt.spectrogram_image import png_bytes

        sound = base64.b64encode(self.to_wav()).decode()
        image = base64.b64encode(png_bytes(self.image, self.params)).decode()
        title = html.escape(f"{self.request.prompt} (seed {self.request.seed})")
        return (
            f'<figure><figcaption>{title}</figcaption><audio controls src="data:audio/wav;base64,{sound}"></audio><br>'
            f'<img alt="Spectrogram of {title}" src="data:image/png;base64,{image}"></figure>'
        )

    def __repr__(self) -> str:
        made = f"{self.request.prompt!r}, seed={self.request.seed}"
        return f"Clip({made}, {self.duration_s:.2f} s, model={self.model!r})"
