"""Find the batch settings that a console prints: problems per step and completions per problem."""

import re

# Names for problems per batch, and for completions per problem: verl and SkyRL, then OpenRLHF and
# slime, NeMo-RL, TRL and ms-swift, prime-rl, tinker.
PROBLEMS = ("train_batch_size", "rollout_batch_size", "num_prompts_per_step", "groups_per_batch")
GROUP = (
    "rollout.n", "rollout/n", "n_samples_per_prompt", "num_generations_per_prompt",
    "num_generations", "rollouts_per_example", "group_size",
)  # fmt: skip
_NAMES = [name for name in (*PROBLEMS, *GROUP) if name not in ("rollout.n", "rollout/n")]
_WORD = re.compile(rf"(?<!\w)({'|'.join(_NAMES)})['\"]?[ .]*[=:.\s]\s*(\d+)\b")
_ROLLOUT_N = re.compile(r"\brollout\.n=(\d+)\b")
_ROLLOUT = re.compile(r"['\"]rollout['\"]\s*:\s*\{")
_OWN_N = re.compile(r"['\"]n['\"]\s*:\s*(\d+)")


class Settings:
    """Collects `facts` from lines of text; the first mention counts."""

    def __init__(self) -> None:
        self.facts: dict[str, float] = {}

    def read(self, text: str) -> None:
        """Look for settings in a line, or in a printed config joined to one."""
        if "_" not in text and "rollout" not in text:
            return
        for name, value in _WORD.findall(text):
            self.facts.setdefault(name, float(value))
        if found := _ROLLOUT_N.search(text):
            self.facts.setdefault("rollout.n", float(found[1]))
        elif found := _ROLLOUT.search(text):
            value = _own(text, found.end())
            if value is not None:
                self.facts.setdefault("rollout.n", value)


def _own(text: str, start: int) -> float | None:
    """Return the 'n' of a printed dict, ignoring those of dicts nested in it."""
    depth, part = 1, start
    for at in range(start, min(len(text), start + 50_000)):
        if text[at] in "{[(":
            depth += 1
        elif text[at] in "}])":
            depth -= 1
        if depth == 1 and (text[at] == "," or at == start):
            part = at + (text[at] == ",")
            if found := _OWN_N.match(text[part : part + 400].lstrip()):
                return float(found[1])
        if depth == 0:
            return None
    return None
