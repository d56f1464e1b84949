"""How far an output pixel looks, followed backwards through a network's layers.

A step maps the span of pixels (first, last) that are wanted from a layer's output to the span that it reads.
"""

from collections.abc import Callable, Sequence

Span = tuple[int, int]
Step = Callable[[Span], Span]


def halo(steps: Sequence[Step], period: int) -> int:
    """The greatest distance that an output pixel looks, each way, over the positions of one period of the grids.

    steps: of the path that reaches furthest, from the output to the input.
    """
    reach = 0
    for position in range(period):
        first = last = position
        for step in steps:
            first, last = step((first, last))
        reach = max(reach, position - first, last - position)
    return reach


def convolution(count: int = 1) -> Step:
    """`count` 3x3 convolutions in a row."""
    return lambda span: (span[0] - count, span[1] + count)


def strided(kernel: int, stride: int, padding: int = 0) -> Step:
    """A convolution with a stride."""
    return lambda span: (span[0] * stride - padding, span[1] * stride - padding + kernel - 1)


def transposed(kernel: int, stride: int, padding: int = 0) -> Step:
    """A transposed convolution with a stride."""
    return lambda span: (-((kernel - 1 - padding - span[0]) // stride), (span[1] + padding) // stride)


def windows(side: int, shift: int = 0) -> Step:
    """Attention within windows of a grid that starts at pixel `shift`."""

    def step(span: Span) -> Span:
        first, last = ((pixel - shift) // side * side + shift for pixel in span)
        return first, last + side - 1

    return step


def either(a: Step, b: Step) -> Step:
    """Two branches side by side."""

    def step(span: Span) -> Span:
        (first, last), (also_first, also_last) = a(span), b(span)
        return min(first, also_first), max(last, also_last)

    return step
