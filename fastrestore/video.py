"""Video files, by PyAV: a clip is read frame by frame, restored, and written with the sound and the times it came with.

What has been restored is kept in a folder beside the result, in parts, with the state of the stream after the last: a
run that was cut off goes on from there.  Of the source only the file itself is opened, never an address or another file
that it names.
"""

import heapq
import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from fastrestore import image as images
from fastrestore.errors import ImageError, MissingDependency
from fastrestore.restorer import Restorer, Stream

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
SUFFIXES = {*CONTAINERS, ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".ogv", ".flv", ".wmv", ".mxf"}  # read
PART_FRAMES = 120  # of a part: a kill loses less
READABLE = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,nut,mxf,ivf,h264,hevc,gif,yuv4mpegpipe"


@dataclass(frozen=True)
class Codec:
    """An encoder that a result can be written with."""

    encoder: str  # its name in FFmpeg
    quality: int | None  # default of its constant rate factor, smaller is better; None: has none
    options: dict[str, str] = field(default_factory=dict)


CODECS = {
    "h264": Codec("libx264", 16, {"preset": "medium"}),
    "h265": Codec("libx265", 18, {"preset": "medium", "x265-params": "log-level=error"}),
    "av1": Codec("libsvtav1", 24, {"preset": "6"}),
    "vp9": Codec("libvpx-vp9", 20, {"b": "0", "row-mt": "1"}),
    "prores": Codec("prores_ks", None, {"profile": "hq"}),
    "ffv1": Codec("ffv1", None, {"level": "3"}),  # without loss
}

Progress = Callable[[int, int | None], object]  # frames done, of how many if the file says


