"""Builds fastrestore._C and the C library by CMake; every compiler flag lives in CMakeLists.txt."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
C_PREFIX = ROOT / "build" / "prefix"  # where the C library is installed, for tests/test_embed.py and a first try


class CMakeBuild(build_ext):
    """Builds the CMake target _C into the folder where setuptools wants the extension, and the C library.

    The library is made of the same objects, so it costs a link.
    """

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        build = Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "cmake",
                "-S",
                str(ROOT),
                "-B",
                str(build),
                "-G",
                "Ninja",
                "-DCMAKE_BUILD_TYPE=Release",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={output}",
                *shlex.split(os.environ.get("CMAKE_ARGS", "")),
            ],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build), "--target", "_C", "fastrestore"], check=True)
        install = ["cmake", "--install", str(build), "--component", "library", "--strip", "--prefix", str(C_PREFIX)]
        subprocess.run(install, check=True)


setup(
    packages=find_packages(include=["fastrestore", "fastrestore.*"]),
    package_data={"fastrestore": ["weights/*.safetensors", "weights/*.md"]},
    ext_modules=[Extension("fastrestore._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
