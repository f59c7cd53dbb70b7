"""Behaviours that llama.cpp's server is tested for, where they are not in the other files, as tests of our own."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import socket
import threading
from pathlib import Path

import httpx
import pytest
from server_process import ServerProcess

openai = pytest.importorskip("openai")
HERE = Path(__file__).parent


def ask(http, text, **more):
    return http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], **more})


def events(reply) -> list[dict]:
    return [json.loads(part[6:]) for part in reply.text.split("\n\n") if part.startswith("data: {")]


def test_content_in_parts_is_their_text_joined(http):
    parts = [{"type": "text", "text": "你好"}, {"type": "text", "text": "，世界"}]
    assert ask(http, parts).json()["choices"][0]["message"]["content"] == "你说 你好，世界"


def test_logprobs_of_a_stream_are_those_of_the_whole_answer(http):
    wanted = {"temperature": 0, "logprobs": True, "top_logprobs": 3}
    whole = ask(http, "好 🌞", **wanted).json()["choices"][0]["logprobs"]["content"]
    chunks = [chunk["choices"][0] for chunk in events(ask(http, "好 🌞", stream=True, **wanted))]
    told = [item for chunk in chunks if chunk["logprobs"] for item in chunk["logprobs"]["content"]]
    assert told == whole and all(len(item["top_logprobs"]) == 3 for item in told)


def test_a_seed_gives_the_same_answer_alone_and_among_others(http):
    wanted = {"temperature": 1.7, "max_tokens": 30, "prompt": "嗯"}

    def text(seed):
        return http.post("/v1/completions", json={**wanted, "seed": seed}).json()["choices"][0]["text"]

    alone = [text(seed) for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, [0, 1, 2, 3] * 2)) == alone * 2
    assert len(set(alone)) == 4


def test_more_requests_than_rows_all_get_answers(http):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda number: ask(http, f"第 {number} 个"), range(24)))
    assert [reply.json()["choices"][0]["message"]["content"] for reply in replies] == [
        f"你说 第 {number} 个" for number in range(24)
    ]


def test_a_kept_prefix_changes_nothing(http):
    before = [{"role": "user", "content": "一二三四" * 20}]
    first = ask(http, before[0]["content"]).json()["choices"][0]["message"]
    longer = [*before, first, {"role": "user", "content": "再来"}]
    for _ in range(3):
        told = http.post("/v1/chat/completions", json={"messages": longer, "temperature": 0}).json()
        assert told["choices"][0]["message"]["content"] == "你说 再来"
    figures = http.get("/metrics").text
    asked, found = (
        int(re.search(rf"^vllm:prefix_cache_{name}_total{{.*}} (\d+)$", figures, re.M).group(1))
        for name in ("queries", "hits")
    )
    assert asked > found > 0 and re.search(r"^vllm:kv_cache_usage_perc{.*} \S+$", figures, re.M)


def test_what_an_answer_repeats_is_guessed_and_counted(tiny):
    with httpx.Client(base_url=tiny.address, timeout=120) as http:
        body = {"prompt": [700, 701, 702] * 40, "max_tokens": 60, "ignore_eos": True, "temperature": 0}
        assert http.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 60
        found = re.findall(
            r"^vllm:spec_decode_num_(draft|accepted)_tokens_total{.*} (\d+)$", http.get("/metrics").text, re.M
        )
        figures = {name: int(count) for name, count in found}
        assert 0 <= figures["accepted"] <= figures["draft"]


def test_an_answer_may_be_asked_for_beyond_the_context(tiny):
    with httpx.Client(base_url=tiny.address, timeout=120) as http:
        info = http.get("/tokenizer_info").json()
        body = {"prompt": [300] * (info["model_max_length"] - 5), "max_tokens": 10_000, "ignore_eos": True}
        told = http.post("/v1/completions", json=body).json()
        assert told["choices"][0]["finish_reason"] == "length" and told["usage"]["completion_tokens"] == 5


def test_pieces_of_a_text_join_to_it(http):
    text = "unicode 媽 and emoji 🤗\n\t二"
    body = {"prompt": text, "return_token_strs": True, "add_special_tokens": False}
    told = http.post("/tokenize", json=body).json()
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) and all(told["token_strs"])
    assert http.post("/detokenize", json={"tokens": told["tokens"]}).json()["prompt"] == text


@pytest.mark.parametrize("schema", [{"const": "42"}, {"enum": ["晴", "雨"]}, {"type": "array", "items": {"const": 7}}])
def test_a_schema_of_few_values_gives_one_of_them(http, schema):
    pytest.importorskip("llguidance")
    if "items" in schema:
        schema = {**schema, "minItems": 2, "maxItems": 2}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    said = json.loads(ask(http, "?", response_format=form).json()["choices"][0]["message"]["content"])
    assert said in ("42", "晴", "雨", [7, 7])


def test_a_comment_is_sent_while_nothing_else_is(http, tmp_path):
    """The first token of this answer comes after the comment."""
    pipe, lines = tmp_path / "go_on", []
    os.mkfifo(pipe)
    body = {"model": "parrot", "messages": [{"role": "user", "content": f"wait for {pipe}"}], "stream": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if line == ": still at it" and line not in lines:
                pipe.write_text("")
            lines.append(line)
    assert ": still at it" in lines and lines[-2:] == ["data: [DONE]", ""]


def test_the_page_needs_no_key_and_listed_pages_may_ask():
    server = ServerProcess(str(HERE / "parrot_server.py"), "--key", "right", "--cors", "https://my.page")
    try:
        with httpx.Client(base_url=server.address, timeout=60) as http:
            page = http.get("/")
            assert page.status_code == 200 and "script-src 'self'" in page.headers["content-security-policy"]
            paths = re.findall(r'(?:src|href)="(/[^"#]+)"', page.text)
            assert len(paths) >= 2 and [http.get(path).status_code for path in paths] == [200] * len(paths)
            assert http.get("/v1/models").status_code == 401
            asked = {"origin": "https://my.page", "access-control-request-method": "POST"}
            told = http.options("/v1/chat/completions", headers=asked)
            assert told.headers["access-control-allow-origin"] == "https://my.page"
            assert "authorization" in told.headers["access-control-allow-headers"].lower()
            other = http.options("/v1/chat/completions", headers={**asked, "origin": "https://other.page"})
            assert "access-control-allow-origin" not in other.headers
    finally:
        server.stop()


def test_no_request_writes_lines_of_its_own_into_the_log(parrot):
    before = len(parrot.output)
    host, port = parrot.address[7:].split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(
            b"GET /v1/x%0a%7b%22status%22:1%7d HTTP/1.1\r\nHost: x\r\nx-request-id: a\tb\r\nConnection: close\r\n\r\n"
        )
        while raw.recv(4096):
            continue
    with httpx.Client(base_url=parrot.address) as http:
        http.get("/v1/models")
        while not any("/v1/models" in line for line in parrot.output[before:]):
            continue
    for line in parrot.output[before:]:
        assert set(json.loads(line)) >= {"path", "status", "request_id"}, line


def test_while_the_model_is_loaded_it_says_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    seen, pipe = [], tmp_path / "load"

    def look():
        while not seen or seen[-1][0] != 200:
            try:
                reply = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5)
                asked = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json={"prompt": "x"}, timeout=5)
            except httpx.TransportError:
                continue
            if reply.status_code == 503 and asked.status_code == 503:
                if not seen:
                    pipe.write_text("")  # now it may load
                seen.append((503, asked.headers["retry-after"], asked.json()["error"]["code"]))
            elif reply.status_code == 200:
                seen.append((200,))

    os.mkfifo(pipe)
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    server = ServerProcess(str(HERE / "parrot_server.py"), "--port", str(port), "--load_after", str(pipe))
    try:
        looking.join(30)
        assert seen[0] == (503, "5", "loading") and seen[-1] == (200,)
    finally:
        server.stop()
