"""The vocoder takes the bundle's graph where a GPU runs it, and sounds the same without one."""

from pathlib import Path

import numpy as np
import pytest

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.manifest import GraphSpec, Manifest
from riffusion_engine.session import Session, open_session
from riffusion_rt.vocoder import Vocoder, choose_vocoder


@pytest.fixture(scope="module")
def manifest(toy_bundle: Path) -> Manifest:
    return Manifest.read(toy_bundle)


@pytest.fixture(scope="module")
def graph(toy_bundle: Path, manifest: Manifest) -> Session:
    return open_session(toy_bundle, manifest.graph("vocoder"), device="cpu")


def pictures(rows: int, columns: int, count: int = 2) -> np.ndarray:
    rng = np.random.default_rng(columns)
    centres = rng.uniform(5, rows - 5, (count, 3, 1, 1))
    darkness = sum(
        np.exp(-(((np.arange(rows)[:, None] - centre) / 2) ** 2)) for centre in centres.swapaxes(0, 1)
    )
    darkness = (
        darkness * (0.6 + 0.4 * np.sin(np.arange(columns) / 5)) + rng.random((count, rows, columns)) * 0.1
    )
    levels = np.round(255 * (1 - np.minimum(darkness, 1))).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=-1)


class Counting:
    """A session that counts what it was asked."""

    def __init__(self, session: Session, broken: bool = False) -> None:
        self.session, self.broken, self.runs = session, broken, 0

    @property
    def graph(self) -> GraphSpec:
        return self.session.graph

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        found = self.session.run(feeds)
        return {name: array * np.nan for name, array in found.items()} if self.broken else found


def test_graph_and_numpy_form_sound_the_same(graph: Session, manifest: Manifest) -> None:
    pixels = pictures(64, 64)
    params = manifest.spectrogram
    counting = Counting(graph)
    got = Vocoder(params, session=counting).waveforms(pixels)
    wanted = Vocoder(params).waveforms(pixels)
    assert counting.runs == 1
    assert got.shape == wanted.shape == (2, 1, 64 * params.hop_length)
    # The start's choice between two equal peaks may differ: louder differences than rounding's are allowed.
    assert np.linalg.norm(got - wanted) < 2e-2 * np.linalg.norm(wanted)


@pytest.mark.parametrize(("columns", "loop"), [(40, True), (64, False)])
def test_what_the_graph_was_not_drawn_for_goes_through_numpy(
    graph: Session, manifest: Manifest, columns: int, loop: bool
) -> None:
    counting = Counting(graph)
    sound = Vocoder(manifest.spectrogram, preset="fast", session=counting).waveforms(
        pictures(64, columns), loop=loop
    )
    assert counting.runs == 0
    assert sound.shape == (2, 1, columns * manifest.spectrogram.hop_length)


def test_the_graph_is_opened_on_a_gpu_alone(graph: Session, manifest: Manifest) -> None:
    opened: list[str] = []

    def session(name: str) -> Session:
        opened.append(name)
        return graph

    choose_vocoder(manifest, "cpu", session)
    assert opened == []
    choose_vocoder(manifest, "cuda", session)
    assert opened == ["vocoder"]


def test_a_broken_graph_and_what_is_no_picture_are_refused(graph: Session, manifest: Manifest) -> None:
    with pytest.raises(NumericsError):
        Vocoder(manifest.spectrogram, session=Counting(graph, broken=True)).waveforms(pictures(64, 64))
    with pytest.raises(RequestError, match="64 rows"):
        Vocoder(manifest.spectrogram).waveforms(pictures(32, 64))
