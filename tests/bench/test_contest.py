"""Answers are proved: right ones pass, others are named and left out."""

import numpy as np
import pytest
import torch
from torch import nn

from fastrestore.bench import networks, peers
from fastrestore.bench.contest import Line, Truth, WrongAnswer, fastrestore_peer
from fastrestore.bench.networks import NETWORKS, Between, Network, flops_per_pixel, picture
from fastrestore.bench.peers import PEERS, Peer
from fastrestore.bench.process import Skipped


class Tiny(nn.Module):
    """A network of one layer whose plain form torch.export makes."""

    takes_sigma, multiple_of, halo = False, 1, 1

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x - self.layer(x)


TINY = Network("tiny", Tiny)


@pytest.fixture(scope="module")
def truth():
    return Truth(TINY, picture(60, 72))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ours_and_torchs_pass(truth, precision):
    image = picture(60, 72)
    ours = fastrestore_peer(TINY, image, 1, precision, None)
    plain = TINY.make_plain(TINY.model(), 60, 72)
    eager = peers.torch_eager(plain, image, 1, precision)
    for peer in (ours, eager):
        assert truth.check("it", peer.run(), precision)["rms_of_deviation"] < 0.01


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x[:, :-1],
        lambda x: x + 2e-4,
        lambda x: np.where(np.arange(x.shape[1])[None, :, None] == 70, np.nan, x),  # far from the corner
        lambda x: x[::-1],
        lambda x: np.zeros_like(x),
    ],
    ids=["shape", "offset", "NaN", "flipped", "zero"],
)
def test_wrong_answers(truth, spoil):
    with pytest.raises(WrongAnswer, match="it"):
        truth.check("it", spoil(truth.whole), "float32")


def test_a_peer_that_fails_is_left_out_with_the_reason():
    line = Line(lambda who, result: {})
    line.admit("breaks", lambda: 1 / 0, "torch")
    line.admit("needs more", lambda: (_ for _ in ()).throw(Skipped("needs a GPU")), "torch")
    line.admit("works", lambda: Peer(lambda: None), "torch")
    assert list(line.peers) == ["works"] and line.left_out["needs more"] == "needs a GPU"
    assert line.left_out["breaks"].startswith("failed with ZeroDivisionError")


def test_answers_are_checked_after_timing(truth):
    image, calls = picture(60, 72), []

    def tires() -> np.ndarray:
        calls.append(None)
        return truth.whole if len(calls) < 4 else np.zeros_like(truth.whole)

    line = Line(lambda who, result: truth.check(who, result, "float32"))
    line.make("fastrestore", lambda: fastrestore_peer(TINY, image, 1, "float32", None), "fastrestore")
    line.prove("fastrestore")
    line.admit("tires", lambda: Peer(tires), "torch")
    result = line.compare(0.0, 1, rounds=2)
    assert list(result["rows"]) == list(result["ratios"]) == list(result["noise"]) == ["fastrestore"]
    assert result["left_out"]["tires"].startswith("wrong after it was timed")
    line.peers["fastrestore"].run = lambda: truth.whole + 1
    with pytest.raises(WrongAnswer, match="fastrestore"):
        line.compare(0.0, 1, rounds=2)


def test_a_network_without_a_plan_is_skipped_by_name():
    class Sorts(Tiny):
        def forward(self, x):
            return x.sort(-1).values

    with pytest.raises(Skipped, match="sort"):
        fastrestore_peer(Network("sorts", Sorts), picture(16, 16), 1, "float32", None)


def test_operations_are_counted():
    assert flops_per_pixel(NETWORKS["dncnn20"]) == 2 * 9 * (3 * 64 + 18 * 64 * 64 + 64 * 3)
    assert flops_per_pixel(TINY) == 2 * 9 * 9


def test_blocks_between_convolutions():
    network = NETWORKS["swin60"]
    model = network.model()
    assert isinstance(model, Between) and model.halo is not None
    x = torch.from_numpy(picture(16, 24)).permute(2, 0, 1)[None]
    with torch.no_grad():
        exact = network.make_plain(model, 16, 24).in_precision("float64")(x.double())
        assert (network.make_plain(model, 16, 24)(x) - exact).abs().max() < 1e-4
        assert (exact - x).std() > 0.01  # the blocks do something


def test_peers_are_chosen_and_missing_ones_named(monkeypatch):
    assert peers.chosen("torch,ncnn") == ["ncnn", "torch eager, channels last"]
    assert peers.chosen("all") == list(PEERS) and peers.chosen("none") == []
    with pytest.raises(ValueError, match="unknown peers: caffe"):
        peers.chosen("caffe")
    assert peers.missing("ONNX Runtime", "bfloat16") == "has no bfloat16 arithmetic"
    assert peers.missing("ncnn", "float32", "avx2") in ("cannot be held to avx2",)
    monkeypatch.setattr(peers, "version", lambda package: None)
    assert peers.missing("OpenVINO", "float32") == "openvino, onnx is not installed"


@pytest.mark.parametrize("name", ["ncnn", "OpenVINO", "ONNX Runtime", "OpenCV", "torch jit, frozen"])
def test_each_peer_gives_the_networks_answer(name):
    if reason := peers.missing(name, "float32"):
        pytest.skip(f"{name} {reason}")
    network, image = NETWORKS["ffdnet"], picture(16, 24)
    plain = network.make_plain(network.model(), 16, 24)
    peer = PEERS[name].make(plain, image, 1, "float32")
    assert peer.settings
    Truth(network, image).check(name, peer.run(), "float32")


def test_int8_by_a_peer():
    if reason := peers.missing("ONNX Runtime", "int8"):
        pytest.skip(f"ONNX Runtime {reason}")
    image = picture(32, 32)
    peer = PEERS["ONNX Runtime"].make(TINY.make_plain(TINY.model(), 32, 32), image, 1, "int8")
    errors = Truth(TINY, image).check("int8", peer.run(), "int8")
    assert errors["rms_of_deviation"] > 1e-4  # it is not float32 by another name


def test_the_picture_is_the_same_every_time():
    assert np.array_equal(picture(5, 7), networks.picture(5, 7)) and picture(5, 7).shape == (5, 7, 3)
