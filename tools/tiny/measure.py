"""What a small model can do, on prompts that no corpus has: per skill how many replies are right, by program.

python -m tools.tiny.measure mindformers_glm/assets/glm3_tiny --count 500 --output figures.json
python -m tools.tiny.measure glm2_tiny --judge glm3_tiny --output figures.json
python -m tools.tiny.measure mindformers_glm/assets/glm3_tiny --talks 20
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindformers_glm.cli.options import Parser, whole
from mindformers_glm.cli.report import report
from mindformers_glm.files import write_text
from mindformers_glm.generation.config import GenerationConfig
from mindformers_glm.serving.loading import load
from mindformers_glm.tokenizers import Renderer
from mindformers_glm.tokenizers.messages import offered_tools, read_messages
from mindformers_glm.tokenizers.reply import Reply, parse_reply
from tools.glm2_tiny.advert import Pair, named
from tools.tiny.corpus import MEASURED, held_back
from tools.tiny.sample import EARLIER_NAME, NAME, Sample

MOST_NEW = 256
SCORED = 100  # replies of a skill whose perplexity is taken
_CLAUSE = re.compile(r"[，。！？,.!?]")


def judged(sample: Sample, reply: Reply) -> dict[str, float]:
    """What is measured of one reply, each from 0 to 1: `right`, and for texts `coverage` and `repeated`."""
    text, wanted = reply.content.strip(), sample.wanted
    found: dict[str, float] = {}
    if "call" in wanted:
        calls = [{"name": call.name, "arguments": call.arguments} for call in reply.tool_calls]
        return {"right": float(calls == [wanted["call"]]), "valid": float(len(calls) == 1 and not reply.faults)}
    if "pairs" in wanted:
        pairs = [Pair(*pair) for pair in wanted["pairs"]]
        found = {"coverage": len(named(pairs, text)) / len(pairs)}
    elif "says" in wanted:
        found = {"coverage": sum(word in text for word in wanted["says"]) / max(len(wanted["says"]), 1)}
    if "any" in wanted:
        found["right"] = float(text in [answer.strip() for answer in wanted["any"]])
    elif "number" in wanted:
        numbers = re.findall(r"\d+", text)
        found["right"] = float(bool(numbers) and numbers[-1] == wanted["number"])
    elif "json" in wanted:
        found["right"] = float(_object(text) == wanted["json"])
    else:
        found["right"] = float(found["coverage"] == 1.0)
    clauses = [part for part in _CLAUSE.split(text) if len(part.strip()) > 3]
    if len(clauses) > 2:
        found["repeated"] = float(len(set(clauses)) < len(clauses))
    return found


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


class Asked:
    """A model that answers samples, many at a time."""

    def __init__(self, model: str) -> None:
        loaded = load(model)
        self.engine, self.tokenizer = loaded.engine, loaded.tokenizer
        self.renderer = Renderer(self.tokenizer)
        self.config = GenerationConfig(max_new_tokens=MOST_NEW).ending_also(self.tokenizer.stop_ids)
        self.name = NAME if self.tokenizer.rules.has_roles else EARLIER_NAME

    def knows(self, sample: Sample) -> bool:
        """Whether the model's form has room for such a conversation."""
        return self.tokenizer.rules.has_roles or not (sample.tools or sample.messages[0]["role"] == "system")

    def _prompt(self, messages: Sequence[dict[str, Any]], tools: Any) -> list[int]:
        text = json.dumps(list(messages), ensure_ascii=False).replace(NAME, self.name)
        return self.renderer.prompt(json.loads(text), tools=tools)

    def replies(self, samples: Sequence[Sample]) -> list[Reply]:
        """The reply that each conversation waits for."""
        prompts = [self._prompt(one.messages[:-1], one.tools) for one in samples]
        tickets = self.engine.submit_all(prompts, self.config)
        found = []
        for one, ticket in zip(samples, tickets, strict=True):
            names = offered_tools(read_messages([], tools=one.tools))
            reply = parse_reply(self.tokenizer, ticket.results()[0].ids, tools=names)
            reply.content = reply.content.replace(self.name, NAME)
            found.append(reply)
        return found

    def log_probability(self, sample: Sample, said: str | None = None) -> tuple[float, int]:
        """Of the corpus' reply, or of a text `said` in its place: the sum, and over how many tokens."""
        if said is not None:
            sample = sample._replace(messages=[*sample.messages[:-1], {"role": "assistant", "content": said}])
        prompt = self._prompt(sample.messages[:-1], sample.tools)
        text = json.dumps(sample.messages, ensure_ascii=False).replace(NAME, self.name)
        rest = self.renderer.example(json.loads(text), loss="last", tools=sample.tools).ids[len(prompt) :]
        score = self.engine.score(prompt, [rest])[0]
        return float(sum(score.logprobs)), len(rest)


