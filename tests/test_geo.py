"""GeoTIFFs: what is not picture stays as it was, to the sample."""

import subprocess
import sys

import numpy as np
import pytest

import fastrestore as fr
from fastrestore import geo
from fastrestore.errors import MissingDependency

rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")


def field(bands: int, dtype: str, height: int = 130, width: int = 150) -> np.ndarray:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([0.5 + 0.3 * np.sin((x + 9 * n) / 19) * np.cos(y / 23) for n in range(bands)])
    values = np.clip(smooth + rng.normal(0, 0.04, smooth.shape), 0, 1)
    if dtype == "int16":
        return (values * 9000 - 3000).astype(dtype)
    return (values * {"uint8": 255, "uint16": 65535, "int32": 70000, "float32": 4000, "float64": 1}[dtype]).astype(
        dtype
    )


def save(path, data: np.ndarray, **options) -> None:
    profile = {"driver": "GTiff", "count": len(data), "height": data.shape[1], "width": data.shape[2]}
    profile |= {"dtype": data.dtype.name, "crs": "EPSG:32633", "tiled": True, "blockxsize": 64, "blockysize": 64}
    profile["transform"] = rasterio.transform.from_origin(500000, 4600000, 10, 10)
    with rasterio.open(path, "w", **(profile | options)) as dataset:
        dataset.write(data)
        dataset.descriptions = [f"band {n}" for n in range(len(data))]
        dataset.update_tags(who="a test")
        dataset.update_tags(1, wavelength="490")


@pytest.mark.parametrize(
    "bands, dtype, nodata",
    [
        (2, "uint16", 0),
        (3, "uint8", 0),
        (1, "int16", -32768),
        (2, "int32", None),
        (1, "float32", np.nan),
        (5, "uint8", 7),
    ],
    ids=str,
)
def test_what_is_not_picture_stays(plan, bands, dtype, nodata, tmp_path):
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    data = field(bands, dtype)
    if nodata is not None:
        data[:, :40, 100:] = nodata
    photometric = {"photometric": "rgb"} if bands == 3 else {}
    save(source, data, nodata=nodata, compress="deflate", **photometric)
    fr.Restorer(plan, threads=1, memory="8MiB").file(source, target, 12.0)
    with rasterio.open(source) as old, rasterio.open(target) as new:
        for name in ("crs", "transform", "count", "dtypes", "descriptions", "colorinterp", "block_shapes", "shape"):
            assert getattr(new, name) == getattr(old, name), name
        assert str(new.nodata) == str(old.nodata)
        assert new.tags()["who"] == "a test" and new.tags(1)["wavelength"] == "490"
        result = new.read()
    if nodata is not None:
        np.testing.assert_array_equal(result[:, :40, 100:], data[:, :40, 100:])
    inside = (slice(None), slice(60, None))
    assert np.isfinite(result[inside]).all()
    assert (np.abs(result[inside].astype(float) - data[inside]).mean(axis=(1, 2)) > 0).all()


def test_each_band_is_restored_for_itself(plan, tmp_path):
    data = field(5, "uint16")
    save(tmp_path / "in.tif", data)
    restorer = fr.Restorer(plan)
    restorer.file(tmp_path / "in.tif", tmp_path / "out.tif", 12.0)
    with rasterio.open(tmp_path / "out.tif") as dataset:
        for band, restored in zip(data, dataset.read(), strict=True):
            np.testing.assert_array_equal(restored, restorer(band, 12.0))


def test_the_budget_changes_no_sample(plan, tmp_path):
    data = field(4, "float64")
    save(tmp_path / "in.tif", data, nodata=-1.0)
    results = []
    for memory in ("1GiB", "6MiB"):
        fr.Restorer(plan, threads=1, memory=memory).file(tmp_path / "in.tif", tmp_path / "out.tif", 10.0)
        with rasterio.open(tmp_path / "out.tif") as dataset:
            results.append(dataset.read())
    np.testing.assert_array_equal(*results)


def test_overviews_and_cloud_optimised_files(plan, tmp_path):
    save(tmp_path / "plain.tif", field(5, "uint8"), compress="lzw")
    from rasterio.shutil import copy

    copy(tmp_path / "plain.tif", tmp_path / "in.tif", driver="COG", blocksize=64, compress="lzw")
    fr.Restorer(plan).file(tmp_path / "in.tif", tmp_path / "out.tif", 10.0)
    with rasterio.open(tmp_path / "in.tif") as old, rasterio.open(tmp_path / "out.tif") as new:
        assert new.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert new.overviews(1) == old.overviews(1) != []
        assert new.profile["compress"] == "lzw"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif", "plain.tif"]


def test_only_what_needs_it_goes_this_way(plan, tmp_path, monkeypatch):
    save(tmp_path / "rgb.tif", field(3, "uint8"), photometric="rgb")
    save(tmp_path / "bands.tif", field(6, "uint8"))
    assert not geo.wanted(tmp_path / "rgb.tif", tmp_path / "out.tif")
    assert geo.wanted(tmp_path / "bands.tif", tmp_path / "out.tif")
    assert not geo.wanted(tmp_path / "bands.tif", tmp_path / "out.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingDependency, match=r"fastrestore\[geo\]"):
        fr.Restorer(plan).file(tmp_path / "bands.tif", tmp_path / "out.tif", 10.0)


_PEAK = """
import resource
import numpy as np
import fastrestore as fr
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
restorer = fr.Restorer({plan!r}, threads=1, memory='16MiB')
restorer(np.zeros((64, 64, 1), np.uint8), 20.0)
before = peak()
restorer.file({source!r}, {target!r}, 12.0)
print(peak() - before)
"""


def test_memory_is_flat(plan, tmp_path):
    """GDAL's cache of blocks would take a twentieth of the machine's memory, here both files of 81 MB."""
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    save(source, np.tile(field(2, "uint16", 500, 500), (1, 9, 9)), nodata=0, blockxsize=256, blockysize=256)
    code = _PEAK.format(plan=plan, source=str(source), target=str(target))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 16 + 95  # MiB: the budget and 100 MB; without the bound 136


def test_an_error_leaves_the_old_result(plan, tmp_path):
    save(tmp_path / "in.tif", field(5, "uint8"))
    (tmp_path / "out.tif").write_bytes(b"the old result")

    def stop(done):
        if done > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fr.Restorer(plan).file(tmp_path / "in.tif", tmp_path / "out.tif", 10.0, progress=stop)
    assert (tmp_path / "out.tif").read_bytes() == b"the old result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "out.tif"]
