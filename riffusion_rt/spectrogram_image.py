"""Mel spectrogram in, picture out, and back: dark is loud, low is at the bottom, time runs right.

A picture explains itself: its EXIF holds the parameters, so that any Riffusion-like program can decode it,
and a PNG's text chunks hold what it was made from.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import ImageFileError, NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_engine.whole_file import whole_file

if TYPE_CHECKING:
    from PIL import Image

MONO_PARAMS = SpectrogramParams()
"""Riffusion's v1 checkpoint: mono, 0 to 10,000 Hz."""

STEREO_PARAMS = SpectrogramParams(stereo=True, f_min=10, f_max=20_000)
"""The second preset, for checkpoints trained on it: stereo, 10 to 20,000 Hz."""

DECODED_MAX = 30e6
"""Magnitude that a black pixel decodes to, when nothing better is known: Riffusion's constant."""

WHITE = 255

MAX_PIXELS = 2**26
"""Larger pictures are refused unread: at 512 bands this is 22 minutes of sound."""

EXIF_SAMPLE_RATE = 11000
EXIF_STEREO = 11005
EXIF_STEP_MS = 11010
EXIF_WINDOW_MS = 11020
EXIF_PADDED_MS = 11030
EXIF_BANDS = 11040
EXIF_F_MIN = 11050
EXIF_F_MAX = 11060
EXIF_POWER = 11070
EXIF_MAX_VALUE = 11080
"""Riffusion's own EXIF tags; the last one holds the magnitude of a black pixel."""

_EXIF_FIELDS = {
    EXIF_SAMPLE_RATE: "sample_rate",
    EXIF_STEREO: "stereo",
    EXIF_STEP_MS: "step_ms",
    EXIF_WINDOW_MS: "window_ms",
    EXIF_PADDED_MS: "padded_ms",
    EXIF_BANDS: "bands",
    EXIF_F_MIN: "f_min",
    EXIF_F_MAX: "f_max",
    EXIF_POWER: "power",
}

_PARAMETER_TYPES: dict[str, type[Any]] = {
    name: type(value) for name, value in asdict(SpectrogramParams()).items()
}

_READABLE_FORMATS = ("PNG", "JPEG")
_READABLE_MODES = ("RGB", "RGBA", "L", "LA", "P")
_ANOTHER_PICTURE = "Give a spectrogram picture as PNG or JPEG, for instance one that encode wrote"


def image_from_mel(
    mel: NDArray[np.floating], params: SpectrogramParams, *, max_value: float | None = None
) -> Image.Image:
    """Draw a mel spectrogram: ``255 − 255 (mel / max)^power``, truncated to whole levels.

    Args:
        mel: ``(channels, bands, columns)`` magnitudes; one channel, or two if ``params.stereo``.
        params: ``power`` and ``stereo`` are used, ``bands`` is checked.
        max_value: the magnitude to draw black, louder ones being clipped to it; None takes the loudest of all
            channels.

    Returns:
        An RGB picture, ``columns`` wide and ``bands`` high. Mono has three equal channels; stereo has no
        red, left in green and right in blue. Silence is white.

    Raises:
        RequestError: the array does not fit the parameters, or ``max_value`` is negative.
        NumericsError: a magnitude is NaN or infinite.
    """
    from PIL import Image

    mel = np.asarray(mel, dtype=np.float32)
    if mel.ndim != 3 or mel.shape[:2] != (params.channels, params.bands) or mel.shape[2] == 0:
        raise RequestError(
            f"A spectrogram of shape {mel.shape} is not {params.channels} channel(s) of {params.bands} bands",
            hint="Analyse the recording with the same parameters that draw it",
        )
    measured = loudest_magnitude(mel)
    loudest = measured if max_value is None else float(max_value)
    if not loudest >= 0:
        raise RequestError(f"A black pixel cannot stand for {max_value}", hint="Give a max_value above zero")
    relative = np.clip(mel / np.float32(loudest), 0, 1) if loudest > 0 else np.zeros_like(mel)
    levels = (WHITE - WHITE * relative ** np.float32(params.power)).astype(np.uint8)[:, ::-1]
    if params.stereo:
        planes = np.stack([np.zeros_like(levels[0]), levels[0], levels[1]], axis=-1)
    else:
        planes = np.repeat(levels[0][:, :, None], 3, axis=-1)
    return Image.fromarray(planes)


def loudest_magnitude(mel: NDArray[np.floating]) -> float:
    """The magnitude that a picture of ``mel`` draws black; its ``max_value`` in EXIF.

    Raises:
        NumericsError: a magnitude is NaN or infinite.
    """
    loudest = float(np.max(mel))
    if not (np.isfinite(loudest) and np.isfinite(np.min(mel))):
        raise NumericsError("The spectrogram holds NaN or infinite magnitudes", hint="Repair the recording")
    return loudest


def mel_from_image(
    image: Image.Image, params: SpectrogramParams, *, max_value: float = DECODED_MAX
) -> NDArray[np.float32]:
    """Read the magnitudes that a picture stands for: ``max_value (1 − level / 255)^(1 / power)``.

    Args:
        image: as high as ``params.bands``, any width.
        params: mono reads the red channel, stereo green and blue.
        max_value: the magnitude of a black pixel.

    Returns:
        ``(channels, bands, columns)``, lowest band first. A white picture is silence.

    Raises:
        ImageFileError: the picture's height or mode is not a spectrogram's.
    """
    if image.mode not in _READABLE_MODES:
        raise ImageFileError(f"A picture of mode {image.mode} is no spectrogram", hint=_ANOTHER_PICTURE)
    if image.height != params.bands or image.width < 1:
        raise ImageFileError(
            f"The picture is {image.width}x{image.height}, but a spectrogram is {params.bands} pixels high",
            hint=f"Resize it to a height of {params.bands}",
        )
    planes = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))[::-1]
    levels = np.moveaxis(planes[:, :, 1:] if params.stereo else planes[:, :, :1], -1, 0)
    # 256 levels, 256 magnitudes: a table is exact and far quicker than a power for every pixel.
    table = float(max_value) * (1 - np.arange(WHITE + 1) / WHITE) ** (1 / params.power)
    mel: NDArray[np.float32] = table.astype(np.float32)[levels]
    return mel


