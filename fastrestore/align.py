"""Where the content of one frame lies in another: dense optical flow (DIS, Kroeger et al., 2016, by OpenCV)."""

import cv2
import numpy as np

SMOOTH = 1.5  # pixels: deviation of the blur before, against noise
LEAST = 16  # pixels a side; of smaller frames there is no flow to find


def flow(frame: np.ndarray, other: np.ndarray) -> np.ndarray:
    """For each pixel of a frame, how far along x and y its content lies in the other.

    frame, other: [H, W, C] of the same size and dtype, uint8, uint16 or floats in [0, 1], C 1 or 3.
    Returns float32 [H, W, 2]; zeros for frames with a side under LEAST.  Noise up to σ 50 moves it little.
    """
    if min(frame.shape[:2]) < LEAST:
        return np.zeros((*frame.shape[:2], 2), np.float32)
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return finder.calc(prepared(frame), prepared(other), None)


def prepared(frame: np.ndarray) -> np.ndarray:
    """Grey and smoothed, uint8 [H, W]."""
    peak = np.iinfo(frame.dtype).max if frame.dtype.kind == "u" else 1
    grey = frame[..., 0] if frame.shape[2] == 1 else cv2.cvtColor(_known(frame), cv2.COLOR_RGB2GRAY)
    smooth = cv2.GaussianBlur(_known(grey).astype(np.float32), (0, 0), SMOOTH)
    return np.rint((smooth * (255 / peak)).clip(0, 255)).astype(np.uint8)


def _known(array: np.ndarray) -> np.ndarray:
    """Of a dtype that OpenCV converts."""
    return array if array.dtype in (np.uint8, np.uint16, np.float32) else array.astype(np.float32)
