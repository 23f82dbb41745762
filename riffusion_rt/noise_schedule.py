"""A checkpoint's scheduler settings go in; how much noise stands at every training timestep comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
"""What a network may have been trained to predict: the noise, the velocity, or the clean sample."""
TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")
"""How few steps may be laid over the many training timesteps (arXiv 2305.08891, table 2)."""
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""How the noise variance may grow over the training timesteps."""
FINAL_SIGMAS = ("zero", "sigma_min")
"""Where the last step may end: at no noise, or at that of the first training timestep."""

_COSINE_OFFSET = 0.008
"""Small offset s of the cosine schedule (arXiv 2102.09672, equation 17)."""
_COSINE_BETA_CAP = 0.999
"""Highest beta of the cosine schedule (arXiv 2102.09672, section 3.2)."""
_LEAST_ALPHA_CUMPROD = 2.0**-24
"""Stands in for zero where a schedule ends in pure noise: float16's smallest number, as diffusers has it."""
_DISTILLED_STEPS = 50
"""Steps of the schedule that consistency models are usually distilled on (arXiv 2310.04378)."""
_MOST_TIMESTEPS = 1_000_000

# Other values would make a step something else than a linear map, or time something else than a row of betas.
_ONLY_SUPPORTED: Mapping[str, tuple[object, ...]] = {
    "thresholding": (False, None),
    "use_flow_sigmas": (False, None),
    "timestep_type": ("discrete", None),
    "interpolation_type": ("linear", None),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", None),
    "lambda_min_clipped": (-math.inf, None),
}
_HINT = "Export the checkpoint again, or mend scheduler/scheduler_config.json"


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A checkpoint's forward process: ``x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise``, ``a = alphas_cumprod``.

    This is what the checkpoint says. Which algorithm then walks back is the sampler's name to say, so solver
    settings in the same file (``algorithm_type``, ``use_karras_sigmas``, ...) are not read. Nor is
    ``clip_sample``: latents are not bounded, and Stable Diffusion pipelines switch it off.
    """

    betas: NDArray[np.float64]
    """Variance added at each training timestep, each in 0..1."""
    prediction_type: str = "epsilon"
    """One of ``PREDICTION_TYPES``."""
    steps_offset: int = 0
    """Added to every timestep of ``leading`` spacing (1 for Stable Diffusion)."""
    timestep_spacing: str | None = None
    """One of ``TIMESTEP_SPACINGS``, or None: each sampler's own habit."""
    set_alpha_to_one: bool | None = None
    """Whether ``ddim`` and ``pndm`` end at no noise (else at timestep 0's), or None: each one's own habit."""
    final_sigmas_type: str = "zero"
    """One of ``FINAL_SIGMAS``, for samplers that walk over sigmas."""
    original_inference_steps: int = _DISTILLED_STEPS
    """Steps of the schedule that a consistency model was distilled on (``lcm``)."""
    timestep_scaling: float = 10.0
    """Sharpness of a consistency model's boundary condition (``lcm``)."""
    zero_terminal_snr: bool = False
    """Whether the last training timestep is pure noise."""

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> NoiseSchedule:
        """Read a diffusers ``scheduler_config.json`` (any of its classes that is defined by betas).

        Raises:
            BundleError: a setting is missing, unknown, out of range or needs a sampler that is not linear.
        """
        if not isinstance(config, Mapping):
            raise BundleError("The scheduler settings are no JSON object", hint=_HINT)
        defaulted = config.get("_use_default_values") or ()
        # diffusers marks so the settings that no file stated; the next sampler then takes its own default.
        settings = {key: value for key, value in config.items() if key not in defaulted}
        for name, supported in _ONLY_SUPPORTED.items():
            if settings.get(name) not in supported:
                raise _refusal(name, settings[name])
        zero_snr = _flag(settings, "rescale_betas_zero_snr") or False
        # Networks are trained on single-precision betas; where nearly all is noise, their rounding shows.
        betas = _betas(settings).astype(np.float32).astype(np.float64)
        return NoiseSchedule(
            betas=_rescaled_to_zero_snr(betas) if zero_snr else betas,
            prediction_type=_choice(settings, "prediction_type", PREDICTION_TYPES) or "epsilon",
            steps_offset=_whole(settings, "steps_offset", 0, 0, len(betas) - 1),
            timestep_spacing=_choice(settings, "timestep_spacing", TIMESTEP_SPACINGS),
            set_alpha_to_one=_flag(settings, "set_alpha_to_one"),
            final_sigmas_type=_choice(settings, "final_sigmas_type", FINAL_SIGMAS) or "zero",
            original_inference_steps=_whole(
                settings, "original_inference_steps", min(_DISTILLED_STEPS, len(betas)), 1, len(betas)
            ),
            timestep_scaling=_number(settings, "timestep_scaling", 0.0, math.inf, default=10.0),
            zero_terminal_snr=zero_snr,
        )

    @property
    def train_timesteps(self) -> int:
        """Number of training timesteps."""
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> NDArray[np.float64]:
        """Share of the clean sample's variance left at each training timestep, falling from 1 to 0."""
        return np.multiply.accumulate(1.0 - self.betas)

    @cached_property
    def sigmas(self) -> NDArray[np.float64]:
        """Ratio of noise to sample at each training timestep, ``sqrt((1 - a) / a)``: rising, finite."""
        left = np.where(self.alphas_cumprod > 0, self.alphas_cumprod, _LEAST_ALPHA_CUMPROD)
        return np.sqrt((1.0 - left) / left)

    def split(
        self, alpha: float, sigma: float, sample: NDArray[np.float64], output: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Clean sample and noise that a network's output implies for ``sample = alpha x_0 + sigma noise``.

        Linear in ``sample`` and ``output``. Velocity is defined in arXiv 2202.00512, appendix D.
        """
        if self.prediction_type == "v_prediction":
            return alpha * sample - sigma * output, alpha * output + sigma * sample
        if self.prediction_type == "sample":
            return output, (sample - alpha * output) / sigma
        return (sample - sigma * output) / (alpha or math.sqrt(_LEAST_ALPHA_CUMPROD)), output


def _betas(settings: Mapping[str, Any]) -> NDArray[np.float64]:
    trained = settings.get("trained_betas")
    kind = _choice(settings, "beta_schedule", BETA_SCHEDULES)
    if trained is not None:
        betas = _trained_betas(trained)
        count = _whole(settings, "num_train_timesteps", len(betas), 1, _MOST_TIMESTEPS)
        if count != len(betas):
            raise BundleError(
                f"The scheduler settings hold {len(betas)} betas for {count} training timesteps", hint=_HINT
            )
        return betas
    if kind is None:
        raise BundleError(
            "The scheduler settings name no noise schedule: beta_schedule and trained_betas are both missing",
            hint=_HINT,
        )
    count = _whole(settings, "num_train_timesteps", 1000, 1, _MOST_TIMESTEPS)
    if kind == "squaredcos_cap_v2":
        return _cosine_betas(count)
    first = _number(settings, "beta_start", 0.0, 1.0)
    last = _number(settings, "beta_end", 0.0, 1.0)
    if kind == "linear":
        return np.linspace(first, last, count)
    return np.linspace(math.sqrt(first), math.sqrt(last), count) ** 2


def _trained_betas(values: object) -> NDArray[np.float64]:
    try:
        betas = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise _refusal("trained_betas", values) from error
    if betas.ndim != 1 or betas.size == 0 or not np.all((betas > 0) & (betas < 1)):
        raise BundleError(
            "The scheduler setting trained_betas must be a list of numbers between 0 and 1", hint=_HINT
        )
    return betas


def _cosine_betas(count: int) -> NDArray[np.float64]:
    """Betas whose cumulative product follows a squared cosine (arXiv 2102.09672, equation 17)."""
    times = np.arange(count + 1) / count
    left = np.cos((times + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2) ** 2
    betas: NDArray[np.float64] = np.minimum(1.0 - left[1:] / left[:-1], _COSINE_BETA_CAP)
    return betas


def _rescaled_to_zero_snr(betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift and stretch the schedule so that it ends in pure noise (arXiv 2305.08891, algorithm 1)."""
    amplitude = np.sqrt(np.cumprod(1.0 - betas))
    first, last = amplitude[0], amplitude[-1]
    left = ((amplitude - last) * first / (first - last)) ** 2
    return 1.0 - np.concatenate([left[:1], left[1:] / left[:-1]])


def _choice(settings: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str | None:
    value = settings.get(name)
    if value is not None and value not in known:
        raise _refusal(name, value, f"known are {', '.join(known)}")
    return value


def _flag(settings: Mapping[str, Any], name: str) -> bool | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, bool):
        raise _refusal(name, value, "it is true or false")
    return value


def _whole(settings: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _refusal(name, value, f"it is a whole number from {least} to {most}")
    return value


def _number(
    settings: Mapping[str, Any], name: str, above: float, below: float, *, default: float | None = None
) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value < below:
        raise _refusal(name, value, f"it is a number between {above:g} and {below:g}")
    return float(value)


def _refusal(name: str, value: object, rule: str = "this runtime has no sampler for it") -> BundleError:
    return BundleError(f"The scheduler setting {name} is {str(value)[:60]!r}: {rule}", hint=_HINT)
