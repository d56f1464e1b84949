"""Clips and bursts in a folder: which pictures are shots of one scene, what becomes of them, and resumption."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

import fastrestore as fr
from fastrestore import bulk, checkpoint, jobs, shots
from fastrestore import image as images
from fastrestore.cli import main
from fastrestore.errors import ImageError
from tests.test_burst import shots as taken_shots
from tests.test_stream import create

ORIGINAL, FRACTION, EXIF, CAMERA = 36867, 37521, 34665, 272


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    checkpoint.save(create("fusion-unet"), path)
    return str(path)


def save(path: Path, pixels: np.ndarray | None = None, when: str = "", part: str = "", camera: str = "a") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((24, 20, 3), np.uint8) if pixels is None else pixels
    exif = PilImage.Exif()
    if when:
        exif[CAMERA] = camera
        exif.get_ifd(EXIF)[ORIGINAL] = f"2026:05:01 {when}"
        if part:
            exif.get_ifd(EXIF)[FRACTION] = part
    images.write(path, images.Image(pixels, exif=exif.tobytes() if when else None))


def found(folder: Path, rule: str | None) -> dict[str, list[str]]:
    """What becomes of a folder: the files of each result."""
    out = folder.parent / "out"
    return {
        job.target.relative_to(out).as_posix(): [source.relative_to(folder).as_posix() for source in job.sources]
        for job in jobs.find(folder, out, bursts=rule)
    }


def test_shots_of_a_name(tmp_path):
    folder = tmp_path / "in"
    for name in (
        "a/night-1.png",
        "a/night-2.png",
        "a/night.png",
        "a/night_10.png",
        "a/day.png",
        "b/night-3.png",
        "7.png",
        "8.png",
        "a/night-1.jpg",
    ):
        save(folder / name)
    assert found(folder, "name") == {
        "7.png": ["7.png"],
        "8.png": ["8.png"],
        "a/day.png": ["a/day.png"],
        "a/night-1.jpg": ["a/night-1.jpg"],
        "a/night.png": ["a/night-1.png", "a/night-2.png", "a/night.png", "a/night_10.png"],
        "b/night-3.png": ["b/night-3.png"],
    }
    assert len(found(folder, None)) == 9


def test_shots_of_a_folder(tmp_path):
    folder = tmp_path / "in"
    for name in ("top.png", "other.png", "trip/first/1.png", "trip/first/2.png", "trip/second/1.png"):
        save(folder / name)
    assert found(folder, "folder") == {
        "other.png": ["other.png"],
        "top.png": ["top.png"],
        "trip/first.png": ["trip/first/1.png", "trip/first/2.png"],
        "trip/second/1.png": ["trip/second/1.png"],
    }


def test_shots_of_a_moment(tmp_path):
    folder = tmp_path / "in"
    moments = {
        "c.jpg": ("10:00:00", "90"),
        "a.jpg": ("10:00:01", "80"),  # 0.9 s later
        "b.jpg": ("10:00:02", "85"),  # 1.05 s later
        "d.jpg": ("10:00:03", "00"),
        "other camera.jpg": ("10:00:03", "00"),
        "e.tif": ("10:00:03", "00"),
        "f.png": ("10:59:59", ""),
        "g.png": ("11:00:00", ""),
        "nothing.jpg": ("", ""),
    }
    for name, (when, part) in moments.items():
        save(folder / name, when=when, part=part, camera="b" if name.startswith("other") else "a")
    (folder / "damaged.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert found(folder, "time") == {
        "b.jpg": ["b.jpg", "d.jpg"],
        "c.jpg": ["c.jpg", "a.jpg"],
        "damaged.jpg": ["damaged.jpg"],
        "e.tif": ["e.tif"],
        "f.png": ["f.png", "g.png"],
        "nothing.jpg": ["nothing.jpg"],
        "other camera.jpg": ["other camera.jpg"],
    }
    seconds, camera = shots.taken(folder / "e.tif")
    assert (seconds % 60, camera) == (3.0, " a")


def burst(folder: Path, count: int = 3) -> list[np.ndarray]:
    pixels, _ = taken_shots(count, sigma=8)
    for n, shot in enumerate(pixels):
        save(folder / f"night-{n}.png", shot)
    return pixels


def hashes(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != bulk.MANIFEST)
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_burst_becomes_one_result(model, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    pixels = burst(folder)
    save(folder / "alone.png", pixels[0])
    options = {"model": model, "sigma": 8.0, "bursts": "name", "threads": 1}
    alone, together = list(fr.batch(folder, out, **options))
    restorer = fr.Restorer(model, threads=1)
    expected = restorer.burst(pixels, 8.0)
    np.testing.assert_array_equal(np.asarray(PilImage.open(out / "night.png")), expected)
    np.testing.assert_array_equal(np.asarray(PilImage.open(out / "alone.png")), restorer(pixels[0], 8.0))
    assert (alone["kind"], together["kind"]) == ("picture", "burst")
    assert together["shots"] == ["night-0.png", "night-1.png", "night-2.png"] and together["input"] == "night*.png"
    assert together["reference"] in (0, 1, 2) and together["seconds"]["restoring"] > 0
    assert all(record["skipped"] for record in fr.batch(folder, out, resume=True, **options))
    save(folder / "night-3.png", pixels[1])  # one more shot: another input
    alone, together = list(fr.batch(folder, out, resume=True, **options))
    assert alone["skipped"] and not together["skipped"] and together["ok"] and len(together["shots"]) == 4
    (folder / "night-1.png").write_bytes(b"no picture")
    alone, together = list(fr.batch(folder, out, resume=True, **options))
    assert alone["ok"] and not together["ok"] and "night-1.png" in together["error"]


def test_what_does_not_fit(model, plan, tmp_path):
    folder = tmp_path / "in"
    burst(folder)
    with pytest.raises(ValueError, match="a burst needs a model for bursts"):
        fr.batch(folder, tmp_path / "out", model=plan, bursts="name")
    with pytest.raises(ValueError, match="rules are folder, name, time"):
        fr.batch(folder, tmp_path / "out", model=model, bursts="smell")
    save(folder / "day.png")
    with pytest.raises(ImageError, match="would both become"):
        fr.batch(folder, tmp_path / "out", model=model, bursts="name", name="all{suffix}")
    outside = tmp_path / "outside.png"
    save(outside)
    (folder / "day.png").unlink()
    (folder / "night-9.png").symlink_to(outside)
    for n in range(17):
        save(folder / "many" / f"a{n}.png")
    linked, many = fr.batch(folder, tmp_path / "out", model=model, bursts="name")
    assert "many/a*.png: a burst is 1 to 16 shots, got 17" in many["error"]
    assert "link out of the folder" in linked["error"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Two clips, one of them in a container that is not written, one that is no clip, and a picture."""
    pytest.importorskip("av", reason="PyAV is not installed")
    from tests.test_video import make

    folder = tmp_path_factory.mktemp("clips")
    times = list(range(0, 24 * 9, 24))
    make(folder / "a.mp4", times=times)
    make(folder / "b.m2ts", times=times, sound=False)
    (folder / "bad.mkv").write_bytes(b"no clip")
    save(folder / "c.png", taken_shots(1)[0][0])
    return folder


