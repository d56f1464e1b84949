"""Where the content of one frame lies in another: dense optical flow (DIS, Kroeger et al., 2016, by OpenCV), and
whether two frames show the same scene at all.  Both look at grey, smoothed frames, which noise up to σ 50 moves little.
"""

import cv2
import numpy as np

SMOOTH = 1.5  # pixels: deviation of the blur against noise
# Of a flow: OpenCV's own, and for noisy frames (σ 25: 0.05 to 0.1 dB more for denoise-rnn on two real clips and three
# simulated ones; 150 gives no more).
EVEN, EVEN_NOISY = 20.0, 60.0
LEAST = 16  # pixels a side; in smaller frames there is no flow to find
CONTRAST = 16.0  # grey levels: a frame that deviates less is taken for one that does, since noise differs by as much
# Of `difference`.  Measured at σ 0, 25 and 50: at most 0.18 between frames of a clip that moves 20 pixels a frame,
# at most 0.25 in a clip of a bird; at least 0.89 between 32 pictures of other scenes.
OTHER_SCENE = 0.6


def outline(frame: np.ndarray) -> np.ndarray:
    """What flow and difference look at: grey and smoothed, uint8 [H, W].

    frame: [H, W, C], uint8, uint16 or floats nominally in [0, 1], C 1 or 3 (RGB).
    """
    scale = 255 / np.iinfo(frame.dtype).max if frame.dtype.kind == "u" else 255.0
    samples = frame if frame.dtype in (np.uint8, np.uint16) else frame.astype(np.float32, copy=False)
    grey = samples[..., 0] if frame.shape[2] == 1 else cv2.cvtColor(samples, cv2.COLOR_RGB2GRAY)
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), SMOOTH)
    return np.rint((smooth * scale).clip(0, 255)).astype(np.uint8)


def flow(outline: np.ndarray, other: np.ndarray, evenness: float = EVEN) -> np.ndarray:
    """For each pixel of a frame, how far along x and y its content lies in another.

    outline, other: of the two frames, of one size.  evenness: how much an even flow counts against one that explains
    every pixel.  Returns float32 [H, W, 2]; zeros where a side is under LEAST.
    """
    if min(outline.shape) < LEAST:
        return np.zeros((*outline.shape, 2), np.float32)
    finder = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setVariationalRefinementAlpha(evenness)
    return finder.calc(outline, other, None)


def warp(image: np.ndarray, flow: np.ndarray, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
    """The image at each pixel's position plus its flow, bilinear.  image: [H, W] or [H, W, C] that OpenCV knows."""
    height, width = flow.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    seen = cv2.remap(image, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=border)
    return seen.reshape(image.shape)


def difference(outline: np.ndarray, other: np.ndarray, flow: np.ndarray) -> float:
    """How much of a frame the other does not explain: 0 for the same content moved, about 1 for another scene.

    The mean difference after the flow, against the frame's own mean deviation from its surroundings.
    """
    left = cv2.absdiff(outline, warp(other, flow)).mean()
    own = np.abs(outline - outline.mean()).mean()
    return float(left / max(own, CONTRAST))
