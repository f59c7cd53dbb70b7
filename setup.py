"""Installs mindformers_glm, with its configurations and its kernels; everything else is declared in pyproject.toml."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel  # setuptools 70 and later
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
KERNELS = Path("mindformers_glm", "ops", "kernels")
CONFIGS = Path("mindformers_glm", "configs")


class BuildPackage(build_py):
    """Copies the modules, puts configs/ among them, and compiles the kernels; without a compiler there are none.

    An editable installation reads configs/ of the checkout and gets its kernels there, those for this CPU alone.
    """

    def run(self) -> None:
        """See setuptools."""
        super().run()
        if self.editable_mode:
            subprocess.run([sys.executable, str(ROOT / "scripts/own_kernels.py")], check=False)
            return
        target = Path(self.build_lib)
        self._copy_configs(target / CONFIGS)
        self._copy_kernels(target / KERNELS / "built")
        command = [sys.executable, str(ROOT / KERNELS / "build.py"), str(target / KERNELS / "built")]
        subprocess.run(command, check=False)

    def get_outputs(self, include_bytecode: bool = True) -> list:
        """See setuptools; what `run` adds is part of it."""
        made = [path for folder in (CONFIGS, KERNELS / "built") for path in Path(self.build_lib, folder).rglob("*.*")]
        return sorted({*super().get_outputs(include_bytecode), *map(str, made)})

    def _copy_configs(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(ROOT / "configs", folder)
        for path in folder.rglob("*.yaml"):  # seen from there, the package is one folder nearer
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("../../mindformers_glm/", "../../"), encoding="utf-8")
        (folder / "__init__.py").write_text(
            '"""The configurations of configs/ in the repository."""\n', encoding="utf-8"
        )

    def _copy_kernels(self, folder: Path) -> None:
        """Takes over the libraries that the checkout has of exactly these sources; what is missing is compiled."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        digest = runpy.run_path(str(ROOT / KERNELS / "build.py"))["digest"]()
        for library in (ROOT / KERNELS / "built").glob(f"*-{digest}.so"):
            shutil.copy2(library, folder)


class PlatformWheel(bdist_wheel):
    """A wheel for this platform and every Python, as soon as it holds kernels: they are called through ctypes."""

    def get_tag(self) -> tuple:
        """See setuptools."""
        build = self.get_finalized_command("build_py")
        if any(Path(build.build_lib, KERNELS, "built").glob("*.so")):
            return "py3", "none", super().get_tag()[2]
        return "py3", "none", "any"


class PlatformDistribution(Distribution):
    """Its files belong into the folder for platforms' own."""

    def has_ext_modules(self) -> bool:
        """See setuptools."""
        return True


setup(distclass=PlatformDistribution, cmdclass={"build_py": BuildPackage, "bdist_wheel": PlatformWheel})
