"""Published architectures: counts, every name and shape, independent implementations, public weights, plans."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_models import SMALL
from torch.utils.flop_counter import FlopCounterMode

import fastrestore as fr
from fastrestore import image, models
from fastrestore.convert import convert
from fastrestore.errors import ModelError, UnsupportedOperator
from fastrestore.metrics import psnr

NEW = ("dmphn", "esdnet", "mimo-unet", "nafnet", "restormer", "scunet", "swinir")
VARIANTS = [(name, variant) for name in NEW for variant in models.MODELS[name].variants]


def without_weights(name, variant):
    with torch.device("meta"):
        return models.create(name, variant).eval()


def small(name, **config):
    torch.manual_seed(0)
    model = models.create(name, **SMALL[name] | config).eval()
    with torch.no_grad():  # no residual branch starts switched off
        for parameter in model.parameters():
            if parameter.dim() != 2 and (parameter == 0).all():
                parameter.normal_(std=0.3)
    return model


# Millions of parameters: NAFNet by its authors (issue 60 of their repository: 29.16; issue 51: 115.9; issue 37: a
# block of 0.466 is 0.686 %, so 67.9); Restormer, MIMO-UNet, ESDNet as in their papers' tables; SwinIR and SCUNet as
# counted in the authors' code.  DMPHN's paper states 21.7 MB of float32.
@pytest.mark.parametrize(
    ("name", "variant", "millions"),
    [
        ("nafnet", "sidd-width32", 29.16),
        ("nafnet", "sidd-width64", 115.98),
        ("nafnet", "gopro-width32", 17.11),
        ("nafnet", "gopro-width64", 67.89),
        ("restormer", "deblur", 26.13),
        ("restormer", "denoise-color", 26.11),
        ("swinir", "denoise-color", 11.50),
        ("scunet", "color", 17.95),
        ("mimo-unet", "mimo-unet", 6.81),
        ("mimo-unet", "mimo-unet+", 16.11),
        ("esdnet", "esdnet", 5.934),
        ("esdnet", "esdnet-l", 10.623),
        ("dmphn", "1-2-4", 21.7 / 4),
    ],
)
def test_parameter_counts_are_the_published_ones(name, variant, millions):
    count = sum(parameter.numel() for parameter in without_weights(name, variant).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=5e-4)


# Thousand millions of multiplications.  NAFNet: its authors' counter, a quarter of the 64.9 for 512 x 512 in issue
# 51, and 63.33 after issue 37; Restormer 140.99 and MIMO-UNet 67.17 and 154.41 as the literature quotes their
# papers; ESDNet 2248 and 3688 for 4K.  These counters leave the attention's products out, and take a transposed
# convolution for one of its output's size, hence `transposed`; the rest is what they count for activations and sums.
@pytest.mark.parametrize(
    ("name", "variant", "size", "published", "transposed"),
    [
        ("nafnet", "sidd-width32", (256, 256), 64.9 / 4, 0),
        ("nafnet", "gopro-width64", (256, 256), 63.33, 0),
        ("restormer", "deblur", (256, 256), 140.99, 0),
        ("mimo-unet", "mimo-unet", (256, 256), 67.17, 3 * 2 * 64 * 64 * 128 * 64 * 16 / 1e9),
        ("mimo-unet", "mimo-unet+", (256, 256), 154.41, 3 * 2 * 64 * 64 * 128 * 64 * 16 / 1e9),
        ("esdnet", "esdnet", (2176, 3840), 2248, 0),
        ("esdnet", "esdnet-l", (2176, 3840), 3688, 0),
    ],
    ids=str,
)
def test_operation_counts_are_the_published_ones(name, variant, size, published, transposed):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        without_weights(name, variant)(torch.zeros(1, 3, *size, device="meta"))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2e9
    assert convolutions + transposed <= published * 1.001
    assert convolutions + transposed == pytest.approx(published, rel=0.012)


# SHA-256 over the sorted lines "name [shape]" of a state dict.  They were taken from other implementations, not from
# ours: spandrel 0.4.2 (NAFNet, SCUNet, SwinIR without its two tables), spandrel-extra-arches 0.2.0 (Restormer), and
# the authors' code (chosj95/MIMO-UNet, CVMI-Lab/UHDM, HongguangZhang/DMPHN-cvpr19-master), whose outputs ours equalled.
NAMES = {
    ("dmphn", "1-2"): "1fa2151f935e733b092f0c10ef5f1e6bf93b4ab32e67eb4326823e8f34fc061f",
    ("dmphn", "1-2-4"): "3e69467e52d53f217c8250cee2fe2714d0d2efb2c4c8f9ca5d86dc8be8825225",
    ("dmphn", "1-2-4-8"): "1be993c51aa8882f9dfc69c059720a6ddf939b9af277f5f3837446a9967a8056",
    ("esdnet", "esdnet"): "539c1871318d3b51d8be192eb441ce17d0dcb00ee41ccb40974378418e3e41d6",
    ("esdnet", "esdnet-l"): "6c879b3a0608219117faf5bd65f19f9f84e7ebcdc8c04b2503548e588b17c8cd",
    ("mimo-unet", "mimo-unet"): "fa3f88e0f96781bbe7ecabded5efe634acbdd1991d3dd6c9178296aae7c97d27",
    ("mimo-unet", "mimo-unet+"): "c70954bd2ddd266ce59bccd8abbaa2d9fcc05daec4e3e03ea51ddc31beb52310",
    ("nafnet", "sidd-width32"): "2000d6e8d36886ad8a4ce07a8d21f76ff4e2081a23d2fc4f5333ca3e53e1ddb4",
    ("nafnet", "sidd-width64"): "a24e2ee438f4d129d424270110b3d52bd121a0098372d8cad4da5f3050a3d638",
    ("nafnet", "gopro-width32"): "56b2c50d9e5bc38659bbd1d7bf1b528ea206741365f67e2e1e2dbed2b5dad756",
    ("nafnet", "gopro-width64"): "a3bd9afa90d7f630b7c4731ab3f1a7421dbebf191c71a62ead15b3dd80c6ecf9",
    ("restormer", "denoise-color"): "8798fe1c267fc53506d816ba01bd0fae52afc4fafb3c2316b052b9c4f877a8ee",
    ("restormer", "denoise-gray"): "763a19a303c8fa4c0fbb614dcbb89791b6648da408c7d113d56c34a47f047ea5",
    ("restormer", "deblur"): "8c2c5078a3145b0d5014efbce3f82658dd33298662d66f5008efce864e0832c3",
    ("scunet", "color"): "4f966d1d5b87f272cd7e3502137c45336bc7c5ffbe212f9c64b6820e81475de5",
    ("scunet", "gray"): "44a7f392e942c336659c8537fddd1d19503c027a38f5ba70074ad30d0abf76ef",
    ("swinir", "denoise-color"): "d49001fd1369b845b6189e3fa5677b1c75c6a4f895ac6c36c98ad57c24b3a590",
    ("swinir", "denoise-gray"): "1085207a326aa876668a13579813bc7483cdc80ab53747bbf5f336e83ff3bc52",
    ("swinir", "jpeg-color"): "be07c1cfd79967c8f0c32567cf5e80227f666c9d51fcf06c25a5ceeba189d9a1",
    ("swinir", "jpeg-gray"): "707b3bc5633b82378f29a1e2836adb7bd22aef37b8ca45991bdceb06ec1dda8d",
}


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_published_name_and_shape(name, variant):
    state = without_weights(name, variant).state_dict()
    lines = sorted(f"{key} {list(value.shape)}" for key, value in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == NAMES[name, variant]


def spandrel_nafnet():
    from spandrel.architectures.NAFNet import NAFNet

    return NAFNet(width=32, enc_blk_nums=[1, 1, 1, 28], middle_blk_num=1, dec_blk_nums=[1, 1, 1, 1])


def spandrel_scunet():
    from spandrel.architectures.SCUNet import SCUNet

    return SCUNet(dim=64)


def spandrel_swinir():
    from spandrel.architectures.SwinIR import SwinIR

    shape = {"img_size": 128, "window_size": 8, "embed_dim": 180, "mlp_ratio": 2}
    return SwinIR(depths=[6] * 6, num_heads=[6] * 6, **shape)


def spandrel_restormer():
    return pytest.importorskip("spandrel_extra_arches.architectures.Restormer").Restormer(LayerNorm_type="BiasFree")


@pytest.mark.parametrize("name", ["nafnet", "restormer", "scunet", "swinir"])
def test_spandrels_implementation_agrees(name, tmp_path):
    """The same random weights give the same picture to 1e-5, through the converter and strictly by name."""
    pytest.importorskip("spandrel")
    torch.manual_seed(0)
    theirs = globals()[f"spandrel_{name}"]().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if (parameter == 0).all() or (parameter == 1).all():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    torch.save({"params": theirs.state_dict()}, tmp_path / "w.pth")
    ours = convert(tmp_path / "w.pth", name)
    x = torch.rand(2, 3, 64, 64) if name == "scunet" else torch.rand(2, 3, 37, 44)
    if name == "restormer":
        x = torch.rand(2, 3, 32, 40)  # theirs does not pad
    with torch.no_grad():
        wanted = theirs(x)
        assert (wanted - x).abs().max() > 0.1
        torch.testing.assert_close(ours(x), wanted, rtol=0, atol=1e-5)


def test_spandrels_modules_run(tmp_path):
    """What spandrel loads is an nn.Module, which a Restorer takes."""
    spandrel = pytest.importorskip("spandrel")
    ours = small("nafnet")
    theirs = spandrel.ModelLoader().load_from_state_dict(dict(ours.state_dict())).model
    picture = np.random.default_rng(0).random((21, 30, 3), dtype=np.float32)
    np.testing.assert_allclose(fr.Restorer(theirs)(picture), fr.Restorer(ours)(picture), atol=1e-5)


@pytest.mark.shared_data
def test_dmphn_gives_the_authors_output(shared_data):
    """Their picture to within one grey level: 63.3 dB with these weights, which were rounded to float16."""
    model = convert(shared_data / "weights/dmphn_1_2_4_fp16.safetensors", "dmphn")
    assert model.config == models.MODELS["dmphn"].variants["1-2-4"]
    blurred, sharp = (image.read(shared_data / f"blur/gopro/{kind}_00.png").pixels for kind in ("blur", "sharp"))
    wanted = image.read(shared_data / "blur/gopro_clip/dmphn_1_2_4_output_000014.png").pixels
    restored = fr.Restorer(model)(blurred.astype(np.float32) / 255)
    cut = np.floor(restored * 255).astype(np.uint8)  # as the authors wrote it
    assert np.abs(cut.astype(int) - wanted).max() <= 1
    assert psnr(cut, wanted) == pytest.approx(63.3, abs=0.1)
    assert psnr(np.rint(restored * 255).astype(np.uint8), sharp) == pytest.approx(29.79, abs=0.005)


@pytest.mark.parametrize("blocks", [1, 2])
def test_mimo_unet_compiles(blocks):
    model = small("mimo-unet", blocks=blocks)
    plan = fr.compile(model)
    assert (plan.halo, plan.multiple_of) == (model.halo, model.multiple_of)
    picture = np.random.default_rng(0).random((45, 38, 3), dtype=np.float32)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    with torch.no_grad():
        exact = model.double()(x)[0].permute(1, 2, 0).numpy()
    assert np.abs(exact - picture).max() > 0.05
    np.testing.assert_allclose(plan.session().run(picture, clip=False), exact, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("dmphn", {}, r"aten\.chunk.* has no plan"),
        ("esdnet", {}, r"pads pictures in a way that has no plan: a border of the mean colour"),
    ],
    ids=str,
)
def test_what_has_no_plan_is_named_and_runs_all_the_same(name, config, words):
    model = small(name, **config)
    with pytest.raises(UnsupportedOperator, match=words):
        fr.compile(model)
    restorer = fr.Restorer(model)
    assert "has no plan" in restorer.info["path"]
    picture = np.random.default_rng(0).random((37, 41, 3), dtype=np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(restorer(picture, clip=False), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["scunet", "swinir"])
def test_window_attention_is_exact_in_tiles(name):
    """Tiles read their halo and begin on the grid of windows, so they know nothing of the picture's other edges."""
    model = small(name, blocks=(2, 1, 1, 1, 1, 1, 1)) if name == "scunet" else small(name)
    model = model.double()
    margin = -(-model.halo // model.multiple_of) * model.multiple_of
    x = torch.rand(1, 3, 2 * margin + 3 * model.multiple_of - 1, model.multiple_of + 1, dtype=torch.float64)
    first = model.multiple_of
    with torch.no_grad():
        whole, part = model(x), model(x[:, :, first:])
    torch.testing.assert_close(part[:, :, margin:], whole[:, :, first + margin :], rtol=0, atol=1e-12)
    assert (part[:, :, :first] - whole[:, :, first : 2 * first]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["dmphn", "mimo-unet", "nafnet", "restormer", "swinir"])
def test_exports_for_every_multiple_of_its_grid(name):
    model = small(name)
    k = model.multiple_of
    height, width = (torch.export.Dim(side, min=2, max=64) for side in ("h", "w"))
    with torch.no_grad():
        shapes = ({2: k * height, 3: k * width},)
        program = torch.export.export(model, (torch.rand(1, 3, 3 * k, 4 * k),), dynamic_shapes=shapes)
        x = torch.rand(1, 3, 2 * k, 5 * k)
        torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NEW)
