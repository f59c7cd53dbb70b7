"""The command line of run_mindformer.py: every option, the YAML key it sets, and the checked configuration it gives."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mindformers_glm.config.extensions import import_user_classes
from mindformers_glm.config.keys import no_effect
from mindformers_glm.config.legacy import lookup
from mindformers_glm.config.loader import read_yaml
from mindformers_glm.config.names import CONFIGS_DIR, MODEL_NAMES
from mindformers_glm.config.overrides import apply, nest, parse_value, read_pairs
from mindformers_glm.config.run import RunConfig, default_mode, make_config
from mindformers_glm.config.schema import known_keys
from mindformers_glm.config.texts import text_of
from mindformers_glm.errors import ConfigError, cut_words, nearest
from mindformers_glm.files import user_path
from mindformers_glm.messages import CHINESE, language


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("Use true or false.")
    return text.lower() == "true"


def _switch_or_name(text: str) -> bool | str:
    return text.lower() == "true" if text.lower() in ("true", "false") else text


class Option(NamedTuple):
    """One option, what its word means, and the keys it sets; what it is for is what the first of them is for."""

    flag: str
    kind: Callable[[str], Any]
    keys: tuple[str, ...]
    group: str
    nargs: str | None = None

    def help(self, *, chinese: bool = False) -> str:
        """Its line in `--help`: `no effect` begins those of exactly the keys without effect."""
        text = text_of(self.keys[0])[1 if chinese else 0]
        if no_effect(self.keys[0]):
            return f"不起作用（{text}）" if chinese else f"no effect ({text})"
        return text

    @property
    def choices(self) -> str:
        """The words it takes, as `--help` shows them."""
        if self.keys[0] in _CHOICES:
            return "{" + ",".join(_CHOICES[self.keys[0]]) + "}"
        return "{true,false}" if self.kind is _switch else "VALUE"


RUN, DATA, MODEL, DEVICES, OTHER = "run", "data", "model", "devices", "other"
GROUPS = {  # group -> its title in English and Chinese
    RUN: ("the run", "运行"),
    DATA: ("data", "数据"),
    MODEL: ("model and prediction", "模型与推理"),
    DEVICES: ("devices", "设备与并行"),
    OTHER: ("other", "其他"),
}
_CHOICES = {
    "run_mode": ("train", "finetune", "eval", "predict", "export"),
    "context.mode": ("0", "1"),
    "context.device_target": ("CPU", "Ascend"),
}
_LOADER = ("train_dataset.data_loader", "eval_dataset.data_loader")
OPTIONS: tuple[Option, ...] = (
    Option("--run_mode", str, ("run_mode",), RUN),
    Option("--load_checkpoint", str, ("load_checkpoint",), RUN),
    Option("--output_dir", str, ("output_dir",), RUN),
    Option("--epochs", parse_value, ("runner_config.epochs",), RUN),
    Option("--batch_size", parse_value, ("runner_config.batch_size",), RUN),
    Option("--gradient_accumulation_steps", parse_value, ("runner_config.gradient_accumulation_steps",), RUN),
    Option("--sink_mode", _switch, ("runner_config.sink_mode",), RUN),
    Option("--seed", parse_value, ("seed",), RUN),
    Option("--do_eval", _switch, ("do_eval",), RUN),
    Option("--resume_training", _switch_or_name, ("resume_training",), RUN),
    Option("--allow_random_weights", _switch, ("allow_random_weights",), RUN),
    Option("--profile", _switch, ("profile",), RUN),
    Option("--train_dataset_dir", str, (f"{_LOADER[0]}.dataset_dir",), DATA),
    Option("--eval_dataset_dir", str, (f"{_LOADER[1]}.dataset_dir",), DATA),
    Option("--num_samples", parse_value, tuple(f"{loader}.num_samples" for loader in _LOADER), DATA),
    Option("--predict_data", str, ("input_data",), MODEL, "+"),
    Option("--predict_batch_size", parse_value, ("predict_batch_size",), MODEL),
    Option("--model_name", str, ("model_name",), MODEL),
    Option("--do_sample", _switch, ("model.model_config.do_sample",), MODEL),
    Option("--register_path", str, ("register_path",), MODEL),
    Option("--device_target", str, ("context.device_target",), DEVICES),
    Option("--device_id", parse_value, ("context.device_id",), DEVICES),
    Option("--mode", parse_value, ("context.mode",), DEVICES),
    Option("--use_parallel", _switch, ("use_parallel",), DEVICES),
    Option("--src_strategy_path_or_dir", str, ("src_strategy_path_or_dir",), DEVICES),
    Option("--only_save_strategy", _switch, ("only_save_strategy",), DEVICES),
    Option("--strategy_load_checkpoint", str, ("parallel.strategy_ckpt_load_file",), OTHER),
    Option("--auto_trans_ckpt", _switch, ("auto_trans_ckpt",), OTHER),
    Option("--transform_process_num", parse_value, ("transform_process_num",), OTHER),
    Option("--remote_save_url", str, ("remote_save_url",), OTHER),
    Option("--modal_type", str, ("modal_type",), OTHER, "+"),
    Option("--adapter_id", str, ("adapter_id",), OTHER),
    Option("--trust_remote_code", _switch, ("trust_remote_code",), OTHER),
)
_OWN = ("--config", "--options", "--help")


class Command(NamedTuple):
    """What a command line says: the file, and a nested mapping of values to lay over it."""

    path: Path
    overrides: dict[str, Any]

    def load(self) -> RunConfig:
        """The checked configuration. Users' own classes are imported first.

        Raises:
            ConfigError: the file or a value is wrong.
        """
        values = apply(read_yaml(self.path), self.overrides)
        folder = values.get("register_path") or os.environ.get("REGISTER_PATH")
        if folder:
            import_user_classes(folder)
        return make_config(values, source=str(self.path))


def parse_command_line(
    argv: Sequence[str] | None = None, *, script_dir: Path | None = None
) -> tuple[RunConfig, Command]:
    """The checked configuration of a command line, and the command it came from. `argv` excludes the program.

    Import the packages that register components first, as for `load_config`.

    Raises:
        ConfigError: an unknown option, a missing file, or faults of the configuration.
    """
    command = read_command_line(argv, script_dir=script_dir)
    return command.load(), command


def read_command_line(argv: Sequence[str] | None = None, *, script_dir: Path | None = None) -> Command:
    """The file and overrides of a command line; the file is read only to learn its run mode and datasets.

    Raises:
        ConfigError: an unknown option, an option without a value, or a file that is not there.
    """
    known, free = _split(list(sys.argv[1:] if argv is None else argv))
    given = vars(build_parser().parse_args(known))
    if given["config"] is None:
        raise ConfigError("--config", None, "Name a YAML file, for example --config configs/tiny/run_glm2_tiny.yaml.")
    path = find_config(given["config"], script_dir=script_dir)
    values = read_yaml(path)
    pairs = []
    for option in OPTIONS:
        words = given[option.flag.removeprefix("--")]
        if words is not None:
            pairs += [(key, _meaning(option, words)) for key in _keys(option, given, values)]
    return Command(path, nest([*pairs, *read_pairs(given["options"] or []), *read_pairs(free)]))


def build_parser() -> argparse.ArgumentParser:
    """The parser with every option; a fault raises ConfigError instead of printing the usage."""
    chinese = speaks_chinese()
    parser = _Parser(
        allow_abbrev=False,
        description="用一个 YAML 微调、评测和使用 GLM 系列模型。"
        if chinese
        else "Fine-tune, evaluate and use the models of the GLM family from one YAML.",
        epilog="YAML 的任何配置项都可以设置：--runner_config.epochs 2。全部配置项见 docs/keys.md。"
        if chinese
        else "Any key of the YAML can be set: --runner_config.epochs 2 or --options runner_config.epochs=2. All keys: "
        "docs/keys.md. In Chinese: MINDFORMERS_GLM_LANG=zh.",
    )
    parser.add_argument("--config", metavar="YAML", help="配置文件" if chinese else "the configuration")
    words = "覆盖 YAML 的取值" if chinese else "values laid over the YAML"
    parser.add_argument("--options", nargs="+", metavar="KEY=VALUE", help=words)
    groups = {name: parser.add_argument_group(titles[chinese]) for name, titles in GROUPS.items()}
    for option in OPTIONS:
        text = f"{option.help(chinese=chinese)} [{', '.join(option.keys)}]".replace("%", "%%")
        groups[option.group].add_argument(option.flag, nargs=option.nargs, help=text, metavar=option.choices)
    return parser


def speaks_chinese() -> bool:
    """Whether the environment asks for Chinese."""
    return language() == CHINESE


def find_config(name: str, *, script_dir: Path | None = None) -> Path:
    """The file of a `--config` value: a path from here or from the folder of run_mindformer.py, one that ships, or the
    name of a model.

    Raises:
        ConfigError: it is nowhere; a file of a similar name is suggested.
    """
    places = [user_path(name), (script_dir or CONFIGS_DIR.parent) / name, CONFIGS_DIR.parent / name]
    places += [CONFIGS_DIR / name, *(CONFIGS_DIR / known.yaml for known in [MODEL_NAMES.get(name)] if known)]
    for place in places:
        if place.is_file():
            return place
    files = {file.name: file for file in sorted(CONFIGS_DIR.rglob("*.yaml"))}
    near = nearest(Path(name).name, files)
    hint = f" Did you mean {files[near[0]].relative_to(CONFIGS_DIR.parent).as_posix()}?" if near else ""
    raise ConfigError("--config", name, f"There is no such file.{hint or ' Check the path.'}")


class _Parser(argparse.ArgumentParser):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._negative_number_matcher = re.compile(r"-(?!-)")  # -5度 is a value: options have two

    def error(self, message: str) -> NoReturn:
        argument, _, fault = cut_words(message).removeprefix("argument ").partition(": ")
        if argument == "unrecognized arguments":
            raise ConfigError("command line", fault, "Options begin with --, for example --config YAML. See --help.")
        said = (fault or message).replace("expected", "It needs").replace("argument", "value")
        raise ConfigError(argument if fault else "command line", None, f"{said}. See --help.")


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Words of known options, and words of `--a.b v` and `--a.b=v`."""
    flags = {option.flag for option in OPTIONS} | set(_OWN)
    known: list[str] = []
    free: list[str] = []
    waiting = list(argv)
    while waiting:
        word = waiting.pop(0)
        flag, sign, value = word.partition("=")
        if not flag.startswith("--") or flag in flags:
            known.append(word)
            continue
        if not sign:
            if not waiting or waiting[0].startswith("--"):
                raise _unknown_option(flag, None) or ConfigError(flag, None, f"Give it a value: {flag} VALUE.")
            value = waiting.pop(0)
        if fault := _unknown_option(flag, value):
            raise fault
        free.append(f"{flag}={value}")
    return known, free


def _unknown_option(flag: str, value: str | None) -> ConfigError | None:
    """The fault of an option without a dot that is no key of the file either."""
    name = flag.removeprefix("--")
    if "." in name or name in known_keys():
        return None
    near = nearest(flag, [option.flag for option in OPTIONS] + list(_OWN))
    hint = f"Did you mean {near[0]}?" if near else "See --help, or set a key of the YAML: --section.key value."
    return ConfigError(flag, value, f"Unknown option. {hint}")


def _keys(option: Option, given: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """The keys that an option sets in this file and run mode."""
    mode = given["run_mode"] or values.get("run_mode") or default_mode(values)
    if option.flag == "--batch_size" and mode == "export":
        return ["model.model_config.batch_size"]
    if option.flag == "--num_samples":
        return [key for key in option.keys if lookup(values, key.partition(".")[0])]
    return list(option.keys)


def _meaning(option: Option, value: str | list[str]) -> Any:
    words = value if isinstance(value, list) else [value]
    try:
        meant = [option.kind(word) for word in words]
    except ValueError as error:
        raise ConfigError(option.flag, value, str(error)) from None
    return meant[0] if len(meant) == 1 else meant
