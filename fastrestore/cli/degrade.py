"""fastrestore degrade: a picture made worse, for tests of restoration."""

from pathlib import Path
from typing import Annotated

import typer


def degrade(
    picture: Annotated[
        Path | None, typer.Argument(help="A picture.  [default: a test chart]", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the degraded picture goes.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="What to do to it; for a preview several, all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random parameters.")] = 0,
    clean: Annotated[Path | None, typer.Option(help="Where the clean picture goes that is aligned with -o.")] = None,
    preview: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A sheet: a row for each kind, columns by seed.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Degrades a picture as cameras do: moiré, blur, noise.  Prints the parameters that were drawn."""
    import numpy as np

    from fastrestore import degrade as kinds
    from fastrestore import image
    from fastrestore.degrade import preview as sheets
    from fastrestore.errors import ImageError

    if (output is None) == (preview is None):
        raise typer.BadParameter("give -o for one degraded picture or --preview for a sheet")
    known = [*kinds.KINDS, *kinds.CLIPS]
    unknown = set(kind or ()) - set(known)
    if unknown:
        raise typer.BadParameter(f"no kind {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    for path in filter(None, (output, clean, preview)):
        if path.exists() and not overwrite:
            raise ImageError(f"{path}: exists; --overwrite replaces it")
    if picture is None:
        source = sheets.chart()
    else:
        pixels = image.read(picture).pixels
        scale = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
        source = pixels.astype(np.float32) / np.float32(scale)
    if preview:
        image.write(preview, image.Image(sheets.sheet(source, kind or known, seed)))
        return
    if not kind or len(kind) != 1 or kind[0] not in kinds.KINDS:
        raise typer.BadParameter(f"give one --kind of {', '.join(kinds.KINDS)}; the others are of clips")
    made = kinds.KINDS[kind[0]](source, seed=seed)
    for path, pixels in ((output, made.image), (clean, made.clean)):
        if path:
            image.write(path, image.Image(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)))
    typer.echo(made.parameters)
