"""Sensor-like noise for images in float."""

import numpy as np


def noise(
    image: np.ndarray,
    sigma: float = 25.0,
    *,
    gain: float = 0.0,
    seed: int | np.random.Generator | None = None,
) -> np.ndarray:
    """Adds white Gaussian noise, and optionally the signal-dependent part of a sensor's noise.

    The variance at a pixel of value v is (sigma / 255)² + gain · max(v, 0) (the Poisson-Gaussian model of
    Foi et al., 2008).  The result is not clipped: published denoising figures rest on unclipped noise.

    image: float array of any shape, nominally in [0, 1].  sigma: standard deviation in 0-255 units, >= 0.
    gain: variance per unit of signal, >= 0.  seed: an integer makes the result repeatable; 0 gives the noise of
    the field's protocol (NumPy RandomState(0).normal).
    Returns float64 of the image's shape.  Raises TypeError for integer images, ValueError for negative
    parameters.
    """
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"degrade.noise: image must be a float array in [0, 1], got {image.dtype}")
    if not sigma >= 0 or not gain >= 0:
        raise ValueError(f"degrade.noise: sigma and gain must be >= 0, got {sigma} and {gain}")
    source = seed if isinstance(seed, np.random.Generator) else np.random.RandomState(seed)
    clean = image.astype(np.float64)
    if gain == 0:
        return clean + source.normal(0, sigma / 255, image.shape)
    deviation = np.sqrt((sigma / 255) ** 2 + gain * np.maximum(clean, 0))
    return clean + deviation * source.normal(0, 1, image.shape)
