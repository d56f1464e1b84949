"""Raw photographs through rawpy: developed by LibRaw to 16-bit sRGB, and then pictures like others."""

import os
from pathlib import Path

import numpy as np

from fastrestore.errors import ImageError, MissingDependency

# Raw files are TIFFs or containers of their makers': only the name says that a photograph lies in one.
SUFFIXES = {".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"}
NOTICE = "a raw photograph is developed: 16-bit sRGB with the camera's white balance; its metadata is not kept"


def is_raw(path: str | os.PathLike) -> bool:
    return Path(path).suffix.lower() in SUFFIXES


def develop(path: str | os.PathLike, max_pixels: int) -> np.ndarray:
    """Pixels [H, W, 3], uint16, upright.  Raises ImageError, MissingDependency, OSError."""
    try:
        import rawpy
    except ImportError as error:
        raise MissingDependency("raw photographs need rawpy: pip install 'fastrestore[raw]'") from error
    os.stat(path)  # LibRaw's error for a missing file does not name it
    try:
        with rawpy.imread(os.fspath(path)) as photograph:
            sizes = photograph.sizes
            if sizes.raw_width * sizes.raw_height > max_pixels:
                raise ImageError(
                    f"{sizes.raw_width} x {sizes.raw_height} pixels are above the limit of {max_pixels / 1e6:g} Mpixel"
                )
            return photograph.postprocess(output_bps=16, use_camera_wb=True, no_auto_bright=True)
    except rawpy.LibRawError as error:
        raise ImageError(f"is no raw photograph that LibRaw reads: {error}") from error
