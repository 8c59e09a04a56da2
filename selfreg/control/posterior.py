"""Predicts a strategy's effect on capabilities, by Bayesian linear regression: CARE's mathematics.

The paper's appendix D: delta | x ~ N(W phi(x) + b, Sigma), one regression a strategy, with

    phi(x) = (1, x)                 the 1 carries b; x is the capability vector in [0, 1]^K
    W, b   ~ N(0, prior_sd^2)       the prior of each weight
    delta_i = W phi_i + N(0, v_i)   v_i is the noise variance of observation i
    V = (I / prior_sd^2 + sum_i phi_i phi_i^T / v_i)^-1
    M = V sum_i phi_i delta_i^T / v_i

This module corrects two slips of the paper. The paper writes Sigma both for the K x K covariance of
delta and for V, the covariance of the weights, which its update computes. It also gives b no
update; here the constant feature does. The noise is one number for all capabilities, as in the
paper's update, so that they share V and the predictive variance phi^T V phi + noise.

Shapes: K capabilities, n observations, d = 1 + K features; float64.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import chi2


class Posterior(NamedTuple):
    """The weights of one strategy: mean M [d, K] and covariance V [d, d], shared by all K."""

    mean: np.ndarray
    covariance: np.ndarray


class Prediction(NamedTuple):
    """A capability delta before it is observed: mean [K] and standard deviation [K]."""

    mean: np.ndarray
    sd: np.ndarray


def features(contexts: np.ndarray) -> np.ndarray:
    """Return phi [..., d]: contexts [..., K] with a 1 in front."""
    contexts = np.asarray(contexts, np.float64)
    return np.concatenate([np.ones((*contexts.shape[:-1], 1)), contexts], axis=-1)


def fit(
    contexts: np.ndarray, deltas: np.ndarray, variances: np.ndarray, prior_sd: float
) -> Posterior:
    """Compute the posterior of a strategy's weights.

    Args:
      contexts: [n, K]; n may be 0.
      deltas: [n, K], the observed changes.
      variances: [n], the noise variance of each observation.
      prior_sd: The prior standard deviation of each weight.
    """
    phi = features(contexts)
    weighted = phi / np.asarray(variances, np.float64)[:, None]
    precision = np.eye(phi.shape[1]) / prior_sd**2 + weighted.T @ phi
    covariance = np.linalg.inv(precision)
    return Posterior(covariance @ (weighted.T @ np.asarray(deltas, np.float64)), covariance)


def predict(posterior: Posterior, context: np.ndarray, noise_sd: float) -> Prediction:
    """Predict the strategy's effect in a context [K]."""
    phi = features(context)
    mean = phi @ posterior.mean
    variance = phi @ posterior.covariance @ phi + noise_sd**2
    return Prediction(mean, np.full(len(mean), np.sqrt(variance)))


def regression_probability(prediction: Prediction, epsilon: float) -> np.ndarray:
    """Return Pr[delta_j < -epsilon] = Phi((-epsilon - mu_j) / sigma_j) of each capability [K]."""
    return ndtr((-epsilon - prediction.mean) / prediction.sd)


def squared_distance(delta: np.ndarray, prediction: Prediction) -> float:
    """Return the squared Mahalanobis distance of an observed delta [K] from its prediction."""
    return float(np.sum(((np.asarray(delta) - prediction.mean) / prediction.sd) ** 2))


def surprise_limit(capabilities: int, beta: float) -> float:
    """Return the beta quantile of chi-square with K degrees of freedom.

    The squared distance of a delta from a correct prediction has this distribution. The paper's
    Definition 7 compares the distance itself; this is a slip that is corrected here.
    """
    return float(chi2.ppf(beta, capabilities))
