"""fastrestore denoise, models, info: results, exit codes, messages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

import fastrestore
from fastrestore import cli, image


class FakeRestorer:
    """Inverts pictures; stands for the model, which the restorer's own tests run."""

    info = {"model": "fake", "takes_sigma": True}  # noqa: RUF012

    tasks = []  # noqa: RUF012

    def __init__(self, model=None, task="denoise", **options):
        self.tasks.append(task)
        if model == "none":
            raise fastrestore.ModelError("unknown model 'none'")

    def file(self, source, target, sigma=None, strength=1.0, *, guide, quality, max_pixels, progress):
        picture = image.read(source, max_pixels=max_pixels)
        if progress:
            progress(0.5)
        picture.pixels = ~picture.pixels
        notices = image.write(target, picture, quality=quality)
        return {"sigma": sigma, "height": 1, "width": 1, "seconds": 0.0, "notices": notices}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(*arguments) -> exit code, stdout, stderr; in an empty folder, with the fake model."""
    monkeypatch.setattr(fastrestore, "Restorer", FakeRestorer, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setattr("logging.disable", lambda: None)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


def picture(path, value=10, size=(4, 3)) -> None:
    PilImage.new("RGB", size, (value, 0, 0)).save(path)


def red(path) -> int:
    return int(image.read(path).pixels[0, 0, 0])


def test_one_picture(run):
    picture("a.png")
    code, out, err = run("denoise", "a.png", "-o", "b.png", "--sigma", "12")
    assert (code, err) == (0, "")
    assert out == "a.png -> b.png (σ 12.0, 0.00 s)\n"
    assert (red("b.png"), red("a.png")) == (245, 10)
    assert os.listdir() == ["a.png", "b.png"] or sorted(os.listdir()) == ["a.png", "b.png"]


def test_each_task_has_its_command(run):
    picture("a.png")
    for task in ("denoise", "demoire", "deblur"):
        assert run(task, "a.png", "-o", f"{task}.png", "--quiet") == (0, "", "")
        assert red(f"{task}.png") == 245
        assert FakeRestorer.tasks[-1] == task
        assert json.loads(run(task, "a.png", "-o", f"{task}.jpg", "--json")[1])["task"] == task


def test_several_pictures_and_one_bad_one(run):
    for name in ("a.png", "-b.png", "c\nd.png"):
        picture(name)
    with open("bad.png", "w") as file:
        file.write("text")
    os.mkfifo("pipe.png")
    os.mkdir("folder.png")
    bad = ["bad.png", "pipe.png", "folder.png", "missing.png"]
    code, out, err = run("denoise", "-o", "out", "--", "a.png", *bad, "-b.png", "c\nd.png")
    assert code == 1
    assert sorted(os.listdir("out")) == ["-b.png", "a.png", "c\nd.png"]
    assert len(err.splitlines()) == 4 and len(out.splitlines()) == 3
    assert all(name in line for name, line in zip(bad, err.splitlines(), strict=True))


def test_json_and_quiet(run):
    picture("a.png")
    PilImage.new("RGBA", (2, 2)).save("b.png")
    with open("bad.png", "w") as file:
        file.write("text")
    code, out, err = run("denoise", "a.png", "bad.png", "-o", "out", "--json")
    report = json.loads(out)
    assert code == 1 and "bad.png" in err
    assert [result["ok"] for result in report["results"]] == [True, False]
    assert "is not a PNG" in report["results"][1]["error"]
    assert run("denoise", "a.png", "-o", "b.jpg", "--quiet") == (0, "", "")
    assert run("denoise", "b.png", "-o", "c.jpg")[2] == (
        "fastrestore: b.png: note: transparency is not kept: JPEG has none\n"
    )


def test_existing_results_and_inputs_are_safe(run):
    picture("a.png", 10)
    picture("b.png", 20)
    code, _, err = run("denoise", "a.png", "-o", "b.png")
    assert (code, red("b.png")) == (1, 20) and "--overwrite" in err
    assert run("denoise", "a.png", "-o", "b.png", "--overwrite")[0] == 0
    assert red("b.png") == 245
    os.symlink("a.png", "link.png")
    os.link("a.png", "hard.png")
    for target in ("a.png", "./a.png", "link.png", "hard.png", "."):
        code, _, err = run("denoise", "a.png", "-o", target, "--overwrite")
        assert code == 2 and "would be overwritten" in err
    assert red("a.png") == 10
    code, _, err = run("denoise", "a.png", "b.png", "-o", ".", "--overwrite")
    assert code == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["denoise", "a.png"], "--output"),
        (["denoise", "-o", "b.png"], "INPUT"),
        (["denoise", "a.png", "-o", "b.png", "--sigma", "-3"], "sigma"),
        (["denoise", "a.png", "-o", "b.png", "--strength", "2"], "strength"),
        (["denoise", "a.png", "-o", "nowhere/b.png"], "no such folder"),
        (["denoise", "a.png", "-o", "b"], "suffix"),
        (["denoise", "a.png", "x/a.png", "-o", "out"], "would both become"),
        (["denoise", "a.png", "b.png", "-o", "a.png"], "folder"),
        (["sharpen"], "sharpen"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_usage_errors(run, arguments, words):
    picture("a.png")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and words in err
    assert os.listdir() == ["a.png"]


def test_model_and_resource_errors(run, monkeypatch):
    picture("a.png")
    picture("b.png")
    code, _, err = run("denoise", "a.png", "-o", "c.png", "--model", "none")
    assert (code, err) == (3, "fastrestore: unknown model 'none'\n")
    full = OSError(28, "No space left on device")

    def write(path, *arguments, **options):
        raise full if path.name == "a.png" else MemoryError

    monkeypatch.setattr(image, "write", write)
    code, _, err = run("denoise", "a.png", "b.png", "-o", "out")
    assert code == 4 and err.splitlines() == [
        "fastrestore: a.png: No space left on device",
        "fastrestore: b.png: out of memory",
    ]


def test_other_errors_have_tracebacks_only_with_debug(run, monkeypatch):
    picture("a.png")
    monkeypatch.setattr(image, "write", lambda *arguments, **options: 1 / 0)
    code, _, err = run("denoise", "a.png", "-o", "b.png")
    assert code == 1 and "ZeroDivisionError" in err and "Traceback" not in err
    with pytest.raises(ZeroDivisionError):
        cli.main(["--debug", "denoise", "a.png", "-o", "b.png"])


def test_interrupt(run, monkeypatch):
    picture("a.png")

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeRestorer, "file", interrupt)
    assert run("denoise", "a.png", "-o", "b.png")[0] == 130


def test_limit_is_an_option(run):
    picture("a.png", size=(200, 100))
    code, _, err = run("denoise", "a.png", "-o", "b.png", "--max-mpixel", "0.01")
    assert code == 1 and "above the limit of 0.01 Mpixel" in err


def test_models_and_info(run):
    code, out, _ = run("models", "--json")
    assert code == 0 and [entry["name"] for entry in json.loads(out)] == [entry.name for entry in fastrestore.models()]
    code, out, _ = run("info", "--json")
    about = json.loads(out)
    assert code == 0 and about["isa"] and about["torch"]
    code, out, _ = run("info")
    assert code == 0 and about["isa"] in out and "conv2d" in out


COMMAND = [sys.executable, "-c", "from fastrestore.cli import main; main()"]


def test_help_imports_nothing_heavy():
    code = "import sys; from fastrestore.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'cv2', 'PIL', 'tifffile') if m in sys.modules])"
    for arguments in (["--help"], ["denoise", "--help"], ["compile", "--help"]):
        out = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        ).stdout
        assert out.splitlines()[-1] == "[]" and "Usage: fastrestore" in out


def test_closed_output(tmp_path):
    """Nobody reads stdout: no traceback."""
    for closing in (">&-", "| true"):
        command = f'"$0" -c "$1" models {closing}'
        done = subprocess.run(["sh", "-c", command, sys.executable, COMMAND[2]], capture_output=True, text=True)
        assert done.stderr == ""


def test_terminated_in_the_middle(tmp_path):
    """SIGTERM while the engine works: 143, no partial file, the old result stays."""
    noise = np.random.default_rng(0).integers(0, 255, (4000, 4000, 3)).astype(np.uint8)
    image.write(tmp_path / "a.bmp", image.Image(noise, format="BMP"))
    (tmp_path / "b.png").write_bytes(b"old")
    arguments = ["denoise", "a.bmp", "-o", "b.png", "--overwrite", "--sigma", "10", "--threads", "1"]
    process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while "_C" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(4)  # the model is ready in two
        process.terminate()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (143, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bmp", "b.png"]
    assert (tmp_path / "b.png").read_bytes() == b"old"
