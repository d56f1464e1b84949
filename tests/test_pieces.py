"""Pictures restored piece by piece: the same bits and bytes at any budget, and memory that does not grow with them."""

import errno
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile

import fastrestore as fr
from fastrestore import engine, flow, restorer, sources
from fastrestore import image as images
from fastrestore.errors import ImageError, MemoryBudgetError
from fastrestore.tiled import TiledModel
from tests.test_engine import SMALL, picture, sigma_of, small_model
from tests.test_image import LYING, patched_tiff

LAYOUTS = {
    "strips": {"compression": "zlib", "rowsperstrip": 5},
    "raw strips": {},
    "tiles": {"tile": (32, 48), "compression": "lzw", "predictor": True},
    "zstd tiles": {"tile": (64, 16), "compression": "zstd"},
}


@pytest.fixture(autouse=True)
def pieces_for_all(monkeypatch):
    monkeypatch.setattr(restorer, "WHOLE_BYTES", 0)


def samples(height: int, width: int, channels: int, dtype: str) -> np.ndarray:
    values = np.random.default_rng(3).random((height, width, channels), np.float32)
    return values if dtype == "float32" else (values * np.iinfo(dtype).max).astype(dtype)


def in_memory(plan: str, source: Path, target: Path, monkeypatch, sigma: float | None = 20.0) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr(restorer, "WHOLE_BYTES", 1 << 60)
        fr.Restorer(plan, threads=1).file(source, target, sigma)
    return target.read_bytes()


@pytest.mark.parametrize("name", SMALL)
def test_windows_have_the_whole_pictures_bits(name):
    """What a window needs around it is enough, for every operator; Winograd's blocks are the hard part."""
    plan = engine.compile(small_model(name))
    beyond, image, sigma = flow.reach(plan), picture(261, 203), sigma_of(small_model(name))
    session = plan.session(threads=1)
    whole = session.run(image, sigma=sigma)
    for core in (flow.Box(0, 40, 0, 50), flow.Box(100, 113, 97, 120), flow.Box(200, 261, 3, 203)):
        part = beyond.part(core, *image.shape[:2])
        window = np.ascontiguousarray(image[part.read.top : part.read.bottom, part.read.left : part.read.right])
        restored = part.cut(session.run(window, sigma=sigma))
        np.testing.assert_array_equal(restored, whole[core.top : core.bottom, core.left : core.right])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, channels", [("uint8", 3), ("uint16", 4), ("float32", 1)])
def test_bytes_do_not_depend_on_the_budget(plan, layout, dtype, channels, tmp_path, monkeypatch):
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    photometric = "rgb" if channels > 1 else "minisblack"
    pixels = samples(150, 1700, channels, dtype)
    pixels = pixels if channels > 1 else pixels[..., 0]
    tifffile.imwrite(source, pixels, photometric=photometric, metadata=None, **LAYOUTS[layout])
    expected = in_memory(plan, source, tmp_path / "whole.tif", monkeypatch)
    parts = []
    for memory in ("1GiB", "14MiB", "9MiB"):
        report = fr.Restorer(plan, threads=1, memory=memory).file(source, target, 20.0)
        assert target.read_bytes() == expected
        assert set(report["stages"]) == {"reading", "restoring", "writing"} and report["bottleneck"] in report["stages"]
        parts.append(report["parts"])
    assert parts[0] == 1 and parts[-1] > 1


def test_the_noise_level_is_the_whole_pictures(plan, tmp_path, monkeypatch):
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, samples(300, 350, 3, "uint8"), photometric="rgb", metadata=None)
    expected = in_memory(plan, source, tmp_path / "whole.tif", monkeypatch, None)
    report = fr.Restorer(plan, memory="8MiB").file(source, tmp_path / "out.tif")
    assert report["sigma"] > 1
    assert (tmp_path / "out.tif").read_bytes() == expected


def test_floats_beyond_one_are_not_clipped(plan, tmp_path, monkeypatch):
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, samples(100, 90, 3, "float32") * 3, photometric="rgb", metadata=None)
    expected = in_memory(plan, source, tmp_path / "whole.tif", monkeypatch)
    report = fr.Restorer(plan).file(source, tmp_path / "out.tif", 20.0)
    assert any("nothing is clipped" in notice for notice in report["notices"])
    assert (tmp_path / "out.tif").read_bytes() == expected


