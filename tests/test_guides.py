"""The guides on data, training and evaluation: their commands run as written, both languages show the same ones."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import forked
import pytest

from mindformers_glm.config.arguments import parse_command_line
from mindformers_glm.data.forms import form_of

ROOT = Path(__file__).resolve().parents[1]
GUIDES = ("data", "training", "evaluation", "models")
PAGES = (*GUIDES, "distributed")
TRANSLATED = ("chat", "lite", "checkpoints", "speed")  # pages whose commands other tests run
LINKED = ("configs", "mindformers_glm", "run_mindformer.py")
BLOCK = re.compile(r"(<!-- (?:not )?run -->\n)?^```(bash|json|yaml|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LENGTHS = ("model.model_config.seq_length", "train_dataset.max_seq_length", "eval_dataset.max_seq_length")
NOT_RUN = {  # begins a command -> why no test runs it as it stands
    "mindformers-glm serve": "it serves until it is stopped; tests/serving runs it",
    "mindformers-glm inspect-data my.jsonl --tokenizer chatglm3-6b": "the tokenizer of ChatGLM3-6B",
    "mindformers-glm run --config configs/glm3/run_glm3_6b_own_data.yaml": "weights of 6B",
    "mindformers-glm merge-lora --base output": "after a LoRA run of 6B",
    "mindformers-glm convert --input_path output --output_path adapter": "after a LoRA run of 6B",
    "mindformers-glm merge-lora --base chatglm3-6b": "weights of 6B; tests/adapters runs it",
    "mindformers-glm preprocess --input corpus.parquet": "the tokenizer of ChatGLM3-6B",
    "bash scripts/run_distribute.sh": "eight devices",
    "mindformers-glm evaluate --model chatglm2-6b": "weights of 6B, benchmark data",
    "msrun --worker_num=2": "weights of 6B; tests/evaluation/test_killed_evaluation.py runs it",
    "bash scripts/msrun_launcher.sh": "weights of 6B, benchmark data",
    "mindformers-glm evaluate --model output": "benchmark data",
    "mindformers-glm evaluate --why output/after": "reports of the two commands before it",
    "mindformers-glm compare": "weights of 6B; tests/evaluation/test_before_after.py runs it",
    "mindformers-glm lm-eval": "weights of 6B, a package and benchmark data; tests/evaluation/test_harness.py runs it",
    "mindformers-glm inspect glm-edge-1.5b-chat": "weights of 1.5B",
    "mindformers-glm chat --model glm-edge-1.5b-chat": "weights of 1.5B",
    "mindformers-glm quantize --checkpoint glm-edge-1.5b-chat": "weights of 1.5B; tests/tools runs it",
    "mindformers-glm chat --model edge_4bit": "weights of 1.5B",
    "mindformers-glm run --config configs/glm4/run_glm4_9b_0414_lora.yaml": "9B; test_glm4_circle.py has a tiny one",
    "mindformers-glm export --config_path configs/glm_edge/export_glm_edge_1_5b.yaml": "weights of 1.5B",
    "mindformers-glm chat-template": "a template of a model and a package; tests/tokenizers/test_template.py runs it",
    "mindformers-glm chat --model output": "after a run of 6B; the first page of training.md runs it with a pipe",
}
TWICE = (  # the same run on rows of 512 tokens: one of 64 stands for both
    "mindformers-glm run --config configs/tiny/run_glm2_tiny_own_data.yaml --train_dataset_dir my.jsonl",
    "mindformers-glm run --config configs/tiny/run_glm2_tiny_own_data.yaml --train_dataset_dir my.jsonl --epochs 2",
)


def text_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, kind: str, mark: str | None = None) -> list[str]:
    found = BLOCK.findall(text_of(name))
    return [text for comment, language, text in found if language == kind and (mark is None or mark in comment)]


def indented(name: str) -> list[str]:
    """Commands of a page that are indented instead of fenced; what a comment says is translated."""
    lines = re.findall(r"^    ((?:python|bash|mindformers-glm) .*)$", text_of(name), re.M)
    return [line.partition(" #")[0].rstrip() for line in lines]


def commands(name: str, mark: str) -> list[str]:
    return [line for text in blocks(name, "bash", mark) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", [*PAGES, *TRANSLATED])
def test_both_languages_show_the_same(name):
    english, chinese = BLOCK.findall(text_of(name)), BLOCK.findall(text_of(f"{name}_CN"))
    assert [block[:2] for block in english] == [block[:2] for block in chinese]
    for one, two in zip(english, chinese, strict=True):
        if one[1] != "yaml":  # its comments are translated
            assert one == two
    if name in PAGES:
        assert all(comment for comment, language, _ in english if language == "bash")
    for mark in (r"^## ", r"^\| ", r"^- "):
        assert len(re.findall(mark, text_of(name), re.M)) == len(re.findall(mark, text_of(f"{name}_CN"), re.M)), mark
    assert indented(name) == indented(f"{name}_CN")


@pytest.mark.parametrize("name", [f"{name}{ending}" for name in (*PAGES, *TRANSLATED) for ending in ("", "_CN")])
def test_links_lead_somewhere(name):
    for target, anchor in re.findall(r"\]\(([\w./]+\.md)(#[^)]+)?\)", text_of(name)):
        assert (ROOT / "docs" / target).exists(), target
        titles = re.findall(r"^#+ (.*)$", (ROOT / "docs" / target).read_text(encoding="utf-8"), re.M)
        slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
        assert not anchor or anchor[1:] in slugs, (target, anchor)


def test_every_command_is_run_or_has_a_reason():
    left = [line for name in GUIDES for line in commands(name, "<!-- not run -->")]
    assert left
    assert [line for line in left if not line.startswith(tuple(NOT_RUN))] == []
    assert [begin for begin in NOT_RUN if not any(line.startswith(begin) for line in left)] == []


def test_rows_of_the_guide_are_recognised():
    rows = [json.loads(line) for text in blocks("data", "json") for line in text.splitlines()]
    names = [form_of(row).name for row in rows]
    assert names == ["ADGEN", "alpaca", "prompt/response", "messages", "ShareGPT", "text", "messages"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The checkout's folders, and the files that the guides name."""
    folder = tmp_path_factory.mktemp("guides")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    rows = [{"instruction": f"说一句话，第 {i} 句", "output": f"今天是第 {i} 天，天气很好。"} for i in range(12)]
    _write(folder / "my.jsonl", rows)
    _write(folder / "dev.json", [{"content": "类型#裙*颜色#红色", "summary": "红色的裙子。"}])
    for name in ("corpus.txt", "texts.txt"):
        (folder / name).write_text("春天来了，山坡上的草都绿了，花也开了。\n" * 150, encoding="utf-8")
    (folder / "texts.txt").write_text("春天来了。\n花也开了。\n", encoding="utf-8")
    (folder / "colours.yaml").write_text(
        next(text for text in blocks("evaluation", "yaml") if "colours" in text), encoding="utf-8"
    )
    _write(folder / "colours.jsonl", [{"question": "草是什么颜色？", "a": "绿", "b": "红", "label": 0}])
    for split in ("dev", "val"):
        (folder / "benchmarks" / "ceval" / split).mkdir(parents=True)
        for subject in ("law", "logic"):
            lines = [f"{i},第 {i} 题,甲,乙,丙,丁,{'ABCD'[i % 4]}," for i in range(3)]
            table = "\n".join(["id,question,A,B,C,D,answer,explanation", *lines, ""])
            (folder / "benchmarks" / "ceval" / split / f"{subject}_{split}.csv").write_text(table, encoding="utf-8")
    (folder / "data").mkdir()
    return folder


