"""DICOM and raw photographs: what their packages read becomes a picture, and a slice stays a slice."""

import sys

import numpy as np
import pytest
import tifffile

import fastrestore as fr
from fastrestore import image as images
from fastrestore.errors import ImageError, MissingDependency


def make_dicom(path, samples: np.ndarray, bits: int, signed: bool = False, **fields) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.PatientName, data.RescaleIntercept, data.RescaleSlope = "A^Phantom", -1024, 1
    frames = samples if samples.ndim == 3 else samples[None]
    data.Rows, data.Columns = frames.shape[1:]
    if len(frames) > 1:
        data.NumberOfFrames = len(frames)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, bits, bits - 1
    data.PixelRepresentation = int(signed)
    data.PixelData = samples.astype("<i2" if signed else "<u2").tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("signed", [False, True])
def test_a_slice_stays_a_slice(plan, tmp_path, signed):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    stored = np.random.default_rng(0).integers(1000, 3000, (2, 70, 90)) - (2048 if signed else 0)
    make_dicom(tmp_path / "a.dcm", stored, 12, signed)
    restorer = fr.Restorer(plan)
    restorer.file(tmp_path / "a.dcm", tmp_path / "b.dcm", 12.0)
    new = pydicom.dcmread(tmp_path / "b.dcm")
    low = -2048 if signed else 0
    for frame, result in zip(stored, new.pixel_array, strict=True):
        scaled = np.rint((frame - low) * (65535 / 4095)).astype(np.uint16)
        expected = np.rint(restorer(scaled, 12.0) * (4095 / 65535) + low)
        np.testing.assert_array_equal(result, expected)
    assert new.PatientName == "A^Phantom" and new.RescaleIntercept == -1024
    assert new.ImageType[0] == "DERIVED" and new.SOPInstanceUID != "1.2.3"


def test_series_in_a_batch(plan, tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    (tmp_path / "in").mkdir()
    for n in range(3):
        make_dicom(tmp_path / "in" / f"{n}.dcm", np.random.default_rng(n).integers(0, 4000, (40, 50)), 12)
    (tmp_path / "in" / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    records = list(fr.batch(tmp_path / "in", tmp_path / "out", model=plan, sigma=10.0))
    assert [r["input"] for r in records if r["ok"]] == ["0.dcm", "1.dcm", "2.dcm"]
    again = list(fr.batch(tmp_path / "in", tmp_path / "out", model=plan, sigma=10.0, resume=True))
    assert sum(r["skipped"] for r in again) == 3


def test_dicom_that_is_refused(plan, tmp_path, monkeypatch):
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    restorer, samples = fr.Restorer(plan), np.zeros((40, 50), int)
    make_dicom(tmp_path / "a.dcm", samples, 12, PhotometricInterpretation="YBR_FULL")
    with pytest.raises(ImageError, match=r"a\.dcm: colours"):
        restorer.file(tmp_path / "a.dcm", tmp_path / "b.dcm", 10.0)
    make_dicom(tmp_path / "a.dcm", samples, 12)
    with pytest.raises(ImageError, match="above the limit"):
        restorer.file(tmp_path / "a.dcm", tmp_path / "b.dcm", 10.0, max_pixels=100)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingDependency, match=r"fastrestore\[raw\]"):
        restorer.file(tmp_path / "a.dcm", tmp_path / "b.dcm", 10.0)
    assert not (tmp_path / "b.dcm").exists()


@pytest.mark.shared_data
def test_a_real_slice(shared_data, plan, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    fr.Restorer(plan).file(shared_data / "formats" / "catphan_ct.dcm", tmp_path / "b.dcm", 1.0)
    old, new = pydicom.dcmread(shared_data / "formats" / "catphan_ct.dcm"), pydicom.dcmread(tmp_path / "b.dcm")
    assert new.pixel_array.shape == old.pixel_array.shape and new.SeriesInstanceUID == old.SeriesInstanceUID


def make_raw(path) -> None:
    """A photograph of 96 x 64 pixels as its sensor saw it, with what LibRaw wants to know of the camera."""
    seen = np.random.default_rng(0).normal(8000, 300, (64, 96)).astype(np.uint16)
    unit = tuple(value for n in range(9) for value in (int(n % 4 == 0), 1))
    tags = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True), (50708, 2, 0, "Test", True)]
    tags += [(50706, 1, 4, bytes([1, 4, 0, 0]), True), (50707, 1, 4, bytes([1, 1, 0, 0]), True)]
    tags += [(50721, 10, 9, unit, True), (50778, 3, 1, 21, True), (50717, 3, 1, 16383, True)]
    tifffile.imwrite(path, seen, photometric=32803, metadata=None, extratags=tags)


def test_raw_photographs(plan, tmp_path, monkeypatch):
    pytest.importorskip("rawpy", reason="rawpy is not installed")
    make_raw(tmp_path / "a.dng")
    picture = images.read(tmp_path / "a.dng")
    assert picture.pixels.shape == (64, 96, 3) and picture.pixels.dtype == np.uint16
    report = fr.Restorer(plan).file(tmp_path / "a.dng", tmp_path / "a.tif", 10.0)
    assert any("developed" in notice for notice in report["notices"])
    (record,) = fr.batch([tmp_path / "a.dng"], tmp_path / "out", model=plan, sigma=10.0)
    assert record["output"] == "a.tif"
    assert (tmp_path / "out" / "a.tif").read_bytes() == (tmp_path / "a.tif").read_bytes()
    with pytest.raises(ImageError, match="above the limit"):
        images.read(tmp_path / "a.dng", max_pixels=100)
    (tmp_path / "b.dng").write_bytes(b"no photograph")
    with pytest.raises(ImageError, match=r"b\.dng"):
        images.read(tmp_path / "b.dng")
    monkeypatch.setitem(sys.modules, "rawpy", None)
    with pytest.raises(MissingDependency, match=r"fastrestore\[raw\]"):
        images.read(tmp_path / "a.dng")