def test_pictures_of_a_batch_do_not_mix(name):
    model = small(name)
    x = torch.rand(3, 3, 19, 26)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=0, atol=1e-5)


def test_local_nafnet_takes_means_over_windows():
    """TLC's definition: windows of 384 for patches of 256, scaled with the level, that stay inside the picture."""
    model = small("nafnet", local=12).double()
    pools = [module for module in model.modules() if type(module).__name__ == "_LocalMean"]
    assert [pool.side for pool in pools] == [12, 6, 3, 6, 12]
    x = torch.rand(2, 4, 17, 9, dtype=torch.float64)
    wanted = torch.empty_like(x)
    for i in range(17):
        top = min(max(i - 2, 0), 17 - 6)
        for j in range(9):
            left = min(max(j - 2, 0), 9 - 6)
            wanted[:, :, i, j] = x[:, :, top : top + 6, left : left + 6].mean((2, 3))
    torch.testing.assert_close(pools[1](x), wanted)
    torch.testing.assert_close(pools[1](x[..., :4]), pools[1](x[..., :4])[..., :1].expand(-1, -1, -1, 4))
    with torch.no_grad():
        tiny, large = torch.rand(1, 3, 12, 12, dtype=torch.float64), torch.rand(1, 3, 32, 24, dtype=torch.float64)
        everywhere = small("nafnet").double()
        torch.testing.assert_close(model(tiny), everywhere(tiny))
        assert (model(large) - everywhere(large)).abs().max() > 1e-4


