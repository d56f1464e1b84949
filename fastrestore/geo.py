"""GeoTIFF through rasterio: bands beside RGB each for itself, no-data left alone, georeferencing and descriptions kept.

Samples of other kinds than a picture's become one for the model and come back: int16 by an offset, wider integers and
floats scaled by the lowest and highest valid sample of the file.
"""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from fastrestore import image as images
from fastrestore.errors import ImageError, MissingDependency
from fastrestore.sinks import Sink
from fastrestore.sources import Source

_GEO_TAGS = {33550, 34264, 34735, 42112, 42113}  # pixel scale, transformation, keys; GDAL's metadata and no-data value
_NO_DATA = 42113
_MEAN_SIDE = 512  # pixels a side of the thinned picture that says what stands in for no-data
_PLAIN_BANDS = (1, 3, 4)
_CACHE = 32 << 20  # bytes of blocks that GDAL may keep, if it is not at work already; else a share of the machine's


def wanted(source: str | os.PathLike, target: str | os.PathLike) -> bool:
    """Whether a file is a GeoTIFF that a plain TIFF's way would spoil or refuse, going to a TIFF: one with a no-data
    value, a further band, or samples that are no picture's."""
    if Path(target).suffix.lower() not in (".tif", ".tiff") or os.path.isdir(source):
        return False
    try:
        with images.open_file(source) as file:
            if images.kind_of(file.read(32)) != "TIFF":
                return False
            file.seek(0)
            with tifffile.TiffFile(file) as tif:
                page = tif.pages[0]
                codes = {tag.code for tag in page.tags}
                if not codes & _GEO_TAGS:
                    return False
                plain = page.dtype is not None and page.dtype.name in ("uint8", "uint16", "float32")
                return _NO_DATA in codes or not plain or page.samplesperpixel not in _PLAIN_BANDS
    except Exception:  # whoever reads it will say what is wrong
        return False


def _rasterio() -> Any:
    try:
        import rasterio
    except ImportError as error:
        text = "this GeoTIFF has no-data or further bands, which need rasterio: pip install 'fastrestore[geo]'"
        raise MissingDependency(text) from error
    return rasterio


