"""What a GPU once gave (golden.py), against the CPU, the emulation and, with --device cuda, this machine's GPU."""

import numpy as np
import pytest

from gpu import golden


@pytest.fixture(scope="module")
def recorded():
    if not golden.FILE.exists():
        pytest.skip("no GPU's results have been recorded yet: python -m gpu.golden, on a machine with one")
    return golden.read(golden.FILE)


def assert_near(actual, wanted):
    assert actual.keys() == wanted.keys()
    for name, values in actual.items():
        limit = golden.TOLERANCE[name.split()[-1]]
        assert golden.distance(values, wanted[name]) < limit, name


def on_the_cpu(plan, kind, image):
    return plan.session(threads=1).run(image, clip=False)


def test_the_cpu_agrees(recorded):
    assert_near(golden.results(on_the_cpu), recorded[0])


def test_the_emulation_agrees(recorded, sessions):
    assert_near(
        golden.results(lambda plan, kind, image: sessions.run(sessions.open(plan, kind), image)[0]), recorded[0]
    )


def test_a_gpu_gives_them_again(recorded, request):
    """To the bit on the same kind of GPU."""
    if request.config.getoption("--device") != "cuda":
        pytest.skip("needs --device cuda")
    arrays, told = recorded
    ours, name = golden.results(golden.on_this_gpu), "gpu, capability, driver"
    assert_near(ours, arrays)
    if golden.about()[name].split(",")[:2] == told[name].split(",")[:2]:
        for case, values in ours.items():
            np.testing.assert_array_equal(values, arrays[case], err_msg=case)


def test_what_is_recorded_is_read_again_and_a_wrong_result_noticed(tmp_path):
    """The recorder and the comparison, on the CPU's results in a GPU's place."""
    arrays = golden.results(on_the_cpu)
    golden.write(tmp_path / "golden.npz", arrays, {"commit": "none"})
    again, told = golden.read(tmp_path / "golden.npz")
    assert told == {"commit": "none"} and (tmp_path / "golden.npz").stat().st_size < 200_000
    assert_near(arrays, again)
    again["unet float16"] = again["unet float16"][::-1]
    with pytest.raises(AssertionError, match="unet float16"):
        assert_near(arrays, again)
