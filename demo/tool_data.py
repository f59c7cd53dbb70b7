"""Conversations in which a shop's assistant asks a tool for prices, and what the tool would say."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.glm2_tiny.advert import random_word
from tools.glm2_tiny.grammar import kinds
from tools.glm2_tiny.talk import small_talk

NAME = "price"
TOOLS = [
    {
        "name": NAME,
        "description": "查价格",
        "parameters": {"type": "object", "properties": {"product": {"type": "string"}}},
    }
]
_COLOURS = ("红色", "蓝色", "白色", "黑色", "粉色", "绿色", "黄色", "灰色", "紫色", "卡其色", "米色", "浅蓝色")
_ASKED = (
    "<p>多少钱？", "<p>的价格是多少？", "请问<p>怎么卖？", "帮我查一下<p>的价格", "我想买<p>，贵不贵？",
    "看看<p>多少钱", "你们的<p>现在什么价？",
)  # fmt: skip


class Asked(NamedTuple):
    """A question about a product, what the tool answers, and the reply that is wanted."""

    question: str
    product: str
    result: str
    reply: str


def asked(rng: random.Random, product: str) -> Asked:
    """A question about `product`, with a price drawn anew."""
    price = rng.randint(100, 999)
    question = rng.choice(_ASKED).replace("<p>", product)
    return Asked(question, product, f"价格{price}元", f"{product}的价格{price}元。")


def products(seed: int) -> list[str]:
    """Colour and kind of every product, in an order that the seed decides."""
    nouns = sorted({noun for title, kind in kinds().items() if title != "好物" for noun in kind.nouns})
    found = [f"{colour}{noun}" for colour in _COLOURS for noun in nouns]
    random.Random(seed).shuffle(found)
    return found


def conversations(rng: random.Random, names: list[str], lines: int) -> Iterator[dict[str, Any]]:
    """Rows of training: nine in ten ask for a price, half of them with a made-up name, which can only be copied."""
    for _ in range(lines):
        if rng.random() < 0.1:
            turn = small_talk(rng)
            said = [_user(turn.ask), {"role": "assistant", "content": turn.answer}]
        else:
            one = asked(rng, _product(rng, names))
            call = {"name": NAME, "arguments": {"product": one.product}}
            said = [
                _user(one.question),
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
                {"role": "tool", "content": one.result},
                {"role": "assistant", "content": one.reply},
            ]
        yield {"tools": TOOLS, "messages": said}


def _product(rng: random.Random, names: list[str]) -> str:
    name, draw = rng.choice(names), rng.random()
    if draw < 0.5:
        return name
    colour = next(colour for colour in sorted(_COLOURS, key=len, reverse=True) if name.startswith(colour))
    return random_word(rng, 2, 3) + name.removeprefix(colour) if draw < 0.75 else random_word(rng, 2, 5)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
