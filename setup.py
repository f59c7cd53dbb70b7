"""Installs mindformers_glm and compiles its kernels; everything else is declared in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

KERNELS = Path("mindformers_glm", "ops", "kernels")


class BuildKernels(build_py):
    """Copies the modules, then compiles the kernels beside them; without a compiler there are none."""

    def run(self) -> None:
        """See setuptools."""
        super().run()
        root = Path(__file__).resolve().parent
        target = (root if self.editable_mode else Path(self.build_lib)) / KERNELS / "built"
        subprocess.run([sys.executable, str(root / KERNELS / "build.py"), str(target)], check=False)


setup(cmdclass={"build_py": BuildKernels})