def restore(
    restorer: Restorer,
    source: str | os.PathLike,
    target: str | os.PathLike,
    sigma: float | None = None,
    strength: float = 1.0,
    *,
    codec: str | None = None,
    quality: int | None = None,
    resume: bool | None = False,
    max_pixels: int = images.MAX_PIXELS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Restores a clip into a file, whose suffix names the container: one of CONTAINERS.

    Sound, subtitles, the frames' times, colour tags, depth and pixel shape are kept; what cannot be, a notice says.
    codec: a key of CODECS (None: vp9 for .webm, else h264); quality: its constant rate factor.  sigma and strength are
    Restorer.stream's.  resume: go on from what an earlier run has left; None: if that was of the same source with the
    same options, and else anew.  progress: called after each frame.
    Returns {frames, damaged (packets that could not be decoded), height, width, seconds, notices}.
    If the work ends before the clip does, by an error or by Ctrl-C, the target is as it was; what has been restored is
    kept for resume, and as a clip that plays: see `partial`.
    Raises ImageError for what is no clip, holds no frame, or changes its size; MissingDependency without PyAV;
    ValueError for a container, codec or quality that is not there.
    """
    source, target = Path(source), Path(target)
    encoded, quality = chosen(target, codec, quality)
    start = time.perf_counter()
    with Clip(source, max_pixels) as clip:
        output = Output(clip, CODECS[encoded], quality)
        model = [restorer.info["model"], restorer.info["precision"], sigma, strength]
        parts = Parts(target, output, {"source": _fingerprint(source), "model": model}, resume)
        session = Stream(restorer)
        if parts.frames:
            session.resume(parts.state)
        state = parts.state
        try:
            for number, (pixels, frame) in enumerate(clip.frames(parts.frames), parts.frames + 1):
                restored, after = session(pixels, sigma, strength), session.state()
                with _unbroken():  # a frame and the state after it belong together
                    parts.write(restored, frame)
                    state = after
                    if parts.pending == PART_FRAMES:
                        parts.close(state)
                if progress:
                    progress(number, clip.count)
        except BaseException:
            with _unbroken():
                parts.close(state)
                if parts.frames:
                    _assemble(partial(target), clip, output, parts)
            raise
        with _unbroken():  # PyAV swallows an interruption while it writes, and what it was to write
            parts.close(state)
            notices = [*clip.notices, *output.notices, *_assemble(target, clip, output, parts)]
    parts.remove()
    partial(target).unlink(missing_ok=True)
    return {
        "frames": parts.frames,
        "damaged": clip.damaged,
        "height": clip.height,
        "width": clip.width,
        "seconds": time.perf_counter() - start,
        "notices": notices,
    }


def partial(target: Path) -> Path:
    """Where a run that was cut off leaves what it has restored, as a clip that plays."""
    return target.with_name(f"{target.stem}.partial{target.suffix}")


class Clip:
    """The first video of a file, frame by frame.  A context."""

    def __init__(self, path: Path, max_pixels: int):
        self.path, self.notices = path, []
        self.damaged = 0  # packets that could not be decoded, so far
        self._containers: list[Any] = []
        av = _av()
        container = self.container()
        videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not videos:
            raise self._error("holds no video")
        stream = videos[0]
        if len(videos) > 1:
            self.notices.append(f"only the first of its {len(videos)} videos is kept")
        width, height = stream.codec_context.width, stream.codec_context.height
        if not 0 < width * height <= max_pixels:
            raise self._error(f"frames of {width} x {height} pixels; from 1 to {max_pixels} are read")
        self._index = stream.index
        self.rate: Fraction = stream.average_rate or Fraction(25)  # frames a second
        self.time_base: Fraction = stream.time_base
        self.count: int | None = stream.frames or None  # frames, as the file says
        self.aspect: Fraction | None = stream.sample_aspect_ratio  # of a pixel
        self.first = next(self._decoded(container), None)  # for its format and colours
        if self.first is None:
            raise self._error("holds no frame that can be decoded")
        self.damaged = 0
        self.turns = self.first.rotation // 90 % 4  # counterclockwise, by which a frame comes to stand upright
        size = self.first.height, self.first.width
        self.height, self.width = size[::-1] if self.turns % 2 else size
        if self.turns:
            self.notices.append("its frames are turned upright")
            self.aspect = 1 / self.aspect if self.aspect and self.turns % 2 else self.aspect
        if self.first.interlaced_frame:
            self.notices.append("it is interlaced, which a model takes for detail")

    def __enter__(self) -> "Clip":
        return self

    def __exit__(self, *_: object) -> None:
        for container in self._containers:
            container.close()

    def container(self) -> Any:
        """The file, opened anew.  Raises ImageError for what is no clip."""
        av = _av()
        file = images.open_file(self.path)
        try:
            container = av.open(file, io_open=_refuse, container_options={"format_whitelist": READABLE})
        except (av.error.FFmpegError, OSError) as error:
            file.close()
            raise self._error(f"is no clip that can be read ({error.strerror})") from error
        self._containers.append(container)
        return container

    def frames(self, skip: int = 0) -> Iterator[tuple[np.ndarray, Any]]:
        """Pixels, RGB uint8 or uint16 [H, W, 3], and PyAV's frame with its time; the first `skip` are left out.

        Times that are missing or do not rise are made up from the rate.  Raises ImageError for a frame of another size
        than the first.
        """
        number, last = 0, None
        step = max(1, round(1 / (self.rate * self.time_base)))
        for frame in self._decoded(self.container()):
            number += 1
            if (frame.width, frame.height) != (self.first.width, self.first.height):
                before = f"{self.first.width} x {self.first.height}"
                raise self._error(f"frame {number} is {frame.width} x {frame.height} pixels, those before {before}")
            if frame.pts is None or (last is not None and frame.pts <= last):
                frame.pts = 0 if last is None else last + step
            last = frame.pts
            if number > skip:
                name = "rgb48le" if _is_deep(frame.format) else "rgb24"
                pixels = frame.reformat(format=name, interpolation=_exact()).to_ndarray()
                yield np.ascontiguousarray(np.rot90(pixels, self.turns)), frame
        if self.damaged:
            self.notices.append(f"{self.damaged} of its packets could not be decoded")
        if self.count and number < self.count:
            self.damaged = self.damaged or 1
            self.notices.append(f"it should hold {self.count} frames; {number} could be decoded")

    def _decoded(self, container: Any) -> Iterator[Any]:
        """The frames that can be decoded; counts the packets that cannot."""
        av = _av()
        stream = container.streams[self._index]
        stream.thread_type = "AUTO"
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                frames = () if packet is None else packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1
                continue
            if packet is None:
                return
            yield from frames

    def _error(self, reason: str) -> ImageError:
        return ImageError(f"{images.show_name(self.path)}: {reason}")


class Output:
    """How a clip's frames are encoded."""

    def __init__(self, clip: Clip, codec: Codec, quality: int | None):
        self.clip, self.codec, self.quality = clip, codec, quality
        self.notices: list[str] = []
        self.format = self._format()

    def _format(self) -> str:
        """The source's own pixel format, or the nearest that the encoder has."""
        own = self.clip.first.format
        name = own.name.replace("yuvj", "yuv")  # the same, its range told apart
        offered = {f.name for f in _av().Codec(self.codec.encoder, "w").video_formats}
        halved = self.codec.encoder != "ffv1" and (self.clip.width % 2 or self.clip.height % 2)
        names = ["yuv420p", "yuv422p", "yuv444p"]
        if own.is_rgb or halved:  # halved colours need even sides
            names.reverse()
        near = [*(f"{n}10le" for n in names), *names] if _is_deep(own) else [*names, *(f"{n}10le" for n in names)]
        if not halved or own.is_rgb or "444" in name:
            near.insert(0, name)
        chosen = next((n for n in near if n in offered), None)
        if chosen is None:
            raise ImageError(f"{self.codec.encoder} takes no pixel format like {own.name}")
        if chosen != name:
            self.notices.append(f"its pixel format {own.name} becomes {chosen}")
        return chosen

    def configure(self, context: Any) -> None:
        """Prepares an encoder's context."""
        clip, first = self.clip, self.clip.first
        context.width, context.height, context.pix_fmt = clip.width, clip.height, self.format
        context.time_base, context.framerate = clip.time_base, clip.rate
        context.color_range, context.colorspace = first.color_range, first.colorspace
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        context.flags |= _av().codec.context.Flags.global_header
        context.options = self.codec.options | ({} if self.quality is None else {"crf": str(self.quality)})

    def frame(self, pixels: np.ndarray, source: Any) -> Any:
        """Restored pixels as a frame, with the time of the source's frame and the clip's colours."""
        first = self.clip.first
        rgb = _av().VideoFrame.from_ndarray(pixels, format="rgb48le" if pixels.dtype == np.uint16 else "rgb24")
        colours = {"dst_colorspace": first.colorspace, "dst_color_range": first.color_range}
        frame = rgb.reformat(format=self.format, interpolation=_exact(), **colours)
        frame.colorspace, frame.color_range = first.colorspace, first.color_range
        frame.pts, frame.time_base = source.pts, source.time_base
        return frame


class Packed(NamedTuple):
    """An encoded frame; its times are in the clip's time base."""

    content: bytes
    pts: int
    dts: int
    key: bool


class Parts:
    """The restored frames in a folder beside the target: encoded, in parts, with the stream's state after the last."""

    def __init__(self, target: Path, output: Output, job: Mapping[str, Any], resume: bool | None):
        """job: what decides the result, beside the output.

        Raises ImageError where resume is True and there are parts of another job.
        """
        self.folder, self.output = target.with_name(f"{target.name}.parts"), output
        self.frames = 0  # in the parts that are closed
        self.state: dict[str, np.ndarray] = {}  # of the stream after them
        self.pending = 0  # frames in the part that is not closed
        self._paths: list[Path] = []
        self._encoder: Any = None
        self._packets: list[Packed] = []
        about = json.dumps({**job, "output": [output.codec.encoder, output.format, output.quality]})
        kept = self.folder / "job.json"
        same = kept.exists() and kept.read_text() == about
        if resume and kept.exists() and not same:
            raise ImageError(f"{images.show_name(self.folder)}: holds parts of another source or with other options")
        if resume is not False and same:
            self._recall()
            return
        if self.folder.exists():
            self.remove()
        self.folder.mkdir()
        with images.whole_file(kept) as file:
            file.write(about.encode())

    def write(self, pixels: np.ndarray, source: Any) -> None:
        """Encodes a restored frame.  source: PyAV's frame that it was."""
        if self._encoder is None:
            self._encoder = _av().CodecContext.create(self.output.codec.encoder, "w")
            self.output.configure(self._encoder)
        self._keep(self._encoder.encode(self.output.frame(pixels, source)))
        self.pending += 1

    def close(self, state: Mapping[str, np.ndarray]) -> None:
        """Ends the part that is being written, if there is one.  state: of the stream after its last frame."""
        if self._encoder is None:
            return
        with _unbroken():
            self._keep(self._encoder.encode(None))
            if not self._packets:  # its first frame was refused
                self._encoder = None
                return
            table = np.array([(len(p.content), p.pts, p.dts, p.key) for p in self._packets], np.int64)
            content = np.frombuffer(b"".join(p.content for p in self._packets), np.uint8)
            path = self._part(len(self._paths))
            with images.whole_file(path) as file:
                file.write(save({"table": table, "content": content}))
            self._paths.append(path)
            self.frames += len(table)
            with images.whole_file(self.folder / "state.safetensors") as file:
                file.write(save({"frames": np.array(self.frames), **{f"state/{k}": v for k, v in state.items()}}))
            self.pending, self._encoder, self._packets = 0, None, []

    def times(self) -> list[int]:
        """When each frame of the closed parts is shown, in order."""
        return sorted(pts for path in self._paths for pts in load_file(path)["table"][:, 1].tolist())

    def packets(self) -> Iterator[Packed]:
        """The encoded frames of the closed parts, in the order of decoding."""
        for path in self._paths:
            tensors = load_file(path)
            content, start = tensors["content"].tobytes(), 0
            for size, pts, dts, key in tensors["table"].tolist():
                yield Packed(content[start : start + size], pts, dts, bool(key))
                start += size

    def remove(self) -> None:
        """Removes the folder and what is written there, also by a run that was killed; without its job the rest is for
        nobody, should this be killed too."""
        for name in ("job.json", "state.safetensors", "part-*.safetensors", ".fastrestore-*.part"):
            for path in self.folder.glob(name):
                path.unlink()
        self.folder.rmdir()

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:05}.safetensors"

    def _keep(self, packets: list[Any]) -> None:
        self._packets += [Packed(bytes(p), p.pts, p.pts if p.dts is None else p.dts, p.is_keyframe) for p in packets]

    def _recall(self) -> None:
        """What an earlier run has left; a part that is younger than the state is written anew."""
        state = self.folder / "state.safetensors"
        if not state.exists():
            return
        try:
            tensors = load_file(state)
            frames = int(tensors["frames"])
            while self.frames < frames:
                path = self._part(len(self._paths))
                self.frames += len(load_file(path)["table"])
                self._paths.append(path)
        except (OSError, SafetensorError, KeyError) as error:
            raise ImageError(f"{images.show_name(self.folder)}: its parts cannot be read: {error}") from error
        self.state = {key.removeprefix("state/"): value for key, value in tensors.items() if key != "frames"}


