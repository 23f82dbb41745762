"""Spectrogram pictures enter; waveforms leave: from the bundle's vocoder graph on a GPU, else from the numpy form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.devices import HOST_DEVICES
from riffusion_engine.errors import RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from riffusion_engine.manifest import Manifest
    from riffusion_engine.session import Session

VOCODER = "vocoder"
"""The graph's name in the manifest."""

_IMAGE, _WAVEFORM = "image", "waveform"
_WHITE = np.float32(255)


class Vocoder:
    """One way from pictures to sound, whatever runs it.

    The graph takes pictures of the one width that the model draws, as circles, which is how every clip is played;
    a picture of another width or with open ends goes through the numpy form, which sounds the same.
    """

    def __init__(
        self, params: SpectrogramParams, *, preset: str = "balanced", session: Session | None = None
    ) -> None:
        """Nothing is computed yet.

        Args:
            params: how the pictures were made.
            preset: care of the numpy form, one of :data:`riffusion_rt.phase.PRESETS`; the graph has its own.
            session: the bundle's vocoder graph, open on a device; None for the numpy form alone.
        """
        self._params = params
        self._preset = preset
        self._session = session

    def waveforms(self, pixels: NDArray[np.uint8], *, loop: bool = True) -> NDArray[np.float32]:
        """The sound of pictures of one width.

        Args:
            pixels: uint8 ``(pictures, bands, columns, 3)``.
            loop: whether each picture's last column is followed by its first.

        Returns:
            float32 ``(pictures, channels, columns * hop)``, at a level that means little: set the loudness after.

        Raises:
            RequestError: the arrays are no spectrogram pictures of these parameters.
            DeviceError: the device refused the work.
            NumericsError: the graph returned NaN or infinity.
        """
        if pixels.ndim != 4 or pixels.shape[1] != self._params.bands or pixels.shape[3] != 3:
            raise RequestError(
                f"Pictures have the shape (pictures, {self._params.bands} rows, columns, 3), not {pixels.shape}",
                hint="Check the spectrogram parameters that the pictures were made with",
            )
        session = self._session
        if session is not None and loop and pixels.shape[2] == session.graph.inputs[0].shape[-1]:
            return _from_graph(session, pixels)
        return self._from_numpy(pixels, loop)

    def _from_numpy(self, pixels: NDArray[np.uint8], loop: bool) -> NDArray[np.float32]:
        from PIL import Image

        from riffusion_engine.devices import available_cores
        from riffusion_rt.phase import WORKERS, waveform_from_mel
        from riffusion_rt.single_blas import single_blas_threads
        from riffusion_rt.spectrogram_image import mel_from_image
        from riffusion_rt.worker_threads import worker_threads

        def waveform(picture: NDArray[np.uint8], workers: int = 1) -> NDArray[np.float32]:
            mel = mel_from_image(Image.fromarray(np.ascontiguousarray(picture)), self._params)
            return waveform_from_mel(mel, self._params, preset=self._preset, loop=loop, workers=workers)

        if len(pixels) == 1:
            return waveform(pixels[0], WORKERS)[None]
        # A thread for each picture loses less time than threads that share one.
        threads = min(len(pixels), available_cores())
        with single_blas_threads(), worker_threads(threads) as executor:
            return np.stack(list(executor.map(waveform, pixels)))


def choose_vocoder(
    manifest: Manifest, device: str, session: Callable[[str], Session], *, preset: str = "balanced"
) -> Vocoder:
    """The vocoder of a bundle on a device: its graph where a GPU runs it, if it has one.

    On the CPU the numpy form is the faster one: it has fast Fourier transforms, which no graph has.

    Args:
        manifest: the bundle's.
        device: what the other graphs run on.
        session: opens the graph of that name; called only if it is wanted.
        preset: care of the numpy form.
    """
    wanted = device not in HOST_DEVICES and VOCODER in manifest.graphs
    return Vocoder(manifest.spectrogram, preset=preset, session=session(VOCODER) if wanted else None)


def _from_graph(session: Session, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    from riffusion_engine.session import require_finite

    image = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / _WHITE
    waveform = session.run({_IMAGE: image})[_WAVEFORM]
    return np.asarray(require_finite(waveform, "The vocoder's waveform"), np.float32)
