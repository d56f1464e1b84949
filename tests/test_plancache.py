"""Kept plans: the same bits as without them, no torch where one is at hand, and faults of their folder hurt nobody."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PilImage

import fastrestore as fr
from fastrestore import checkpoint, models, plancache

ROOT = Path(__file__).parent.parent


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty cache's folder of plans."""
    monkeypatch.setenv("FASTRESTORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "plans"


@pytest.fixture
def weights(tmp_path) -> Path:
    return save(tmp_path / "small.safetensors", seed=0)


def save(path: Path, seed: int) -> Path:
    """A small network's model file."""
    torch.manual_seed(seed)
    model = models.create("unet", widths=(16, 16), blocks=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    checkpoint.save(model, path)
    return path


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 52, 3), np.uint8)


def restored(path: Path, precision: str = "auto") -> np.ndarray:
    return fr.Restorer(path, threads=1, precision=precision)(picture(), sigma=20)


def compiled(monkeypatch) -> list[str]:
    """What is compiled from now on."""
    from fastrestore import engine

    seen, compile = [], engine.compile
    monkeypatch.setattr(engine, "compile", lambda *given: (seen.append(given[1]), compile(*given))[1])
    return seen


def in_a_process(script: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs Python from the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_bits(precision, weights, place, monkeypatch):
    fresh = restored(weights, precision)
    (file,) = place.iterdir()
    seen = compiled(monkeypatch)
    np.testing.assert_array_equal(restored(weights, precision), fresh)
    assert seen == []
    monkeypatch.setenv("FASTRESTORE_CACHE", "")
    np.testing.assert_array_equal(restored(weights, precision), fresh)
    assert seen == [precision]
    assert list(place.iterdir()) == [file]


def test_what_is_kept_is_private(weights, place):
    restored(weights)
    assert place.stat().st_mode & 0o777 == 0o700


def test_weights_precision_and_code_each_have_a_plan(weights, place, monkeypatch):
    first = restored(weights)
    restored(weights, "bfloat16")
    assert len(list(place.iterdir())) == 2
    assert not np.array_equal(restored(save(weights, seed=1)), first)  # another file in its place
    assert len(list(place.iterdir())) == 3
    monkeypatch.setattr(plancache, "_code", lambda: "another version")
    restored(weights)
    assert len(list(place.iterdir())) == 4
    assert fr.Restorer(weights).info == fr.Restorer(checkpoint.load(weights)).info | {"model": str(weights)}


def test_a_process_that_runs_older_code_keeps_nothing(weights, place, monkeypatch):
    """Its plan would lie there as the edited code's."""
    monkeypatch.setattr(plancache, "IMPORTED", max(path.stat().st_mtime for path in plancache._sources()))
    restored(weights)
    assert not place.exists()


def test_all_the_code_that_compiles_counts():
    done = in_a_process(
        "import sys, fastrestore.engine, fastrestore.checkpoint\n"
        "print(*(getattr(module, '__file__', None) for name, module in sys.modules.items()"
        " if name.partition('.')[0] == 'fastrestore'))"
    )
    counted = {path for pattern in plancache.SOURCES for path in plancache.PACKAGE.glob(f"{pattern}.py")}
    others = {Path(path).relative_to(plancache.PACKAGE) for path in done.stdout.split() if Path(path) not in counted}
    harmless = {"core.py", "errors.py", "files.py"}
    assert {path.as_posix() for path in others if path.suffix == ".py" and path.parts[0] != "triton"} == harmless


@pytest.mark.parametrize("fault", ["damaged", "cut", "empty", "of another model", "a folder", "a pipe"])
def test_a_file_that_is_not_ours_is_compiled_anew(fault, weights, place, tmp_path, monkeypatch):
    fresh = restored(weights)
    (file,) = place.iterdir()
    content = bytearray(file.read_bytes())
    file.unlink()
    if fault == "damaged":
        content[len(content) // 2] ^= 1
    if fault in ("damaged", "cut", "empty"):
        file.write_bytes({"damaged": content, "cut": content[:-9], "empty": b""}[fault])
    elif fault == "of another model":
        restored(save(tmp_path / "other.safetensors", seed=1))
        next(place.iterdir()).rename(file)
    else:
        file.mkdir() if fault == "a folder" else os.mkfifo(file)
    seen = compiled(monkeypatch)
    np.testing.assert_array_equal(restored(weights), fresh)
    assert len(seen) == 1
    if fault != "a folder":
        np.testing.assert_array_equal(restored(weights), fresh)
        assert len(seen) == 1  # it was written again
        assert fr.Plan.load(file).card["key"] == file.stem


def test_a_damaged_model_file_is_refused_beside_its_plan(weights, place):
    restored(weights)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(fr.ModelError, match="checksum"):
        restored(weights)
    weights.unlink()
    with pytest.raises(fr.ModelError, match="No such file"):
        restored(weights)


@pytest.mark.parametrize("fault", ["a file", "read-only", "full", "no home"])
def test_where_nothing_can_be_kept_nothing_is_said(fault, weights, place, tmp_path, monkeypatch, recwarn, capfd):
    if fault == "a file":
        place.parent.write_bytes(b"")
    elif fault == "read-only":
        monkeypatch.setenv("FASTRESTORE_CACHE", "/proc/none")
    elif fault == "full":
        place.mkdir(parents=True, mode=0o700)

        def fail(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.delenv("FASTRESTORE_CACHE")
        monkeypatch.setenv("HOME", "nowhere")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.chdir(tmp_path)
        assert plancache.folder() is None
    assert restored(weights).shape == (37, 52, 3)
    assert not list(tmp_path.rglob("*.frp")) + list(tmp_path.rglob("*.part"))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_a_folder_that_others_write_to_is_not_trusted(weights, place, monkeypatch):
    restored(weights)
    place.chmod(0o777)
    seen = compiled(monkeypatch)
    restored(weights)
    assert len(seen) == 1


def test_where_plans_are_kept(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    for chosen, expected in (("/x", "/x/plans"), ("", None), (None, "/var/caches/fastrestore/plans")):
        monkeypatch.delenv("FASTRESTORE_CACHE", raising=False)
        if chosen is not None:
            monkeypatch.setenv("FASTRESTORE_CACHE", chosen)
        assert plancache.folder() == (expected and Path(expected))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert plancache.folder() == Path("/home/somebody/.cache/fastrestore/plans")


def test_the_oldest_beyond_the_bound_go(tmp_path, place, monkeypatch):
    paths = [save(tmp_path / f"{seed}.safetensors", seed) for seed in range(4)]
    restored(paths[0])
    (first,) = place.iterdir()
    monkeypatch.setattr(plancache, "MOST_BYTES", 5 * first.stat().st_size // 2)
    restored(paths[1])
    rest = place / ".fastrestore-0123.part"  # of a process that was killed
    rest.write_bytes(b"")
    for number, path in enumerate((first, rest, *(p for p in place.iterdir() if p not in (first, rest)))):
        os.utime(path, (1e9 + number, 1e9 + number))
    restored(paths[0])  # used again, so that now the second is older
    before = set(place.glob("*.frp"))
    restored(paths[2])
    assert len(list(place.glob("*.frp"))) == 2
    assert first in place.iterdir()
    assert len(before - set(place.iterdir())) == 1
    rest.write_bytes(b"x" * 10)
    os.utime(rest, (1, 1))
    restored(paths[3])
    assert not rest.exists()


def test_processes_that_write_at_once(weights, place):
    script = (
        "import sys, hashlib, numpy as np, fastrestore as fr\n"
        f"restorer = fr.Restorer({str(weights)!r}, threads=1)\n"
        "picture = np.random.default_rng(0).integers(0, 256, (37, 52, 3), np.uint8)\n"
        "print(hashlib.sha256(restorer(picture, sigma=20).tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    results = {process.communicate(timeout=300)[0] for process in running}
    assert len(results) == 1 and results != {""}
    (file,) = place.iterdir()
    assert fr.Plan.load(file).card["key"] == file.stem


def test_the_commands_do_without_torch_once_a_plan_is_kept(place, tmp_path):
    source, targets = tmp_path / "in" / "a.png", [tmp_path / f"{number}.png" for number in range(3)]
    source.parent.mkdir()
    PilImage.fromarray(picture()).save(source)
    script = (
        "import sys\nfrom fastrestore import cli\n"
        "try:\n    cli.main(sys.argv[1:])\n"
        "finally:\n    print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASTRESTORE_CACHE": str(place.parent)}

    def run(*arguments: object) -> tuple[dict, bool]:
        """The report, and whether torch was imported."""
        command = [sys.executable, "-c", script, *map(str, arguments), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
        assert done.stderr == ""
        report, _, imported = done.stdout.rstrip().rpartition("\n")
        return json.loads(report), imported == "True"

    cold, warm = (run("denoise", source, "-o", target) for target in targets[:2])
    assert (cold[1], warm[1]) == (True, False)
    assert cold[0]["path"] == warm[0]["path"]
    assert run("batch", source.parent, tmp_path / "out")[1] is False
    environment["FASTRESTORE_CACHE"] = ""
    assert run("denoise", source, "-o", targets[2])[1]
    assert len({target.read_bytes() for target in [*targets, tmp_path / "out" / "a.png"]}) == 1


def test_a_model_file_that_changes_is_not_mixed_with_its_old_plan(weights, place):
    restored(weights)
    restorer = fr.Restorer(weights, threads=1)
    before = restorer(picture(), sigma=20)
    save(weights, seed=1)
    with pytest.raises(fr.ModelError, match="has changed since"):
        restorer.takes_bursts  # noqa: B018
    np.testing.assert_array_equal(restorer(picture(), sigma=20), before)


def test_a_kept_plan_restores_bursts_guides_and_tensors_too(place, tmp_path):
    guided, recurrent = tmp_path / "guided.safetensors", tmp_path / "recurrent.safetensors"
    checkpoint.save(models.create("guided-unet", widths=(16, 16), blocks=1, guide_width=16), guided)
    checkpoint.save(models.create("recurrent-unet", widths=(16, 16), blocks=1, hidden=16, width=16, depth=1), recurrent)
    image, other = picture(), picture()[::-1] // 2
    for path in (guided, recurrent):
        cold, warm = (fr.Restorer(path, threads=1) for _ in range(2))
        assert "_module" in vars(cold) and "_module" not in vars(warm)
        assert cold.info == warm.info
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
        assert torch.equal(cold(tensor, sigma=9), warm(tensor, sigma=9))
        if path == guided:
            assert warm.info["takes_guide"] and not warm.takes_bursts
            results = [restorer(image, sigma=9, guide=255 - image) for restorer in (cold, warm)]
        else:
            assert warm.takes_bursts and not warm.info["takes_guide"]
            results = [np.stack(list(restorer.stream([image, other], sigma=9))) for restorer in (cold, warm)]
        np.testing.assert_array_equal(*results)
