"""Answers of a given form: JSON, a schema, a regular expression, a grammar, a call. Masks by llguidance.

The extra `structured` brings llguidance. Shapes: V vocabulary of the network.
"""

from __future__ import annotations

import json
import keyword
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mindformers_glm.errors import GenerationError
from mindformers_glm.serving.http.body import Body, flag, mapping, one_of, text, texts
from mindformers_glm.serving.http.errors import ApiError, refused, wrong
from mindformers_glm.serving.http.sampling import Sampling, TokenMask
from mindformers_glm.serving.http.service import Served
from mindformers_glm.tokenizers.glm import GLMTokenizer

Constraint = Callable[[], TokenMask]  # a new mask for each answer
_LONGEST = 200_000  # characters of a schema or grammar
# White space of JSON: a space or an indented line, so that no answer is lost in blanks. Escapes: those of Python.
_JSON_MANNERS = {"whitespace_pattern": "( |\\n {0,16})?", "json_allowed_escapes": 'nrbtf\\"'}
_GUIDED = ("guided_json", "guided_regex", "guided_choice", "guided_grammar")


class Wish(NamedTuple):
    """The form that was asked for: `kind` is json, regex, choice or grammar; `param` the field that said so."""

    kind: str
    value: Any
    param: str


def read_wish(body: Body) -> Wish | None:
    """The form that a request asks for, in OpenAI's or vLLM's words.

    Raises:
        ApiError: two forms, or one that makes no sense.
    """
    wishes = [_response_format(body)]
    wishes += [_guided(body, name, name.partition("_")[2]) for name in _GUIDED]
    newer = body.take("structured_outputs", mapping)
    if newer is not None:
        inner = Body(newer, "structured_outputs")
        wishes += [_guided(inner, name, name) for name in ("json", "regex", "choice", "grammar")]
        if inner.take("json_object", flag, False):
            wishes.append(Wish("json", {"type": "object"}, "structured_outputs.json_object"))
        inner.finish()
    for name in ("guided_decoding_backend", "guided_whitespace_pattern", "structural_tag"):
        body.refuse(name, "not here")
    found = [wish for wish in wishes if wish is not None]
    if len(found) > 1:
        raise refused(found[1].param, f"not together with {found[0].param}")
    return found[0] if found else None


def _response_format(body: Body) -> Wish | None:
    value = body.take("response_format", mapping)
    if value is None:
        return None
    form = Body(value, "response_format")
    kind = form.need("type", one_of("text", "json_object", "json_schema", "grammar", "regex"))
    wish = None
    if kind == "json_object":
        wish = Wish("json", {"type": "object"}, "response_format")
    elif kind == "json_schema":
        inner = Body(form.need("json_schema", mapping), "response_format.json_schema")
        inner.need("name", text)
        inner.take("description", text)
        inner.take("strict", flag)
        wish = Wish("json", inner.take("schema", mapping, {"type": "object"}), "response_format")
        inner.finish()
    elif kind in ("grammar", "regex"):
        wish = Wish(kind, form.need(kind, text), "response_format")
    form.finish()
    return wish


def _guided(body: Body, name: str, kind: str) -> Wish | None:
    readers: dict[str, Callable[[Any], Any]] = {"json": _schema, "choice": texts(512, 4096)}
    value = body.take(name, readers.get(kind, text))
    return None if value is None else Wish(kind, value, body.name(name))


def _schema(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"It is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError("Give a JSON schema.")
    return value


# --- from wishes to masks ------------------------------------------------------------------------------------------


def constrain(
    served: Served, wish: Wish | None, sampling: Sampling, *, is_chat: bool
) -> tuple[list[int], Constraint | None]:
    """Ids that the answer begins with, and what masks the rest; nothing and None where no form is asked for.

    Raises:
        ApiError: the form makes no sense, or llguidance is not installed.
    """
    if wish is None:
        return [], None
    _check_alone(wish.param, sampling)
    tokenizer = served.tokenizer
    if is_chat and tokenizer.rules.thinks:
        raise refused(wish.param, "this model thinks aloud before it answers")
    given = tokenizer.vocabulary.encode("\n") if is_chat and tokenizer.rules.opens_with_line else []
    return given, _compiled(served, _lark(wish, tokenizer), wish.param)


def force_call(served: Served, tools: list[dict[str, Any]], sampling: Sampling) -> tuple[list[int], Constraint]:
    """As `constrain`: a call of one of the tools and nothing else, in the words of the model's chat format.

    Raises:
        ApiError: this model's calls have no form that can be demanded, or its schema makes no sense.
    """
    _check_alone("tool_choice", sampling)
    rules = served.tokenizer.rules
    if not rules.opens_with_line or rules.thinks:
        raise refused("tool_choice", "this model's chat format has no calls that can be demanded; use 'auto'")
    in_python = rules.call_text("f", {"a": 1}).strip() != '{"a": 1}'
    rows, definitions = [], []
    for place, tool in enumerate(tools):
        rows.append(f"call{place}")
        definitions += _call_rules(place, tool, in_python, tool["name"] in rules.code_tools)
    grammar = "\n".join([f"start: {_space(served.tokenizer)}({' | '.join(rows)})", *definitions])
    return [], _compiled(served, grammar, "tool_choice")


def _check_alone(param: str, sampling: Sampling) -> None:
    for name, value in (("min_tokens", sampling.min_tokens), ("ignore_eos", sampling.ignore_eos)):
        if value:
            raise refused(name, f"not together with {param}, which says where the answer ends")


def _call_rules(place: int, tool: dict[str, Any], in_python: bool, is_code: bool) -> list[str]:
    """Rules of a grammar for a call of one tool."""
    name = json.dumps(tool["name"] + "\n", ensure_ascii=False)
    if is_code:
        return [f'call{place}: {name} "```python\\n" code{place} "\\n```"', f"code{place}: /[^`]{{1,4000}}/"]
    schema = {"type": "object", **tool["parameters"]}
    if not in_python:
        return [f"call{place}: {name} {_json(schema)}"]
    opened, closed = '"```python\\ntool_call("', '")\\n```"'
    properties = schema.get("properties")
    plain = isinstance(properties, dict) and not set(schema) & {
        "$defs",
        "definitions",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
    }
    if (
        not plain
        or properties is None
        or not all(key.isidentifier() and not keyword.iskeyword(key) for key in properties)
    ):
        return [f'call{place}: {name} {opened} "**" {_json(schema)} {closed}']
    required = set(schema.get("required") or [])
    # Each argument in its place or, where it may be, none. first_i: argument i and what follows, without comma before.
    keys = list(properties)
    rules = [f"call{place}: {name} {opened} first{place}_0 {closed}"]
    for number, key in enumerate(keys):
        own = f'"{key}=" value{place}_{number} more{place}_{number + 1}'
        skipped = "" if key in required else f" | first{place}_{number + 1}"
        rules.append(f"first{place}_{number}: {own}{skipped}")
        again = "" if key in required else f" | more{place}_{number + 1}"
        rules.append(f'more{place}_{number}: ", " {own}{again}')
        rules.append(f"value{place}_{number}: {_json(properties[key])}")
    return [*rules, f'first{place}_{len(keys)}: ""', f'more{place}_{len(keys)}: ""']


def _lark(wish: Wish, tokenizer: GLMTokenizer) -> str:
    if wish.kind == "grammar":
        return wish.value
    begin = f"start: {_space(tokenizer)}"
    if wish.kind == "json":
        return f"{begin}{_json(wish.value)}"
    if wish.kind == "choice":
        return begin + "(" + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in wish.value) + ")"
    if "\n" in wish.value:
        raise wrong(wish.param, wish.value, "Write a line break as \\n.")
    return f"{begin}body\nbody: /{wish.value.replace('/', chr(92) + '/')}/"