def exif_bytes(params: SpectrogramParams, max_value: float | None = None) -> bytes:
    """The EXIF block of a picture with these parameters, for any format that carries one.

    ``max_value`` is the magnitude of a black pixel; None leaves it out.
    """
    from PIL import Image

    exif = Image.Exif()
    for tag, name in _EXIF_FIELDS.items():
        exif[tag] = getattr(params, name)
    if max_value is not None:
        exif[EXIF_MAX_VALUE] = float(max_value)
    return exif.tobytes()


def params_from_exif(image: Image.Image) -> SpectrogramParams:
    """The parameters a picture was drawn with; a tag it lacks takes its default.

    Raises:
        ImageFileError: a tag holds something that is no such parameter.
    """
    exif = image.getexif()
    named = {name: exif[tag] for tag, name in _EXIF_FIELDS.items() if tag in exif}
    try:
        params = SpectrogramParams(**{name: _PARAMETER_TYPES[name](value) for name, value in named.items()})
    except (TypeError, ValueError, ArithmeticError) as error:
        raise _unusable_exif(named) from error
    positive = (params.hop_length, params.win_length, params.bands)
    fits = params.win_length <= params.n_fft and 0 <= params.f_min < params.f_max
    if min(positive) < 1 or not fits or not 0 < params.power <= 1:
        raise _unusable_exif(named)
    return params


def max_value_from_exif(image: Image.Image) -> float | None:
    """The magnitude of a black pixel, if the picture says so and it can be one."""
    value = image.getexif().get(EXIF_MAX_VALUE)
    try:
        magnitude = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return magnitude if 0 < magnitude < np.inf else None


def save_png(
    image: Image.Image,
    path: Path,
    params: SpectrogramParams,
    max_value: float | None = None,
    text: Mapping[str, str] | None = None,
) -> None:
    """Write a spectrogram picture with its EXIF and text chunks, whole or not at all; same picture, same
    bytes.

    Args:
        image: as ``image_from_mel`` drew it.
        path: where; ends in ``.png`` by custom.
        params: parameters for the EXIF.
        max_value: the magnitude of a black pixel, for the EXIF.
        text: what it was made from (prompt, seed, settings), one chunk each; a name has 1 to 79 ASCII
            characters.

    Raises:
        RequestError: a name that PNG cannot hold.
        OutputError: the place cannot be written.
    """
    encoded = png_bytes(image, params, max_value, text)
    with whole_file(path) as file:
        file.write(encoded)


def png_bytes(
    image: Image.Image,
    params: SpectrogramParams,
    max_value: float | None = None,
    text: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes that ``save_png`` writes."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for name, value in (text or {}).items():
        if not (name.isascii() and name.isprintable() and name == name.strip() and 0 < len(name) < 80):
            raise RequestError(f"PNG has no text called {name!r}", hint="Use 1 to 79 ASCII characters")
        # A lone surrogate has no UTF-8, and NUL ends nothing but readers' patience.
        chunks.add_itxt(name, value.replace("\0", " ").encode("utf-8", "replace").decode())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif_bytes(params, max_value), pnginfo=chunks)
    return buffer.getvalue()


def load_image(path: Path) -> Image.Image:
    """Read a picture from a PNG or JPEG file, wholly, as RGB; EXIF and text chunks stay with it.

    Raises:
        ImageFileError: no such file, no picture, cut off, damaged, enormous, or of a kind that holds no
        spectrogram.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise ImageFileError(f"{path} {problem}", hint="Check the path")
    try:
        with path.open("rb") as file:
            return read_image(file, str(path))
    except OSError as error:
        raise ImageFileError(f"Cannot read {path} as a picture", hint=_ANOTHER_PICTURE) from error


def read_image(file: IO[bytes], name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """What ``load_image`` does, from an open file; ``name`` is what errors call it.

    Raises:
        ImageFileError: as ``load_image``, or it claims more than ``max_pixels``.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # The size is checked below, before a pixel is read.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_READABLE_FORMATS)
        with image:
            _check_picture(name, image.size, image.mode, max_pixels)
            image.load()
            # Converting or copying leaves the open file behind, not what it said of itself.
            return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except ImageFileError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to.
        raise ImageFileError(f"Cannot read {name} as a picture", hint=_ANOTHER_PICTURE) from error


def text_from_image(image: Image.Image) -> dict[str, str]:
    """The text chunks of a PNG that ``load_image`` read; empty for a JPEG."""
    return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}


def _check_picture(path: str, size: tuple[int, int], mode: str, max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageFileError(
            f"{path} claims {size[0]}x{size[1]} pixels, more than {max_pixels:,}", hint=_ANOTHER_PICTURE
        )
    if mode not in _READABLE_MODES:
        raise ImageFileError(f"{path} has mode {mode}, not 8-bit grey or RGB", hint=_ANOTHER_PICTURE)


def _unusable_exif(named: Mapping[str, Any]) -> ImageFileError:
    return ImageFileError(
        f"The picture's EXIF holds unusable parameters: {dict(named)}",
        hint="Strip its EXIF to decode it with the defaults",
    )
