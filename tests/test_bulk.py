"""Folders: what is restored, what is left out, and what an interruption leaves behind."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

import fastrestore as fr
from fastrestore import bulk
from fastrestore import image as images
from fastrestore.cli import main
from fastrestore.errors import ImageError


def save(path: Path, seed: int, mode: str = "RGB", side: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (side, side + seed, 3) if mode == "RGB" else (side, side + seed)
    PilImage.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    source = tmp_path / "in"
    for seed, name in enumerate(["b.png", "a.png", "deep/er/c.tif", "deep/d.bmp", "deep/e.jpg"]):
        save(source / name, seed, "L" if name == "deep/d.bmp" else "RGB")
    (source / "notes.txt").write_text("no picture")
    (source / "deep" / "bad.png").write_bytes(b"no picture either")
    return source


def run(folder, out, plan, **options):
    return list(fr.batch(folder, out, model=plan, sigma=20.0, **options))


def hashes(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != bulk.MANIFEST
    }


def test_a_folder(folder, plan, tmp_path):
    out = tmp_path / "out"
    records = run(folder, out, plan)
    assert [r["input"] for r in records] == [
        "a.png",
        "b.png",
        "deep/bad.png",
        "deep/d.bmp",
        "deep/e.jpg",
        "deep/er/c.tif",
    ]
    assert [r["input"] for r in records if not r["ok"]] == ["deep/bad.png"]
    restorer = fr.Restorer(plan)
    for record in records:
        if not record["ok"]:
            assert "bad.png" in record["error"]
            continue
        expected = tmp_path / f"expected{Path(record['input']).suffix}"
        report = restorer.file(folder / record["input"], expected, 20.0)
        assert (out / record["output"]).read_bytes() == expected.read_bytes()
        assert record["output_sha256"] == hashlib.sha256(expected.read_bytes()).hexdigest()
        assert record["input_sha256"] == hashlib.sha256((folder / record["input"]).read_bytes()).hexdigest()
        assert (record["height"], record["width"]) == (report["height"], report["width"])
        assert set(record["seconds"]) == {"reading", "restoring", "writing"}
    lines = [json.loads(line) for line in (out / bulk.MANIFEST).read_text().splitlines()]
    assert [line for line in lines if not line.get("begun")] == records
    assert sorted(hashes(out)) == sorted(r["output"] for r in records if r["ok"])


def test_resuming_redoes_what_changed_only(folder, plan, tmp_path):
    out = tmp_path / "out"
    first = run(folder, out, plan)
    assert not any(r["ok"] for r in run(folder, out, plan))  # without resume results are not replaced
    again = run(folder, out, plan, resume=True)
    assert all(r["skipped"] for r in again if r["input"] != "deep/bad.png")
    save(folder / "a.png", 9)
    (out / "b.png").write_bytes(b"damaged")
    (out / "deep/e.jpg").unlink()
    save(folder / "deep" / "bad.png", 3)
    redone = [r["input"] for r in run(folder, out, plan, resume=True) if not r["skipped"]]
    assert redone == ["a.png", "b.png", "deep/bad.png", "deep/e.jpg"]
    same = {r["input"]: r["output_sha256"] for r in first if r["ok"] and r["input"] != "a.png"}
    for name, value in same.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == value
    other = list(fr.batch(folder, out, model=plan, sigma=30.0, resume=True))  # other settings: all anew
    assert not any(r["skipped"] for r in other) and all(r["ok"] for r in other)


def test_results_of_others_are_left_alone(folder, plan, tmp_path):
    out = tmp_path / "out"
    save(out / "a.png", 5)
    before = (out / "a.png").read_bytes()
    for resume in (False, True):
        record = run(folder, out, plan, resume=resume)[0]
        assert not record["ok"] and "exists" in record["error"]
        assert (out / "a.png").read_bytes() == before
    assert run(folder, out, plan, overwrite=True)[0]["ok"]
    assert (out / "a.png").read_bytes() != before


def test_names_and_patterns(folder, plan, tmp_path):
    out = tmp_path / "out"
    records = run(
        folder, out, plan, include=["deep/*"], exclude=["*bad*"], name="flat/{stem}-clean{suffix}", suffix=".png"
    )
    assert [r["output"] for r in records] == [f"flat/{stem}-clean.png" for stem in ("d", "e", "c")]
    assert all(r["ok"] for r in records)


def test_places_that_do_not_fit(folder, plan, tmp_path):
    with pytest.raises(ImageError, match="would both become"):
        run(folder, tmp_path / "out", plan, name="same{suffix}", suffix=".png")
    with pytest.raises(ImageError, match="is an input"):
        run(folder, folder, plan)
    with pytest.raises(ImageError, match="outside"):
        run(folder, tmp_path / "out", plan, name="../{stem}{suffix}")
    with pytest.raises(ImageError, match="may hold"):
        run(folder, tmp_path / "out", plan, name="{path}")
    with pytest.raises(ImageError, match="no such folder"):
        run(folder / "nowhere", tmp_path / "out", plan)
    with pytest.raises(ImageError, match=r"\.gif"):
        run(folder, tmp_path / "out", plan, suffix=".gif")
    inside = folder / "results"  # a result folder inside the input is not read
    assert sum(r["ok"] for r in run(folder, inside, plan)) == 5
    assert sum(r["skipped"] for r in run(folder, inside, plan, resume=True)) == 5


def test_links(folder, plan, tmp_path):
    outside = tmp_path / "outside"
    save(outside / "secret.png", 1)
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "inner.png").symlink_to("a.png")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "elsewhere").symlink_to(outside, target_is_directory=True)
    os.mkfifo(folder / "pipe.png")
    records = {r["input"]: r for r in run(folder, tmp_path / "out", plan)}
    assert "link out of the folder" in records["link.png"]["error"]
    assert "not a plain file" in records["pipe.png"]["error"]
    assert records["inner.png"]["ok"]
    assert not any(name.startswith(("loop", "elsewhere")) for name in records)


def test_what_cannot_be_read(folder, plan, tmp_path, monkeypatch):
    """A file and a folder that may not be opened are told, and cost nothing else its result."""
    closed = {str(folder / "a.png"), str(folder / "deep" / "er")}

    def refusing(call):
        def refuse(path, *arguments, **options):
            if not isinstance(path, int) and os.fspath(path) in closed:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
            return call(path, *arguments, **options)

        return refuse

    monkeypatch.setattr("builtins.open", refusing(open))
    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    records = {record["input"]: record for record in run(folder, tmp_path / "out", plan)}
    assert list(records) == ["a.png", "b.png", "deep/bad.png", "deep/d.bmp", "deep/e.jpg", "deep/er"]
    for name in ("a.png", "deep/er"):
        assert not records[name]["ok"] and f"{name}: Permission denied" in records[name]["error"]
    assert sum(record["ok"] for record in records.values()) == 3


def test_a_torn_line_of_the_manifest(folder, plan, tmp_path):
    """A power cut may leave a part of a line, or zeros: its picture is done again, the others are not."""
    out = tmp_path / "out"
    run(folder, out, plan, exclude=["*bad*"])
    whole = (out / bulk.MANIFEST).read_bytes()
    for tail in (b"", bytes(100), b'{"input": 3}', b'["input"]'):
        (out / bulk.MANIFEST).write_bytes(whole[: whole.rindex(b'"ok"')] + tail)
        records = run(folder, out, plan, exclude=["*bad*"], resume=True)
        assert [record["input"] for record in records if not record["skipped"]] == ["deep/er/c.tif"]
        assert all(record["ok"] for record in records)


def test_one_batch_at_a_time(folder, plan, tmp_path):
    going = fr.batch(folder, tmp_path / "out", model=plan, sigma=20.0)
    next(going)
    with pytest.raises(ImageError, match="another batch"):
        run(folder, tmp_path / "out", plan)
    going.close()  # stops its threads and frees the folder
    assert sum(r["ok"] for r in run(folder, tmp_path / "out", plan, resume=True)) == 5


def test_a_full_disk_ends_the_run_and_resumes(folder, plan, tmp_path, monkeypatch):
    out, write, count = tmp_path / "out", images.write, [0]

    def full(path, *arguments, **options):
        count[0] += 1
        if count[0] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, *arguments, **options)

    monkeypatch.setattr(images, "write", full)
    records = []
    with pytest.raises(OSError, match="No space left"):
        records.extend(fr.batch(folder, out, model=plan, sigma=20.0))
    monkeypatch.setattr(images, "write", write)
    assert sum(r["ok"] for r in run(folder, out, plan, resume=True)) == 5
    assert hashes(out) == _uninterrupted(folder, plan, tmp_path)


_FULL = """
import os, resource, sys
import fastrestore as fr
from fastrestore import restorer
restorer.WHOLE_BYTES = {whole}
try:
    records = list(fr.batch({folder!r}, {out!r}, model={plan!r}, sigma=20.0, threads=1, resume=True))
    print(len(records), all(record["ok"] for record in records))
