from __future__ import annotations

import pytest

from mindformers_glm.config import parse_command_line, read_command_line
from mindformers_glm.config.arguments import OPTIONS, build_parser
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.schema import schema_keys
from mindformers_glm.errors import ConfigError
from mindformers_glm.registry import LR_SCHEDULES

# Section 2.1 of the compatibility document: option -> a word for it, the key it sets, the value there.
COMPAT = [
    ("--mode", "1", "context.mode", 1),
    ("--device_id", "3", "context.device_id", 3),
    ("--device_target", "Ascend", "context.device_target", "Ascend"),
    ("--run_mode", "train", "run_mode", "train"),
    ("--do_eval", "TRUE", "do_eval", True),
    ("--train_dataset_dir", "a.json", "train_dataset.data_loader.dataset_dir", "a.json"),
    ("--eval_dataset_dir", "b.json", "eval_dataset.data_loader.dataset_dir", "b.json"),
    ("--predict_data", "你好", "input_data", "你好"),
    ("--model_name", "glm32k", "model_name", "glm32k"),
    ("--predict_batch_size", "2", "predict_batch_size", 2),
    ("--load_checkpoint", "x.ckpt", "load_checkpoint", "x.ckpt"),
    ("--src_strategy_path_or_dir", "s", "src_strategy_path_or_dir", "s"),
    ("--auto_trans_ckpt", "true", "auto_trans_ckpt", True),
    ("--only_save_strategy", "True", "only_save_strategy", True),
    ("--resume_training", "true", "resume_training", True),
    ("--resume_training", "small-1_2.ckpt", "resume_training", "small-1_2.ckpt"),
    ("--strategy_load_checkpoint", "s.ckpt", "parallel.strategy_ckpt_load_file", "s.ckpt"),
    ("--remote_save_url", "obs://x", "remote_save_url", "obs://x"),
    ("--seed", "7", "seed", 7),
    ("--use_parallel", "false", "use_parallel", False),
    ("--profile", "False", "profile", False),
    ("--epochs", "3", "runner_config.epochs", 3),
    ("--batch_size", "2", "runner_config.batch_size", 2),
    ("--gradient_accumulation_steps", "4", "runner_config.gradient_accumulation_steps", 4),
    ("--sink_mode", "false", "runner_config.sink_mode", False),
    ("--num_samples", "10", "train_dataset.data_loader.num_samples", 10),
    ("--num_samples", "10", "eval_dataset.data_loader.num_samples", 10),
    ("--output_dir", "out", "output_dir", "out"),
    ("--modal_type", "text", "modal_type", "text"),
    ("--adapter_id", "a", "adapter_id", "a"),
    ("--transform_process_num", "2", "transform_process_num", 2),
    ("--do_sample", "true", "model.model_config.do_sample", True),
    ("--trust_remote_code", "false", "trust_remote_code", False),
    ("--allow_random_weights", "true", "allow_random_weights", True),
    ("--options", "runner_config.sink_mode=False", "runner_config.sink_mode", False),
    ("--options", "runner_config.sink_mode=True", "runner_config.sink_mode", True),
    ("--callbacks.1.prefix", "a=b", "callbacks.1.prefix", "a=b"),
    ("--optimizer.beta1", "1e-1", "optimizer.beta1", 0.1),
]


def at(config, key):
    if key.startswith("callbacks."):
        _, index, name = key.split(".")
        return config.callbacks[int(index)][name]
    return lookup(config.to_dict(), key)


@pytest.mark.parametrize(("option", "word", "key", "value"), COMPAT)
@pytest.mark.parametrize("joined", [True, False])
def test_every_option_sets_its_key(written, option, word, key, value, joined):
    words = [f"{option}={word}"] if joined else [option, word]
    config, _ = parse_command_line(["--config", str(written()), *words])
    assert at(config, key) == value


def test_every_option_is_tested_and_sets_a_known_key():
    assert {option.flag for option in OPTIONS} - {row[0] for row in COMPAT} == {"--register_path"}
    components = ("data_loader", "model_config", "arch")
    for option in OPTIONS:
        for key in option.keys:
            assert any(part in components for part in key.split(".")) or key in schema_keys(), key


def test_options_left_out_change_nothing(written):
    assert read_command_line(["--config", str(written())]).overrides == {}


