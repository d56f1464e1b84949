"""Restores the sample pictures and lays them out before and after in demo/before_after.png."""

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import fastrestore as fr

HERE = Path(__file__).parent
MODEL = "denoise-cnn"
# Picture, the σ of the noise to add (0-255 units) or None for a photo that came noisy, and the σ that the model is
# told, None for its own estimate.  The phone's noise is not white, and the estimate too low for it: set by eye.
SAMPLES = [("astronaut.png", 25, None), ("chelsea.png", 50, None), ("camera.png", 35, None), ("phone.png", None, 45)]
CELL, GAP, HEADING = 320, 12, 34
PAPER, INK, FAINT = (250, 250, 248), (24, 24, 24), (120, 120, 120)


def main() -> None:
    restorer = fr.Restorer(MODEL)
    rows = []
    for name, sigma, told in SAMPLES:
        clean = np.asarray(Image.open(HERE / "pictures" / name))
        noisy = clean if sigma is None else with_noise(clean, sigma)
        restored, per_megapixel = timed(restorer, noisy, told)
        note = f"{per_megapixel:.0f} ms per megapixel"
        if sigma is None:
            before, after = "as it came from the phone", f"restored at sigma {told}, set by eye"
        else:
            before = f"noise of sigma {sigma}: " + quality(noisy, clean)
            after = "restored: " + quality(restored, clean)
        print(f"{name:14} {before:38} -> {after:38} {note}")
        rows.append((noisy, before, restored, after))
    info = restorer.info
    print(f"path taken: {MODEL}, {info['isa']}, {info['precision']}, {info['threads']} threads")
    print(gain(restorer, with_noise(np.asarray(Image.open(HERE / "pictures" / "astronaut.png")), 25)))
    target = HERE / "before_after.png"
    sheet(rows).save(target, optimize=True)
    print(f"written: {target}")


def with_noise(clean: np.ndarray, sigma: float) -> np.ndarray:
    noisy = fr.degrade.noise(clean / 255, sigma, seed=0)
    return (noisy * 255).round().clip(0, 255).astype(np.uint8)


def timed(restorer: fr.Restorer, picture: np.ndarray, sigma: float | None, runs: int = 5) -> tuple[np.ndarray, float]:
    """The restored picture, and the median of milliseconds per megapixel over some runs after a first one."""
    restored, seconds = restorer(picture, sigma), []
    for _ in range(runs):
        start = time.perf_counter()
        restorer(picture, sigma)
        seconds.append(time.perf_counter() - start)
    height, width = picture.shape[:2]
    return restored, float(np.median(seconds)) * 1e9 / (height * width)


def gain(restorer: fr.Restorer, picture: np.ndarray, rounds: int = 5) -> str:
    """What plans gain: the same network and picture in PyTorch, in our plan, and in bfloat16, measured in turns."""
    # In grad mode the layers are torch's own; no weight wants a gradient, so nothing is recorded.
    model = fr.load(MODEL).to(memory_format=torch.channels_last).requires_grad_(False)
    narrow = fr.Restorer(MODEL, precision="bfloat16")
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float().div(255).contiguous(memory_format=torch.channels_last)
    cases = {
        "torch": lambda: model(x, 25.0),
        "float32": lambda: restorer(picture, 25.0),
        "bfloat16": lambda: narrow(picture, 25.0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):  # the first warms up
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    near = fr.metrics.psnr(narrow(picture, 25.0), restorer(picture, 25.0))
    return (
        f"the same network on {picture.shape[1]} x {picture.shape[0]} pixels: PyTorch {ms['torch']:.0f} ms, "
        f"fastrestore {ms['float32']:.0f} ms (x {ms['torch'] / ms['float32']:.1f}), in bfloat16 "
        f"{ms['bfloat16']:.0f} ms (x {ms['torch'] / ms['bfloat16']:.1f}; {near:.0f} dB from float32)"
    )


def quality(picture: np.ndarray, clean: np.ndarray) -> str:
    return f"PSNR {fr.metrics.psnr(picture, clean):.2f} dB, SSIM {fr.metrics.ssim(picture, clean):.3f}"


def sheet(rows: list) -> Image.Image:
    """Two columns, before and after, with a line of text under each picture."""
    height = sum(min(CELL, before.shape[0]) + HEADING for before, *_ in rows) + GAP
    page = Image.new("RGB", (2 * CELL + 3 * GAP, height), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    y = GAP
    for before, before_text, after, after_text in rows:
        for column, (picture, text) in enumerate(((before, before_text), (after, after_text))):
            x = GAP + column * (CELL + GAP)
            image = Image.fromarray(picture).convert("RGB")
            page.paste(image, (x + (CELL - image.width) // 2, y))
            draw.text((x, y + image.height + 4), text, fill=INK if column else FAINT, font=font)
        y += before.shape[0] + HEADING
    return page


if __name__ == "__main__":
    main()