def test_a_grey_model_and_a_module_take_colour(tmp_path, monkeypatch):
    """Neither can flow: both go window by window."""
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, samples(150, 170, 3, "uint8"), photometric="rgb", metadata=None, tile=(16, 16))
    grey = fr.create("dncnn", channels=1, depth=4, width=16).eval()
    for model, exact in ((grey, True), (small_model("dncnn"), False)):
        whole, pieces = fr.Restorer(model), fr.Restorer(model, memory="1MiB")
        if not exact:  # as if no plan covered it
            whole._runner, pieces._runner = (TiledModel(model, memory) for memory in (None, "64MiB"))
        pixels = images.read(source).pixels
        expected, _ = whole._restore(pixels, None, 1.0, True, None)
        pieces.file(source, target)
        difference = np.abs(images.read(target).pixels.astype(int) - expected.astype(int)).max()
        assert difference <= (0 if exact else 1)


def test_a_model_that_sees_the_whole_picture_gets_it(tmp_path):
    pytest.importorskip("zarr", reason="zarr is not installed")
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, samples(64, 64, 3, "uint8"), photometric="rgb", metadata=None)
    model = fr.Restorer(small_model("dncnn"))
    model._runner = TiledModel(small_model("dncnn"))
    model._runner.halo = None
    model.file(source, target)
    assert images.read(target).pixels.shape == (64, 64, 3)
    with pytest.raises(ImageError, match="whole picture"):
        model.file(source, tmp_path / "out.zarr")
    with fr.open_image(source) as opened, pytest.raises(ImageError, match="whole picture"):
        model.map(opened)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]


def test_too_small_a_budget_says_what_is_needed(plan, tmp_path):
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, samples(200, 300, 3, "uint8"), photometric="rgb", metadata=None)
    with pytest.raises(MemoryBudgetError, match=r"needs \d+ bytes") as caught:
        fr.Restorer(plan, threads=1, memory="100KiB").file(source, tmp_path / "out.tif", 20.0)
    needed = int(str(caught.value).split()[-2])
    fr.Restorer(plan, threads=1, memory=needed + 4096).file(source, tmp_path / "out.tif", 20.0)


def test_pyramids_are_rebuilt(plan, tmp_path):
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    pixels = samples(301, 259, 3, "uint8")
    sizes = [(301, 259), (150, 129), (75, 64)]
    for beneath in (True, False):
        with tifffile.TiffWriter(source) as writer:
            options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "compression": "zlib"}
            writer.write(pixels, subifds=2 if beneath else None, **options)
            for height, width in sizes[1:]:
                writer.write(pixels[:height, :width], subfiletype=1, **options)
        fr.Restorer(plan, threads=1, memory="5MiB").file(source, target, 20.0)
        with tifffile.TiffFile(target) as tif:
            pages = [tif.pages[0], *(tif.pages[0].pages if beneath else tif.pages[1:])]
            arrays = [page.asarray() for page in pages]
            assert [page.subfiletype for page in pages] == [0, 1, 1]
        assert [array.shape[:2] for array in arrays] == sizes
        for large, small in pairwise(arrays):
            height, width = small.shape[:2]
            blocks = large[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3).astype(float)
            np.testing.assert_allclose(small, blocks.mean((1, 3)), atol=0.51)


def test_a_jpeg_slide_keeps_its_kind(plan, tmp_path):
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    smooth = np.tile(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (150, 1, 3))
    tifffile.imwrite(source, smooth, photometric="rgb", metadata=None, tile=(64, 64), compression="jpeg")
    report = fr.Restorer(plan, memory="5MiB").file(source, target, 20.0, quality=98)
    with tifffile.TiffFile(target) as tif:
        assert tif.pages[0].compression == 7 and tif.pages[0].tilewidth == 64
    whole, _ = fr.Restorer(plan)._restore(images.read(source).pixels, 20.0, 1.0, True, None)
    assert np.abs(images.read(target).pixels.astype(int) - whole).max() < 12
    assert not report["notices"]


def test_wide_strips_become_tiles(plan, tmp_path, monkeypatch):
    monkeypatch.setattr("fastrestore.tiffwriter.WIDEST_STRIP", 100)
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, samples(60, 130, 3, "uint8"), photometric="rgb", metadata=None)
    report = fr.Restorer(plan).file(source, target, 20.0)
    assert "tiles of 512 x 512" in report["notices"][-1]
    with tifffile.TiffFile(target) as tif:
        assert tif.pages[0].is_tiled


