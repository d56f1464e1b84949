"""Plans of precision int8: near the float32 result, the same bits however the picture is cut, saved and refused."""

import json

import numpy as np
import pytest
import torch

import fastrestore as fr
from fastrestore import engine, models
from fastrestore.calibrate import RANGES
from fastrestore.cli.compile import compile as compile_command
from fastrestore.engine import build_info
from fastrestore.errors import ModelError
from fastrestore.lower import lower
from fastrestore.ops import _C

ISAS = [isa for isa in ("baseline", "avx2", "avx512", "avx512_bf16", "amx") if isa in build_info()["built_isas"]]


def picture(seed, height=75, width=150):
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    clean = 0.5 + 0.4 * np.sin(0.2 * columns + (0.01 + 0.002 * seed) * rows**2)[..., None] * np.float32(
        [1.0, 0.7, -0.5]
    )
    noise = np.random.default_rng(seed).standard_normal(clean.shape)
    return (clean + 25 / 255 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return fr.load("denoise-cnn")


@pytest.fixture(scope="module")
def plan(model):
    return fr.compile(model, precision="int8", calibration=[(picture(s), 25.0) for s in (1, 2)])


def small_dncnn(**config):
    torch.manual_seed(0)
    return models.create("dncnn", **{"width": 20, "depth": 5} | config).eval()


def elements(plan):
    return [step["element"] for step in plan.steps]


@pytest.mark.parametrize("ranges", RANGES)
def test_near_float32(model, ranges):
    plan = fr.compile(model, precision="int8", calibration=[(picture(s), 25.0) for s in (1, 2)], ranges=ranges)
    wide = fr.compile(model).session(threads=1).run(picture(3), sigma=25.0, clip=False)
    narrow = plan.session(threads=1).run(picture(3), sigma=25.0, clip=False)
    assert plan.precision == "int8" and "uint8" in elements(plan)
    assert fr.metrics.psnr(narrow, wide) > 45
    about = plan.card["int8"]
    assert about["ranges"] == ranges and about["images"] == elements(plan).count("uint8") and about["psnr"] > 45


@pytest.mark.parametrize("isa", ISAS)
def test_exact_in_any_cut_on_every_instruction_set(model, plan, tmp_path, isa):
    path = tmp_path / "m.frp"
    plan.save(path)
    try:
        loaded = fr.Plan.load(path, isa=isa)
    except ValueError as error:
        pytest.skip(str(error))
    whole = loaded.session(threads=1).run(picture(3), sigma=25.0, clip=False)
    for threads, memory in ((2, None), (3, "8MiB")):
        cut = loaded.session(threads=threads, memory=memory).run(picture(3), sigma=25.0, clip=False)
        np.testing.assert_array_equal(cut, whole)
    # What is wide rounds as the instruction set does, and may put a value on the next level.
    wide = fr.compile(model, isa=isa).session(threads=1).run(picture(3), sigma=25.0, clip=False)
    assert fr.metrics.psnr(whole, wide) > 45


def test_first_and_last_convolution_stay_wide():
    plan = fr.compile(small_dncnn(), precision="int8", calibration=[picture(1)])
    kernels = [(step["kernel"], step["element"]) for step in plan.steps if step["op"] == "conv2d"]
    assert ["int8" in kernel for kernel, _ in kernels] == [False, True, True, True, False]
    assert [element for _, element in kernels] == ["uint8", "uint8", "uint8", "bfloat16", "float32"]


@pytest.mark.parametrize("padding", ["replicate", "reflect", "zero"])
def test_negative_values_have_levels_too(padding):
    """LeakyReLU and residual blocks: 0 is not the lowest level, and what pads the picture is 0 all the same."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.first = torch.nn.Conv2d(3, 24, 3, padding=1)
            self.a = torch.nn.Conv2d(24, 24, 3, padding=1, padding_mode=padding + ("s" if padding == "zero" else ""))
            self.b = torch.nn.Conv2d(24, 24, 3, padding=1)
            self.down = torch.nn.Conv2d(24, 30, 2, stride=2)
            self.up = torch.nn.ConvTranspose2d(30, 24, 2, stride=2)
            self.mid = torch.nn.Conv2d(24, 24, 1)
            self.last = torch.nn.Conv2d(24, 3, 3, padding=1)
            self.multiple_of = 2

        def forward(self, x):
            leaky = torch.nn.functional.leaky_relu
            y = leaky(self.first(x), 0.2)
            y = y + self.b(leaky(self.a(y), 0.2))
            y = self.up(self.down(y)) + y
            return x + self.last(leaky(self.mid(y), 0.2))

    net = Net().eval()
    plan = fr.compile(net, precision="int8", calibration=[picture(1)])
    assert elements(plan).count("uint8") >= 4
    narrow = plan.session(threads=1).run(picture(3), clip=False)
    wide = fr.compile(net).session(threads=1).run(picture(3), clip=False)
    assert fr.metrics.psnr(narrow, wide) > 45
    for threads, memory in ((2, None), (1, "400KiB")):
        np.testing.assert_array_equal(plan.session(threads=threads, memory=memory).run(picture(3), clip=False), narrow)


def test_what_would_cost_too_much_stays_wide():
    """A layer whose largest value is far above the others leaves them too few levels."""
    net = small_dncnn(depth=6)
    with torch.no_grad():
        convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
        convolutions[2].weight[0] *= 3000.0
        convolutions[3].weight[:, 0] /= 3000.0
    plan = fr.compile(net, precision="int8", calibration=[picture(1)])
    about = plan.card["int8"]
    assert about["wide"] >= 1 and about["psnr"] > 48.9
    assert about["images"] == elements(plan).count("uint8") >= 1


@pytest.mark.parametrize("least, kept", [(0.0, True), (200.0, False)])
def test_how_much_it_may_cost_is_the_callers(model, least, kept):
    given = fr.compile(model, "int8", calibration=[(picture(0), 25.0)], least_psnr=least)
    assert (given.card["int8"]["wide"] == 0) == kept and (given.card["int8"]["images"] > 0) == kept


def test_a_file_holds_it_all(plan, tmp_path):
    path = tmp_path / "m.frp"
    plan.save(path)
    loaded = fr.Plan.load(path)
    assert loaded.precision == "int8" and loaded.card == plan.card and elements(loaded) == elements(plan)
    image = picture(4)
    np.testing.assert_array_equal(
        loaded.session(threads=1).run(image, sigma=20.0), plan.session(threads=1).run(image, sigma=20.0)
    )
    loaded.save(tmp_path / "again.frp")
    assert (tmp_path / "again.frp").read_bytes() == path.read_bytes()
    restorer = fr.Restorer(path, precision="int8")
    assert restorer.info["precision"] == "int8"
    with pytest.raises(ValueError, match="compiled for int8"):
        fr.Restorer(path, precision="float32")


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([(1, 0.0, 0)], "positive and finite"),
        ([(1, -1.0, 0)], "positive and finite"),
        ([(1, float("nan"), 0)], "positive and finite"),
        ([(1, float("inf"), 0)], "positive and finite"),
        ([(1, 1e-45, 0)], "positive and finite"),
        ([(1, 3e38, 0)], "positive and finite"),
        ([(1, 0.1, -1)], "within 0 to 255"),
        ([(1, 0.1, 256)], "within 0 to 255"),
        ([(0, 0.1, 0)], "must stay wide"),  # the picture
        ([(4, 0.1, 0)], "must stay wide"),  # what the last convolution reads
        ([(5, 0.1, 0)], "must stay wide"),  # the result
        ([(99, 0.1, 0)], "no node"),
        ([(-1, 0.1, 0)], "no node"),
        ([(2, 0.1, 0), (1, 0.1, 0)], "not in their order"),
        ([(1, 0.1, 0), (1, 0.1, 0)], "not in their order"),
    ],
)
def test_unsound_levels_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        _C.Plan(lower(small_dncnn()), "int8", "", levels)


def test_levels_belong_to_int8_only():
    with pytest.raises(ValueError, match="only precision int8"):
        _C.Plan(lower(small_dncnn()), "float32", "", [(1, 0.1, 0)])


@pytest.mark.parametrize(
    "levels",
    [
        '[{"node":1,"scale":0,"zero":0}]',
        '[{"node":1,"scale":-0.5,"zero":0}]',
        '[{"node":1,"scale":1e39,"zero":0}]',
        '[{"node":1,"scale":1e-42,"zero":0}]',
        '[{"node":1,"scale":"0.5","zero":0}]',
        '[{"node":1,"scale":0.5,"zero":256}]',
        '[{"node":1,"scale":0.5,"zero":-1}]',
        '[{"node":4294967297,"scale":0.5,"zero":0}]',
        '[{"node":0,"scale":0.5,"zero":0}]',
        '[{"node":1,"scale":0.5}]',
        '[{"node":1,"scale":0.5,"zero":0,"more":1}]',
        "[1]",
        "{}",
        "null",
    ],
)
def test_a_hostile_file_is_refused(tmp_path, levels):
    """The checksum is put right: it finds damage, not malice."""
    path = tmp_path / "m.frp"
    fr.compile(small_dncnn(), precision="int8", calibration=[picture(1)]).save(path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    document = header["__metadata__"]["fastrestore_plan"]
    whole = json.loads(document)
    begin = document.index('"levels":') + len('"levels":')
    altered = document[:begin] + levels + "}"
    assert json.loads(document[:begin] + json.dumps(whole["levels"]) + "}") == whole  # levels stand last
    header["__metadata__"]["fastrestore_plan"] = altered
    header["__metadata__"]["sha256"] = checksum(altered, header, content[8 + size :])
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(ModelError) as refused:
        fr.Plan.load(path)
    assert "checksum" not in str(refused.value)


def checksum(document, header, data):
    import hashlib

    total = hashlib.sha256(document.encode())
    for name in sorted(key for key in header if key != "__metadata__"):
        begin, end = header[name]["data_offsets"]
        total.update(json.dumps([name, header[name]["shape"]], separators=(",", ":")).encode() + data[begin:end])
    return total.hexdigest()


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "at least one picture"),
        ([picture(1)[..., :1]], r"must be \[H, W, 3\]"),
        ([picture(1)[0]], r"must be \[H, W, 3\]"),
        ([picture(1)[:0]], "not empty"),
        ([picture(1).astype(np.float64)], "must be uint8"),
        ([np.full((20, 20, 3), np.nan, np.float32)], "not finite"),
        ([picture(1), np.full((20, 20, 3), np.inf, np.float32)], "not finite"),
        ([(picture(1), 25.0)], "takes no sigma"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pictures, message):
    with pytest.raises(ValueError, match=message):
        fr.compile(small_dncnn(), precision="int8", calibration=pictures)


def test_int8_and_pictures_go_together():
    with pytest.raises(ValueError, match="needs pictures"):
        fr.compile(small_dncnn(), precision="int8")
    with pytest.raises(ValueError, match="needs pictures"):
        fr.compile(small_dncnn(), calibration=[picture(1)])
    with pytest.raises(ValueError, match="ranges must be"):
        fr.compile(small_dncnn(), precision="int8", calibration=[picture(1)], ranges="entropy")
    with pytest.raises(ValueError, match="no convolution"):
        fr.compile(small_dncnn(depth=2), precision="int8", calibration=[picture(1)])
    with pytest.raises(ValueError, match="calibrate"):
        fr.Restorer("denoise-cnn", precision="int8")


def test_a_picture_without_sigma_is_told_the_estimate(model):
    plan = fr.compile(model, precision="int8", calibration=[picture(1)])
    assert plan.card["int8"]["psnr"] > 45


def test_integer_pictures_calibrate_like_floats():
    bytes_ = (np.clip(picture(1), 0, 1) * 255).round().astype(np.uint8)
    one = fr.compile(small_dncnn(), precision="int8", calibration=[bytes_])
    other = fr.compile(small_dncnn(), precision="int8", calibration=[bytes_.astype(np.float32) / 255])
    image = picture(3)
    np.testing.assert_array_equal(one.session(threads=1).run(image), other.session(threads=1).run(image))


def test_the_command_compiles_to_int8(tmp_path):
    from typer.testing import CliRunner

    from fastrestore import checkpoint, image

    folder = tmp_path / "pictures"
    folder.mkdir()
    bytes_ = (np.clip(picture(1), 0, 1) * 255).round().astype(np.uint8)
    image.write(folder / "a.png", image.Image(bytes_))
    source, target = tmp_path / "m.safetensors", tmp_path / "m.frp"
    checkpoint.save(small_dncnn(), source)
    import typer

    app = typer.Typer()
    app.command()(compile_command)
    arguments = [str(source), "-o", str(target), "--precision", "int8"]
    result = CliRunner().invoke(app, [*arguments, "--calibration", str(folder)])
    assert result.exit_code == 0 and "3 images of 8 bits, 0 kept wide" in result.output
    assert engine.Plan.load(target).precision == "int8"
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--calibration", str(source)]).exit_code == 2
