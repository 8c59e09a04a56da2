"""M2, multi-objective Bayesian search: the method that the paper's M1 approximates.

It maximizes BoTorch's qLogNEHVI (Daulton et al., 2021; Ament et al., 2023), with one Gaussian
process an objective, over log lr in [0.5, 2] times the config's and KL in [0, 0.05]. The objectives
are the metric at a campaign's end and its peak, and the reference point is 0 for both. The first
campaigns are draws of B2. It needs the extra `botorch`. The end rolls forward: see
selfreg.control.search.
"""

import importlib.util
from functools import lru_cache
from typing import Any

import numpy as np

from selfreg.control.proposers import RANDOM, Proposer, Situation
from selfreg.control.protocol import Base
from selfreg.control.search import search
from selfreg.control.strategy import SEARCH, Strategy
from selfreg.run import seeds

DRAWN_FIRST = 3  # remembered campaigns before the first fit
RESTARTS, RAW_SAMPLES, MC_SAMPLES = 4, 64, 64

_LR, _KL = (np.array([SEARCH[name][0], SEARCH[name][-1]]) for name in ("lr_factor", "kl_coef"))


def propose(situation: Situation) -> tuple[Strategy, ...]:
    """Propose the point with the largest expected gain in hypervolume."""
    if len(situation.tried) < DRAWN_FIRST:
        return RANDOM.propose(situation)
    seen = tuple(
        (t.strategy.lr_factor, t.strategy.kl_coef, t.outcome["end"], t.outcome["peak"])
        for t in situation.tried
    )
    rng = seeds.generator(situation.base.seed, seeds.CONTROL, situation.campaign)
    lr, kl = _best_point(seen, int(rng.integers(2**31)))
    span = np.log(_LR[1] / _LR[0])
    # Rounded, so that plans are readable and do not depend on the last bits of a fit.
    factor = round(float(_LR[0] * np.exp(lr * span)), 4)
    return (Strategy(lr_factor=factor, kl_coef=round(float(kl * _KL[1]), 5)),)


@lru_cache(maxsize=4)
def _best_point(seen: tuple[tuple[float, ...], ...], seed: int) -> tuple[float, float]:
    """Find the maximum of the acquisition function, in the unit square of (log lr, KL)."""
    # Imported here: torch takes seconds, and only this control needs it.
    import torch
    from botorch.acquisition.multi_objective import logei
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.optim import optimize_acqf
    from botorch.sampling.normal import SobolQMCNormalSampler
    from botorch.utils.sampling import manual_seed
    from gpytorch.mlls import SumMarginalLogLikelihood

    # BoTorch would compile a kernel with the machine's own C++ compiler. That takes half a minute,
    # and a killed process leaves a lock behind for which the next process waits for ever.
    logei._load_attempted = True
    rows = np.array(seen)
    x = np.stack([np.log(rows[:, 0] / _LR[0]) / np.log(_LR[1] / _LR[0]), rows[:, 1] / _KL[1]], 1)
    inputs = torch.tensor(x.clip(0, 1), dtype=torch.double)
    targets = torch.tensor(rows[:, 2:], dtype=torch.double)
    with manual_seed(seed):
        model = ModelListGP(*(SingleTaskGP(inputs, targets[:, [i]]) for i in range(2)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        acquisition = logei.qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=[0.0, 0.0],
            X_baseline=inputs,
            sampler=SobolQMCNormalSampler(torch.Size([MC_SAMPLES]), seed=seed),
            prune_baseline=True,
        )
        point, _ = optimize_acqf(
            acquisition,
            bounds=torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.double),
            q=1,
            num_restarts=RESTARTS,
            raw_samples=RAW_SAMPLES,
            options={"seed": seed},
        )
    lr, kl = point[0].tolist()
    return lr, kl


_SEARCH = search("bayesian_search", Proposer(propose))


def start(base: Base) -> Any:
    """Start as every search does.

    Raises:
      ValueError: BoTorch is not installed.
    """
    if importlib.util.find_spec("botorch") is None:
        raise ValueError(
            "config.between='bayesian_search' needs BoTorch, which is not installed: "
            "pip install 'selfreg[botorch]'"
        )
    return _SEARCH.start(base)


CONTROL = _SEARCH._replace(start=start)