def test_zarr_in_and_out(plan, tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    pixels = samples(203, 157, 3, "uint16")
    array = zarr.create_array(tmp_path / "in.zarr", shape=pixels.shape, chunks=(64, 48, 3), dtype="uint16")
    array[:] = pixels
    array.attrs["who"] = "a test"
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", metadata=None)
    in_memory(plan, tmp_path / "in.tif", tmp_path / "whole.tif", monkeypatch)
    expected = images.read(tmp_path / "whole.tif").pixels
    for source in ("in.zarr", "in.tif"):
        for _ in range(2):  # the second replaces the first
            fr.Restorer(plan, memory="6MiB", threads=1).file(tmp_path / source, tmp_path / "out.zarr", 20.0)
            result = zarr.open(tmp_path / "out.zarr", mode="r")
            np.testing.assert_array_equal(result[:], expected)
    fr.Restorer(plan).file(tmp_path / "in.zarr", tmp_path / "same.zarr", 20.0)
    same = zarr.open(tmp_path / "same.zarr", mode="r")
    assert same.chunks == (64, 48, 3) and same.attrs["who"] == "a test"
    fr.Restorer(plan).file(tmp_path / "in.zarr", tmp_path / "back.tif", 20.0)
    np.testing.assert_array_equal(images.read(tmp_path / "back.tif").pixels, expected)
    assert not list(tmp_path.glob(".fastrestore*"))


def test_open_image_reads_windows(tmp_path):
    pixels = samples(120, 90, 4, "uint8")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, tile=(32, 16))
    images.write(tmp_path / "a.png", images.Image(pixels[..., :3].copy(), pixels[..., 3].copy()))
    for name in ("a.tif", "a.png"):
        with fr.open_image(tmp_path / name) as opened:
            assert (opened.shape, opened.dtype, opened.alpha) == ((120, 90, 3), np.uint8, True)
            np.testing.assert_array_equal(opened[10:50, 33:90], pixels[10:50, 33:90, :3])
            np.testing.assert_array_equal(opened[-3:], pixels[-3:, :, :3])
            assert opened[5:5].shape == (0, 90, 3)
            for index in (3, (slice(None), 4), slice(0, 9, 2), (slice(None), slice(None), 0)):
                with pytest.raises(IndexError):
                    opened[index]
    with pytest.raises(ImageError, match="above the limit"):
        fr.open_image(tmp_path / "a.png", max_pixels=100)
    (tmp_path / "no.tif").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"no\.tif"):
        fr.open_image(tmp_path / "no.tif")


def test_a_restorer_maps_over_an_opened_picture(plan, tmp_path):
    pixels = samples(220, 250, 3, "uint16")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, tile=(32, 16))
    restorer = fr.Restorer(plan)
    whole, _ = restorer._restore(pixels, None, 1.0, True, None)
    with fr.open_image(tmp_path / "a.tif") as opened:
        clean = restorer.map(opened)
        assert clean.shape == opened.shape
        np.testing.assert_array_equal(clean[100:140, 200:250], whole[100:140, 200:250])
        np.testing.assert_array_equal(clean[:], whole)


class Made(sources.Source):
    """A picture that is computed when it is read."""

    def __init__(self, height: int, width: int):
        super().__init__(Path("made"), height, width, 3, np.uint16, False, (256, 256))

    def read(self, top, bottom, left, right):
        rows, columns = np.arange(top, bottom)[:, None, None], np.arange(left, right)[None, :, None]
        return ((rows * 31 + columns * 17 + np.arange(3) * 1000) % 65536).astype(np.uint16), None


