"""Estimate the noise of a metric, and simulate the metric of a policy that does not change.

There are two models. Binomial: each value is the mean of a known number of zeros and ones, and the
problems have Beta pass rates. Measured: the noise has the distribution of the differences between
neighbouring values; if it is autocorrelated, it is an AR(1) process.
"""

from dataclasses import dataclass

import numpy as np

from selfreg.analysis.nullmodel import Beta, Reading, readings
from selfreg.analysis.trajectory import exceeds, rolling_mean

SIMULATED = 3_000
# For long series fewer campaigns are simulated, because the full number would take minutes.
_FEWEST, _DRAWS = 500, 20_000_000
# With more draws per campaign than this, the mean of a step is drawn from a normal distribution.
_EXACT_DRAWS = 5_000
_CONCENTRATIONS = (1e-3, 1e3)
# A difference beyond this many robust sds is an event, such as the collapse itself, and not noise.
_OUTLIER = 4.0
_MAD = 1.4826
_MOST_AUTOCORRELATED = 0.98
_TOLD = 1.0
_CALLED = 0.01
_BESIDE = 6


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one reading if the policy does not change.

    Attributes:
      model: "binomial" or "measured".
      sd: Standard deviation of the noise.
      binomial_sd: Standard deviation from the number of samples alone; None if that is unknown.
      overdispersed: Whether the measured noise is larger than the counts can explain.
      autocorrelation: Correlation of the noise of neighbouring readings; 0 if it does not differ
        from 0 beyond its error.
      beta: Pass rates of the problems in the binomial model; None in the measured model.
      residuals: float64 [m], from which the measured model draws.
    """

    model: str
    sd: float
    binomial_sd: float | None
    overdispersed: bool
    autocorrelation: float
    beta: Beta | None
    residuals: np.ndarray

    @property
    def excess(self) -> float | None:
        """The variance divided by the binomial variance; None if that is unknown or 0."""
        if not self.binomial_sd:
            return None
        return (self.sd / self.binomial_sd) ** 2


@dataclass(frozen=True, slots=True)
class Still:
    """Statistics of C simulated series of a policy that does not change, float64 [C] each.

    Attributes:
      peak: Mean of the largest window.
      first: Mean of the first window.
      last: Mean of the last window.
      sd: Noise as estimated from that series.
    """

    peak: np.ndarray
    first: np.ndarray
    last: np.ndarray
    sd: np.ndarray


def measure(values: np.ndarray, samples: int | None, problems: int | None, seed: int = 0) -> Noise:
    """Estimate the noise of a series.

    Args:
      values: float64 [n], readings; these are rates if samples is known.
      samples: Completions behind a reading; None if unknown.
      problems: Distinct problems among them; None if unknown.
      seed: Seed of the simulation that tests for overdispersion.
    """
    binomial = None
    if samples is not None:
        mean = float(values.mean())
        binomial = float(np.sqrt(mean * (1 - mean) / samples))
        if problems is not None:
            noise = _binomial(values, samples, problems, binomial)
            if not _beyond(values, noise, samples, problems, seed):
                return noise
    sd, autocorrelation = (float(one) for one in spread(values))
    beyond = binomial is not None and sd > binomial * _bound(len(values))
    if binomial is not None:
        sd = max(sd, binomial)
    return Noise("measured", sd, binomial, beyond, autocorrelation, None, _residuals(values))


def still(
    noise: Noise, values: np.ndarray, samples: int | None, problems: int | None, window: int,
    seed: int, bounded: bool,
) -> Still:  # fmt: skip
    """Simulate series of this length for a policy that stays at the mean of the readings.

    Args:
      noise: Noise of a reading.
      values: float64 [n], the readings.
      samples: Completions behind a reading; None if unknown.
      problems: Distinct problems among them; None if unknown.
      window: Readings in a window.
      seed: Seed of the simulation.
      bounded: Whether readings are rates, which lie in [0, 1].
    """
    n = len(values)
    count = int(np.clip(_DRAWS // n, _FEWEST, SIMULATED))
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, count, batch := max(1, 4_000_000 // n)):
        size = (min(batch, count - start), n)
        drawn = _draw(noise, float(values.mean()), samples, problems, size, rng)
        if bounded:
            drawn = np.clip(drawn, 0, 1)
        smooth = windows(drawn, window)
        sd = (
            _von_neumann(drawn, samples)
            if noise.model == "binomial" and samples is not None
            else spread(drawn)[0]
        )
        parts.append((smooth.max(axis=1), smooth[:, 0], smooth[:, -1], sd))
    return Still(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def p_value(observed: float, sd: float, null: np.ndarray, null_sd: np.ndarray) -> float:
    """Return the one-sided p of observed / sd among null / null_sd.

    Without noise, p is 0 if the observed value is above 0, and else 1.
    """
    if sd == 0:
        return float(observed <= 0)
    ratio = np.divide(null, null_sd, out=np.zeros_like(null), where=null_sd > 0)
    return float((1 + (~exceeds(observed / sd, ratio)).sum()) / (1 + len(null)))


def windows(values: np.ndarray, window: int) -> np.ndarray:
    """Return the means of all full windows: [..., n] -> [..., n - window + 1]."""
    return rolling_mean(values, window)[..., window - 1 :]


def spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the standard deviation and autocorrelation of the noise of series [..., n].

    Both estimates use the differences d of neighbours, which a slow rise or fall hardly changes.
    For an AR(1) process with coefficient a and variance v,

        E[d^2] = 2 v (1 - a),    corr(d_i, d_i+1) = -(1 - a) / 2.

    A coefficient less than one standard error above 0 is set to 0.
    """
    d = _differences(values)
    squares = (d**2).sum(axis=-1)
    products = (d[..., 1:] * d[..., :-1]).sum(axis=-1)
    rho = np.divide(products, squares, out=np.full_like(squares, -0.5), where=squares > 0)
    error = np.sqrt(0.5 / max(1, d.shape[-1] - 1))
    told = rho > -0.5 + _TOLD * error
    a = np.where(told, np.clip(1 + 2 * rho, 0, _MOST_AUTOCORRELATED), 0.0)
    return np.sqrt(squares / d.shape[-1] / 2 / (1 - a)), a


