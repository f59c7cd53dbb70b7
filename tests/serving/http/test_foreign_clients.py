"""Clients that nobody here wrote, against glm2_tiny and against a server that answers from a script."""

from __future__ import annotations

import json
import os
import re
import subprocess

import httpx
import pytest
from environments import CLIENTS, node_modules, python_of

pytestmark = pytest.mark.slow
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


def run(words, folder, *, seconds: int = 600, **environment):
    done = subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=folder,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder), **environment},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


# --- lm-evaluation-harness -----------------------------------------------------------------------------------------

QUESTIONS = [
    ("中国的首都是", ["北京", "上海", "广州"], 0),
    ("一加一等于", ["三", "二", "一"], 1),
    ("天空是", ["蓝色的", "绿的"], 0),
]
TASK = """
task: pieces
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc}]
"""


def test_lm_eval_scores_and_generates_over_http(tiny, tmp_path):
    """Its log-likelihoods are those that the server tells for the same ids, one request each."""
    python = python_of(CLIENTS)
    rows = [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in QUESTIONS]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    (tmp_path / "pieces.yaml").write_text(TASK.replace("DATA", str(tmp_path / "rows.jsonl")))
    written = TASK.replace("pieces", "written").replace("multiple_choice", "generate_until")
    written = written.replace('doc_to_choice: "{{choices}}"\n', "").replace("{metric: acc}", "{metric: exact_match}")
    written += "generation_kwargs: {max_gen_toks: 8, do_sample: false, until: ['。']}\n"
    (tmp_path / "written.yaml").write_text(written.replace("DATA", str(tmp_path / "rows.jsonl")))
    url = f"{tiny.address}/v1/completions"
    options = f"model=glm2_tiny,base_url={url},tokenizer_backend=remote,num_concurrent=2,max_length=256"
    words = [python, "-m", "lm_eval", "--model", "local-completions", "--model_args", options, "--log_samples"]
    run([*words, "--tasks", "pieces,written", "--include_path", tmp_path, "--output_path", tmp_path / "out"], tmp_path)
    [told] = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(told.read_text())["results"]
    assert 0 <= results["pieces"]["acc,none"] <= 1 and "exact_match,none" in results["written"]
    [samples] = (tmp_path / "out").rglob("samples_pieces_*.jsonl")
    found = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(found) == len(QUESTIONS)
    with httpx.Client(base_url=tiny.address, timeout=60) as http:

        def ids(text):
            return http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]

        for sample in found:
            question, choices, _ = QUESTIONS[sample["doc_id"]]
            for choice, answer in zip(choices, sample["filtered_resps"], strict=True):
                whole, before = ids(question + choice), len(ids(question))
                asked = {"prompt": whole, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
                logprobs = http.post("/v1/completions", json=asked).json()["choices"][0]["logprobs"]["token_logprobs"]
                assert float(answer[0]) == pytest.approx(sum(logprobs[before:-1]), abs=1e-3)


# --- LangChain -----------------------------------------------------------------------------------------------------

LANGCHAIN = """
import json, sys
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

@tool
def weather(city: str, days: int = 1) -> str:
    "of a city"
    return f"{city} 31"

class Person(BaseModel):
    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=150)

chat = ChatOpenAI(base_url=sys.argv[1], api_key="x", model="parrot", max_retries=0, timeout=60)
said = chat.invoke("你好").content
streamed = "".join(chunk.content for chunk in chat.stream("你好"))
many = [answer.content for answer in chat.batch(["一", "二", "三"])]
bound = chat.bind_tools([weather])
messages = [HumanMessage("call")]
messages.append(bound.invoke(messages))
call = messages[-1].tool_calls[0]
messages.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
merged = None
for chunk in bound.stream("call"):
    merged = chunk if merged is None else merged + chunk
person = chat.with_structured_output(Person, method="json_schema").invoke("谁", temperature=1, seed=1, max_tokens=500)
print(json.dumps({
    "said": said, "streamed": streamed, "many": many, "call": [call["name"], call["args"]],
    "streamed_call": merged.tool_calls[0]["args"], "answer": bound.invoke(messages).content,
    "person": type(person).__name__, "usage": chat.invoke("你好").usage_metadata["total_tokens"],
}))
"""


def test_langchain_chats_streams_calls_and_reads_a_schema(parrot, tmp_path):
    python = python_of(CLIENTS)
    (tmp_path / "client.py").write_text(LANGCHAIN)
    told = json.loads(run([python, "client.py", f"{parrot.address}/v1"], tmp_path).splitlines()[-1])
    assert told["said"] == told["streamed"] == "你说 你好"
    assert told["many"] == ["你说 一", "你说 二", "你说 三"]
    assert told["call"] == ["weather", {"city": "北京", "days": 2}] and told["streamed_call"] == told["call"][1]
    assert told["answer"] == "结果是 北京 31" and told["person"] == "Person" and told["usage"] > 4


# --- the npm package -----------------------------------------------------------------------------------------------

NODE = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: "x", maxRetries: 0 });
const tools = JSON.parse(process.argv[3]);
const ask = (content, more = {}) =>
  client.chat.completions.create({ model: "parrot", messages: [{ role: "user", content }], ...more });
