"""The C library as a C program meets it: installed, found by CMake and pkg-config, and the same bits as Python."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastrestore as fr
from fastrestore import engine, models

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "embed_c"
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def call(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tool(*names: str) -> str:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = next(filter(None, (shutil.which(name, path=places) for name in names)), None)
    if found is None:
        pytest.skip(f"{names[0]} is not there")
    return found


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    """What the build installed with the extension (setup.py), moved elsewhere: a package must not know its place."""
    built = ROOT / "build" / "prefix"
    if not built.is_dir():
        pytest.skip(f"{built} is not there: pip install -e . makes it")
    return Path(shutil.copytree(built, tmp_path_factory.mktemp("installed") / "prefix", symlinks=True))


@pytest.fixture(scope="module")
def library(prefix) -> Path:
    return next(prefix.glob("lib*/**/libfastrestore.so")).resolve()


@pytest.fixture(scope="module")
def example(prefix, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("example")
    cmake = tool("cmake")
    call(cmake, "-S", EXAMPLE, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release")
    call(cmake, "--build", build)
    return build / "restore"


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = models.create("unet", widths=(16, 32), blocks=1)
    with torch.no_grad():  # the last layer starts near zero
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    path = tmp_path_factory.mktemp("plan") / "m.frp"
    engine.compile(model.eval(), card={"name": "test"}).save(path)
    return path


def pnm(path: Path, image: np.ndarray) -> None:
    kind, peak = ("P6" if image.shape[2] == 3 else "P5"), np.iinfo(image.dtype).max
    head = f"{kind}\n# a comment\n{image.shape[1]} {image.shape[0]}\n{peak}\n".encode()
    path.write_bytes(head + image.astype(image.dtype.newbyteorder(">")).tobytes())


def pixels(path: Path, like: np.ndarray) -> np.ndarray:
    content = path.read_bytes()
    return np.frombuffer(content[-like.nbytes :], like.dtype.newbyteorder(">")).reshape(like.shape)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=lambda d: d.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_bytes_as_python(example, plan_file, tmp_path, dtype, channels):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (61, 83, channels), dtype)
    pnm(tmp_path / "in", image)
    expected = fr.Plan.load(plan_file).session().run(image, sigma=20)
    assert (expected != image).mean() > 0.5
    for options in ([], ["--threads", 1, "--memory", 1.5], ["--threads", 3, "--runs", 2]):
        call(example, plan_file, tmp_path / "in", tmp_path / "out", "--sigma", 20, *options)
        np.testing.assert_array_equal(pixels(tmp_path / "out", image), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=lambda d: d.__name__)
def test_raw_frames(example, plan_file, tmp_path, dtype):
    image = np.random.default_rng(0).random((20, 33, 3)).astype(dtype)
    (tmp_path / "in").write_bytes(image.tobytes())
    kind = f"33x20x3:f{8 * image.itemsize}"
    call(example, plan_file, tmp_path / "in", tmp_path / "out", "--sigma", 9, "--strength", 0.75, "--raw", kind)
    expected = fr.Plan.load(plan_file).session().run(image, sigma=9, strength=0.75)
    assert (tmp_path / "out").read_bytes() == expected.tobytes()


def test_latencies(example, plan_file, tmp_path):
    pnm(tmp_path / "in", np.zeros((16, 16, 3), np.uint8))
    out = call(example, plan_file, tmp_path / "in", tmp_path / "out", "--sigma", 5, "--runs", 20)
    p50, p99, worst = (float(value) for value in re.findall(r"([\d.]+) ms", out))
    assert 0 < p50 <= p99 <= worst


def test_the_example_says_what_is_wrong(example, plan_file, tmp_path):
    image = tmp_path / "in"
    pnm(image, np.zeros((16, 16, 3), np.uint8))
    damaged = tmp_path / "damaged.frp"
    damaged.write_bytes(plan_file.read_bytes()[:-1])
    (tmp_path / "cut").write_bytes(image.read_bytes()[:-1])
    out = tmp_path / "out"
    for arguments, words in (
        ((damaged, image, out), "FR_BAD_FILE"),
        ((tmp_path / "none.frp", image, out), "No such file"),
        ((plan_file, image, out), "needs sigma"),
        ((plan_file, image, out, "--sigma", 5, "--memory", 0.01), "FR_OVER_BUDGET"),
        ((plan_file, tmp_path / "cut", out, "--sigma", 5), "cut short"),
        ((plan_file, plan_file, out, "--sigma", 5), "P5 or P6"),
        ((plan_file, image, out, "--sigma"), "usage"),
    ):
        done = subprocess.run([example, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode in (1, 2) and words in done.stderr and not out.exists()


def test_pkg_config(prefix, library, plan_file, tmp_path):
    config = tool("pkg-config")
    folder = next(prefix.glob("lib*/**/pkgconfig"))
    environment = os.environ | {"PKG_CONFIG_PATH": str(folder)}
    assert call(config, "--modversion", "fastrestore", env=environment).strip() == fr.__version__
    flags = call(config, "--cflags", "--libs", "fastrestore", env=environment).split()
    program = tmp_path / "restore"
    call(tool("cc", "gcc"), "-std=c11", *STRICT, EXAMPLE / "restore.c", *flags, "-o", program)
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    pnm(tmp_path / "in", image)
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent)}
    call(program, plan_file, tmp_path / "in", tmp_path / "out", "--sigma", 20, env=environment)
    expected = fr.Plan.load(plan_file).session().run(image, sigma=20)
    np.testing.assert_array_equal(pixels(tmp_path / "out", image), expected)


@pytest.mark.parametrize("compiler, standard", [(("cc", "gcc"), "c99"), (("c++", "g++"), "c++11")], ids=["C", "C++"])
def test_the_header_alone(prefix, tmp_path, compiler, standard):
    source = tmp_path / ("header.c" if standard == "c99" else "header.cc")
    source.write_text("#include <fastrestore.h>\nfr_image image = FR_IMAGE_INIT;\n")
    call(tool(*compiler), f"-std={standard}", *STRICT, f"-I{prefix / 'include'}", "-fsyntax-only", source)


def test_only_the_api_leaves_the_library(library):
    lines = call(tool("nm"), "-D", "--defined-only", library).splitlines()
    names = {line.split()[-1].split("@")[0] for line in lines}
    declared = set(re.findall(r"FR_API [^;(]*?(fr_\w+)\(", (ROOT / "csrc/include/fastrestore.h").read_text()))
    assert names == declared and len(names) > 8
    dynamic = call(tool("readelf"), "-d", library)
    needed = set(re.findall(r"NEEDED.*\[(.*?)\.so", dynamic))
    assert needed <= {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    with_gpu = b"no usable CUDA device" in library.read_bytes()
    assert "SONAME" in dynamic and library.stat().st_size < (15e6 if with_gpu else 3e6)


def test_one_version(library):
    stated = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    c = ctypes.CDLL(str(library))
    c.fr_version.restype = ctypes.c_char_p
    assert c.fr_version().decode() == fr.__version__ == stated