class Bands(Source):
    """Some bands of an open dataset as a picture; its alpha says which pixels are valid."""

    def __init__(self, path: Path, dataset: Any, bands: tuple[int, ...]):
        kind = np.dtype(dataset.dtypes[bands[0] - 1])
        if kind.kind not in "iuf":
            raise ImageError(f"bands of the type {kind} are not supported")
        self.dataset, self.bands, self._kind = dataset, bands, kind
        dtype = kind if kind.name in ("uint8", "uint16") else np.dtype(np.uint16 if kind == np.int16 else np.float32)
        super().__init__(
            path, dataset.height, dataset.width, len(bands), dtype, True, dataset.block_shapes[bands[0] - 1]
        )
        self._low, self._span = 0.0, 1.0
        self._fill = np.zeros(len(bands), self.dtype)
        if self.dtype.kind == "f":
            self._low, self._span = self._limits()
            if (self._low, self._span) != (0.0, 1.0):
                numbers = ", ".join(map(str, bands))
                high = self._low + self._span
                self.notices.append(f"band {numbers}: its samples, {self._low:g} to {high:g}, are scaled for the model")
        if dataset.nodata is not None or self.dtype.kind == "f":
            self._fill = self._mean()

    def read(self, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray | None]:
        raw, valid = self._raw(((top, bottom), (left, right)))
        pixels = self._to_picture(raw)
        for n in range(len(self.bands)):
            pixels[..., n][~valid] = self._fill[n]
        return pixels, valid.astype(self.dtype)

    def back(self, samples: np.ndarray) -> np.ndarray:
        """Restored samples [rows, columns, bands + valid] as the file's, [bands, rows, columns]."""
        pixels, valid = samples[..., :-1], samples[..., -1:] > 0
        if self._kind == np.int16:
            pixels = (pixels.astype(np.int32) - 32768).astype(np.int16)
        elif pixels.dtype != self._kind or self.dtype.kind == "f":
            pixels = pixels * np.float64(self._span) + self._low
            if self._kind.kind in "iu":
                limits = np.iinfo(self._kind)
                pixels = np.clip(np.rint(pixels), limits.min, limits.max)
        pixels = pixels.astype(self._kind, copy=False)
        if self.dataset.nodata is not None or self._kind.kind == "f":
            nothing = np.nan if self.dataset.nodata is None else self.dataset.nodata
            pixels = np.where(valid, pixels, np.asarray(nothing, self._kind))
        return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))

    def _raw(self, window: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """The file's samples [rows, columns, bands], and which pixels are valid in all of the bands."""
        raw = np.moveaxis(self.dataset.read(self.bands, window=window, **options), 0, 2)
        valid = np.ones(raw.shape[:2], bool)
        if self._kind.kind == "f":
            valid &= np.isfinite(raw).all(2)
        if self.dataset.nodata is not None and not np.isnan(self.dataset.nodata):
            valid &= (raw != np.asarray(self.dataset.nodata, self._kind)).any(2)
        return raw, valid

    def _to_picture(self, raw: np.ndarray) -> np.ndarray:
        if self._kind == np.int16:
            return (raw.astype(np.int32) + 32768).astype(np.uint16)
        if self.dtype.kind == "f":
            with np.errstate(invalid="ignore", over="ignore"):
                return ((raw.astype(np.float64) - self._low) / self._span).astype(np.float32)
        return np.ascontiguousarray(raw)

    def _limits(self) -> tuple[float, float]:
        """The lowest valid sample and the span to the highest; 0 and 1 for floats within [0, 1]."""
        low, high = np.inf, -np.inf
        for _, window in self.dataset.block_windows(self.bands[0]):
            raw, valid = self._raw(window)
            if valid.any():
                low, high = min(low, float(raw[valid].min())), max(high, float(raw[valid].max()))
        if low > high or (self._kind.kind == "f" and low >= 0 and high <= 1):
            return 0.0, 1.0
        return low, high - low or 1.0

    def _mean(self) -> np.ndarray:
        """Of the valid pixels of a thinned picture, which does not depend on how the picture is cut."""
        shape = len(self.bands), min(self.height, _MEAN_SIDE), min(self.width, _MEAN_SIDE)
        raw, valid = self._raw(None, out_shape=shape)
        if not valid.any():
            return np.zeros(len(self.bands), self.dtype)
        return self._to_picture(raw)[valid].mean(0).astype(self.dtype)


class BandsSink(Sink):
    """Bands of an open dataset that is written."""

    def __init__(self, target: Any, bands: Bands):
        self._target, self._bands = target, bands
        self.segment, self.pack, self.notices = target.block_shapes[0], bands.back, []

    def put(self, top: int, left: int, payload: np.ndarray) -> None:
        window = (top, top + payload.shape[1]), (left, left + payload.shape[2])
        self._target.write(payload, self._bands.bands, window=window)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """The dataset is closed by who opened it."""


def restore(
    source: Path,
    target: Path,
    restore_bands: Callable[[Bands, BandsSink, Callable[[float], object]], dict[str, Any]],
    tick: Callable[[float], object],
) -> dict[str, Any]:
    """Restores each picture of a GeoTIFF, RGB together and other bands one by one, into a new file like it.

    restore_bands: restores a source into a sink.  Returns the reports' sums: {height, width, sigma (of the first),
    seconds, stages, shares, bottleneck, waited, notices}, see pieces.restore.
    """
    rasterio, start = _rasterio(), time.perf_counter()
    temporary = target.with_name(f".fastrestore-{secrets.token_hex(8)}.part")
    reports, notices = [], []
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=_CACHE),
            images.naming(images.show_name(source)),
            rasterio.open(source) as dataset,
        ):
            groups = _groups(dataset)
            with rasterio.open(temporary, "w", **_profile(dataset, len(groups))) as written:
                _describe(dataset, written)
                for n, bands in enumerate(groups):
                    part = Bands(source, dataset, bands)
                    report = restore_bands(
                        part, BandsSink(written, part), lambda done, n=n: tick((n + done) / len(groups))
                    )
                    reports.append(report)
                    notices += [notice for notice in report["notices"] if notice not in notices]
                factors = dataset.overviews(1)
                if factors:
                    written.build_overviews(factors, rasterio.enums.Resampling.average)
            cog = dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
            height, width = dataset.height, dataset.width
        if cog:
            temporary = _as_cog(rasterio, temporary)
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    stages = {stage: sum(report["stages"][stage] for report in reports) for stage in reports[0]["stages"]}
    shares = {stage: round(seconds / (time.perf_counter() - start), 4) for stage, seconds in stages.items()}
    return {
        "sigma": reports[0]["sigma"],
        "height": height,
        "width": width,
        "seconds": stages["restoring"],
        "stages": stages,
        "shares": shares,
        "bottleneck": max(stages, key=stages.get),
        "waited": round(1 - shares["restoring"], 4),
        "notices": notices,
    }