def _differences(values: np.ndarray) -> np.ndarray:
    """Return the differences of neighbours, with jumps clipped to the range of noise."""
    d = np.diff(values, axis=-1)
    typical = _MAD * np.median(np.abs(d), axis=-1, keepdims=True)
    bound = np.where(typical > 0, _OUTLIER * typical, np.inf)
    return np.clip(d, -bound, bound)


def _jitter(values: np.ndarray) -> np.ndarray:
    """Estimate the standard deviation of noise that is independent between values."""
    return np.sqrt((_differences(values) ** 2).mean(axis=-1) / 2)


def _von_neumann(values: np.ndarray, samples: int) -> np.ndarray:
    """Estimate a value's standard deviation from its neighbours; at least the binomial one."""
    mean = values.mean(axis=-1)
    neighbours = (np.diff(values, axis=-1) ** 2).mean(axis=-1) / 2
    return np.sqrt(np.maximum(neighbours, mean * (1 - mean) / samples))


def _binomial(values: np.ndarray, samples: int, problems: int, binomial: float) -> Noise:
    sd = float(_von_neumann(values, samples))
    beta = _fit(float(values.mean()), sd, samples, problems)
    return Noise("binomial", sd, binomial, False, 0.0, beta, np.zeros(0))


def _fit(mean: float, sd: float, samples: int, problems: int) -> Beta:
    """Fit the Beta pass rates whose step means have this mean and noise.

    With G = samples / problems,

        noise^2 = m (1 - m) / samples * (1 + (G - 1) / (concentration + 1)).
    """
    group = samples // problems
    low, high = _CONCENTRATIONS
    binomial = mean * (1 - mean) / samples
    if binomial == 0 or group == 1:
        return Beta(mean, high)
    rho = (sd**2 / binomial - 1) / (group - 1)
    return Beta(mean, float(1 / np.clip(rho, 1 / (high + 1), 1 / (low + 1)) - 1))


def _beyond(values: np.ndarray, noise: Noise, samples: int, problems: int, seed: int) -> bool:
    """Return whether hardly any series of the fitted model is as noisy, apart from jumps."""
    sd = _jitter(values)
    if noise.sd == 0 or sd <= (noise.binomial_sd or 0):
        return False
    rng = np.random.default_rng(seed)
    size = (200, len(values))
    drawn = _draw(noise, float(values.mean()), samples, problems, size, rng)
    return bool((_jitter(drawn) >= sd).mean() < _CALLED)


def _bound(n: int) -> float:
    """Return the ratio of sds above which noise exceeds the binomial (chi^2, Wilson-Hilferty)."""
    freedom = 2 * n / 3  # neighbouring differences share readings
    z = 2.326
    return float((1 - 2 / (9 * freedom) + z * np.sqrt(2 / (9 * freedom))) ** 1.5)


def _residuals(values: np.ndarray) -> np.ndarray:
    """Return the deviations of values from the median of up to six neighbours on each side.

    A jump hardly changes this median. It adds about 1/12 of a value's variance, which the division
    removes.
    """
    beside = min(_BESIDE, (len(values) - 1) // 2)
    if beside < 1:
        return np.diff(values) / np.sqrt(2)
    around = np.lib.stride_tricks.sliding_window_view(values, 2 * beside + 1)
    others = np.delete(around, beside, axis=1)
    share = 1 + 1 / (2 * beside)
    return (values[beside : len(values) - beside] - np.median(others, axis=1)) / np.sqrt(share)


def _draw(
    noise: Noise, mean: float, samples: int | None, problems: int | None, size: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    if noise.model == "binomial" and samples is not None and problems is not None:
        assert noise.beta is not None
        group = samples // problems
        if problems * size[1] <= _EXACT_DRAWS:
            seed = int(rng.integers(1 << 31))
            return readings(noise.beta, Reading(size[1], group, problems), size[0], seed)
        rho = (group - 1) / (noise.beta.concentration + 1)
        sd = np.sqrt(mean * (1 - mean) / samples * (1 + rho))
        return rng.normal(mean, sd, size)
    if noise.autocorrelation > 0:
        return mean + _autoregressive(noise.sd, noise.autocorrelation, size, rng)
    own = noise.residuals - noise.residuals.mean() if len(noise.residuals) else np.zeros(1)
    scale = float(np.sqrt((own**2).mean()))
    drawn = rng.choice(own, size)
    # The residuals include jumps, the sd does not. Scaling up keeps the draws as wide as the sd.
    return mean + (
        drawn * max(1.0, noise.sd / scale) if scale > 0 else rng.normal(0, noise.sd, size)
    )


def _autoregressive(
    sd: float, a: float, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    drawn = rng.normal(0, sd * np.sqrt(1 - a * a), size)
    drawn[:, 0] *= 1 / np.sqrt(1 - a * a)
    for i in range(1, size[1]):
        drawn[:, i] += a * drawn[:, i - 1]
    return drawn