@contextmanager
def _unbroken() -> Iterator[None]:
    """Ctrl-C and the wish to end wait until the body is done: an encoder can be ended only once."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        for number in came[:1]:
            signal.raise_signal(number)


def _assemble(path: Path, clip: Clip, output: Output, parts: Parts) -> list[str]:
    """Writes the clip of the closed parts, with the source's sound and subtitles as they are.  Returns notices."""
    av = _av()
    kind, notices = CONTAINERS[path.suffix.lower()], []
    times = parts.times()
    options = {"fflags": "+bitexact"}  # no random numbers: the same frames become the same bytes
    if kind in ("mp4", "mov"):  # the muxer's own choice would round the times
        options["video_track_timescale"] = str(clip.time_base.denominator)
    with images.whole_file(path) as file, av.open(file, "w", format=kind, container_options=options) as out:
        source = clip.container()
        out.metadata.update(source.metadata)
        video = out.add_stream(output.codec.encoder, rate=clip.rate)
        output.configure(video.codec_context)
        video.time_base = clip.time_base
        kept = {}
        for stream in source.streams:
            if stream.type == "video":
                continue
            known = stream.type in ("audio", "subtitle")
            if known and stream.codec_context.codec.canonical_name in out.supported_codecs:
                kept[stream.index] = out.add_stream_from_template(stream)
            else:
                notices.append(f"its {stream.type or 'data'} is left out: {kind} files do not hold such")
        whole = clip.count is None or len(times) >= clip.count
        end = None if whole else times[-1] * clip.time_base
        streams = [_video_packets(parts, times, clip, video)]
        if kept:
            streams.append(_other_packets(source, kept, end))
        for packet in heapq.merge(*streams, key=lambda packet: packet.dts * packet.time_base):
            out.mux(packet)
    return notices


