"""Builds fastrestore._C by CMake; every compiler flag lives in CMakeLists.txt."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Configures and builds the CMake target _C into the folder where setuptools wants the extension."""

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
        subprocess.run(["cmake", "--build", str(build), "--target", "_C"], check=True)


setup(
    packages=find_packages(include=["fastrestore", "fastrestore.*"]),
    package_data={"fastrestore": ["weights/*.safetensors", "weights/*.md"]},
    ext_modules=[Extension("fastrestore._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    zip_safe=False,
)