def test_padding_is_the_published_one():
    x = torch.rand(1, 3, 21, 30)
    with torch.no_grad():
        for name, size, mode in (("nafnet", (24, 32), "constant"), ("restormer", (24, 32), "reflect")):
            model = small(name)
            padded = F.pad(x, (0, size[1] - 30, 0, size[0] - 21), mode=mode)
            torch.testing.assert_close(model(x), model(padded)[..., :21, :30], rtol=0, atol=1e-5)
        model = small("esdnet")  # 32 x 32, the picture in the middle
        padded = torch.stack([F.pad(x[0, c], (1, 1, 5, 6), value=v) for c, v in enumerate((0.3827, 0.4141, 0.3912))])
        torch.testing.assert_close(model(x), model(padded[None])[..., 5:26, 1:31], rtol=0, atol=1e-5)


def test_smaller_results_for_training():
    x = torch.rand(2, 3, 32, 64)
    for name in ("mimo-unet", "esdnet"):
        model = small(name)
        with torch.no_grad():
            full, half, quarter = model.scales(x)
            torch.testing.assert_close(full, model(x))
        assert (half.shape[2:], quarter.shape[2:]) == ((16, 32), (8, 16))


def test_variants_are_named():
    assert models.create("nafnet", "gopro-width32", width=8, middle_blocks=2).config.encoder_blocks == (1, 1, 1, 28)
    with pytest.raises(ModelError, match="no variant 'large'; it has sidd-width32"):
        models.create("nafnet", "large")
    with pytest.raises(ModelError, match="has no variant 'a'; it has none"):
        models.create("dncnn", "a")


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("nafnet", {"decoder_blocks": (1,)}, "4 levels of encoder_blocks"),
        ("nafnet", {"local": 15}, "at least 16"),
        ("nafnet", {"local": -1}, "local must be a whole number from 0"),
        ("nafnet", {"encoder_blocks": (1, 1, 1, 200)}, "encoder_blocks must be"),
        ("restormer", {"heads": (1, 2, 4, 5)}, "384 channels cannot be divided among 5 heads"),
        ("scunet", {"blocks": (4, 4, 4)}, "seven"),
        ("scunet", {"width": 48}, "half of 48 channels"),
        ("scunet", {"window": 65}, "window must be at most 64"),
        ("swinir", {"window": 65}, "window must be at most 64"),
        ("swinir", {"heads": (6, 6)}, "6 groups"),
        ("swinir", {"heads": (6, 6, 6, 6, 6, 7)}, "among 7 heads"),
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(name, config, words):
    with pytest.raises(ModelError, match=words):
        models.create(name, **config)
