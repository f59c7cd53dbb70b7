"""The commands that never import MindSpore: run in processes that have none, and refuse where it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request

import pytest

_PROGRAM = (  # as where MindSpore is not installed: importing it fails, and whoever asks is told that it is not there
    "import sys; sys.modules['mindspore'] = None; from mindformers_glm.cli.console import main; "
    "sys.exit(main(sys.argv[1:]))"
)
TEXTS = '{"text": "今天天气很好"}\n'
BENCHMARK = """\
base_config: configs/tiny/run_glm2_tiny.yaml
run_mode: eval
eval_task: {tasks: [ceval-valid], subjects: [law], num_fewshot: 0, data_dir: ceval}
"""
LOSS = """\
base_config: configs/tiny/run_glm2_tiny_eval.yaml
run_mode: eval
metric: {type: PerplexityMetric}
eval_dataset: {max_target_length: 127}
"""
QUESTION = "id,question,A,B,C,D,answer,explanation\n0,一加一等于几？,一,二,三,四,B,相加\n"
COMMANDS = [  # words, and what the output says
    ("chat --stats", "tokens/s"),
    ("evaluate --model glm2_tiny --tasks ppl --data_dir texts.jsonl --output_dir out", "token_perplexity"),
    ("convert --input_path glm2_tiny --output_path hf --to hf", "written hf"),
    ("inspect glm2_tiny", "3,443,648 parameters"),
    ("quantize --checkpoint glm2_tiny --bits 4 --output_path q4", "written: q4"),
    ("benchmark decode --shape 512,64,2,2,1,96 --context 16 --steps 4 --dtype int8", "KernelNetwork"),
    ("benchmark start --model glm2_tiny --steps 1", "KernelNetwork"),
    ("predict --config configs/tiny/run_glm2_tiny.yaml --predict_data 你好", "text_generation_text"),
    ("predict --config configs/tiny/run_glm2_tiny.yaml --eval_dataset_dir dev.json", "text_generation_text"),
    ("evaluate --config configs/tiny/run_glm2_tiny_eval.yaml --eval_dataset_dir dev.json", "rouge-1"),
    ("evaluate --config benchmark.yaml", "ceval-valid_acc"),
    ("evaluate --config loss.yaml --eval_dataset_dir dev.json", "Average Loss and PPL Metric"),
    ("chat --model configs/tiny/run_glm2_tiny.yaml --stats", "tokens/s"),
]


def run(words: str, folder, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words.split()],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.fixture(scope="module")
def folder(root, tmp_path_factory):
    place = tmp_path_factory.mktemp("plain")
    (place / "texts.jsonl").write_text(TEXTS, encoding="utf-8")
    (place / "dev.json").write_text('{"content": "类型#裙", "summary": "裙子"}\n', encoding="utf-8")
    (place / "benchmark.yaml").write_text(BENCHMARK, encoding="utf-8")
    (place / "loss.yaml").write_text(LOSS, encoding="utf-8")
    for split in ("dev", "val"):
        (place / "ceval" / split).mkdir(parents=True)
        (place / "ceval" / split / f"law_{split}.csv").write_text(QUESTION, encoding="utf-8")
    (place / "configs").symlink_to(root / "configs")
    (place / "glm2_tiny").symlink_to(root / "mindformers_glm/assets/glm2_tiny")
    return place


@pytest.mark.parametrize(("words", "said"), COMMANDS, ids=lambda value: value.split()[0] if value else "")
def test_a_command_that_never_imports_it(words, said, folder):
    found = run(words, folder, input="你好\n")
    assert found.returncode == 0, found.stderr
    assert said in found.stdout + found.stderr


def test_a_server_that_never_imports_it(folder):
    words = "serve --model glm2_tiny --port 0 --cache_dtype int8"
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words.split()],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            line = next(line for line in server.stdout if line.startswith("serving"))
            asked = {"model": "glm2_tiny", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 3}
            request = urllib.request.Request(
                line.partition("API below ")[2].strip(" )\n") + "/chat/completions",
                json.dumps(asked).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"]
        finally:
            server.terminate()


def test_what_needs_it_says_so(folder):
    found = run("chat --model glm2_tiny --device_target Ascend", folder, input="")
    assert found.returncode == 2
    assert "needs MindSpore, which is not installed" in found.stderr


def test_with_mindspore_at_hand_it_is_not_imported(folder):
    """Nor where it is installed: that is what makes a start short."""
    code = (
        "import sys; from mindformers_glm.cli.console import main; status = main(['chat']); "
        "sys.exit(status or 'mindspore' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, input="你好\n", capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


NOT_FOR_A_TOKEN = {  # modules that take time to import, and that only others need
    *("mindspore", "difflib", "importlib.metadata", "email", "argparse", "unittest", "asyncio"),
    *(f"mindformers_glm.config.{name}" for name in ("run", "schema", "sections")),
    *(f"mindformers_glm.checkpoint.formats.{name}" for name in ("mindspore_ckpt", "pickle_machine", "torch_bin")),
    *(f"mindformers_glm.{name}" for name in ("components", "light_components", "train", "serving", "cli")),
}


def test_a_first_token_imports_nothing_else(folder):
    code = (
        "import sys; from mindformers_glm.benchmark.first_token import main; sys.argv = ['', 'glm2_tiny']; main(); "
        "print(*sys.modules, sep='\\n')"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert not NOT_FOR_A_TOKEN & set(found.stdout.split())


def test_a_configuration_is_read_without_it_and_its_faults_are_still_told(folder):
    """The optimizer of the file is known from signatures.json; a wrong one is held against its class."""
    code = (
        "import sys; from mindformers_glm.cli.run import run; run(sys.argv[1:]); sys.exit('mindspore' in sys.modules)"
    )
    words = ["--config", "configs/tiny/run_glm2_tiny.yaml", "--run_mode", "predict", "--predict_data", "hello"]
    found = subprocess.run([sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    found = subprocess.run(
        [sys.executable, "-m", "mindformers_glm", "run", *words, "--optimizer.beta3", "0.9"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2 and "optimizer.beta3" in found.stderr, found.stderr