def _json(schema: Any) -> str:
    """A rule's right side for values of a JSON schema."""
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    return f"%json {json.dumps({**schema, 'x-guidance': _JSON_MANNERS})}"


def _space(tokenizer: GLMTokenizer) -> str:
    """The space that sentencepiece puts before a text, which no reader sees."""
    return '" "? ' if tokenizer.vocabulary.leading_space != "kept" else ""


def _compiled(served: Served, grammar: str, param: str) -> Constraint:
    if len(grammar) > _LONGEST:
        raise ApiError(400, f"{param}: it is too long, at most {_LONGEST} characters", param=param)
    guidance = _llguidance(param)
    tokens = _vocabulary(served)
    compiled = guidance.LLMatcher.grammar_from_lark(grammar)
    fault, text_ = guidance.LLMatcher.validate_grammar_with_warnings(compiled, tokens)
    if fault:
        reason = (text_[0] if text_ else "").strip().splitlines()
        raise ApiError(400, f"{param}: {(reason or ['it makes no sense'])[0][:300]}", param=param, code="invalid_value")

    return lambda: _Mask(guidance.LLMatcher(tokens, compiled))


class _Mask:
    """Forbids every token after which no answer of the form is possible; the sampler applies it."""

    def __init__(self, matcher: Any) -> None:
        self._matcher, self._done = matcher, 0

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        """Bits (uint8) of the ids that may come after these new ones."""
        new = list(ids[self._done :])
        if new and not self._matcher.consume_tokens(new):
            raise GenerationError(f"structured output: {self._matcher.get_error() or 'a token does not fit'}")
        self._done += len(new)
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        fault = self._matcher.get_error()
        if fault:
            raise GenerationError(f"structured output: {fault}")
        return bits


def _llguidance(param: str) -> Any:
    try:
        import llguidance  # noqa: PLC0415 - optional
    except ImportError:
        raise refused(param, "needs llguidance: pip install 'mindformers_glm[structured]' on the server") from None
    return llguidance


_vocabularies: weakref.WeakKeyDictionary[GLMTokenizer, dict[int, Any]] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _vocabulary(served: Served) -> Any:
    """The tokenizer as llguidance knows it, made once."""
    with _making:
        known = _vocabularies.setdefault(served.tokenizer, {})
        size = served.engine.vocab_size
        if size not in known:
            known[size] = _made(served.tokenizer, size)
    return known[size]


def _made(tokenizer: GLMTokenizer, size: int) -> Any:
    import llguidance  # noqa: PLC0415 - optional

    words, special = [], []
    vocabulary = tokenizer.vocabulary
    for token in range(size):
        raw = vocabulary.bytes_of(token)
        if raw is None and not vocabulary.is_special(token):
            raw = vocabulary.written(token).replace("\u2581", " ").encode("utf-8")
        if not raw:
            raw = f"<|special {token}|>".encode()
            special.append(token)
        words.append(raw)
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Words(tokenizer, words, special)))


class _Words:
    """What llguidance asks of a tokenizer. `__call__` gives tokens whose bytes are exactly the text's."""

    def __init__(self, tokenizer: GLMTokenizer, words: list[bytes], special: list[int]) -> None:
        self.tokens, self.special_token_ids = words, special
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, None
        self._tokenizer, self._skip = tokenizer, len(tokenizer.vocabulary.encode("\n"))

    def __call__(self, words: str) -> list[int]:
        vocabulary = self._tokenizer.vocabulary
        if isinstance(words, bytes):
            words = words.decode("utf-8", "replace")
        if vocabulary.leading_space == "kept":
            return vocabulary.encode(words)
        return vocabulary.encode("\n" + words)[self._skip :]