def _write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run(line: str, folder: Path) -> str:
    """Standard output and error of a command that ended well."""
    said = ""
    if line.startswith("echo "):
        said, _, line = line.removeprefix("echo ").partition(" | ")
    words = shlex.split(line)
    assert words[0] == "mindformers-glm"
    done = forked.run(["-m", "mindformers_glm", *words[1:]], cwd=folder, input=f"{said}\n" if said else "")
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def test_the_guide_on_data_runs(folder):
    said = {line: run(line, folder) for line in commands("data", "<!-- run -->") if line not in TWICE}
    inspected = next(text for line, text in said.items() if " inspect-data " in line)
    assert "my.jsonl: alpaca" in inspected and "12 usable, 0 skipped" in inspected
    packed = next(text for line, text in said.items() if "packing neat" in line)
    assert "rows packed into" in packed
    assert (folder / "data" / "both_text_document.bin").exists() or list((folder / "data").glob("both*.bin"))
    for run_folder in ("packed", "pretrained"):
        assert list((folder / "output" / run_folder / "checkpoint_network" / "rank_0").glob("*.ckpt"))


def test_the_guide_on_training_runs(folder):
    if not (folder / "output" / "checkpoint_network").exists():
        lengths = [f"--{key} 64" for key in LENGTHS]
        run(f"{TWICE[0]} {' '.join(lengths)} --batch_size 1 --num_samples 4", folder)
    assert all(line in commands("training", "<!-- run -->") + commands("data", "<!-- run -->") for line in TWICE)
    lines = [line for line in commands("training", "<!-- run -->") if line not in TWICE]
    said = {line: run(line, folder) for line in lines}
    answer = next(text for line, text in said.items() if " chat " in line)
    assert answer.startswith("答：") or "答：" in answer
    table = next(text for line, text in said.items() if "pretrain_8k" in line)
    assert "4 x 2 (as shipped)" in table and "45.5" in table