def _video_packets(parts: Parts, times: list[int], clip: Clip, stream: Any) -> Iterator[Any]:
    """The encoded frames as packets of a stream, each with its duration."""
    after = dict(pairwise(times))
    last = None
    for packed in parts.packets():
        packet = _av().Packet(packed.content)
        packet.stream, packet.time_base = stream, clip.time_base
        last = packed.dts if last is None else max(packed.dts, last + 1)  # where two parts meet
        packet.pts, packet.dts = packed.pts, last
        packet.duration = after.get(packed.pts, packed.pts + round(1 / (clip.rate * clip.time_base))) - packed.pts
        packet.is_keyframe = packed.key
        yield packet


def _other_packets(source: Any, kept: Mapping[int, Any], end: Fraction | None) -> Iterator[Any]:
    """The packets of other streams, up to a time in seconds.  kept: the result's streams by the source's indices."""
    for packet in source.demux([source.streams[index] for index in kept]):
        if packet.dts is None:  # the end of a stream
            continue
        if end is not None and packet.dts * packet.time_base > end:
            return
        packet.stream = kept[packet.stream_index]
        yield packet


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingDependency("video files need PyAV: pip install 'fastrestore[video]'") from error
    # What matters of a file's faults is told as an error or a notice.  Not set_level: its callback can deadlock.
    av.logging.set_libav_level(av.logging.PANIC)
    return av


