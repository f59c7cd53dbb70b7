"""Answers for the eye: what is in colour, that nothing is lost, and that pieces may be cut anywhere."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mindformers_glm.serving.rendering import Rendering

CODE, FENCE, STRONG, HEADING, RESET = "\x1b[36m", "\x1b[2m", "\x1b[1m", "\x1b[1;35m", "\x1b[0m"
ANSI = re.compile(r"\x1b\[[\d;]*m")


def rendered(text: str, *, markdown: bool = False, size: int = 1) -> str:
    rendering = Rendering(markdown=markdown)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return "".join(map(rendering.push, pieces)) + rendering.finish()


def test_text_without_code_stays_as_it_is():
    for text in ("你好", "a\nb\n", "# no heading\n**no**", "``", " ` ", ""):
        assert rendered(text) == text


def test_a_code_block_is_in_colour_to_its_end():
    shown = rendered("看：\n```python\nx = 1\n# note\n```\n完")
    assert shown == (f"看：\n{FENCE}```python{RESET}\n{CODE}x = 1\n# note\n{RESET}{FENCE}```{RESET}\n完")


def test_a_block_that_is_not_closed_gives_the_colour_back():
    assert rendered("```\nx").endswith(f"{CODE}x{RESET}")
    assert rendered("```") == f"{FENCE}```{RESET}"


def test_a_fence_shows_as_soon_as_it_is_known():
    rendering = Rendering()
    assert rendering.push("``") == ""
    assert rendering.push("`py").startswith(FENCE)
    rendering.finish()
    assert rendering.push("text") == "text"


def test_markdown_shows_headings_strong_words_and_code():
    shown = rendered("## 标题\n**要点**：用 `pip`\n2 * 3\n", markdown=True)
    assert shown == (f"{HEADING}## 标题{RESET}\n{STRONG}**要点**{RESET}：用 {CODE}`pip`{RESET}\n2 * 3\n")
    assert rendered("`a` b", markdown=True) == f"{CODE}`a`{RESET} b"


@given(st.text(alphabet="a# *`\n中", max_size=60), st.integers(1, 7), st.booleans())
def test_no_character_is_lost_or_added(text, size, markdown):
    shown = rendered(text, markdown=markdown, size=size)
    assert ANSI.sub("", shown) == text
    assert shown == rendered(text, markdown=markdown)
    colours = ANSI.findall(shown)
    assert not colours or colours[-1] == RESET
