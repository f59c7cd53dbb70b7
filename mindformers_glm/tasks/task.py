"""One task from one configuration: output folder, log files, device, and the trainer of `trainer.type`."""

from __future__ import annotations

from typing import Any

from mindformers_glm import runtime
from mindformers_glm.assembly.held_files import NeedsMindSpore
from mindformers_glm.config import RunConfig
from mindformers_glm.errors import ConfigError
from mindformers_glm.files import user_path
from mindformers_glm.log import log_once, logger, set_up_logging
from mindformers_glm.registry import TRAINERS
from mindformers_glm.tasks.plain import MODES, check_plain, run_plainly

METHODS = {"train": "train", "finetune": "train", "eval": "evaluate", "predict": "predict", "export": "export"}


def run_task(config: RunConfig) -> Any:
    """What the run mode returns. Writes `<output_dir>/<run_mode>_config.yaml`, the configuration as it was understood.

    Raises:
        UserError: the configuration, a file or the device is not as it must be.
    """
    if config.run_mode in MODES:
        try:
            check_plain(config)
            prepare(config, is_plain=True)
            return run_plainly(config)
        except NeedsMindSpore as error:
            log_once(str(error))
    prepare(config)
    trainer = TRAINERS.get(config.trainer.type, "trainer.type")(config)
    method = getattr(trainer, METHODS[config.run_mode], None)
    if method is None:
        raise ConfigError("run_mode", config.run_mode, f"{config.trainer.type} has no such mode.")
    return method()


def prepare(config: RunConfig, *, is_plain: bool = False) -> None:
    """Sets up logging, output folder, device and seed for a configuration; `is_plain`: MindSpore computes nothing."""
    output, rank = user_path(config.output_dir), runtime.rank()
    if output.exists() and not output.is_dir():
        raise ConfigError("output_dir", config.output_dir, "This is a file; name a folder.")
    runtime.require_device(config.context.device_target)
    try:
        set_up_logging(output, rank=rank)
        if rank == 0:
            config.dump(output / f"{config.run_mode}_config.yaml")
    except OSError as error:
        fix = f"Nothing can be written there ({error.strerror}): name another folder with --output_dir."
        raise ConfigError("output_dir", config.output_dir, fix) from error
    if is_plain:
        runtime.seed_python(config.seed)
    else:
        runtime.set_up(config.context, seed=config.seed, use_parallel=config.use_parallel)
    logger.info("run_mode %s, %s, configuration %s", config.run_mode, config.context.device_target, config.source)
    config.log_notes()