except OSError as error:
    print(os.strerror(error.errno))
    print(sorted(name for _, _, files in os.walk({out!r}) for name in files if name.endswith(".part")))
"""


@pytest.mark.parametrize("whole", [1 << 30, 0], ids=["whole", "piece by piece"])
def test_a_disk_that_is_really_full(plan, tmp_path, whole):
    """A file system of 300 KB, and then a larger one: the run ends cleanly, and the next goes on to the same bytes."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for seed in range(8):
        save(folder / f"{seed}.tif", seed, side=150)
    out.mkdir()
    (tmp_path / "run.py").write_text(_FULL.format(folder=str(folder), out=str(out), plan=plan, whole=whole))
    mount, python = f"mount -t tmpfs -o size=300k none '{out}'", f"'{sys.executable}' '{tmp_path / 'run.py'}'"
    steps = [mount, python, f"mount -o remount,size=30m '{out}'", python, f"cp -r '{out}' '{tmp_path / 'kept'}'"]
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    done = subprocess.run(["unshare", "-rm", "sh", "-ec", "\n".join(steps)], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["No space left on device", "[]", "8 True"], done.stderr
    assert hashes(tmp_path / "kept") == _uninterrupted(folder, plan, tmp_path)


def _uninterrupted(folder, plan, tmp_path) -> dict[str, str]:
    whole = tmp_path / "whole"
    run(folder, whole, plan)
    return hashes(whole)


def test_killed_at_any_moment(plan, tmp_path):
    """kill -9 at random moments: what is there is whole, and the resumed run's bytes are an uninterrupted one's."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for seed in range(40):  # the TIFFs go piece by piece
        save(folder / f"{seed:02}{'.tif' if seed % 4 == 0 else '.png'}", seed, side=200)
    begun = time.monotonic()
    expected = _uninterrupted(folder, plan, tmp_path)
    taken = time.monotonic() - begun
    call = f"fr.batch({str(folder)!r}, {str(out)!r}, model={plan!r}, sigma=20.0, threads=1, resume=True)"
    script = "import fastrestore as fr; from fastrestore import restorer; restorer.WHOLE_BYTES = 0\n"
    script += f"print('on', flush=True); list({call})"
    randomly, kills = random.Random(0), 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(randomly.uniform(0.0, 0.5 * taken))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        there = hashes(out) if out.exists() else {}
        for name, value in there.items():
            assert name.endswith(".part") or value == expected[name]
        if there == expected:  # all restored between the kills: once more from the start
            if kills >= 20:
                break
            shutil.rmtree(out)
    assert kills >= 20
    records = run(folder, out, plan, resume=True)
    assert all(r["ok"] for r in records)
    assert hashes(out) == expected


_POINTS = """
import hashlib, os, shutil, signal, sys
from pathlib import Path
import fastrestore as fr
from fastrestore import restorer
restorer.WHOLE_BYTES = 5000  # of the two pictures, the TIFF goes piece by piece
folder, out, plan = {folder!r}, Path({out!r}), {plan!r}

def batch(**options):
    return list(fr.batch(folder, out, model=plan, sigma=20.0, threads=1, **options))

def hashes():
    files = [path for path in out.rglob('*') if path.is_file() and path.name != 'manifest.jsonl']
    return {{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.suffix != '.part'}}

def in_child(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitpid(child, 0)[1]

def killed_at(point):
    left = [point]
    def hook(event, arguments):
        if event in ('open', 'os.rename', 'os.remove', 'os.mkdir') and str(out) in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    def sync(file, fsync=os.fsync):
        hook('open', [out])
        fsync(file)
    sys.addaudithook(hook)
    os.fsync = sync
    batch(resume=True)

assert in_child(batch) == 0
expected, points = hashes(), 0
while True:
    shutil.rmtree(out)
    state = in_child(lambda: killed_at(points + 1))
    if state == 0:
        break
    assert os.WTERMSIG(state) == signal.SIGKILL
    points += 1
    seen = hashes()
    assert all(expected[name] == value for name, value in seen.items()), points
    assert in_child(lambda: batch(resume=True)) == 0
    assert hashes() == expected and not list(out.rglob('*.part')), points
print(points)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_every_step_on_the_output_folder(plan, tmp_path):
    """kill -9 just before each file there is opened, flushed, renamed or removed: what is there is whole."""
    save(tmp_path / "in" / "a.png", 1)
    save(tmp_path / "in" / "deep" / "b.tif", 2, side=60)
    script = _POINTS.format(folder=str(tmp_path / "in"), out=str(tmp_path / "out"), plan=plan)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


def test_odd_names(plan, tmp_path):
    names = ["-o.png", "--resume.png", "two\nlines.png", " .png", "%s{stem}.png", "ünï.png"]
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, seed)
    records = run(tmp_path / "in", tmp_path / "out", plan)
    assert sorted(record["input"] for record in records if record["ok"]) == sorted(names)
    assert sorted(hashes(tmp_path / "out")) == sorted(names)
    assert all(record["skipped"] for record in run(tmp_path / "in", tmp_path / "out", plan, resume=True))
    (tmp_path / "in" / "two\nlines.png").write_bytes(b"no picture")
    error = next(r["error"] for r in run(tmp_path / "in", tmp_path / "out", plan, resume=True) if not r["ok"])
    assert "\n" not in error and "two" in error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("whole", [1 << 30, 0], ids=["whole", "piece by piece"])
def test_a_file_that_cannot_grow(plan, tmp_path, whole):
    """The system's own refusal of a write, not one made up: the picture fails, the smaller ones do not."""
    save(tmp_path / "in" / "a.tif", 1, side=16)
    save(tmp_path / "in" / "b.tif", 2, side=400)
    save(tmp_path / "in" / "c.tif", 3, side=16)
    code = f"""
import json, resource
import fastrestore as fr
from fastrestore import restorer
restorer.WHOLE_BYTES = {whole}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for record in fr.batch({str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, model={plan!r}, sigma=20.0, threads=1):
    print(json.dumps([record["ok"], record["error"]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [ok for ok, _ in records] == [True, False, True]
    assert "b.tif" in records[1][1] and "large" in records[1][1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "c.tif", bulk.MANIFEST]


def test_the_iterator_knows_its_length(folder, plan, tmp_path):
    records = fr.batch(folder, tmp_path / "out", model=plan, sigma=20.0)
    assert len(records) == 6
    assert len(list(records)) == 6


def test_large_tiffs_go_piece_by_piece_to_the_same_bytes(folder, plan, tmp_path, monkeypatch):
    expected = _uninterrupted(folder, plan, tmp_path)
    monkeypatch.setattr("fastrestore.restorer.WHOLE_BYTES", 0)
    records = run(folder, tmp_path / "out", plan)
    assert hashes(tmp_path / "out") == expected
    tiff = next(record for record in records if record["input"].endswith("c.tif"))
    assert all(tiff["seconds"][stage] > 0 for stage in bulk.STAGES)


def test_the_command(folder, plan, tmp_path, capsys):
    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["batch", str(folder), str(tmp_path / "out"), "--model", plan, "--sigma", "20", *arguments])
        return ended.value.code, *capsys.readouterr()

    code, out, err = call()
    assert code == 1 and "bad.png" in err
    assert "5 restored, 0 left out as done, 1 failed" in out and "is the bottleneck" in out and "megapixels/s" in out
    (folder / "deep" / "bad.png").unlink()
    code, out, err = call("--resume")
    assert code == 0 and "0 restored, 5 left out as done, 0 failed" in out and not err
    code, out, err = call("--overwrite", "--json")
    assert code == 0 and all(json.loads(line)["ok"] for line in out.splitlines())
    assert call("--strength", "7")[0] == 2
    assert call("--model", "nothing")[0] == 3
