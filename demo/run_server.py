"""`make demo-serve`: serves what `make demo` has trained, with the page; other words are options of the server.

python demo/run_server.py --port 8001
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from demo import commands  # noqa: E402
from demo.run_demo import Demo, best_way  # noqa: E402
from demo.screen import paint  # noqa: E402
from mindformers_glm.cli.report import report  # noqa: E402
from mindformers_glm.messages import say  # noqa: E402


def main() -> int:
    """Exit status where nothing was trained; else the server takes the place of this program."""
    demo = Demo(Path(os.environ.get("DEMO_OUTPUT") or ROOT / "demo_output"))
    found = demo.finished()
    if found is None:
        print(say("error: {line}", line=say("Nothing is trained yet: `make demo` comes first.")), file=sys.stderr)
        return 2
    model = demo.output / best_way(found).folder
    print(f"$ {paint(commands.serve(model), '1')}", flush=True)
    words = ["serve", "--model", str(model), "--seq_length", "512", *sys.argv[1:]]
    return os.execv(sys.executable, [sys.executable, "-m", "mindformers_glm", *words])


if __name__ == "__main__":
    sys.exit(report(main))