_PEAK = """
import sys; sys.path.insert(0, {root!r})
import numpy as np
import fastrestore as fr
from fastrestore import pieces, sinks, engine
from pathlib import Path
from tests.test_pieces import Made
def peak(): return [int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith('VmHWM')][0]
restorer = fr.Restorer({plan!r}, threads=1, memory='{memory}')
restorer(np.zeros((64, 64, 3), np.uint8), 20.0)
before = peak()
def stop(done):
    global steps
    steps += 1
    if steps > {steps}: raise KeyboardInterrupt
steps = 0
try:
    restorer.opened(Made({height}, {width}), Path({folder!r}) / 'out.tif', 20.0, progress=stop)
except KeyboardInterrupt:
    pass
print(peak() - before, before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what memory a process had at most")
@pytest.mark.parametrize("height, width, steps", [(12_000, 300, 10**9), (200_000, 200_000, 60)], ids=str)
def test_memory_is_flat(plan, tmp_path, height, width, steps):
    """Made pictures: one tall and restored to its end, one of 40 gigapixels until memory has long been taken."""
    root, memory = str(Path(__file__).parent.parent), "128MiB" if width > 1000 else "16MiB"
    code = _PEAK.format(
        root=root, plan=plan, memory=memory, height=height, width=width, steps=steps, folder=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, _ = map(float, done.stdout.split())
    assert (
        grown < engine.parse_memory(memory) / 2**20 + 50
    )  # measured 28 above the larger budget, less than the smaller
    left = [path for path in tmp_path.iterdir() if path.name != "out.tif"]
    assert not left


def test_without_address_space_parts_are_lower(plan, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    shape = flow.Shape(20_000, 300, 3, False, np.dtype(np.uint8), (16, 16), (48, 16))
    whole, _ = flow.columns(engine.Plan.load(plan), shape, 1, 16 << 20)
    monkeypatch.setattr(flow.Rows, "__init__", refused)
    parts, _ = flow.columns(engine.Plan.load(plan), shape, 1, 16 << 20)
    assert len(whole) == 1 and len(parts) > 3
    assert all(part.core.top % 48 == 0 for part in parts)
    assert sum(part.core.height * part.core.width for part in parts) == 20_000 * 300
    assert max(part.core.height for part in parts) * 300 * 3 <= 4 << 20


def test_an_error_at_any_stage_leaves_nothing(plan, tmp_path, monkeypatch):
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, samples(300, 200, 3, "uint8"), photometric="rgb", metadata=None, tile=(16, 16))
    target.write_bytes(b"the old result")
    data = bytearray(source.read_bytes())
    model = fr.Restorer(plan, memory="8MiB")

    def full(self, row, column, data):
        if row > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fastrestore.tiffwriter.Writer.write", full)
        with pytest.raises(OSError, match="No space"):
            model.file(source, target, 20.0)

    def stop(done):
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.file(source, target, 20.0, progress=stop)
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"in\.tif"):
        model.file(source, target, 20.0)
    assert target.read_bytes() == b"the old result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]


def test_damage_in_the_middle_is_an_error(plan, tmp_path):
    source = tmp_path / "in.tif"
    tifffile.imwrite(
        source, samples(300, 200, 3, "uint8"), photometric="rgb", metadata=None, tile=(16, 16), compression="zlib"
    )
    with tifffile.TiffFile(source) as tif:
        offset = tif.pages[0].dataoffsets[150]
    with open(source, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)
    with pytest.raises(ImageError, match=r"in\.tif: cannot be decoded"):
        fr.Restorer(plan, memory="8MiB").file(source, tmp_path / "out.tif", 20.0)
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


@pytest.mark.parametrize("values", LYING, ids=str)
def test_headers_that_lie_are_refused_here_too(plan, values, tmp_path):
    """What has no limit of pixels is refused by what else does not fit, at once, and leaves nothing."""
    (tmp_path / "in.tif").write_bytes(patched_tiff(**values))
    begun = time.monotonic()
    with pytest.raises(ImageError, match=r"in\.tif"):
        fr.Restorer(plan, memory="64MiB").file(tmp_path / "in.tif", tmp_path / "out.tif", 20.0)
    assert time.monotonic() - begun < 10  # well under a second on an idle machine
    with pytest.raises(ImageError, match=r"in\.tif"):
        fr.open_image(tmp_path / "in.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]


def test_lists_of_smaller_copies_end(tmp_path):
    """A million entries that are all the same directory, and one that is the page itself."""
    file = tmp_path / "in.tif"
    with tifffile.TiffWriter(file) as writer:
        options = {"photometric": "rgb", "metadata": None}
        writer.write(samples(64, 64, 3, "uint8"), subifds=1, **options)
        writer.write(samples(32, 32, 3, "uint8"), subfiletype=1, **options)
    with tifffile.TiffFile(file) as tif:
        tag, own = tif.pages[0].tags["SubIFDs"], tif.pages[0].offset
        beneath = tag.value[0]
    for offsets in ([beneath] * 1_000_000, [own] * 3):
        with tifffile.TiffFile(file, mode="r+b") as tif:
            tif.pages[0].tags["SubIFDs"].overwrite(offsets)
        begun = time.monotonic()
        with fr.open_image(file) as opened:
            assert opened.shape == (64, 64, 3)
        assert time.monotonic() - begun < 10


def test_the_range_of_a_wide_float_picture_needs_little_memory(tmp_path):
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, samples(256, 20_000, 1, "float32")[..., 0] - 0.25, metadata=None, tile=(256, 256))
    with fr.open_image(source) as opened:
        tracemalloc.start()
        low, high = opened.range()
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
        tracemalloc.stop()
    assert -0.25 <= low < -0.24 and 0.74 < high <= 0.75


def test_reading_by_windows_needs_little_memory(tmp_path):
    source = tmp_path / "in.tif"
    tifffile.imwrite(
        source, samples(1500, 1000, 3, "uint8"), photometric="rgb", metadata=None, tile=(128, 128), compression="zlib"
    )
    with fr.open_image(source) as opened:
        tracemalloc.start()
        for top in range(0, 1500, 100):
            opened[top : top + 100, :200]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
