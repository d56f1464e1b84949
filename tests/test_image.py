"""The door for outside bytes: what comes in comes out again, and hostile files are refused."""

import errno
import io
import os
import struct
import time
import zlib
from functools import lru_cache

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from PIL import ImageCms, ImageOps

from fastrestore import files, image, png
from fastrestore.errors import FastrestoreError, ImageError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".tif": "TIFF", ".webp": "WebP", ".bmp": "BMP"}
FULL = {"uint8": 255, "uint16": 65535, "float32": 1}


def icc_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(orientation: int = 1) -> bytes:
    exif = PilImage.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


def exif_values(block: bytes) -> list[dict]:
    exif = PilImage.Exif()
    exif.load(block)
    plain = {k: v for k, v in exif.items() if k not in (0x8769, 0x8825)}
    return [plain, dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825))]


def sample(dtype: str, channels: int, alpha: bool = False, size: tuple[int, int] = (13, 17), seed: int = 0):
    rng = np.random.default_rng(seed)
    pixels = (rng.random((*size, channels)) * FULL[dtype]).astype(dtype)
    return pixels, (rng.random(size) * FULL[dtype]).astype(dtype) if alpha else None


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(width, height, depth, colour, raw, extra=b"", interlace=0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return png.SIGNATURE + body


def saved(picture: PilImage.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def tiff_file(*args, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, *args, **options)
    return file.getvalue()


# What a file holds comes back


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "suffix, dtype",
    [
        (".png", "uint8"),
        (".png", "uint16"),
        (".tif", "uint8"),
        (".tif", "uint16"),
        (".tif", "float32"),
        (".webp", "uint8"),
    ],
)
def test_lossless_round_trip(tmp_path, suffix, dtype, channels, alpha):
    pixels, plane = sample(dtype, channels, alpha)
    exif, icc, xmp = exif_block(6), icc_profile(), b"<x:xmpmeta/>"
    picture = image.Image(pixels, plane, format=FORMATS[suffix], icc=icc, exif=exif, xmp=xmp, dpi=(300.0, 150.0))
    notices = image.write(tmp_path / f"a{suffix}", picture)
    back = image.read(tmp_path / f"a{suffix}")
    expected = np.repeat(pixels, 3, 2) if suffix == ".webp" and channels == 1 else pixels  # WebP has no grey
    np.testing.assert_array_equal(back.pixels, expected)
    assert back.pixels.dtype == pixels.dtype
    if alpha:
        np.testing.assert_array_equal(back.alpha, plane)
    else:
        assert back.alpha is None
    assert back.icc == icc
    assert exif_values(back.exif) == exif_values(exif)
    assert back.xmp == xmp
    assert back.orientation == 6
    assert back.notices == []
    if suffix == ".webp":
        assert notices == ["the resolution is not kept: WebP holds none"]
    else:
        assert notices == []
        assert back.dpi == pytest.approx((300, 150), abs=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_and_bmp_round_trip(tmp_path, channels):
    pixels = np.broadcast_to(np.arange(64, 64 + 48, dtype=np.uint8)[:, None, None], (48, 32, channels)).copy()
    jpeg = image.Image(pixels, format="JPEG", icc=icc_profile(), exif=exif_block(), dpi=(72.0, 72.0))
    assert image.write(tmp_path / "a.jpg", jpeg) == []
    back = image.read(tmp_path / "a.jpg")
    assert np.abs(back.pixels.astype(int) - pixels).max() <= 2
    assert (back.icc, back.dpi) == (jpeg.icc, (72.0, 72.0))
    assert exif_values(back.exif) == exif_values(jpeg.exif)
    assert image.write(tmp_path / "a.bmp", jpeg) == ["not kept: colour profile, EXIF: BMP holds none"]
    np.testing.assert_array_equal(image.read(tmp_path / "a.bmp").pixels, pixels)


@pytest.mark.parametrize(
    "suffix, dtype, alpha, words",
    [
        (".jpg", "uint16", True, ["uint16 samples become uint8", "transparency is not kept"]),
        (".webp", "float32", True, ["float32 samples become uint8"]),
        (".png", "float32", True, ["float32 samples become uint16"]),
        (".bmp", "uint8", True, ["transparency is not kept"]),
    ],
)
def test_what_a_format_cannot_hold_is_said(tmp_path, suffix, dtype, alpha, words):
    pixels, plane = sample(dtype, 3, alpha)
    notices = image.write(tmp_path / f"a{suffix}", image.Image(pixels, plane, format=FORMATS[suffix]))
    assert len(notices) == len(words) and all(word in notice for word, notice in zip(words, notices, strict=True))
    back = image.read(tmp_path / f"a{suffix}")
    error = np.abs(back.pixels / FULL[back.pixels.dtype.name] - pixels / FULL[dtype]).max()
    assert suffix == ".jpg" or error <= 0.5 / FULL[back.pixels.dtype.name] + 1e-6


def test_convert_rounds_and_clips():
    floats = np.array([[-1, 0, 0.5, 1, 2, 0.499 / 255, 0.501 / 255]], np.float32)
    assert image.convert(floats, np.uint8).tolist() == [[0, 0, 128, 255, 255, 0, 1]]
    words = np.array([[0, 127, 129, 65535]], np.uint16)
    assert image.convert(words, np.uint8).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_survives_a_change_of_format(tmp_path, orientation):
    pixels, _ = sample("uint8", 3)
    source = saved(PilImage.fromarray(pixels), "PNG", exif=exif_block(orientation))
    upright = np.asarray(ImageOps.exif_transpose(PilImage.open(io.BytesIO(source))))
    picture = image.read(source)
    image.write(tmp_path / "same.png", picture)
    same = image.read(tmp_path / "same.png")
    np.testing.assert_array_equal(same.pixels, pixels)
    assert same.orientation == orientation
    image.write(tmp_path / "other.tif", picture)
    other = image.read(tmp_path / "other.tif")
    np.testing.assert_array_equal(other.pixels, upright)
    assert other.orientation == 1
    assert exif_values(other.exif)[1:] == exif_values(picture.exif)[1:]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_is_never_eight(tmp_path, channels):
    samples = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    raw = np.concatenate([np.zeros((5, 1), np.uint8), samples.astype(">u2").reshape(5, -1).view(np.uint8)], 1)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    picture = image.read(png_file(7, 5, 16, colour, raw.tobytes()))
    colours = 1 if channels < 3 else 3
    np.testing.assert_array_equal(picture.pixels, samples[..., :colours])
    assert picture.bits == 16
    if channels in (2, 4):
        np.testing.assert_array_equal(picture.alpha, samples[..., -1])
    image.write(tmp_path / "a.png", picture)  # our own writer, read by another decoder
    decoded = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).reshape(5, 7, -1)
    np.testing.assert_array_equal(decoded[..., colours - 1 :: -1] if colours == 3 else decoded[..., :1], picture.pixels)


def test_tall_sixteen_bit_png_crosses_bands(tmp_path):
    pixels, _ = sample("uint16", 3, size=(1500, 400))
    image.write(tmp_path / "a.png", image.Image(pixels))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[..., ::-1], pixels)


