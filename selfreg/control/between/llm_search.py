"""B3, LLM-agent search: a language model picks from B2's grid, seeing scalar history only.

The paper, section 5.5. Where its answer is of no use, the draw that B2 makes for this campaign
decides, and the failure is kept. See selfreg.control.search for what rolls forward.
"""

from selfreg.control.proposers import RANDOM, question
from selfreg.control.search import search

CONTROL = search("llm_search", RANDOM._replace(ask=question))
