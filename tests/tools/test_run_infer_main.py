"""tools/run_infer_main.py and pipeline(backend="mslite") over an export of glm2_tiny in real MindSpore Lite."""

from __future__ import annotations

import subprocess
import sys

import forked
import lite_environment
import pytest

from mindformers_glm import AutoModel, AutoTokenizer, pipeline, runtime
from mindformers_glm.cli.console import main as console
from mindformers_glm.cli.infer_lite import parser
from mindformers_glm.cli.lite_chat import typed
from mindformers_glm.errors import ConfigError
from mindformers_glm.export.export import export_model
from mindformers_glm.export.plan import ExportPlan

GLM2 = "[Round 1]\\n\\n问：{}\\n\\n答："
PRODUCT = "类型#裙*颜色#红色"


@pytest.fixture(scope="module")
def lite_python():
    return lite_environment.require()


@pytest.fixture(scope="module")
def model():
    runtime.set_up({"mode": 0, "device_target": "CPU"})
    return AutoModel.from_pretrained("glm2_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("export")
    plan = ExportPlan(prefill=folder / "tiny_prefill_seq512", increment=folder / "tiny_inc_seq512", dynamic=True)
    export_model(model, plan, tokenizer=AutoTokenizer.from_pretrained("glm2_tiny"))
    return folder


def main(words):
    return console(["infer-lite", *words])


def expected(model, text, max_new_tokens):
    tokenizer = AutoTokenizer.from_pretrained("glm2_tiny")
    row = model.generate(tokenizer(text)["input_ids"], max_new_tokens=max_new_tokens)[0]
    return tokenizer.decode(row, skip_special_tokens=True)


def test_one_shot_of_several_prompts(folder, lite_python, model, capsys):
    words = ["--model_dir", str(folder), "--lite_python", lite_python, "--max_output_length", "16"]
    assert main([*words, "--batch_size", "2", "--predict_data", PRODUCT, "你好"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()[-1]
    assert printed == str([expected(model, PRODUCT, 16), expected(model, "你好", 16)])


def test_the_two_documented_paths_a_template_and_streaming(folder, lite_python, model, capsys):
    words = ["--lite_python", lite_python, "--max_output_length", "16", "--stream", "True", "--prompt", GLM2]
    paths = ["--prefill_model_path", str(folder / "tiny_prefill_seq512_graph.mindir")]
    paths += ["--increment_model_path", str(folder / "tiny_inc_seq512_graph.mindir")]
    names = ["--model_name", "glm2_6b", "--seq_length", "512", "--add_special_tokens", "True"]
    assert main([*words, *paths, *names, "--predict_data", PRODUCT]) == 0
    prompt = AutoTokenizer.from_pretrained("glm2_tiny").build_prompt(PRODUCT)
    reply = expected(model, prompt, 16)[len(prompt) :].strip()
    assert capsys.readouterr().out.strip().splitlines()[-1].strip() == reply


def test_typed_prompts_of_several_lines(monkeypatch):
    lines = iter(["one\\", "two\\nthree", "  ", "exit", "never"])
    assert list(typed(lambda _: next(lines))) == ["one\ntwo\nthree"]


ROUND = ["[Round 1]", "", "问：你好。", "", "答："]
SECOND = ["[Round 1]", "", "问：a", "", "答：b", "", "[Round 2]", "", "问：c", "", "答："]


@pytest.mark.parametrize(
    ("lines", "prompts"),
    [
        (ROUND, ["\n".join(ROUND)]),
        ([*ROUND, "你好", *SECOND, "exit", "never"], ["\n".join(ROUND), "你好", "\n".join(SECOND)]),
        (ROUND[:3], ["\n".join(ROUND[:3])]),
        (["[Round 1]\\n\\n问：你好。\\n\\n答：", "b"], ["\n".join(ROUND), "b"]),
        (['"""one', "", 'two"""', "three"], ["one\n\ntwo", "three"]),
        (["\ufeffexit", "never"], []),
        (["one\\"], ["one"]),
    ],
)
def test_texts_of_several_lines_are_one_prompt(lines, prompts):
    asked, waiting = [], iter(lines)

    def ask(prompt):
        asked.append(prompt)
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    assert list(typed(ask)) == prompts
    assert "答：" in asked[0] and "exit" in asked[0]


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "--model_dir"),
        (["--model_dir", "absent"], "no such file"),
        (["--model_dir", "FOLDER", "--seq_length", "1024"], "exported with 512"),
        (["--model_dir", "FOLDER", "--model_name", "glm3_6b"], "ChatGLM2"),
        (["--model_dir", "FOLDER", "--prompt", "no place"], "needs {}"),
        (["--model_dir", "FOLDER", "--lite_python", "/nowhere"], "no such program"),
    ],
)
def test_faults_are_one_line(folder, lite_python, monkeypatch, capsys, words, told):
    monkeypatch.setenv("MINDFORMERS_GLM_LITE_PYTHON", lite_python)
    assert main([str(folder) if word == "FOLDER" else word for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert told in error and error.startswith("error: ") and len(error.splitlines()) == 1


def test_every_documented_option_is_known():
    given = parser().parse_args(["--dynamic", "False", "--paged_attention", "False", "--pa_block_size", "16"])
    assert (given.model_name, given.max_length, given.add_special_tokens) == ("common", 512, True)


def test_without_mindspore(folder, lite_python, root, tmp_path):
    """A device where only MindSpore Lite is installed."""
    script = (
        "import importlib.util as u, sys; found = u.find_spec; "
        "u.find_spec = lambda name, *a: None if name.startswith('mindspore') else found(name, *a); "
        "sys.modules['mindspore'] = None; sys.path.insert(0, sys.argv.pop(1)); "
        "from mindformers_glm.cli.console import main; "
        "sys.exit(main(['infer-lite', *sys.argv[1:]]))"
    )
    words = ["--model_dir", folder, "--lite_python", lite_python, "--max_output_length", "4", "--predict_data", PRODUCT]
    done = subprocess.run(
        [sys.executable, "-c", script, root, *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("['" + PRODUCT)


def test_pipeline_with_backend_mslite(folder, lite_python, model):
    with pipeline(model=folder, backend="mslite", lite_python=lite_python, infer_seq_length=512) as write:
        assert write(PRODUCT, max_new_tokens=16) == [{"text_generation_text": [expected(model, PRODUCT, 16)]}]
    with pytest.raises(ConfigError, match="backend"):
        pipeline(model=folder, backend="other")


def test_the_terminal_chat_talks_to_an_exported_model(folder, lite_python, model, root):
    words = [root / "tools/chat.py", "--lite", folder, "--lite_python", lite_python]
    done = forked.run([*words, "--temperature", "0", "--max_new_tokens", "16"], input="你好\n")
    assert done.returncode == 0, done.stderr
    prompt = AutoTokenizer.from_pretrained("glm2_tiny").build_prompt("你好")
    assert expected(model, prompt, 16)[len(prompt) :].strip() in done.stdout
    refused = forked.run([*words, "--adapter", "x"])
    assert refused.returncode == 2
    assert "export again" in refused.stderr