def test_png_transparent_colours_and_interlace():
    grey = np.array([[5, 9]], np.uint8)
    transparent = png_chunk(b"tRNS", struct.pack(">H", 9))
    picture = image.read(png_file(2, 1, 8, 0, b"\0" + grey.tobytes(), transparent))
    assert (picture.pixels[..., 0].tolist(), picture.alpha.tolist()) == ([[5, 9]], [[255, 0]])
    words = np.array([[5, 9]], ">u2")
    picture = image.read(png_file(2, 1, 16, 0, b"\0" + words.tobytes(), transparent))
    assert (picture.pixels[..., 0].tolist(), picture.alpha.tolist()) == ([[5, 9]], [[65535, 0]])
    passes = b"\0\0\x10" + b"\0\0\x20"  # Adam7 of 2 x 1 pixels: pass 1 holds the first, pass 6 the second
    assert image.read(png_file(2, 1, 16, 0, passes, interlace=1)).pixels[..., 0].tolist() == [[0x10, 0x20]]


def test_png_words_and_colour_chunks_are_kept(tmp_path):
    extra = png_chunk(b"gAMA", struct.pack(">I", 45455)) + png_chunk(b"tEXt", b"Title\0a picture")
    extra += png_chunk(b"vpAg", b"private")
    for depth, raw in ((8, b"\0\1\2\3"), (16, b"\0\0\1\0\2\0\3")):
        picture = image.read(png_file(1, 1, depth, 2, raw, extra))
        assert picture.notices == ["chunks not kept: vpAg"]
        image.write(tmp_path / "a.png", picture)
        with PilImage.open(tmp_path / "a.png") as back:
            assert (back.info["gamma"], back.text["Title"]) == (0.45455, "a picture")


