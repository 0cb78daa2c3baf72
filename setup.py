# SPDX-License-Identifier: Apache-2.0
"""Builds the optional compiled module `rsuper_kernels._C` with CMake; everything else is in pyproject.toml.

Without a compiler the install goes on in pure Python, after one warning. Two environment variables change that:
RSUPER_NO_NATIVE=1 leaves the compiled module out, RSUPER_REQUIRE_NATIVE=1 makes a failed build an error. CUDA kernels
come as sources, which NVRTC compiles at their first use; with RSUPER_CUDA=1, nvcc compiles them now, too.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
WARNING = """
********************************************************************************
rsuper_kernels: the compiled CPU module was not built; everything works without
it, only slower. It needs a C++17 compiler and the Python headers (on Debian:
g++ and python3-dev). Reason: {reason}
********************************************************************************
"""


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "0") not in ("", "0")


def find_tool(name: str) -> str | None:
    """A tool of this Python's environment, also when that is not activated, else one on the PATH."""
    return shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))


def run(command: list[str]) -> None:
    """Run a build step quietly; when it fails, raise with the end of what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{done.stdout[-3000:].strip()}")


class CMakeBuild(build_ext):
    """Builds every extension with CMake, in a folder of setuptools' choice."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            if switched_on("RSUPER_REQUIRE_NATIVE"):
                raise
            print(WARNING.format(reason=error), file=sys.stderr)
            self.go_on_without()

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        if cmake is None:
            raise RuntimeError("cmake not found")
        build = Path(self.build_temp).resolve() / ext.name
        output = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        options = {
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY": output,
            "CMAKE_LIBRARY_OUTPUT_DIRECTORY_RELEASE": output,  # read by generators that hold several build types
            "CMAKE_BUILD_TYPE": "Release",
            "RSUPER_CUDA": "ON" if switched_on("RSUPER_CUDA") else "OFF",
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
        defines = [f"-D{key}={value}" for key, value in options.items()]
        run([cmake, "--fresh", "-S", str(ROOT), "-B", str(build), *generator, *defines])
        run([cmake, "--build", str(build), "--config", "Release"])

    def go_on_without(self) -> None:
        """Let the rest of this build know that it is a pure-Python one, so that a wheel is tagged as what it is."""
        self.extensions = self.distribution.ext_modules = []
        wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
        if wheel is not None:
            wheel.root_is_pure = True


class BuildWithSources(build_py):
    """Takes the sources of the CUDA kernels along, as rsuper_kernels/csrc; a checkout has them where they are."""

    def run(self) -> None:
        super().run()
        for source, target in self.kernel_sources().items():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))

    def kernel_sources(self) -> dict[Path, Path]:
        """Each source, and where it goes."""
        if self.editable_mode:
            return {}
        sources = [*(ROOT / "csrc" / "cuda").glob("*.cu"), *(ROOT / "csrc" / "include" / "rsuper").glob("*.h")]
        return {source: Path(self.build_lib) / "rsuper_kernels" / source.relative_to(ROOT) for source in sources}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self.kernel_sources().values())]


setup(
    ext_modules=[] if switched_on("RSUPER_NO_NATIVE") else [Extension("rsuper_kernels._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": BuildWithSources},
)
