#!/usr/bin/env python3
"""Measures prompt lookup: tokens per second with and without it, in turn, where an answer repeats its prompt.

    python -m tools.measure_prompt_lookup                          # 288 million random weights, int8
    python -m tools.measure_prompt_lookup --model glm2_tiny
    python -m tools.measure_prompt_lookup --bits 4 --batch 4

What a network with random weights says repeats nothing, so the answers are prescribed: a mask lets nothing else come.
They are computed and chosen as any answer is. Three texts: `json`, records copied with a tenth of the values changed;
`summary`, every third sentence of an article, a part in eight another one; `new`, an answer that repeats nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mindformers_glm import AutoTokenizer
from mindformers_glm.assembly.engine import held_engine
from mindformers_glm.assembly.random_held import random_network
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.generation.engine import Engine
from mindformers_glm.models.interface import NetworkConfig
from mindformers_glm.serving.loading import load
from tools.glm2_tiny.make_corpus import adgen

_FIELDS = ("类型", "颜色", "材质", "风格", "图案")


def texts(seed: int) -> dict[str, tuple[str, str]]:
    """Prompt and answer of each kind, from advertisements that the grammar of glm2_tiny's corpus writes."""
    draw = random.Random(seed)
    rows = [row["summary"] for row in adgen("live", 40, seed + 1)]
    records = [
        {**{name: draw.choice(rows)[3:6] for name in _FIELDS}, "价格": draw.randrange(50, 900), "文案": row[:30]}
        for row in rows[:12]
    ]
    changed = [
        {key: draw.choice(rows)[5:8] if draw.random() < 0.1 else value for key, value in record.items()}
        for record in records
    ]
    sentences = [sentence for row in rows[:9] for sentence in row.split("！") if sentence]
    pieces = [piece for sentence in sentences[::3] for piece in sentence.split("，")]
    short = "，".join(draw.choice(rows)[8:14] if draw.random() < 0.125 else piece for piece in pieces)
    letters = "".join(draw.choices([chr(0x4E00 + i) for i in range(900)], k=220))
    article = "！".join(sentences)
    return {
        "json": (json.dumps(records, ensure_ascii=False), json.dumps(changed, ensure_ascii=False)),
        "summary": (article, short),
        "new": (article, letters),
    }


def prescribed(answer: list[int], size: int) -> Callable[[Any], np.ndarray]:
    """A mask that lets this answer come and nothing else."""

    def mask(new: Any) -> np.ndarray:
        bits = np.zeros(-(-size // 8), np.uint8)
        token = answer[min(len(new), len(answer) - 1)]
        bits[token // 8] = 1 << token % 8
        return bits

    return mask


def rate(engine: Engine, prompts: list[list[int]], answers: list[list[int]], guesses: int) -> float:
    """Tokens per second of all answers together, from their first tokens on."""
    arrivals: list[float] = []
    tickets = []
    for prompt, answer in zip(prompts, answers, strict=True):
        config = GenerationConfig(
            max_new_tokens=len(answer),
            eos_token_id=[],
            token_mask=prescribed(answer, engine.vocab_size),
            prompt_lookup_num_tokens=guesses,
        )
        tickets.append(engine.submit(prompt, config, listener=lambda item: arrivals.append(time.perf_counter())))
    for ticket, answer in zip(tickets, answers, strict=True):
        assert ticket.results()[0].ids == answer
    begin = arrivals[len(answers) - 1]
    return (sum(map(len, answers)) - len(answers)) / (arrivals[-1] - begin)


def engines(chosen: argparse.Namespace) -> Engine:
    """The engine to measure."""
    options = {"max_num_seqs": max(16, chosen.batch), "cache_dtype": chosen.cache_dtype}
    if chosen.model is not None:
        return load(chosen.model, seq_length=2048, engine=options).engine
    vocab, hidden, layers, heads, groups, ffn = (int(part) for part in chosen.shape.split(","))
    config = NetworkConfig(
        num_layers=layers,
        padded_vocab_size=vocab,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        kv_channels=hidden // heads,
        num_attention_heads=heads,
        multi_query_group_num=groups,
        seq_length=2048,
        param_init_type="float32",
        compute_dtype="float32",
        quantization_bit=chosen.bits,
        quantization_group_size=32,
    )
    return held_engine(random_network(config), options)


def main(argv: list[str] | None = None) -> int:
    """Measures and prints a JSON line for each text."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", help="a model that load_engine takes, in place of --shape")
    p.add_argument("--shape", default="65024,1024,12,16,2,3424", help="vocab,hidden,layers,heads,kv_groups,ffn")
    p.add_argument("--bits", type=int, choices=(0, 4, 8), default=8, help="of the weights; 0: float32")
    p.add_argument("--batch", type=int, default=1, help="answers at once (1)")
    p.add_argument("--guesses", type=int, default=10, help="prompt_lookup_num_tokens (10)")
    p.add_argument("--cache_dtype", help="of keys and values (what users get)")
    p.add_argument("--rounds", type=int, default=2, help="of each, in turn (2)")
    chosen = p.parse_args(argv)
    engine, tokenizer = engines(chosen), AutoTokenizer.from_pretrained("glm2_tiny")
    for kind in ("json", "summary", "new"):
        pairs = [texts(row)[kind] for row in range(chosen.batch)]
        prompts = [list(tokenizer.encode(prompt)) for prompt, _ in pairs]
        answers = [list(tokenizer.encode(answer, add_special_tokens=False))[:400] for _, answer in pairs]
        rates: dict[int, list[float]] = {0: [], chosen.guesses: []}
        rate(engine, [prompt[:64] for prompt in prompts], [answer[:8] for answer in answers], 0)
        before = engine.figures[2:4]
        for _ in range(chosen.rounds):
            for guesses, found in rates.items():
                found.append(rate(engine, prompts, answers, guesses))
        guessed, right = (now - old for now, old in zip(engine.figures[2:4], before, strict=True))
        plain, looked_up = (statistics.median(found) for found in rates.values())
        told = {"text": kind, "prompt": len(prompts[0]), "answer": len(answers[0]), "batch": chosen.batch}
        told |= {"tokens/s": round(plain, 1), "with lookup": round(looked_up, 1), "ratio": round(looked_up / plain, 2)}
        print(json.dumps({**told, "guessed": guessed, "right": right}, ensure_ascii=False), flush=True)
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
