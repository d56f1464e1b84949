"""The options that several subcommands have."""

from typing import Annotated

import typer

Task = Annotated[str, typer.Option(help="What to remove: denoise, demoire or deblur.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="A named model, a .safetensors file or a plan (.frp).  [default: the task's]", show_default=False
    ),
]
Sigma = Annotated[
    float | None,
    typer.Option(min=0, max=255, help="Noise level in 0-255 units, for models that take one.  [default: estimated]"),
]
Strength = Annotated[float, typer.Option(min=0, max=1, help="0 keeps the input, 1 restores fully.")]
Device = Annotated[str, typer.Option(help="auto (the CPU), cpu or cuda.")]
Precision = Annotated[
    str, typer.Option(help="auto (float32, or a plan file's; float16 on a GPU), float32, bfloat16 or float16.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads.  [default: all]", show_default=False)]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Of JPEG results.")]
LARGEST = "Refuse larger pictures.  [default: 200, and no limit for TIFF]"
MaxMpixel = Annotated[float | None, typer.Option(min=0, help=LARGEST, show_default=False)]
Codec = Annotated[
    str | None,
    typer.Option(help="Of clips: h264, h265, av1, vp9, prores or ffv1 (no loss).  [default: h264, vp9 for .webm]"),
]
CLIP_QUALITY = "Constant rate factor of clips, smaller is better.  [default: the codec's]"
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
