"""The suite's one notion of close."""

import torch
from torch import Tensor

FLOAT32_EPS = 2.0**-23


def assert_no_worse(actual: Tensor, plain: Tensor, exact: Tensor, *, factor: float = 2.0, most: float = 4.0) -> None:
    """actual lies no further from the float64 truth than plain PyTorch's own float32 result does, times a factor.

    factor bounds the root mean square of the error and most the greatest single error.  The two summations
    differ in order, so neither error is a bound for the other: over many values their rms is close (hence 2),
    while the greatest of a few thousand values is a matter of luck (hence 4).  Where torch happens to be exact, or
    only a few values are compared, an error of one unit in the last place of the greatest value is allowed.
    Values that are not finite must be the same in all three.
    """
    assert actual.shape == plain.shape == exact.shape, f"shapes {actual.shape}, {plain.shape}, {exact.shape}"
    finite = exact.isfinite()
    torch.testing.assert_close(actual[~finite].double(), exact[~finite].double(), rtol=0, atol=0, equal_nan=True)
    if not finite.any():
        return
    exact = exact[finite].double()
    error = (actual[finite].double() - exact).abs()
    own = (plain[finite].double() - exact).abs()
    floor = FLOAT32_EPS * exact.abs().max()
    for name, bound, got, allowed in (
        ("rms", factor, error.square().mean().sqrt(), own.square().mean().sqrt()),
        ("greatest", most, error.max(), own.max()),
    ):
        assert got <= bound * allowed + floor, f"{name} error {got:.3g}, torch's own {allowed:.3g}, factor {bound}"
