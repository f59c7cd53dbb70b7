"""What is measured: shapes, counts of work, and the lines that wrong arguments get."""

from __future__ import annotations

import math
import os
import re
import time

import pytest

from mindformers_glm.benchmark import command, processes, report, work
from mindformers_glm.benchmark.contention import Contention
from mindformers_glm.benchmark.settings import Settings, Shape
from mindformers_glm.errors import ConfigError, UserError
from mindformers_glm.models.glm.model import ChatGLM2ForConditionalGeneration
from mindformers_glm.parallel.work import layer_weights

SMALL = Shape(101, 32, 2, 4, 2, 48)


def test_settings_survive_the_way_to_another_process():
    settings = Settings(what="train", shape=SMALL, batch=3, length=17, dtype="bfloat16", lora=True, threads=1, steps=4)
    assert Settings.from_plain(settings.plain()) == settings


def test_the_network_has_the_counted_parameters():
    settings = Settings(what="decode", shape=SMALL, length=16)
    model = ChatGLM2ForConditionalGeneration(settings.config())
    numbers = sum(math.prod(parameter.shape) for parameter in model.get_parameters())
    assert work.parameter_count(settings) == numbers
    assert work.weight_bytes(model) == 4 * numbers
    matrices = [p for p in model.get_parameters() if len(p.shape) == 2 and "layers" in p.name]
    assert layer_weights(settings.config()) == sum(math.prod(p.shape) for p in matrices)


def test_a_step_reads_every_weight_once_and_the_cache():
    settings = Settings(what="decode", shape=SMALL, batch=3, length=16, steps=8)
    model = ChatGLM2ForConditionalGeneration(settings.config())
    embedding = 101 * 32 * 4
    read = work.weight_bytes(model) - embedding + 3 * 32 * 4 + 3 * (16 + 4) * 10
    assert work.decode_bytes(model, settings, cache_bytes_per_token=10) == read


def test_operations_of_a_training_step():
    settings = Settings(what="train", shape=SMALL, batch=2, length=8)
    weights = 2 * (32 * (32 + 32) + 32 * 32 + 3 * 32 * 48) + 101 * 32
    pairs = 8 * 9 // 2
    assert work.train_flop(settings, trained_numbers=0) == 16 * 6 * weights + 3 * 2 * 2 * 4 * 32 * pairs
    lora = Settings(what="train", shape=SMALL, batch=2, length=8, lora=True)
    assert work.train_flop(lora, trained_numbers=10) == 16 * (4 * weights + 60) + 3 * 2 * 2 * 4 * 32 * pairs