def _exact() -> Any:
    """How colours are converted: the default of FFmpeg's darkens each way by half a level, and blurs colours."""
    way = _av().video.reformatter.Interpolation
    return way.BICUBIC | way.ACCURATE_RND | way.FULL_CHR_H_INT | way.FULL_CHR_H_INP


def chosen(target: Path, codec: str | None, quality: int | None) -> tuple[str, int | None]:
    """The key of CODECS and the quality that are meant.  Raises ValueError for what is not there; see restore."""
    if target.suffix.lower() not in CONTAINERS:
        raise ValueError(f"{images.show_name(target)}: a clip needs one of the suffixes {', '.join(CONTAINERS)}")
    codec = codec or ("vp9" if target.suffix.lower() == ".webm" else "h264")
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r:.50} is not there: {', '.join(CODECS)} are")
    if quality is None:
        return codec, CODECS[codec].quality
    if CODECS[codec].quality is None:
        raise ValueError(f"{codec} has no quality to choose")
    if not 0 <= quality <= 63:
        raise ValueError(f"quality must be from 0 (best) to 63, got {quality}")
    return codec, quality


def _fingerprint(path: Path) -> list[int]:
    """Size and checksums of a file's first and last megabyte: whether it is still the same."""
    with images.open_file(path) as file:
        head = file.read(1 << 20)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 20)))
        return [size, zlib.crc32(head), zlib.crc32(file.read())]


def _is_deep(format_: Any) -> bool:
    return format_.components[0].bits > 8


def _refuse(url: str, flags: int, options: dict) -> None:
    raise PermissionError(f"{url}: only the clip's own file is opened")