def test_the_guide_on_models_runs(folder):
    said = {line: run(line, folder) for line in commands("models", "<!-- run -->")}
    assert len(said) == 4
    assert "GLM3-Tiny" in next(text for line, text in said.items() if "--model glm3_tiny" in line)
    assert list(folder.glob("glm_edge_tiny_export/*.mindir"))


def test_the_guide_on_evaluation_runs(folder):
    said = {line: run(line, folder) for line in commands("evaluation", "<!-- run -->")}
    by_task = {line.split(" --tasks ")[-1].split()[0]: text for line, text in said.items() if " --tasks " in line}
    assert "ceval-valid: acc " in by_task["ceval-valid"]
    assert "byte_perplexity" in by_task["ppl"]
    assert "colours: acc " in by_task["colours.yaml"]
    assert "adgen: rouge-1 " in by_task["adgen"]
    assert any("ceval-valid_acc" in text for line, text in said.items() if "--eval_task.tasks" in line)
    told = next(text for line, text in said.items() if "--why" in line)
    assert "choice ids are no single tokens" in told
    assert (folder / "output" / "law" / "report.html").exists()
    (program,) = blocks("evaluation", "python")
    (folder / "program.py").write_text(program, encoding="utf-8")
    done = forked.run(["program.py"], cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "byte_perplexity" in done.stdout


def test_the_yaml_on_the_best_checkpoint_is_accepted(folder):
    (best,) = [text for text in blocks("training", "yaml") if "keep_best" in text]
    base = folder / "configs" / "tiny" / "run_glm2_tiny_own_data.yaml"
    (folder / "best.yaml").write_text(f"base_config: {base}\n{best}", encoding="utf-8")
    config, _ = parse_command_line(["--config", str(folder / "best.yaml"), "--train_dataset_dir", "my.jsonl"])
    assert config.load_best_at_end is True
    assert [spec["type"] for spec in config.callbacks] == ["MFLossMonitor", "CheckpointMonitor", "EarlyStopping"]
