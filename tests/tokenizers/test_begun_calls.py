"""Arguments of a call while it is being written."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.tokenizers.toolcall import BegunCall, begun_arguments, read_arguments

CALLS = [
    "```python\ntool_call(city='北京', days=2)\n```",
    "tool_call(a='x, y)', b=[1, {'c': ')'}], c=\"it's\", d=None)",
    "tool_call()",
    "tool_call(**{'a b': 1, 'c': 2})",
    '{"city": "北京, \\"x\\"", "list": [1, 2, {"a": 3}], "t": true}',
    "{}",
    '{"name": "f", "arguments": {"a": 1}}',
    "```python\ntool_call(code='''a,\\n b''', n=1)\n```",
]


@pytest.mark.parametrize("text", CALLS)
def test_what_is_told_grows_and_ends_as_the_whole_call(text):
    whole, told, call = json.dumps(read_arguments(text)), "", BegunCall()
    for end in range(len(text) + 1):
        found = begun_arguments(text[:end])
        assert call.arguments(text[:end]) == found  # it goes on where it was
        if found:
            now = json.dumps(found)[:-1]
            assert now.startswith(told) and whole.startswith(now), (text[:end], now)
            told = now
    assert begun_arguments(text) is not None


@pytest.mark.parametrize("text", ["", "```python", "```python\ntool", "北京 is", "print('tool_call(')", "[1, 2]"])
def test_nothing_is_told_before_it_is_a_call(text):
    assert begun_arguments(text) is None
