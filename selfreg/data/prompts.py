"""Render a problem as a prompt: the token ids that a policy continues. There are three styles.

plain       a comment with the spec; the policy writes the program (the tiny model)
chat        the tokenizer's chat template around an instruction (instruct models)
completion  the starter itself, which the policy continues (base models, HumanEval)
"""

from typing import Any

import numpy as np

from selfreg.run.records import Language, Problem

STYLES = ("plain", "chat", "completion")

_COMMENT = {Language.PYTHON: "# ", Language.CPP: "// "}
_NAME = {Language.PYTHON: "Python", Language.CPP: "C++"}
_FENCE = {Language.PYTHON: "python", Language.CPP: "cpp"}


def render(problem: Problem, style: str, tokenizer: Any) -> np.ndarray:
    """Render a problem as prompt token ids; a pure function of its arguments.

    Args:
      problem: The problem to ask about.
      style: One of STYLES.
      tokenizer: A Hugging Face tokenizer.

    Returns:
      int32 [prompt length].

    Raises:
      ValueError: The style is unknown, the tokenizer lacks the chat template that "chat" needs, or
        the problem lacks the starter that "completion" needs.
    """
    if style == "plain":
        return np.array(tokenizer.encode(plain_text(problem)), np.int32)
    if style == "completion":
        if not problem.starter:
            raise ValueError(f"{problem.id} has no starter to continue: use style 'chat'")
        return np.array(tokenizer.encode(problem.starter), np.int32)
    if style != "chat":
        raise ValueError(f"unknown prompt style {style!r}; allowed: {', '.join(STYLES)}")
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, which "
            "config.model.prompt='chat' needs: use an instruct model, or 'plain' or 'completion'"
        )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": chat_message(problem)}],
        add_generation_prompt=True,
        tokenize=False,
    )
    # The template has already written the special tokens, including a leading <bos>.
    return np.array(tokenizer.encode(text, add_special_tokens=False), np.int32)


def plain_text(problem: Problem) -> str:
    """Write the spec as a comment in the problem's language; the mark shows which one it is."""
    mark = _COMMENT[problem.language]
    return "".join(f"{mark}{line}\n" for line in problem.spec.splitlines())


def chat_message(problem: Problem) -> str:
    """Write the user's message: the spec, the starter, the task and the form of the answer."""
    name, fence = _NAME[problem.language], _FENCE[problem.language]
    parts = []
    # A HumanEval starter already holds the spec as its docstring. Repeating it would only lengthen
    # the prompt.
    if problem.spec not in problem.starter:
        parts.append(problem.spec)
    if problem.tests.stdio:
        what = f"a complete {name} program that reads standard input and writes standard output"
    else:
        what = f"the {name} function `{problem.entry_point}`"
    if problem.starter:
        # The fence is closed within the user's turn. Given an open fence to continue, small models
        # close it at once.
        parts.append(f"Start like this:\n```{fence}\n{problem.starter.rstrip()}\n```")
    ask = f"Write {what}. Answer with one ```{fence} code block that holds all of it."
    if problem.language is Language.CPP and not problem.tests.stdio:
        ask += " Leave out `main`."
    return "\n\n".join((*parts, ask))
