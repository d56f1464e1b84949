"""Video files: frames, times, sound, depth and colours through; faults; parts, resumption and Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

import fastrestore as fr
from fastrestore import checkpoint

av = pytest.importorskip("av", reason="PyAV is not installed")
from fastrestore import video  # noqa: E402

TIMES = [0, 24, 40, 90, 100, 130, *range(150, 354, 17)]  # in 1/600 s: a variable rate


def make(path, sizes=((64, 48),), times=TIMES, codec="libx264", pixels="yuv420p", sound=True, **tags):
    """A clip of a moving scene, with a second of sound; of several sizes, each for as many frames."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], pixels
        stream.codec_context.time_base = Fraction(1, 600)
        stream.options = {"crf": "8"} if codec == "libx264" else {}
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        if sound:
            voice = out.add_stream("aac", rate=16000)
            voice.layout = "mono"
        (width, height) = sizes[0]
        large = cv2.resize(rng.integers(30, 226, (8, 12, 3), np.uint8), (2 * width, 2 * height))
        for i, moment in enumerate(times):
            part = np.ascontiguousarray(large[i // 2 : i // 2 + height, i : i + width])
            frame = av.VideoFrame.from_ndarray(part, format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 600)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound:
            tone = np.sin(np.arange(16000) * 0.05, dtype=np.float32)[None]
            samples = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            samples.sample_rate = 16000
            out.mux(voice.encode(samples))
            out.mux(voice.encode(None))
    return path


def content(path):
    """Frames, RGB of as many bits as the file's, and times in seconds, of a clip."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = list(file.decode(stream))
        deep = frames[0].format.components[0].bits > 8
        way = av.video.reformatter.Interpolation
        exact = way.BICUBIC | way.ACCURATE_RND | way.FULL_CHR_H_INT | way.FULL_CHR_H_INP
        name = "rgb48le" if deep else "rgb24"
        pixels = [frame.reformat(format=name, interpolation=exact).to_ndarray() for frame in frames]
        return pixels, [frame.pts * stream.time_base for frame in frames]


def voice(path):
    with av.open(str(path)) as file:
        packets = [p for p in file.demux(file.streams.audio[0]) if p.dts is not None]
        return [(bytes(p), p.pts * p.time_base) for p in packets]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clips") / "in.mp4")


@pytest.fixture(scope="module")
def restorer():
    torch.manual_seed(0)
    return fr.Restorer(fr.create("fusion-unet", widths=(16, 16), blocks=1, hidden=16), threads=1)


def test_frames_times_and_sound_come_through(source, restorer, tmp_path):
    target = tmp_path / "out.mp4"
    calls = []
    report = video.restore(restorer, source, target, 10, 0.0, quality=4, progress=lambda *given: calls.append(given))
    before, times = content(source)
    after, kept = content(target)
    assert kept == times
    assert voice(target) == voice(source)
    assert report["frames"] == len(TIMES) == len(after)
    assert (report["damaged"], report["notices"]) == (0, [])
    assert calls == [(i + 1, len(TIMES)) for i in range(len(TIMES))]
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(before, after, strict=True)) < 3
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_written_is_what_a_stream_gives(restorer, tmp_path):
    source, target = make(tmp_path / "in.mkv", codec="ffv1", pixels="yuv444p"), tmp_path / "out.mkv"
    video.restore(restorer, source, target, 10, codec="ffv1")
    frames, times = content(source)
    expected = list(restorer.stream(frames, sigma=10))
    actual, kept = content(target)
    assert max(np.abs(a.astype(int) - b).max() for a, b in zip(actual, expected, strict=True)) <= 4  # YUV's rounding
    assert kept == times


@pytest.mark.parametrize(
    ("codec", "suffix"), [("h264", ".mp4"), ("h265", ".mov"), ("av1", ".mp4"), ("vp9", ".webm"), ("prores", ".mov")]
)
def test_codecs(source, restorer, tmp_path, codec, suffix):
    target = tmp_path / f"out{suffix}"
    report = video.restore(restorer, source, target, 10, 0.0, codec=codec)
    frames, _ = content(target)
    assert len(frames) == len(TIMES)
    assert (suffix == ".webm") == any("audio is left out" in notice for notice in report["notices"])


def test_ten_bits_stay_ten_bits(restorer, tmp_path):
    source = make(tmp_path / "in.mkv", pixels="yuv420p10le", codec="ffv1", sound=False)
    target = tmp_path / "out.mkv"
    video.restore(restorer, source, target, 10, 0.0, codec="ffv1")
    with av.open(str(target)) as file:
        assert file.streams.video[0].codec_context.pix_fmt == "yuv420p10le"
    a, b = content(source)[0], content(target)[0]
    assert max(np.abs(x.astype(int) - y).mean() for x, y in zip(a, b, strict=True)) < 2 * 64  # of 65535


@pytest.mark.parametrize("size", [(63, 47), (64, 47)], ids=str)
def test_odd_sides(restorer, tmp_path, size):
    source = make(tmp_path / "in.mkv", sizes=(size,), codec="ffv1", sound=False)
    report = video.restore(restorer, source, tmp_path / "out.mp4", 10, 0.0)
    assert content(tmp_path / "out.mp4")[0][0].shape == (size[1], size[0], 3)
    assert report["notices"] == ["its pixel format yuv420p becomes yuv444p"]


@pytest.mark.parametrize(("matrix", "limits", "shift"), [(1, 1, 0.2), (6, 1, 0.2), (1, 2, 1.2)])
def test_colour_tags_and_colours_are_kept(restorer, tmp_path, matrix, limits, shift):
    """FFmpeg itself moves colours by up to a level where YUV has RGB's full range."""
    source = make(tmp_path / "in.mp4", sound=False, colorspace=matrix, color_range=limits, color_primaries=matrix)
    target = tmp_path / "out.mp4"
    video.restore(restorer, source, target, 10, 0.0, quality=2)
    with av.open(str(target)) as file:
        frame = next(file.decode(video=0))
    assert (frame.colorspace, frame.color_range, frame.color_primaries) == (matrix, limits, matrix)
    a, b = content(source)[0], content(target)[0]
    assert abs(np.mean([x.mean((0, 1)) for x in a], 0) - np.mean([x.mean((0, 1)) for x in b], 0)).max() < shift


def test_a_cut_file_gives_what_there_is_and_says_so(restorer, tmp_path):
    whole = make(tmp_path / "whole.mkv", times=list(range(0, 1200, 24))).read_bytes()
    source = tmp_path / "in.mkv"
    source.write_bytes(whole[: len(whole) // 2])
    report = video.restore(restorer, source, tmp_path / "out.mp4", 10, 0.0)
    assert 0 < report["frames"] < 50
    assert len(content(tmp_path / "out.mp4")[0]) == report["frames"]


def test_damaged_packets_are_counted(restorer, tmp_path):
    source = make(tmp_path / "in.mp4", times=list(range(0, 2400, 24)), sound=False)
    data = bytearray(source.read_bytes())
    place = data.index(b"mdat") + 4
    length = len(data) - place
    for start in range(length // 3, length // 3 + length // 4):
        data[place + start] = 0xFF
    source.write_bytes(data)
    report = video.restore(restorer, source, tmp_path / "out.mp4", 10, 0.0)
    assert report["damaged"] > 0
    assert report["frames"] == len(content(tmp_path / "out.mp4")[0]) < 100
    assert any("decoded" in notice for notice in report["notices"])


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.mp4", b"", "is no clip"),
        ("text.mp4", b"not a clip at all\n" * 50, "is no clip"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n", "is no clip"),
        ("concat.mp4", b"ffconcat version 1.0\nfile in.mp4\n", "is no clip"),
    ],
)
def test_what_is_no_clip_is_refused(restorer, tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(fr.ImageError, match=f"{name}: {reason}"):
        video.restore(restorer, tmp_path / name, tmp_path / "out.mp4", 10)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_sound_alone_a_huge_frame_and_arguments(source, restorer, tmp_path):
    with av.open(str(tmp_path / "sound.m4a"), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        stream.layout = "mono"
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        out.mux(stream.encode(samples))
        out.mux(stream.encode(None))
    with pytest.raises(fr.ImageError, match="holds no video"):
        video.restore(restorer, tmp_path / "sound.m4a", tmp_path / "out.mp4", 10)
    with pytest.raises(fr.ImageError, match="64 x 48 pixels"):
        video.restore(restorer, source, tmp_path / "out.mp4", 10, max_pixels=3000)
    for wrong, options in (
        ("out.avi", {}),
        ("out.mp4", {"codec": "mp2"}),
        ("out.mov", {"codec": "ffv1", "quality": 3}),
    ):
        with pytest.raises(ValueError, match=r"suffixes|codec|quality"):
            video.restore(restorer, source, tmp_path / wrong, 10, **options)


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", [1, 5, 9])
def test_a_run_that_was_cut_off_goes_on_to_the_same_frames(source, restorer, tmp_path, monkeypatch, where):
    monkeypatch.setattr(video, "PART_FRAMES", 4)
    options = {"sigma": None, "codec": "ffv1"}
    video.restore(restorer, source, tmp_path / "whole.mkv", **options)

    def stop(done, of):
        if done == where:
            raise Stop

    target = tmp_path / "out.mkv"
    with pytest.raises(Stop):
        video.restore(restorer, source, target, progress=stop, **options)
    assert not target.exists()
    partial, whole = content(video.partial(target)), content(tmp_path / "whole.mkv")
    assert len(partial[0]) == where
    assert all(np.array_equal(a, b) for a, b in zip(partial[0], whole[0][:where], strict=True))
    with pytest.raises(fr.ImageError, match="other options"):
        video.restore(restorer, source, target, sigma=3, codec="ffv1", resume=True)
    seen = []
    video.restore(restorer, source, target, resume=True, progress=lambda done, of: seen.append(done), **options)
    assert seen == list(range(where + 1, len(TIMES) + 1))
    after = content(target)
    assert after[1] == whole[1]
    assert all(np.array_equal(a, b) for a, b in zip(after[0], whole[0], strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mkv", "whole.mkv"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_while_a_part_is_kept(source, restorer, tmp_path, monkeypatch, when):
    """It waits: what is restored so far is whole, and what goes on from it is what an unbroken run gives."""
    monkeypatch.setattr(video, "PART_FRAMES", 4)
    options = {"sigma": 10, "codec": "ffv1"}
    video.restore(restorer, source, tmp_path / "whole.mkv", **options)
    whole_file, target = video.images.whole_file, tmp_path / "out.mkv"

    @contextmanager
    def interrupted(path):
        part = path.name == "part-00001.safetensors"
        if part and when == "before":
            signal.raise_signal(signal.SIGINT)
        with whole_file(path) as file:
            yield file
        if part and when == "after":
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it from birth
    monkeypatch.setattr(video.images, "whole_file", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            video.restore(restorer, source, target, **options)
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setattr(video.images, "whole_file", whole_file)
    assert len(content(video.partial(target))[0]) == 8
    video.restore(restorer, source, target, resume=True, **options)
    assert [f.tobytes() for f in content(target)[0]] == [f.tobytes() for f in content(tmp_path / "whole.mkv")[0]]


def test_a_frame_of_another_size_keeps_what_came_before(restorer, tmp_path):
    small, large = make(tmp_path / "a.mp4", sound=False), make(tmp_path / "b.mp4", sizes=((96, 64),), sound=False)
    source = tmp_path / "in.ts"
    with av.open(str(source), "w", format="mpegts") as out:
        stream = None
        for number, path in enumerate((small, large)):
            with av.open(str(path)) as file:
                stream = stream or out.add_stream_from_template(file.streams.video[0])
                filters = av.BitStreamFilterContext("h264_mp4toannexb", file.streams.video[0])
                for packet in file.demux(video=0):
                    for part in filters.filter(packet) if packet.dts is not None else ():
                        part.pts, part.dts = (t + number * 40000 for t in (part.pts, part.dts))
                        part.stream = stream
                        out.mux(part)
    with pytest.raises(fr.ImageError, match="is 96 x 64 pixels, those before 64 x 48"):
        video.restore(restorer, source, tmp_path / "out.mp4", 10, 0.0)
    assert len(content(tmp_path / "out.partial.mp4")[0]) > 10
    assert not (tmp_path / "out.mp4").exists()


def run(*arguments, **options):
    code = "import sys; from fastrestore.cli import main; main(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", code, "video", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    checkpoint.save(fr.create("fusion-unet", widths=(16, 16), blocks=1, hidden=16), path)
    return path


def test_the_command(source, model_file, tmp_path):
    target = tmp_path / "out.mp4"
    options = [source, target, "--model", model_file, "--sigma", 10, "--threads", 1]
    process = run(*options, "--json")
    out, _ = process.communicate(timeout=120)
    report = json.loads(out)
    assert (process.returncode, report["frames"], report["notices"]) == (0, len(TIMES), [])
    assert report["frames_per_second"] > 0
    process = run(*options)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "exists; --overwrite" in told
    process = run(source, tmp_path / "out.gif", "--model", model_file)
    assert process.wait(timeout=120) == 2


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_leaves_a_clip_that_plays_and_resume_goes_on(model_file, tmp_path):
    source = make(tmp_path / "in.mp4", sizes=((320, 240),), times=list(range(0, 24 * 400, 24)))
    target = tmp_path / "out.mp4"
    options = [source, target, "--model", model_file, "--sigma", 10, "--threads", 1]
    process = run(*options, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    parts = tmp_path / "out.mp4.parts" / "part-00000.safetensors"
    end = time.monotonic() + 120
    while not parts.exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "out.partial.mp4 has what is restored so far" in told
    done = len(content(tmp_path / "out.partial.mp4")[0])
    assert 120 <= done < 400
    process = run(*options, "--resume", "--json")
    out, _ = process.communicate(timeout=240)
    assert (process.returncode, json.loads(out)["frames"]) == (0, 400)
    assert len(content(target)[0]) == 400
    assert voice(target) == voice(source)