def _groups(dataset: Any) -> list[tuple[int, ...]]:
    """Red, green and blue together, if they are of one type; every other band alone, but alpha."""
    names = [kind.name for kind in dataset.colorinterp]
    colours = tuple(names.index(name) + 1 for name in ("red", "green", "blue") if name in names)
    if len(colours) != 3 or len({dataset.dtypes[band - 1] for band in colours}) != 1:
        colours = ()
    others = [(n,) for n, name in enumerate(names, 1) if n not in colours and name != "alpha"]
    return [colours, *others] if colours else others


def _profile(dataset: Any, groups: int) -> dict[str, Any]:
    profile = dict(dataset.profile) | {"driver": "GTiff", "BIGTIFF": "IF_SAFER", "NUM_THREADS": 1}
    if groups > 1 or "alpha" in [kind.name for kind in dataset.colorinterp]:
        profile["interleave"] = "band"  # bands are written one after the other
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    if profile.get("compress") in ("jpeg", "webp", "lerc"):  # lossy, and not written so again band by band
        profile["compress"] = "deflate"
        profile.pop("photometric", None)
    elif structure.get("PREDICTOR"):
        profile["predictor"] = structure["PREDICTOR"]
    return profile


def _describe(dataset: Any, written: Any) -> None:
    """Everything beside the samples; and bands of alpha, as they are."""
    written.update_tags(**dataset.tags())
    written.colorinterp = dataset.colorinterp
    written.descriptions, written.units = dataset.descriptions, dataset.units
    written.scales, written.offsets = dataset.scales, dataset.offsets
    for n in dataset.indexes:
        written.update_tags(n, **{k: v for k, v in dataset.tags(n).items() if not k.startswith("STATISTICS_")})
    if dataset.gcps[0]:
        written.gcps = dataset.gcps
    if dataset.rpcs:
        written.rpcs = dataset.rpcs
    for n, kind in enumerate(dataset.colorinterp, 1):
        if kind.name == "alpha":
            for _, window in dataset.block_windows(n):
                written.write(dataset.read(n, window=window), n, window=window)


def _as_cog(rasterio: Any, path: Path) -> Path:
    """The same as a cloud-optimised GeoTIFF."""
    from rasterio.shutil import copy

    optimised = path.with_name(f".fastrestore-{secrets.token_hex(8)}.part")
    try:
        with rasterio.open(path) as dataset:
            compress = dataset.profile.get("compress", "none")
            copy(dataset, optimised, driver="COG", compress=compress, overview_resampling="average", bigtiff="IF_SAFER")
    except BaseException:
        optimised.unlink(missing_ok=True)
        raise
    finally:
        path.unlink()
    return optimised