def test_clips_in_a_folder(clips, model, tmp_path, capsys):
    from fastrestore import video
    from tests.test_video import content

    out = tmp_path / "out"
    options = {"model": model, "sigma": 10.0, "threads": 1}
    records = {record["input"]: record for record in fr.batch(clips, out, codec="ffv1", suffix=".mkv", **options)}
    assert list(records) == ["a.mp4", "b.m2ts", "bad.mkv", "c.png"]
    assert [name for name, record in records.items() if not record["ok"]] == ["bad.mkv"]
    assert sorted(hashes(out)) == ["a.mkv", "b.mkv", "c.png"]
    video.restore(fr.Restorer(model, threads=1), clips / "a.mp4", tmp_path / "alone.mkv", 10.0, codec="ffv1")
    assert (out / "a.mkv").read_bytes() == (tmp_path / "alone.mkv").read_bytes()
    record = records["a.mp4"]
    assert (
        (record["kind"], record["frames"], record["damaged"])
        == ("clip", 9, 0)
        == (
            "clip",
            len(content(out / "a.mkv")[0]),
            0,
        )
    )
    again = fr.batch(clips, out, codec="ffv1", suffix=".mkv", resume=True, **options)
    assert [record["skipped"] for record in again] == [True, True, False, True]
    with pytest.raises(ValueError, match="codec"):
        fr.batch(clips, out, codec="mp2", **options)
    with pytest.raises(ImageError, match="a clip needs one of the suffixes"):
        fr.batch(clips, out, name="{stem}.png", include=["a.mp4"], **options)
    with pytest.raises(SystemExit) as ended:
        command = ["batch", str(clips), str(tmp_path / "there"), "--model", model, "--sigma", "10", "--codec", "ffv1"]
        main([*command, "--suffix", ".mkv", "--exclude", "bad*", "--json"])
    assert ended.value.code == 0
    assert [json.loads(line)["ok"] for line in capsys.readouterr().out.splitlines()] == [True] * 3
    assert hashes(tmp_path / "there") == hashes(out)


_KILLED = """
import os, signal, sys
import fastrestore as fr
from fastrestore import video
video.PART_FRAMES = 2

def run(point):
    left = [point]
    def hook(event, arguments):
        if event in ('open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir') and {out!r} in str(arguments[0]):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    options = dict(codec='ffv1', suffix='.mkv', include=['a.mp4'], resume=True)
    (record,) = fr.batch({folder!r}, {out!r}, model={model!r}, sigma=10.0, threads=1, **options)
    assert record['ok'], record['error']

kills = 0
for point in range(3, 200, 6):
    child = os.fork()
    if child == 0:
        try:
            run(point)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    state = os.waitpid(child, 0)[1]
    if state == 0:
        break
    assert os.WIFSIGNALED(state)
    kills += 1
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_clip_goes_on_after_kills(clips, model, tmp_path, monkeypatch):
    """kill -9 at ever later steps on the output folder, each run going on from the one before: to the same bytes."""
    from fastrestore import video

    out = tmp_path / "out"
    script = _KILLED.format(folder=str(clips), out=str(out), model=model)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 4
    monkeypatch.setattr(video, "PART_FRAMES", 2)
    video.restore(fr.Restorer(model, threads=1), clips / "a.mp4", tmp_path / "whole.mkv", 10.0, codec="ffv1")
    assert (out / "a.mkv").read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert sorted(os.listdir(out)) == ["a.mkv", bulk.MANIFEST]


def test_other_settings_begin_a_clip_anew(clips, model, tmp_path, monkeypatch):
    from fastrestore import video

    out, options = tmp_path / "out", {"model": model, "threads": 1, "include": ["a.mp4"], "resume": True}

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "PART_FRAMES", 4)
    with monkeypatch.context() as patch:
        patch.setattr(video, "_assemble", stop)
        with pytest.raises(KeyboardInterrupt):
            list(fr.batch(clips, out, sigma=10.0, **options))
    assert (out / "a.mp4.parts").is_dir()
    (record,) = fr.batch(clips, out, sigma=20.0, **options)
    assert record["ok"] and record["sigma"] == 20.0
    assert sorted(os.listdir(out)) == ["a.mp4", bulk.MANIFEST]
