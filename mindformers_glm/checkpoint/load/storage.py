"""How MindFormers keeps weights where no file tells it: switches of a YAML or a command line. Light, for `--help`."""

from __future__ import annotations

from typing import NamedTuple


class Storage(NamedTuple):
    """How MindFormers 1.5 and later were told to keep the weights (keys of model_config)."""

    qkv_concat: bool = True
    mlp_concat: bool = True
    use_rearrange_rope: bool = False
