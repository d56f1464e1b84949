"""DICOM pictures and series through pydicom: samples restored where they lie, everything else of the file as it was.

A series is a folder of slices, each a file.  The result of a slice is a slice: the same data set with new samples,
stored without compression, said to be derived.  Values keep their meaning, for what scales them is not touched.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastrestore import image as images
from fastrestore.errors import ImageError, MissingDependency

SUFFIX = ".dcm"
_MARK = 128, b"DICM"  # where, and what, a file of this kind has


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM, by its content."""
    try:
        with images.open_file(path) as file:
            file.seek(_MARK[0])
            return file.read(len(_MARK[1])) == _MARK[1]
    except (OSError, ImageError):  # whoever reads it will say what is wrong
        return False


class Slice:
    """A DICOM file's frames as pictures.

    frames: arrays [H, W, 1 or 3] of uint8 or uint16: the stored values, scaled from the bits that the file says they
    have to the full range, the same for every slice of a series; back() undoes it.  Raises ImageError for what is
    damaged, larger than max_pixels in all, or of another kind, MissingDependency without pydicom.
    """

    def __init__(self, path: Path, max_pixels: int):
        self._pydicom = _pydicom()
        with images.naming(images.show_name(path)):
            self.data = self._pydicom.dcmread(path)
            data = self.data
            if "PixelData" not in data:
                raise ImageError("has no picture")
            count = int(data.get("NumberOfFrames") or 1)
            if int(data.Rows) * int(data.Columns) * count > max_pixels:
                raise ImageError(
                    f"{data.Columns} x {data.Rows} pixels in {count} frames are above the limit of "
                    f"{max_pixels / 1e6:g} Mpixel"
                )
            if data.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2", "RGB"):
                raise ImageError(f"colours of the kind {data.PhotometricInterpretation} are not supported")
            if data.BitsAllocated not in (8, 16):
                raise ImageError(f"samples of {data.BitsAllocated} bits are not supported: 8 and 16 are")
            stored = data.pixel_array
        self._stored = stored.reshape(count, int(data.Rows), int(data.Columns), -1)
        self._padding = self._stored == data.get("PixelPaddingValue", 1 << 20)
        bits = int(data.BitsStored)
        self._low = -(1 << (bits - 1)) if data.PixelRepresentation else 0
        self._span = (1 << bits) - 1
        kind = np.uint8 if stored.dtype.itemsize == 1 else np.uint16
        self._full = np.iinfo(kind).max
        self.frames = [self._to_picture(frame).astype(kind) for frame in self._stored]

    def _to_picture(self, frame: np.ndarray) -> np.ndarray:
        values = np.clip(frame.astype(np.float64) - self._low, 0, self._span)
        return np.rint(values * (self._full / self._span))

    def back(self, frames: list[np.ndarray]) -> None:
        """Puts restored frames into the data set.  Pixels of the padding value stay."""
        values = np.rint(np.stack(frames).astype(np.float64) * (self._span / self._full) + self._low)
        values = np.where(self._padding, self._stored, values.astype(self._stored.dtype))
        data, uid = self.data, self._pydicom.uid
        data.PixelData = np.ascontiguousarray(values).tobytes() + b"\0" * (values.nbytes % 2)
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        if data.SamplesPerPixel > 1:
            data.PlanarConfiguration = 0
        data.ImageType = ["DERIVED", *list(data.get("ImageType") or ["", "PRIMARY"])[1:]]
        data.DerivationDescription = "restored by fastrestore"
        # A derived picture is another instance; the same input and result give the same name.
        data.SOPInstanceUID = uid.generate_uid(
            entropy_srcs=[str(data.SOPInstanceUID), hashlib.sha256(data.PixelData).hexdigest()]
        )
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID

    def write(self, path: Path) -> None:
        """The data set as a file, whole or not at all."""
        with images.whole_file(path) as file:
            self._pydicom.dcmwrite(file, self.data, enforce_file_format=True, little_endian=True, implicit_vr=False)


def _pydicom() -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise MissingDependency("DICOM needs pydicom: pip install 'fastrestore[raw]'") from error
    return pydicom
