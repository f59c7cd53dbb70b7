"""Runs a task from one YAML: `python run_mindformer.py --config YAML --run_mode finetune`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mindformers_glm.cli import main  # noqa: E402 - the checkout must be importable first

if __name__ == "__main__":
    sys.exit(main(script_dir=Path(__file__).resolve().parent))
