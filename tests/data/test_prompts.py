import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from selfreg.data.problems import load_humaneval
from selfreg.data.prompts import STYLES, chat_message, plain_text, render
from selfreg.run.records import Language, Problem, StdioCase
from selfreg.run.records import Tests as ProblemTests

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer():
    """Make a tokenizer with one token per byte, and a <bos> before every text as in Llama."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<bos>", "<user>", "<assistant>", "<end>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE)
    fast.add_special_tokens({"additional_special_tokens": specials})
    return fast


PROBLEM = Problem(
    id="p",
    spec="add one\nto x",
    tests=ProblemTests(code="assert f(1) == 2\n"),
    entry_point="f",
    starter="def f(x):\n",
)


def text_of(ids, tokenizer):
    """Join tokens, and replace the byte alphabet's stand-ins for space and line feed."""
    return "".join(tokenizer.convert_ids_to_tokens(ids)).replace("Ġ", " ").replace("Ċ", "\n")


def test_plain(tokenizer):
    ids = render(PROBLEM, "plain", tokenizer)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert text_of(ids, tokenizer) == "<bos># add one\n# to x\n"


def test_plain_tells_the_languages_apart():
    cpp = Problem("p", "sort", ProblemTests(code="int main() {}"), Language.CPP)
    assert plain_text(cpp) == "// sort\n"


def test_completion(tokenizer):
    assert text_of(render(PROBLEM, "completion", tokenizer), tokenizer) == "<bos>def f(x):\n"


def test_chat(tokenizer):
    ids = render(PROBLEM, "chat", tokenizer)
    assert text_of(ids, tokenizer) == (
        "<user>add one\nto x\n\n"
        "Start like this:\n```python\ndef f(x):\n```\n\n"
        "Write the Python function `f`. Answer with one ```python code block that holds all of it."
        "<end><assistant>"
    )
    # A marker of the template is one id, not the bytes of its name.
    assert ids[0] == tokenizer.convert_tokens_to_ids("<user>")


def test_rendering_is_pure(tokenizer):
    for style in STYLES:
        np.testing.assert_array_equal(
            render(PROBLEM, style, tokenizer), render(PROBLEM, style, tokenizer)
        )


def test_chat_does_not_say_a_docstring_twice():
    problem = load_humaneval()[0]
    message = chat_message(problem)
    assert message.count("closer to each other than") == 1
    assert message.startswith("Start like this:\n```python\nfrom typing import List\n")


def test_chat_asks_a_stdio_problem_for_a_program():
    problem = Problem("p", "add two numbers", ProblemTests(stdio=(StdioCase("1 2", "3"),)))
    assert chat_message(problem) == (
        "add two numbers\n\nWrite a complete Python program that reads standard input and writes "
        "standard output. Answer with one ```python code block that holds all of it."
    )


def test_chat_in_cpp_leaves_main_to_the_tests():
    tests = ProblemTests(code="int main() {}")
    problem = Problem("p", "add", tests, Language.CPP, "f", "int f(int a) {\n")
    assert chat_message(problem) == (
        "add\n\nStart like this:\n```cpp\nint f(int a) {\n```\n\n"
        "Write the C++ function `f`. Answer with one ```cpp code block that holds all of it. "
        "Leave out `main`."
    )


def test_a_tokenizer_without_a_template_is_refused(tokenizer):
    tokenizer.chat_template = None
    tokenizer.name_or_path = "some/base-model"
    with pytest.raises(
        ValueError, match=r"'some/base-model' has no chat template.*instruct"
    ) as error:
        render(PROBLEM, "chat", tokenizer)
    assert "config.model.prompt='chat'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_problem_without_a_starter_has_no_completion_prompt(tokenizer):
    with pytest.raises(ValueError, match="p has no starter to continue: use style 'chat'"):
        render(Problem("p", "add", ProblemTests(code="pass")), "completion", tokenizer)


def test_an_unknown_style_is_refused(tokenizer):
    with pytest.raises(ValueError, match="'fenced'; allowed: plain, chat, completion"):
        render(PROBLEM, "fenced", tokenizer)
