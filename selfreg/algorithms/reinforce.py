"""REINFORCE: use the reward as the advantage (Williams 1992, section 5, without a baseline)."""

from selfreg.algorithms.parts.policy_gradient import policy_gradient

ALGORITHM = policy_gradient("Williams 1992, Machine Learning 8, eq. 4")
