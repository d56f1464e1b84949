"""Plans of precision bfloat16: near the float32 result, and the same to the bit however the picture is cut."""

import numpy as np
import pytest

import fastrestore as fr
from fastrestore.engine import build_info

ISAS = [isa for isa in ("baseline", "avx2", "avx512", "avx512_bf16", "amx") if isa in build_info()["built_isas"]]


@pytest.fixture(scope="module")
def model():
    return fr.load("denoise-cnn")


@pytest.fixture(scope="module")
def noisy():
    rows, columns = np.mgrid[0:75, 0:150].astype(np.float32)
    clean = 0.5 + 0.4 * np.sin(0.2 * columns + 0.01 * rows**2)[..., None] * np.float32([1.0, 0.7, -0.5])
    noise = np.random.default_rng(3).standard_normal(clean.shape)
    return (clean + 25 / 255 * noise).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
def test_near_float32_and_exact_in_any_cut(model, noisy, isa):
    try:
        plan = fr.compile(model, precision="bfloat16", isa=isa)
    except ValueError as error:
        pytest.skip(str(error))
    wide = fr.compile(model, isa=isa).session(threads=1).run(noisy, sigma=25.0, clip=False)
    whole = plan.session(threads=1).run(noisy, sigma=25.0, clip=False)
    assert plan.precision == "bfloat16"
    assert fr.metrics.psnr(whole, wide) > 50  # the bound at which a precision is offered
    assert not np.array_equal(whole, wide)  # else nothing was rounded
    for threads, memory in ((2, None), (3, "12MiB")):
        cut = plan.session(threads=threads, memory=memory).run(noisy, sigma=25.0, clip=False)
        np.testing.assert_array_equal(cut, whole)