def test_operations_of_a_prompt_count_the_output_layer_once():
    settings = Settings(what="prefill", shape=SMALL, length=8)
    layers = 2 * (32 * (32 + 32) + 32 * 32 + 3 * 32 * 48)
    expected = 8 * 2 * layers + 2 * 101 * 32 + 2 * 4 * 32 * (8 * 9 // 2)
    assert work.prefill_flop(settings) == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "command: got None. Use one of train, prefill, decode, ops, start, chart, compare. See --help."),
        ("trian", "command line: got None. argument COMMAND: invalid choice: 'trian'"),
        ("train --shape 1,2,3", "--shape: got '1,2,3'. Give vocab,hidden,layers,heads,kv_groups,ffn"),
        ("train --shape 100,30,2,4,2,48", "--shape: got '100,30,2,4,2,48'. hidden must be heads times a multiple of 4"),
        ("train --shape 100,32,2,4,3,48", "--shape: got '100,32,2,4,3,48'. kv_groups must divide heads (4)."),
        ("train --batch none", "--batch: got 'none'. Use a whole number, 1 or more."),
        ("decode --context 0", "--context: got '0'. Use a whole number, 1 or more."),
        ("decode --threads 4096", "--threads: got 4096. This process may use"),
        ("decode --dtype float64", "--dtype: got 'float64'. Use one of float32, bfloat16, gptq, int4, int8, int8-row"),
        (
            "decode --dtype int8 --shape 100,24,2,2,2,48",
            "--group_size: got 32. It must divide hidden (24) and ffn (48).",
        ),
        ("decode --dtype int8-row --group_size 64", "--group_size: got 64. The scheme int8-row has one scale"),
        ("train --dtype int4", "--dtype: got 'int4'. Integer weights cannot be trained"),
        ("prefill --lora", "command line: got None. unrecognized arguments: --lora"),
        (
            "decode --json no/such/folder/x.json",
            "--json: got 'no/such/folder/x.json'. Its folder does not exist: make it",
        ),
        ("decode --against gpt", "--against: got 'gpt'. Use torch or llama.cpp."),
        ("decode --against torch", "--peer_python: got None. --against torch needs the peer's own Python and script."),
        ("decode --peer_script x.py", "--peer_script: got 'x.py'. It goes with --against"),
        ("decode --rounds 1", "--rounds: got '1'. Use a whole number, 2 or more."),
        ("chart", "--what: got None. Use one of train_sequence, decode_batch, decode_context."),
        ("chart --what decode_batch --points 1,x", "--points: got '1,x'. Give whole numbers with commas between"),
        (
            "chart --what decode_batch --batch 2",
            "--batch: got 2. decode_batch varies it: name the points with --points.",
        ),
        ("chart --what decode_context --context 9", "--context: got 9. decode_context varies it: name the points with"),
        ("chart --what train_sequence --context 9", "--context: got 9. train_sequence varies it: name the points with"),
        ("chart --what decode_batch --lora", "--lora: got True. It belongs to train."),
        ("chart --what decode_batch --output .", "--output: got '.'. That is a folder: name a file in it."),
        (
            "chart --what decode_batch --peer x=/no/peer{point}",
            "--peer: got '/no/peer{point}'. There is no such program.",
        ),
        ("chart --what decode_batch --peer other.py", "--peer: got 'other.py'. Write 'NAME=PROGRAM ... {point} ...'"),
    ],
)
def test_wrong_arguments_are_one_line(words, line, capsys):
    assert command.main(words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {line}")
    assert said.err.count("\n") == 1


def test_other_work_is_noticed():
    watched = Contention()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    assert watched.share(own_seconds=0.0) > 0.5 * min(1, 1 / os.cpu_count())
    assert watched.share(own_seconds=1e6) == 0
    assert list(report.disturbance([None, 0.02])) == []
    assert "other programs took 40% of the CPUs" in list(report.disturbance([0.4, None]))[0]


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("train", "prefill", "decode", "ops", "start", "chart"))


def test_a_program_that_fails_is_one_line(tmp_path):
    script = tmp_path / "bad.py"
    script.write_text("import sys\nprint('{\"a\": 1}')\nsys.exit('no such\\nthing')\n")
    with pytest.raises(UserError, match=r"bad.py ended with status 1: thing$"):
        processes.run_program([processes.sys.executable, str(script)])


def test_a_program_without_figures_is_named(tmp_path):
    script = tmp_path / "silent.py"
    script.write_text("print('{broken')\n")
    with pytest.raises(UserError, match="silent.py printed no line with a JSON object"):
        processes.run_program([processes.sys.executable, str(script)])


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no_such_python: No such file"):
        processes.run_program(["no_such_python", "x.py"])


def test_the_lora_option_belongs_to_train():
    with pytest.raises(ConfigError, match="--lora: got True. It belongs to train."):
        Settings(what="decode", lora=True)


def test_commands_of_the_guide_are_understood(root):
    text = (root / "docs/speed.md").read_text(encoding="utf-8")
    found = re.findall(r"^python -m mindformers_glm\.benchmark (.+)$", text, re.M)
    assert len(found) > 7
    for words in found:
        command.build_parser().parse_args(words.split())


def test_options_of_the_tables_are_understood(root):
    text = (root / "docs/speed.md").read_text(encoding="utf-8").partition("## Figures")[2]
    found = re.findall(r"^\| `((?:train|prefill|decode|start)[^`]*)`", text, re.M)
    assert {words.split()[0] for words in found} == {"train", "prefill", "decode"}
    for words in found:
        command.build_parser().parse_args(words.split())