def test_number_of_samples_makes_no_dataset(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {}\n")
    assert read_command_line(["--config", str(path), "--num_samples", "3"]).overrides == {}


def test_batch_size_of_an_export_is_the_graph(written):
    words = ["--config", str(written()), "--batch_size", "2", "--run_mode", "export"]
    assert read_command_line(words).overrides["model"] == {"model_config": {"batch_size": 2}}


def test_several_prompts_are_a_list(written):
    words = ["--config", str(written()), "--predict_data", "a", "b c", "--run_mode", "predict"]
    assert parse_command_line(words)[0].input_data == ["a", "b c"]


def test_a_prompt_keeps_numbers_and_words_as_text(written):
    words = ["--config", str(written()), "--predict_data", "a", "-5度穿什么", "-1", "--run_mode", "predict"]
    assert read_command_line(words).overrides["input_data"] == ["a", "-5度穿什么", "-1"]
    words = ["--config", str(written()), "--predict_data", "1e3", "True", "--run_mode=predict"]
    assert parse_command_line(words)[0].input_data == ["1e3", "True"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epoch", "2"], "--epoch: got '2'. Unknown option. Did you mean --epochs?"),
        (["--do_eval", "yes"], "--do_eval: got 'yes'. Use true or false."),
        (["--epochs"], "--epochs: got None. It needs one value"),
        (["--zzz"], "--zzz: got None. Unknown option"),
        (["--runner_config.epochs"], "Give it a value"),
        (["stray.yaml"], "command line: got 'stray.yaml'"),
        (["--epochs", "abc"], "runner_config.epochs: got 'abc'. It should be a whole number."),
        (["--runner_config.epoch", "2"], "runner_config.epoch: got 2. Unknown key. Did you mean 'epochs'?"),
        (["--options", "runer_config.epochs=2"], "runer_config: got {'epochs': 2}. Unknown key. Did you mean"),
        (["--options", "epochs=2"], "epochs: got 2. Unknown key. Did you mean runner_config.epochs?"),
        (["--options", "nonsense"], "Write overrides as key=value"),
        (["--mode", "7"], "context.mode: got 7"),
        (["--run_mode", "evaluate"], "run_mode: got 'evaluate'. It should be 'train', 'finetune', 'eval'"),
        (["--register_path", "/no/such/folder"], "register_path: got '/no/such/folder'. There is no such folder"),
    ],
)
def test_a_wrong_command_line_says_what_to_do(written, words, said):
    with pytest.raises(ConfigError) as caught:
        parse_command_line(["--config", str(written()), *words])
    assert said in str(caught.value)


def test_a_configuration_must_be_named():
    with pytest.raises(ConfigError, match="--config: got None"):
        parse_command_line([])


def test_a_missing_configuration_suggests_a_near_one():
    with pytest.raises(ConfigError, match=r"Did you mean configs/glm2/run_glm2_6b_lora\.yaml"):
        parse_command_line(["--config", "configs/glm2/run_glm2_6b_loar.yaml"])


def test_the_current_folder_comes_before_that_of_the_script(written, tmp_path, monkeypatch):
    here, script = tmp_path / "here", tmp_path / "script"
    here.mkdir(), script.mkdir()
    monkeypatch.chdir(here)
    (script / "run.yaml").write_bytes(written("seed=1").read_bytes())
    assert read_command_line(["--config", "run.yaml"], script_dir=script).path == script / "run.yaml"
    (here / "run.yaml").write_bytes(written("seed=2").read_bytes())
    assert parse_command_line(["--config", "run.yaml"], script_dir=script)[0].seed == 2


def test_help_names_every_option_and_its_key(capsys):
    with pytest.raises(SystemExit) as left:
        build_parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert all(option.flag in shown and option.keys[0] in shown.replace("\n" + " " * 24, "") for option in OPTIONS)


def test_classes_of_the_user_are_imported_before_the_check(written, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "my_lr_for_tests.py").write_text(
        "from mindformers_glm.registry import LR_SCHEDULES\n"
        "@LR_SCHEDULES.register()\ndef MyLR(learning_rate: float):\n    return lambda step: learning_rate\n"
    )
    path = written()
    path.write_text(path.read_text().replace("polynomial", "MyLR").replace("  lr_end: 1.0e-06\n", ""))
    config, _ = parse_command_line(["--config", str(path), "--register_path", str(folder)])
    assert config.lr_schedule["type"] in LR_SCHEDULES


def test_a_module_of_the_user_that_fails_is_named(written, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "broken_for_tests.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=r"broken_for_tests.py.*ZeroDivisionError"):
        parse_command_line(["--config", str(written()), "--register_path", str(folder)])