def test_conversions_on_the_way_in():
    colours = PilImage.new("P", (3, 2), 1)
    colours.putpalette([0, 0, 0, 10, 20, 30])
    picture = image.read(saved(colours, "PNG"))
    assert picture.pixels[0, 0].tolist() == [10, 20, 30]
    assert picture.notices == ["a palette picture becomes full colour"]
    assert image.read(saved(colours, "PNG", transparency=1)).alpha.tolist() == [[0] * 3] * 2
    assert image.read(saved(PilImage.new("1", (3, 2), 1), "PNG")).pixels.tolist() == [[[255]] * 3] * 2
    cmyk = image.read(saved(PilImage.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(cmyk.pixels.astype(int) - [255, 0, 0]).max() < 8
    assert cmyk.notices == ["CMYK is converted to RGB"]


@pytest.mark.parametrize("kind", ["PNG", "WebP", "TIFF"])
def test_only_the_first_frame_is_taken_and_that_is_said(kind):
    frames = [PilImage.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 200)]
    picture = image.read(saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True))
    assert picture.pixels[0, 0, 0] == 10
    assert any("only the first of its" in notice for notice in picture.notices)


# TIFF


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"compression": "lzw", "predictor": True},
        {"compression": "packbits"},
        {"compression": "zstd"},
        {"compression": "zlib", "rowsperstrip": 7, "planarconfig": "separate"},
        {"compression": "zlib", "byteorder": ">", "predictor": True},
        {"compression": "zlib", "tile": (16, 32), "predictor": True},
        {"rowsperstrip": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiff_layouts(options, dtype, tmp_path):
    if options.get("compression") in ("lzw", "zstd") or (options.get("predictor") and dtype == "float32"):
        pytest.importorskip("imagecodecs")
    if options.get("predictor") and dtype == "float32":
        options = options | {"predictor": 3}
    pixels, _ = sample(dtype, 3, size=(33, 21))
    data = np.ascontiguousarray(np.moveaxis(pixels, 2, 0)) if "planarconfig" in options else pixels
    picture = image.read(tiff_file(data, photometric="rgb", metadata=None, **options))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.pixels.flags.c_contiguous and picture.pixels.dtype.isnative
    image.write(tmp_path / "a.tif", picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)


def test_tiff_samples_of_other_kinds():
    shades = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300
    picture = image.read(tiff_file(shades, bitspersample=12, photometric="minisblack"))
    assert picture.pixels[..., 0].tolist() == np.rint(shades * (65535 / 4095)).astype(int).tolist()
    assert picture.notices == ["its 12-bit samples are scaled to 16 bits"]
    bits = np.array([[True, False]])
    assert image.read(tiff_file(bits, photometric="miniswhite")).pixels[..., 0].tolist() == [[0, 255]]
    table = np.zeros((3, 256), np.uint16)
    table[:, 7] = 65535, 32896, 0
    picture = image.read(tiff_file(np.full((2, 2), 7, np.uint8), photometric="palette", colormap=table))
    assert picture.pixels[0, 0].tolist() == [255, 128, 0]
    half = image.read(tiff_file(np.full((2, 2), 0.25, np.float16)))
    assert half.pixels.dtype == np.float32 and half.pixels[0, 0, 0] == 0.25


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_tiff_that_is_not_finite_is_refused(bad):
    pixels = np.zeros((4, 4), np.float32)
    pixels[1, 2] = bad
    with pytest.raises(ImageError, match="1 of its float samples are NaN or infinite"):
        image.read(tiff_file(pixels))


@pytest.mark.parametrize("dtype", ["int16", "uint32", "complex64"])
def test_tiff_of_unsupported_samples_is_refused(dtype):
    with pytest.raises(ImageError):
        image.read(tiff_file(np.zeros((4, 4), dtype)))


def test_premultiplied_alpha(tmp_path):
    data = np.array([[[60, 30, 0, 120], [0, 0, 0, 0]]], np.uint8)
    picture = image.read(tiff_file(data, photometric="rgb", extrasamples=["assocalpha"]))
    image.write(tmp_path / "a.tif", picture)
    assert image.read(tmp_path / "a.tif").premultiplied
    image.write(tmp_path / "a.png", picture)
    assert image.read(tmp_path / "a.png").pixels.tolist() == [[[128, 64, 0], [0, 0, 0]]]


@pytest.mark.parametrize("big", [False, True])
def test_exif_in_a_tiff_is_found_by_others(tmp_path, big, monkeypatch):
    if big:  # as for a picture above 4 GB
        monkeypatch.setattr("fastrestore.tiffwriter.CLASSIC_BYTES", 0)
    image.write(tmp_path / "a.tif", image.Image(sample("uint8", 3)[0], exif=exif_block()))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff == big
        assert tif.pages[0].tags["ExifTag"].value["ExposureTime"] == 0.01
        assert tif.pages[0].tags["GPSTag"].value["GPSLatitudeRef"] == "N"
        codes = [tag.code for tag in tif.pages[0].tags]
        assert codes == sorted(codes)


def test_geotiff_tags_survive(shared_data, tmp_path):
    picture = image.read(shared_data / "formats" / "RGB.byte.tif")
    image.write(tmp_path / "a.tif", picture)
    with (
        tifffile.TiffFile(tmp_path / "a.tif") as new,
        tifffile.TiffFile(shared_data / "formats" / "RGB.byte.tif") as old,
    ):
        for code in (33550, 33922, 34735, 34736, 34737, 42112, 42113):
            assert new.pages[0].tags[code].value == old.pages[0].tags[code].value
        assert not new.pages[0].compression.value > 1  # as it came


def test_slide_scan(shared_data):
    pytest.importorskip("imagecodecs")
    picture = image.read(shared_data / "formats" / "CMU-1-Small-Region.svs")
    assert picture.pixels.shape == (2967, 2220, 3)
    assert any("only the first of its pages" in notice for notice in picture.notices)


# Hostile files


@lru_cache(None)
def hostile() -> dict[str, tuple[bytes, str]]:
    """name -> (file, what the message must say)."""
    plain = PilImage.fromarray(sample("uint8", 3, size=(40, 40))[0])
    files = {kind: saved(plain, kind) for kind in ("PNG", "JPEG", "TIFF", "WebP", "BMP")}
    cases = {
        "empty": (b"", "empty"),
        "text": (b"hello, I am a picture", "is not a PNG"),
        "gif": (b"GIF89a" + bytes(50), "is not a PNG"),
        "png of 10 gigapixel": (png_file(100_000, 100_000, 8, 2, b"\0"), "above the limit"),
        "png whose w*h wraps": (png_file(0x10000, 0x10000, 8, 0, b"\0"), "above the limit"),
        "png of no width": (png_file(0, 5, 8, 2, b""), "its size is 0 x 5"),
        "png with too few pixels": (png_file(50, 50, 8, 2, bytes(100)), "cannot be decoded"),
        "png of 16 bits with too few pixels": (png_file(50, 50, 16, 2, bytes(100)), "damaged"),
        "png with an inflating text": (
            png_file(1, 1, 8, 0, b"\0\0", png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80 << 20)))),
            "too large",
        ),
        "png with an inflating profile": (
            png_file(1, 1, 8, 0, b"\0\0", png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80 << 20)))),
            "too large",
        ),
        "png with a large chunk": (png_file(1, 1, 8, 0, b"\0\0", png_chunk(b"tEXt", bytes(17 << 20))), "exceed"),
        "png with a wrong checksum": (files["PNG"][:60] + b"\xff" + files["PNG"][61:], "checksum"),
        "png with a lying length": (png.SIGNATURE + b"\xff\xff\xff\xf0IHDR" + bytes(30), "IHDR"),
        "jpeg of 65535 x 65535": (
            files["JPEG"].replace(struct.pack(">HH", 40, 40), struct.pack(">HH", 65535, 65535), 1),
            "above the limit",
        ),
        "jpeg of 200 scans": (files["JPEG"][:-2] + b"\xff\xda\x00\x02" * 200, "100 progressive scans"),
        "webp of 16384 x 16384": (
            b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(40),
            "above the limit",
        ),
        "bmp of 100 000 x 100 000": (
            files["BMP"][:18] + struct.pack("<ii", 100_000, 100_000) + files["BMP"][26:],
            "above the limit",
        ),
        "tiff with nothing in it": (b"II*\0" + struct.pack("<I", 8) + bytes(6), ""),
        "tiff whose list lies outside": (b"II*\0" + struct.pack("<I", 1 << 30), ""),
    }
    cases |= {f"{kind} cut in half": (file[: len(file) // 2], "") for kind, file in files.items()}
    cases |= {f"{kind} of 20 bytes": (file[:20], "") for kind, file in files.items()}
    return cases


@pytest.mark.parametrize("name", hostile())
def test_hostile_files_are_refused(name, tmp_path):
    data, words = hostile()[name]
    start = time.perf_counter()
    for source in (data, tmp_path / "evil.png"):
        if not isinstance(source, bytes):
            source.write_bytes(data)
        with pytest.raises(ImageError, match=words or None) as caught:
            image.read(source)
        assert "\n" not in str(caught.value)
    assert "evil.png" in str(caught.value)
    assert time.perf_counter() - start < 10  # well under a second on an idle machine


def patched_tiff(**values) -> bytes:
    """A sound TIFF with the named tags' values replaced."""
    file = io.BytesIO(tiff_file(sample("uint8", 3, size=(64, 64))[0], photometric="rgb", tile=(32, 32), metadata=None))
    for name, value in values.items():
        with tifffile.TiffFile(file, mode="r+b") as tif:
            tif.pages[0].tags[name].overwrite(value)
        file.seek(0)
    return file.getvalue()


LYING = [
    {"ImageWidth": 1 << 20, "ImageLength": 1 << 20},
    {"ImageWidth": 0},
    {"TileWidth": 0},
    {"TileWidth": 1 << 20, "TileLength": 1 << 20},
    {"TileOffsets": [1 << 31] * 4},
    {"TileByteCounts": [0xFFFF] * 4},
    {"TileOffsets": [0] * 4},
    {"TileOffsets": [500]},
    {"Compression": 34712},
    {"PhotometricInterpretation": 8},
    {"SamplesPerPixel": 60000},
    {"BitsPerSample": (64, 64, 64)},
]


@pytest.mark.parametrize("values", LYING, ids=str)
def test_tiff_headers_that_lie(values):
    image.read(patched_tiff())
    with pytest.raises(ImageError):
        image.read(patched_tiff(**values))


def test_tiff_directory_loop_ends():
    data = bytearray(tiff_file(np.zeros((4, 4), np.uint8), metadata=None))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)  # the next directory is this one
    image.read(bytes(data))


SEEDS = {
    "png8": saved(PilImage.fromarray(sample("uint8", 3)[0]), "PNG", icc_profile=icc_profile(), exif=exif_block(6)),
    "png16": png_file(3, 1, 16, 2, bytes(19)),
    "jpeg": saved(PilImage.fromarray(sample("uint8", 3)[0]), "JPEG", exif=exif_block(3), progressive=True),
    "webp": saved(PilImage.fromarray(sample("uint8", 3)[0]), "WebP", exif=exif_block(3)),
    "bmp": saved(PilImage.fromarray(sample("uint8", 3)[0]), "BMP"),
    "tiff": saved(PilImage.fromarray(sample("uint8", 3)[0]), "TIFF", exif=exif_block(5)),
    "tiled": tiff_file(sample("uint16", 3, size=(40, 40))[0], photometric="rgb", tile=(16, 16), compression="zlib"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=120, deadline=20_000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bytes_give_a_picture_or_a_refusal(seed, data):
    damaged = bytearray(SEEDS[seed])
    near = st.integers(0, min(200, len(damaged) - 1)) | st.integers(0, len(damaged) - 1)
    for place, value in data.draw(st.lists(st.tuples(near, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[place] = value
    if seed.startswith("png") and data.draw(st.booleans()):
        damaged = repaired(damaged)
    damaged = damaged[: data.draw(st.just(len(damaged)) | st.integers(0, len(damaged)))]
    try:
        picture = image.read(bytes(damaged), max_pixels=1_000_000)
    except FastrestoreError:
        return
    assert picture.pixels.ndim == 3 and picture.pixels.shape[2] in (1, 3) and picture.pixels.size


def repaired(damaged: bytearray) -> bytearray:
    """The same PNG with its checksums right again, so that the damage gets past them."""
    at = 8
    while at + 12 <= len(damaged):
        end = at + 8 + struct.unpack_from(">I", damaged, at)[0]
        if end + 4 > len(damaged):
            break
        struct.pack_into(">I", damaged, end, zlib.crc32(damaged[at + 4 : end]))
        at = end + 4
    return damaged


# Files and faults of the system


def test_special_files_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a plain file"):
        image.read(tmp_path / "pipe.png")
    with pytest.raises(OSError):
        image.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        image.read(tmp_path / "none.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(ImageError, match="not a plain file"):
            image.write(tmp_path / name, image.Image(sample("uint8", 3)[0]))
    with pytest.raises(ImageError, match="suffix"):
        image.write(tmp_path / "a.gif", image.Image(sample("uint8", 3)[0]))


def test_strange_names(tmp_path):
    pixels, _ = sample("uint8", 3)
    for name in ("a\nb.png", "-x.png", "ä €.png", os.fsdecode(b"\xff.png")):
        image.write(tmp_path / name, image.Image(pixels))
        np.testing.assert_array_equal(image.read(tmp_path / name).pixels, pixels)
    (tmp_path / "a\nb.png").write_bytes(b"no")
    with pytest.raises(ImageError) as caught:
        image.read(tmp_path / "a\nb.png")
    assert "\n" not in str(caught.value)


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "kept.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("kept.png")
    image.write(tmp_path / "link.png", image.Image(sample("uint8", 3)[0]))
    assert (tmp_path / "kept.png").read_bytes() == b"old"
    assert not (tmp_path / "link.png").is_symlink()


def test_mode_follows_umask(tmp_path):
    old = os.umask(0o027)
    try:
        image.write(tmp_path / "a.png", image.Image(sample("uint8", 3)[0]))
    finally:
        os.umask(old)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


class FullDisk(io.FileIO):
    """Fails after so many bytes, as a full disk does."""

    left = 0

    def write(self, data) -> int:
        if FullDisk.left < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        FullDisk.left -= len(data)
        return super().write(data)


@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "over an old one"])
@pytest.mark.parametrize("suffix, dtype", [(".png", "uint8"), (".png", "uint16"), (".tif", "uint8"), (".jpg", "uint8")])
@pytest.mark.parametrize("fault", ["write 0", "write 1000", "fsync", "rename", "interrupt"])
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, suffix, dtype, fault, old):
    path = tmp_path / f"a{suffix}"
    if old:
        path.write_bytes(old)

    def full(*args):
        raise KeyboardInterrupt if fault == "interrupt" else OSError(errno.ENOSPC, "No space left on device")

    if fault.startswith("write"):
        FullDisk.left = int(fault.split()[1])
        monkeypatch.setattr(files, "open", lambda name, mode: io.BufferedRandom(FullDisk(name, mode)), raising=False)
    else:
        monkeypatch.setattr(os, {"rename": "replace"}.get(fault, "fsync"), full)
    with pytest.raises(KeyboardInterrupt if fault == "interrupt" else OSError) as caught:
        image.write(path, image.Image(sample(dtype, 3, size=(60, 60))[0], exif=exif_block()))
    assert fault == "interrupt" or caught.value.errno == errno.ENOSPC
    assert sorted(tmp_path.iterdir()) == ([path] if old else [])
    if old:
        assert path.read_bytes() == old
