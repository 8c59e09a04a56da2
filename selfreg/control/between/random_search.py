"""B2, random search over lr {0.5, 1, 2} times the config's and KL {0, 0.01, 0.05}.

The paper, section 5.5. The end rolls forward: see selfreg.control.search.
"""

from selfreg.control.proposers import RANDOM
from selfreg.control.search import search

CONTROL = search("random_search", RANDOM)
