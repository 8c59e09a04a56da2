"""B3, LLM-agent search: a language model picks from B2's grid, and sees scalar history only.

The paper, section 5.5. If the answer is of no use, B2's draw for this campaign decides, and the
failure is recorded. The end rolls forward: see selfreg.control.search.
"""

from selfreg.control.proposers import RANDOM, question
from selfreg.control.search import search

CONTROL = search("llm_search", RANDOM._replace(ask=question))
