"""The vocoder graph is the numpy form, in operators that every runtime has."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from riffusion_engine.errors import ExportError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.vocoder_graph import MAX_VALUE, VocoderPlan, vocoder_model, write_vocoder
from riffusion_export.vocoder_transforms import GraphText, HalfTransform, NaturalSynthesis
from riffusion_rt import phase
from riffusion_rt.inverse_mel import inverse_mel_matrix

PARAMS = SpectrogramParams()
COLUMNS = 48


def picture(params: SpectrogramParams, columns: int, seed: int) -> np.ndarray:
    """Levels 0..1 of gliding partials over noise: (3, bands, columns), low bands last."""
    rng = np.random.default_rng(seed)
    bands = np.arange(params.bands)[:, None]
    darkness = rng.random((3, params.bands, columns)) * 0.2
    for _ in range(5):
        centre = rng.uniform(0.05, 0.7) * params.bands + np.linspace(0, rng.normal(0, 8), columns)
        fade = np.exp(-np.linspace(0, rng.uniform(0, 3), columns))
        darkness += rng.uniform(0.5, 1, (3, 1, 1)) * np.exp(-(((bands - centre) / 2) ** 2)) * fade
    return (np.round(255 * (1 - np.clip(darkness, 0, 1))) / 255)[:, ::-1].astype(np.float32)


def mel_of(image: np.ndarray, params: SpectrogramParams) -> np.ndarray:
    """The mel amplitudes a picture stands for: (channels, bands, columns)."""
    channels = image[1:] if params.stereo else image[:1]
    return ((1 - channels[:, ::-1]) ** (1 / params.power) * MAX_VALUE).astype(np.float32)


def relative_l2(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("preset", list(phase.PRESETS))
def test_from_the_same_start_the_graph_is_the_numpy_form(preset: str) -> None:
    plan = VocoderPlan(PARAMS, COLUMNS, preset, start_given=True)
    image = picture(PARAMS, COLUMNS, 0)
    matrix = inverse_mel_matrix(PARAMS, plan.grid.frequencies)
    (target,) = phase.loop_targets(mel_of(image, PARAMS), PARAMS, plan.grid, matrix)
    start = phase.start(target.magnitudes, plan.grid, "mirror") / np.float32(MAX_VALUE)
    (got,) = session(vocoder_model(plan)).run(None, {"image": image[None], "start": start[None]})
    wanted = phase.waveform_from_mel(mel_of(image, PARAMS), PARAMS, preset=preset)
    assert got.shape == (1, 1, COLUMNS * PARAMS.hop_length)
    assert relative_l2(got[0], wanted) < 1e-3


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        SpectrogramParams(stereo=True),
        SpectrogramParams(stereo=True, f_min=10, f_max=20_000),
        SpectrogramParams(bands=64, step_ms=20),
    ],
)
def test_picture_in_waveform_out_for_any_batch(params: SpectrogramParams) -> None:
    runner = session(vocoder_model(VocoderPlan(params, 24, "fast")))
    images = np.stack([picture(params, 24, seed) for seed in range(3)])
    for batch in (images, images[:1]):
        (got,) = runner.run(None, {"image": batch})
        assert got.shape == (len(batch), params.channels, 24 * params.hop_length)
        for sound, image in zip(got, batch, strict=True):
            wanted = phase.waveform_from_mel(mel_of(image, params), params, preset="fast")
            # The start's choice between two equal peaks may differ: louder differences than rounding's are allowed.
            assert relative_l2(sound, wanted) < 2e-2


def test_a_loop_and_unrolled_iterations_are_the_same() -> None:
    image = picture(PARAMS, COLUMNS, 2)[None]
    looped, unrolled = (
        session(vocoder_model(VocoderPlan(PARAMS, COLUMNS, "fast", unrolled=way))).run(
            None, {"image": image}
        )[0]
        for way in (False, True)
    )
    assert relative_l2(looped, unrolled) < 1e-5


def test_a_silent_picture_is_silent_and_finite() -> None:
    white = np.ones((1, 3, PARAMS.bands, COLUMNS), np.float32)
    runner = session(vocoder_model(VocoderPlan(PARAMS, COLUMNS, "fast")))
    assert not runner.run(None, {"image": white})[0].any()
    assert np.isfinite(runner.run(None, {"image": 0 * white})[0]).all()


def test_products_rounded_as_tf32_stay_near() -> None:
    image = picture(PARAMS, COLUMNS, 3)[None]
    exact, rounded = (
        session(vocoder_model(VocoderPlan(PARAMS, COLUMNS, "fast", round_products_to=to))).run(
            None, {"image": image}
        )[0]
        for to in (None, "tf32")
    )
    assert 1e-5 < relative_l2(rounded, exact) < 0.1


def test_only_standard_operators_and_no_transform_operator() -> None:
    model = vocoder_model(VocoderPlan(PARAMS, COLUMNS))
    assert {node.domain for node in model.graph.node} == {""}
    assert not {"DFT", "STFT"} & {node.op_type for node in model.graph.node}
    assert len(model.SerializeToString()) < 12e6


def test_a_bundle_gets_its_vocoder_and_the_manifest_its_entry(tmp_path: Path) -> None:
    spec = write_vocoder(tmp_path, PARAMS, COLUMNS)
    assert spec.path == "vocoder/model.onnx"
    runner = onnxruntime.InferenceSession(tmp_path / spec.path, providers=["CPUExecutionProvider"])
    assert [value.name for value in runner.get_inputs()] == [value.name for value in spec.inputs]
    assert runner.get_inputs()[0].shape == list(spec.inputs[0].shape)
    assert runner.get_outputs()[0].shape == list(spec.outputs[0].shape)


def test_a_picture_narrower_than_a_frame_is_refused() -> None:
    with pytest.raises(ExportError, match="10 columns"):
        vocoder_model(VocoderPlan(PARAMS, 9))


@pytest.mark.parametrize(("length", "points"), [(80, 80), (80, 160), (60, 120), (45, 45), (2000, 4000)])
def test_two_products_are_a_fourier_transform_and_back(length: int, points: int) -> None:
    transform = HalfTransform(length, points)
    frames = np.random.default_rng(0).standard_normal((1, 2, length)).astype(np.float32)
    graph = GraphText()
    spectra = transform.forward(graph, "frames")
    back = transform.backward(graph, spectra)
    got, again = run_text(graph, {"frames": frames}, [spectra, back])
    full = np.fft.fft(frames, points)
    bins = np.arange(transform.rows)[:, None] + transform.outer * np.arange(transform.inner)
    np.testing.assert_allclose(got[..., : transform.inner], full.real[..., bins], atol=2e-3)
    np.testing.assert_allclose(got[..., transform.inner :], full.imag[..., bins], atol=2e-3)
    np.testing.assert_allclose(again, frames, atol=1e-4)


@pytest.mark.parametrize(("points", "bins"), [(60, 31), (90, 20), (4410, 1001), (2000, 1001)])
def test_natural_synthesis_is_an_inverse_fourier_transform(points: int, bins: int) -> None:
    synthesis = NaturalSynthesis(points, bins)
    rng = np.random.default_rng(1)
    spectra = np.zeros((1, 2, synthesis.padded), np.complex64)
    spectra[..., :bins] = rng.standard_normal((1, 2, bins)) + 1j * rng.standard_normal((1, 2, bins))
    graph = GraphText()
    frames = synthesis.backward(graph, "real", "imaginary")
    (got,) = run_text(graph, {"real": spectra.real.copy(), "imaginary": spectra.imag.copy()}, [frames])
    wanted = np.fft.irfft(spectra[..., : points // 2 + 1], points)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_it_builds_with_tensorrt_rtx_without_a_gpu(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    script = Path(__file__).parents[1] / "benchmarks" / "phase_rtx_build.py"
    described = importlib.util.spec_from_file_location("phase_rtx_build", script)
    assert described is not None
    assert described.loader is not None
    benchmark = importlib.util.module_from_spec(described)
    described.loader.exec_module(benchmark)
    spec = write_vocoder(tmp_path, PARAMS, 16, preset="fast")
    assert benchmark.build(benchmark.tensorrt_rtx(), tmp_path / spec.path)


def run_text(graph: GraphText, feeds: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
    """Run nodes under construction."""
    body = onnx.helper.make_graph(
        graph.nodes,
        "text",
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, v.shape) for n, v in feeds.items()],
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs],
        list(graph.constants.values()),
    )
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    return list(session(model).run(outputs, feeds))
