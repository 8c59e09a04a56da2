"""M1, the MORBO proxy: random search over B2's grid, biased to the Pareto front of (end, peak).

The paper's appendix I.2 does not specify the bias. Here a draw is, with probability 1/2, a
neighbour on the grid of a campaign on the front. The end rolls forward: see selfreg.control.search.
"""

from selfreg.control.proposers import PARETO
from selfreg.control.search import search

CONTROL = search("morbo_proxy", PARETO)
