"""What a server refuses, bounds and survives, named by behaviour."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import httpx
import pytest
from server_process import ServerProcess

from mindformers_glm.serving.http.body import Body
from mindformers_glm.serving.http.sampling import read_sampling

openai = pytest.importorskip("openai")
HERE = Path(__file__).parent
USER = [{"role": "user", "content": "好"}]
FOREVER = [{"role": "user", "content": "for ever"}]


def post(http, path="/v1/chat/completions", **body):
    return http.post(path, json=body)


def running(http) -> int:
    line = next(
        line for line in http.get("/metrics").text.splitlines() if line.startswith("vllm:num_requests_running{")
    )
    return int(line.rpartition(" ")[2])


def until_idle(http) -> None:
    for _ in range(2000):
        if not running(http):
            return
    raise AssertionError("rows were not freed")


def test_models_are_listed_and_told_apart(http):
    told = http.get("/v1/models").json()
    assert [model["id"] for model in told["data"]] == ["parrot", "the-other-name", "parrot-law"]
    assert told["data"][2]["parent"] == "parrot" and told["data"][0]["max_model_len"] == 200_000
    assert http.get("/v1/models/parrot").json()["object"] == "model"
    fault = http.get("/v1/models/none")
    assert fault.status_code == 404 and fault.json()["error"]["code"] == "model_not_found"


def test_an_unknown_model_is_404(http):
    fault = post(http, model="gpt-4", messages=USER)
    assert fault.status_code == 404 and "parrot" in fault.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "root", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "metadata": "weather"}]}, "messages.0.metadata"),
        ({"messages": [{"role": "system", "content": "x", "tools": []}]}, "messages.0.tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
        ),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "none"}]}, "messages.0.tool_call_id"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 100000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"stop": [1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop_token_ids": [99999]}, "stop_token_ids"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"min_p": 0.1}, "min_p"),
        ({"priority": 3}, "priority"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused_by_name(http, body, param):
    body = body if "messages" in body or not body else {"messages": USER, **body}
    fault = post(http, **body)
    assert fault.status_code == 400, fault.text
    told = fault.json()["error"]
    assert told["param"] == param and param.split(".")[0] in told["message"]
    assert told["type"] == "invalid_request_error"


def test_a_priority_is_taken_where_the_server_has_them():
    assert read_sampling(Body({"priority": -2}), 9, most_answers=1, has_priorities=True).priority == -2
    assert read_sampling(Body({"priority": 0}), 9, most_answers=1).priority == 0


def test_null_and_neutral_values_ask_for_nothing(http):
    fields = (
        "stop",
        "tools",
        "tool_choice",
        "logit_bias",
        "seed",
        "response_format",
        "functions",
        "user",
        "unheard_of",
    )
    body = {
        **dict.fromkeys(fields),
        "no_stop_trim": False,
        "separate_reasoning": True,
        "modalities": ["text"],
        "store": False,
        "service_tier": "auto",
        "user": "me",
    }
    assert post(http, messages=USER, **body).status_code == 200


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a": NaN}', b"[" * 5000, b'{"a":' * 3000 + b"1"]
)
def test_a_body_that_is_no_json_object_is_refused(http, raw):
    fault = http.post("/v1/chat/completions", content=raw)
    assert fault.status_code == 400 and fault.json()["error"]["code"] == "invalid_json"


def test_half_a_surrogate_pair_harms_nobody(http):
    raw = b'{"messages": [{"role": "user", "content": "a\\ud83db"}], "\\ud83d": 1}'
    assert http.post("/v1/chat/completions", content=raw).status_code == 400
    raw = b'{"messages": [{"role": "user", "content": "a\\ud83db"}]}'
    assert http.post("/v1/chat/completions", content=raw).json()["choices"][0]["message"]["content"] == "你说 a?b"


def test_a_body_beyond_the_bound_is_413(http):
    fault = http.post("/v1/chat/completions", content=b" " * (1024 * 1024 + 1))
    assert fault.status_code == 413 and fault.json()["error"]["code"] == "body_too_large"

    def pieces():
        for _ in range(20):
            yield b" " * 100_000

    assert http.post("/v1/chat/completions", content=pieces()).status_code == 413


def test_a_prompt_without_room_is_told_as_openai_does(http):
    fault = post(http, "/v1/completions", prompt=[5] * 200_000)
    assert fault.status_code == 400 and fault.json()["error"]["code"] == "context_length_exceeded"
    assert "200000" in fault.json()["error"]["message"]


def test_paths_and_methods_that_are_not_there(http):
    assert http.get("/v2/models").json()["error"]["code"] == "not_found"
    assert http.get("/v1/chat/completions").status_code == 405
    assert "no embeddings" in post(http, "/v1/embeddings", input="x").json()["error"]["message"]
    assert http.post("/stopService").status_code == 403


def test_health_readiness_and_request_ids(http):
    assert http.get("/health").json() == {"status": "ready"}
    assert http.get("/ready").status_code == 200
    assert http.get("/health/timed-30").status_code == 200
    assert http.get("/health/timed-x").status_code == 404
    assert http.get("/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_the_openapi_document_names_every_path_that_answers(http):
    told = http.get("/openapi.json").json()
    assert told["openapi"].startswith("3.1") and set(told["components"]["schemas"]) >= {"ChatRequest", "Error"}
    for path, methods in told["paths"].items():
        for method in methods:
            assert http.request(method, path.replace("{name}", "parrot")).status_code in (200, 400), path


def test_no_page_of_elsewhere_may_ask(http):
    told = http.options("/v1/models", headers={"origin": "http://evil", "access-control-request-method": "POST"})
    assert "access-control-allow-origin" not in told.headers
    assert "access-control-allow-origin" not in http.get("/v1/models", headers={"origin": "http://evil"}).headers


def test_metrics_count_what_happened(http):
    def figure(name):
        lines = http.get("/metrics").text.splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)

    names = ("vllm:generation_tokens_total", 'vllm:request_success_total{finished_reason="stop"}')
    before = [figure(name) for name in names]
    used = post(http, messages=USER).json()["usage"]["completion_tokens"]
    assert [figure(name) for name in names] == [before[0] + used, before[1] + 1]
    assert figure("vllm:time_to_first_token_seconds_count") >= 1


# --- clients that go away, queues, keys, the end -------------------------------------------------------------------


def test_a_client_that_goes_away_frees_its_rows(http):
    for path, body in (
        ("/v1/chat/completions", {"messages": FOREVER, "stream": True, "n": 2}),
        ("/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 150_000}),
    ):
        with http.stream("POST", path, json=body) as reply:
            lines = reply.iter_lines()
            assert [next(lines) for _ in range(9)]
            assert running(http) >= 1
        until_idle(http)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json={"messages": FOREVER}, timeout=0.5)
    until_idle(http)


def test_a_full_queue_is_429_and_says_when_to_come_again():
    server = ServerProcess(str(HERE / "parrot_server.py"), "--max_queue", "0")
    try:
        with httpx.Client(base_url=server.address, timeout=60) as http:
            with http.stream(
                "POST", "/v1/chat/completions", json={"messages": FOREVER, "stream": True, "n": 4}
            ) as reply:
                lines = reply.iter_lines()  # kept: an iterator that goes away closes the connection
                next(lines)
                fault = post(http, messages=USER)
                assert fault.status_code == 429 and fault.headers["retry-after"] == "1"
                assert fault.json()["error"]["type"] == "rate_limit_error"
                assert http.get("/health").status_code == 200
            until_idle(http)
            assert post(http, messages=USER).status_code == 200
    finally:
        assert server.stop() == 0


def test_keys_are_asked_for_and_never_logged():
    server = ServerProcess(
        str(HERE / "parrot_server.py"), *("--key", "first-key", "--key", "second-key", "--admin", "admin-key")
    )
    try:
        with httpx.Client(base_url=server.address, timeout=60) as http:
            assert http.get("/v1/models").status_code == 401
            wrong = http.get("/v1/models", headers={"authorization": "Bearer wrong-key"})
            assert wrong.status_code == 401 and wrong.headers["www-authenticate"] == "Bearer"
            assert wrong.json()["error"]["code"] == "invalid_api_key" and "wrong-key" not in wrong.text
            assert http.get("/health").status_code == 200
            for key in ("second-key", "admin-key"):
                assert http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
            client = openai.OpenAI(base_url=f"{server.address}/v1", api_key="first-key")
            assert client.models.list().data[0].id == "parrot"
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="none").models.list()
            assert http.post("/stopService", headers={"authorization": "Bearer first-key"}).status_code == 401
            assert http.post("/stopService", headers={"authorization": "Bearer admin-key"}).status_code == 200
        assert server.process.wait(timeout=60) == 0
        assert "-key" not in "".join(server.output)
        assert json.loads(next(line for line in server.output if line.startswith("{")))["path"] == "/v1/models"
    finally:
        server.stop()


def test_sigterm_finishes_what_is_on_its_way_and_takes_nothing_new():
    server = ServerProcess(str(HERE / "parrot_server.py"))
    try:
        with httpx.Client(base_url=server.address, timeout=60) as http:
            long = {
                "messages": [{"role": "user", "content": "say " + json.dumps("嗯" * 400, ensure_ascii=False)}],
                "stream": True,
            }
            with http.stream("POST", "/v1/chat/completions", json=long) as reply:
                lines = reply.iter_lines()
                next(lines)
                server.process.send_signal(signal.SIGTERM)
                while http.get("/ready").status_code == 200:
                    continue
                fault = post(http, messages=USER)
                assert fault.status_code == 503 and fault.headers["retry-after"]
                rest = list(lines)
            assert "data: [DONE]" in rest
            said = [
                json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in rest if '"delta"' in line
            ]
            assert "".join(said) == "嗯" * 400
        assert server.process.wait(timeout=60) == 0
    finally:
        server.stop()


def test_what_does_not_end_in_time_is_cut_off_with_a_clear_error():
    server = ServerProcess(str(HERE / "parrot_server.py"), "--drain", "0.3")
    told = []

    def ask():
        with httpx.Client(base_url=server.address, timeout=60) as http:
            reply = http.post("/v1/chat/completions", json={"messages": FOREVER, "stream": True})
            told.append(reply.text)

    asking = threading.Thread(target=ask)
    try:
        with httpx.Client(base_url=server.address, timeout=60) as http:
            asking.start()
            while not running(http):
                continue
        assert server.stop() == 1
        asking.join(60)
        assert '"error"' in told[0] and "[DONE]" not in told[0]
    finally:
        server.stop()


def test_requests_side_by_side_get_their_own_answers(parrot):
    answers = {}

    def ask(number):
        with httpx.Client(base_url=parrot.address, timeout=120) as http:
            body = {"messages": [{"role": "user", "content": f"第 {number} 个"}], "temperature": 0}
            answers[number] = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert answers == {number: f"你说 第 {number} 个" for number in range(12)}


def test_an_adapter_is_chosen_by_its_name(http):
    reply = post(http, model="parrot-law", messages=USER).json()
    assert reply["model"] == "parrot-law" and reply["choices"][0]["message"]["content"] == "你说 好"
