"""`mindformers-glm compare`: what it reads, what it says, and that its figures are those of the models."""

from __future__ import annotations

import json

import pytest

from mindformers_glm.evaluation.before_after import GENERAL, Answers, as_text, read_prompts, told


def test_prompts_are_read_as_people_have_them():
    assert read_prompts("一\\n二\n\n三\n", ".txt") == (["一\n二", "三"], [None, None])
    rows = '{"content": "类型#裤", "summary": "很好"}\n{"prompt": "你好"}\n"早"\n'
    assert read_prompts(rows, ".jsonl") == (["类型#裤", "你好", "早"], ["很好", None, None])
    alpaca = '[{"instruction": "翻译", "input": "hello", "output": "你好"}]'
    assert read_prompts(alpaca, ".json") == (["翻译\nhello"], ["你好"])
    with pytest.raises(ValueError, match="object 2 has no text under prompt"):
        read_prompts('["一", {"text": "二"}]', ".json")


def test_what_is_said():
    before, after = Answers("a", ["旧"], 20.0), Answers("b", ["新"], 50.0)
    assert as_text(before, after, ["问"], ["要"]).split("\n") == [
        "[1] 问",
        "    before: 旧",
        "    after:  新",
        "    wanted: 要",
        "perplexity on general text: 20 before, 50 after (+150.0%): much was forgotten",
    ]
    assert "little was forgotten" in told(before, Answers("b", [], 20.5))
    assert "some was forgotten" in told(before, Answers("b", [], 30.0))


def test_two_models_side_by_side(tmp_path, capsys):
    """The same model twice: equal answers, equal perplexities; and a LoRA that changes nothing is the base."""
    from mindformers_glm.cli.compare import main

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"content": "类型#裤*版型#宽松", "summary": "好"}\n{"content": "类型#裙*风格#性感"}\n')
    general = tmp_path / "general.txt"
    general.write_text("\n".join(GENERAL[:2]))
    words = ["--base", "glm2_tiny", "--tuned", "glm2_tiny", "--prompts", str(prompts), "--max_new_tokens", "8"]
    words += ["--general", str(general), "--output_file", str(tmp_path / "told.json")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "[2] 类型#裙*风格#性感" in printed and "(+0.0%): little was forgotten" in printed
    told = json.loads((tmp_path / "told.json").read_text())
    assert [row["reference"] for row in told["answers"]] == ["好", None]
    assert all(row["before"] == row["after"] != "" for row in told["answers"])
    assert told["perplexity"]["before"] == told["perplexity"]["after"] > 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("\n\n", "there is no prompt in it"), ('{"x": 1}', "object 1 has no text"), ("{", "it cannot be read")],
)
def test_faults_of_the_prompts_are_one_line_before_a_model_is_read(content, message, tmp_path, capsys):
    from mindformers_glm.cli.compare import main

    prompts = tmp_path / "prompts.json"
    prompts.write_text(content)
    assert main(["--base", "nobody", "--tuned", "nobody", "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