def measured(
    model: str, count: int, skills: Sequence[str], seed: int = 0, *, judge: str | None = None
) -> dict[str, dict[str, float]]:
    """Per skill: how many prompts, per cent right (and coverage, repeated, valid), perplexity of the corpus' reply.

    With a `judge`, a larger model: `fluency`, the perplexity of the model's own replies under it.
    """
    asked, table = Asked(model), dict[str, dict[str, float]]()
    reader = None if judge is None else Asked(judge)
    for skill in skills:
        samples = [one for one in held_back(skill, count, seed) if asked.knows(one)]
        if not samples:
            continue
        replies = asked.replies(samples)
        rows = [judged(one, reply) for one, reply in zip(samples, replies, strict=True)]
        names = sorted({name for row in rows for name in row}, reverse=True)
        table[skill] = {"prompts": len(samples)}
        for name in names:
            values = [row[name] for row in rows if name in row]
            table[skill][name] = round(100 * sum(values) / len(values), 1)
        table[skill]["perplexity"] = _perplexity([asked.log_probability(one) for one in samples[:SCORED]])
        if reader is not None:
            said = [(one, reply.content) for one, reply in zip(samples, replies, strict=True) if reply.content.strip()]
            if said:
                scores = [reader.log_probability(one, text) for one, text in said[:SCORED]]
                table[skill]["fluency"] = _perplexity(scores)
        print(f"{skill:15} " + "  ".join(f"{name} {value}" for name, value in table[skill].items()), flush=True)
    return table


def _perplexity(scores: Sequence[tuple[float, int]]) -> float:
    return round(math.exp(-sum(total for total, _ in scores) / sum(tokens for _, tokens in scores)), 3)


def talks(model: str, count: int, seed: int) -> list[list[str]]:
    """Conversations that nobody chose: prompts of the skills in turn, the model's reply at the end of each."""
    asked, rng = Asked(model), random.Random(seed)
    skills = list(MEASURED)
    rng.shuffle(skills)
    drawn = (held_back(skills[number % len(skills)], 1, seed + number)[0] for number in itertools.count())
    samples = list(itertools.islice(filter(asked.knows, drawn), count))
    found = []
    for one, reply in zip(samples, asked.replies(samples), strict=True):
        lines = [f"[{'; '.join(tool['name'] for tool in one.tools)}]"] if one.tools else []
        for message in one.messages[:-1]:
            calls = message.get("tool_calls")
            said = f"-> {_called(calls[0]['function'])}" if calls else message["content"]
            lines.append(f"{message['role']}: {said}")
        calls = [f"-> {_called({'name': call.name, 'arguments': call.arguments})}" for call in reply.tool_calls]
        lines.append("MODEL: " + " ".join([reply.content.replace(NAME, asked.name), *calls]).strip())
        found.append(lines)
    return found


def _called(function: dict[str, Any]) -> str:
    return f"{function['name']}({json.dumps(function['arguments'], ensure_ascii=False)})"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="a name or folder, as chat takes it")
    parser.add_argument("--count", type=whole(), default=500, help="prompts of each skill")
    parser.add_argument("--skills", nargs="+", choices=sorted(MEASURED), default=list(MEASURED))
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--judge", help="a larger model: the perplexity of the replies under it")
    parser.add_argument("--output", help="a JSON file of the figures")
    parser.add_argument("--talks", type=whole(), help="print so many conversations in place of figures")
    given = parser.parse_args(arguments)
    if given.talks:
        for number, lines in enumerate(talks(given.model, given.talks, given.seed), 1):
            print(f"{number}.", *lines, sep="\n   ")
        return
    found = measured(given.model, given.count, given.skills, given.seed, judge=given.judge)
    if given.output:
        write_text(Path(given.output), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(report(main))
