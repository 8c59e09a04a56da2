"""M1, the MORBO proxy: random search over B2's grid, biased to the Pareto front of (end, peak).

The paper, appendix I.2, which leaves the bias open. Here every second draw, by chance, is a
neighbour on the grid of a campaign on the front. See selfreg.control.search for what rolls forward.
"""

from selfreg.control.proposers import PARETO
from selfreg.control.search import search

CONTROL = search("morbo_proxy", PARETO)
