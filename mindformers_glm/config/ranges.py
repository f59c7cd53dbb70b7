"""The range of every number that a component takes, by the kind of component and the argument's name.

Sections have theirs in the schema, `model.model_config` in ChatGLM2Config. A class of a user's own whose argument has
one of these names means the same by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mindformers_glm.errors import ConfigError

MOST = 2**31 - 1  # what a C int holds; MindSpore and NumPy take no larger seed, size or number of steps
_ANY_INT = 2**63


class Range(NamedTuple):
    """Which numbers an argument may have; `least_excluded` and `most_excluded` leave the ends out."""

    least: float = -math.inf
    most: float = math.inf
    least_excluded: bool = False
    most_excluded: bool = False
    whole: bool = False
    beside: tuple[float, ...] = ()  # numbers outside the range with a meaning of their own, such as -1

    def fix(self) -> str:
        """The sentence that tells a user what to write."""
        kind = "whole number" if self.whole else "number"
        if self.least == 0 and self.most == 1 and not self.whole:
            ends = "between 0 and 1" + (
                "" if self.least_excluded else " (0 and 1 too)" if not self.most_excluded else ""
            )
        elif math.isinf(self.most) or self.most >= MOST:
            ends = f"above {self.least:g}" if self.least_excluded else f"of {self.least:g} or more"
            ends += f", at most {MOST}" if self.whole else ""
        else:
            ends = f"from {self.least:g} to {self.most:g}"
        also = "".join(f", or {number:g}" for number in self.beside)
        return f"Use a {kind} {ends}{also}."

    def holds(self, number: float) -> bool:
        """Whether a number lies inside."""
        if number in self.beside:
            return True
        if not math.isfinite(number) or (self.whole and number != int(number)):
            return False
        above = number > self.least if self.least_excluded else number >= self.least
        below = number < self.most if self.most_excluded else number <= self.most
        return above and below


_COUNT = Range(1, MOST, whole=True)
_NATURAL = Range(0, MOST, whole=True)
_POSITIVE = Range(0, least_excluded=True)
_NOT_NEGATIVE = Range(0)
_SHARE = Range(0, 1)
_INSIDE = Range(0, 1, least_excluded=True, most_excluded=True)
_SCHEDULE = {
    "learning_rate": _POSITIVE, "max_lr": _POSITIVE, "lr_end": _NOT_NEGATIVE, "end_learning_rate": _NOT_NEGATIVE,
    "min_lr": _NOT_NEGATIVE, "warmup_lr_init": _NOT_NEGATIVE, "warmup_steps": _NATURAL, "warmup_ratio": _SHARE,
    "warmup_epochs": _NOT_NEGATIVE, "total_steps": Range(1, MOST, whole=True, beside=(-1,)), "decay_steps": _COUNT,
    "decay_rate": _POSITIVE, "power": _POSITIVE, "num_cycles": _POSITIVE, "lr_scale": _NOT_NEGATIVE,
}  # fmt: skip
RANGES: dict[str, dict[str, Range]] = {
    "learning-rate schedule": _SCHEDULE,
    "optimizer": {
        "learning_rate": _POSITIVE, "beta1": _INSIDE, "beta2": _INSIDE, "eps": _POSITIVE, "epsilon": _POSITIVE,
        "weight_decay": _NOT_NEGATIVE, "momentum": _NOT_NEGATIVE, "dampening": _NOT_NEGATIVE, "decay": _SHARE,
        "rho": _SHARE, "accum": _NOT_NEGATIVE, "initial_accum": _NOT_NEGATIVE, "l1": _NOT_NEGATIVE,
        "l2": _NOT_NEGATIVE, "lambd": _NOT_NEGATIVE, "alpha": _POSITIVE, "t0": _POSITIVE, "clip_threshold": _POSITIVE,
    },
    "runner wrapper": {"scale_sense": _POSITIVE, "max_grad_norm": _POSITIVE},
    "loss scale": {
        "loss_scale_value": _POSITIVE, "scale_factor": Range(1, least_excluded=True), "scale_window": _COUNT,
    },
    "data loader": {
        "max_bad_ratio": _SHARE, "num_samples": _COUNT, "num_shards": _COUNT, "shard_id": _NATURAL,
    },
    "dataset": {
        "seq_length": _COUNT, "max_unsupervised": _NATURAL, "tools_indent": _NATURAL, "repeat": _COUNT,
        "prefetch_size": _COUNT,
    },
    "callback": {
        "save_checkpoint_steps": _COUNT, "save_checkpoint_seconds": _NOT_NEGATIVE, "keep_checkpoint_max": _NATURAL,
        "per_print_times": _COUNT, "step_interval": Range(1, MOST, whole=True, beside=(-1, 0)),
        "epoch_interval": Range(1, MOST, whole=True, beside=(-1, 0)), "start_step": _NATURAL, "stop_step": _NATURAL,
        "patience": _COUNT, "min_delta": _NOT_NEGATIVE,
    },
}  # fmt: skip


def range_faults(kind: str, spec: Mapping[str, Any], key: str) -> list[ConfigError]:
    """Faults of a component's numbers that lie outside their range. What is no number is the signature's affair."""
    faults = []
    for name, value in spec.items():
        allowed = RANGES.get(kind, {}).get(name)
        if allowed is None or value is None or isinstance(value, (Mapping, list)):
            continue
        number = as_number(value)
        if isinstance(value, bool) or (number is not None and not allowed.holds(number)):
            faults.append(ConfigError(f"{key}.{name}", value, allowed.fix()))
    if kind == "callback" and isinstance(spec.get("prefix"), str) and not _is_file_name(spec["prefix"]):
        fix = "Checkpoints begin with it: use the beginning of a file name, without / and at most 100 bytes."
        faults.append(ConfigError(f"{key}.prefix", spec["prefix"], fix))
    return faults


def boundless(values: Any, key: str = "") -> list[ConfigError]:
    """Faults of numbers that no key can mean: infinite, not a number, or whole ones beyond 64 bits."""
    if isinstance(values, Mapping):
        return [fault for name, item in values.items() for fault in boundless(item, f"{key}.{name}".strip("."))]
    if isinstance(values, list):
        return [fault for index, item in enumerate(values) for fault in boundless(item, f"{key}.{index}".strip("."))]
    if isinstance(values, float) and not math.isfinite(values):
        return [ConfigError(key, values, "Use a finite number.")]
    if isinstance(values, int) and not -_ANY_INT <= values < _ANY_INT:
        return [ConfigError(key, values, f"Use a number of at most {_ANY_INT - 1}.")]
    return []


def as_number(value: Any) -> float | None:
    """The number that a value is, or that text such as "1e-5" stands for; None where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf


def _is_file_name(prefix: str) -> bool:
    return (
        bool(prefix.strip())
        and not any(mark in prefix for mark in "/\\\0\n")
        and prefix not in (".", "..")
        and len(prefix.encode("utf-8", "replace")) <= 100
    )