const told = {};
told.models = (await client.models.list()).data.map((model) => model.id);
told.said = (await ask("你好 🌞")).choices[0].message.content;
told.streamed = ""; told.usage = null;
for await (const chunk of await ask("你好 🌞", { stream: true, stream_options: { include_usage: true } })) {
  told.streamed += chunk.choices[0]?.delta?.content ?? "";
  told.usage = chunk.usage ?? told.usage;
}
const messages = [{ role: "user", content: "call" }];
const runner = client.chat.completions.stream({ model: "parrot", messages, tools });
const final = await runner.finalChatCompletion();
told.call = final.choices[0].message.tool_calls[0].function;
told.reason = final.choices[0].finish_reason;
const endless = await ask("for ever", { stream: true });
let pieces = 0;
for await (const _ of endless) if (++pieces > 5) { endless.controller.abort(); break; }
try { await ask("x", { temperature: 9 }); } catch (error) {
  told.fault = [error.status, error.param, error.constructor.name];
}
told.text = (await client.completions.create({ model: "parrot", prompt: "嗯", max_tokens: 3 })).choices[0].text;
console.log(JSON.stringify(told));
"""


def test_the_npm_client_chats_streams_calls_aborts_and_reads_errors(parrot, tmp_path):
    folder = node_modules()
    (tmp_path / "client.mjs").write_text(NODE)
    (tmp_path / "node_modules").symlink_to(folder / "node_modules")
    told = json.loads(run(["node", "client.mjs", f"{parrot.address}/v1", json.dumps([TOOL])], tmp_path))
    assert "parrot" in told["models"] and told["said"] == told["streamed"] == "你说 你好 🌞"
    assert told["usage"]["completion_tokens"] > 3 and told["reason"] == "tool_calls"
    assert told["call"]["name"] == "weather" and json.loads(told["call"]["arguments"]) == {"city": "北京", "days": 2}
    assert told["fault"] == [400, "temperature", "BadRequestError"] and told["text"]


# --- schemathesis --------------------------------------------------------------------------------------------------


def test_schemathesis_finds_no_server_error_and_no_answer_beside_the_document(tiny, tmp_path):
    python = python_of(CLIENTS)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    words = [python, "-m", "schemathesis.cli", "run", f"{tiny.address}/openapi.json", "--checks", checks]
    run([*words, "--max-examples", "60", "--seed", "7", "--request-timeout", "60"], tmp_path, seconds=1500)
    with httpx.Client(base_url=tiny.address, timeout=60) as http:
        answer = http.post("/v1/completions", json={"prompt": "你好", "max_tokens": 4, "temperature": 0})
        assert answer.status_code == 200 and http.get("/health").status_code == 200
        metrics = http.get("/metrics").text
    assert not re.search(r"^glm:request_failures_total[ {].*[1-9]", metrics, re.M)


# --- curl ----------------------------------------------------------------------------------------------------------


def test_the_command_of_the_documents(parrot, tmp_path):
    body = '{"messages": [{"role": "user", "content": "你好"}], "stream": true}'
    words = ["curl", "-sN", f"{parrot.address}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    lines = [line for line in run(words, tmp_path).split("\n\n") if line.startswith("data: {")]
    said = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines)
    assert said == "你说 你好"
