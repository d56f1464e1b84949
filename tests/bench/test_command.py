"""fastrestore bench as a user would run it."""

import json
import os
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from fastrestore.bench.process import Skipped, in_fresh_process
from fastrestore.bench.suites import latency, pictures, quality
from fastrestore.cli.bench import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_network_from_command_to_report(tmp_path):
    options = ["--network", "ffdnet", "--size", "32x32", "--precision", "float32", "--peers", "torch", "--rounds", 5]
    files = ["--record", tmp_path / "results", "--json", tmp_path / "all.json"]
    done = run("models", *options, *files)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "results" / "ffdnet-32x32-1t.json").read_text())
    assert json.loads((tmp_path / "all.json").read_text()) == [result]
    assert list(result["rows"]) == ["fastrestore", "torch eager, channels last"]
    ours = result["rows"]["fastrestore"]
    assert ours["error_after"] == ours["error"] and ours["error"]["rms_of_deviation"] < 1e-5
    assert len(ours["ms_all"]) == result["rounds"] == 5 and result["noise"]["fastrestore"] >= result["same_twice_noise"]
    assert [list(one["ms"]) for one in result["processes"]] == [list(result["rows"])] * 2
    assert all(noise >= result["processes_noise"] for noise in result["noise"].values())
    assert result["machine"]["pinned_to"] == result["machine"]["pinned_to"][:1]  # one thread, one CPU
    assert "glibc.malloc" in result["machine"]["allocator"]
    assert re.search(r"torch eager, channels last .*memory format channels_last", done.output)
    compared = run("compare", tmp_path / "results", tmp_path / "results", "--fail-slower")
    assert compared.exit_code == 0 and "0 faster, 0 slower, 1 without a difference" in compared.output


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads want two CPUs")
def test_more_threads_are_compared_with_one():
    result = in_fresh_process("models", {"network": "ffdnet", "size": "64x48", "threads": 2, "peers": "none"})
    assert list(result["rows"]) == list(result["ratios"]) == ["fastrestore", "fastrestore, 1 thread"]
    assert [row["settings"]["threads"] for row in result["rows"].values()] == [2, 1]


def test_int8_is_calibrated_with_the_picture():
    result = in_fresh_process("models", {"network": "ffdnet", "size": "64x48", "precision": "int8", "peers": "none"})
    settings = result["rows"]["fastrestore"]["settings"]
    assert settings["precision"] == "int8" and settings["int8"]["images"] > 0 and settings["int8"]["wide"] == 0


def test_what_cannot_be_measured_is_said(monkeypatch):
    done = run("models", "--network", "ffdnet", "--size", "33x32", "--peers", "none")
    assert done.exit_code == 0 and "skipped: FFDNet takes sides that are multiples of 2" in done.output
    monkeypatch.setenv("FASTRESTORE_DATA", "/nowhere")
    with pytest.raises(Skipped, match="FASTRESTORE_DATA"):
        quality.data_folder()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["models", "--peers", "caffe"], "unknown peers: caffe"),
        (["models", "--only", "network"], "--only"),
        (["memory", "--isa", "avx2"], "does not vary in isa"),
        (["--quick", "models"], "behind the suite"),
        (
            ["own", __file__.replace("test_command", "../../examples/own_kernel/kernels"), "--case", "x"],
            "unknown cases: x",
        ),
    ],
)
def test_usage(arguments, said):
    done = run(*arguments)
    assert done.exit_code == 2 and said in " ".join(done.output.split())


def test_every_suite_shows_its_axes():
    assert "drunet" in run("models", "--help-cases").output
    assert "conv2d-3x3-64-64-512" in run("kernels", "--help-cases").output


def test_percentiles():
    told = latency._quantiles([0.001] * 98 + [0.002, 0.5])
    assert (told["runs"], told["p50_ms"], told["worst_ms"]) == (100, 1.0, 500.0)
    assert len(told["percentiles_ms"]) == latency.QUANTILES and told["percentiles_ms"][-1] == 500


def test_the_noisy_picture_is_a_picture():
    picture = pictures.noisy_picture(40, 60)
    assert picture.shape == (40, 60, 3) and picture.dtype == np.uint8
    assert 30 < picture.std() < 100 and np.array_equal(picture, pictures.noisy_picture(40, 60))


def test_a_classical_denoiser_is_tuned_to_denoise():
    clean = np.tile(np.linspace(0, 255, 96).astype(np.uint8)[:, None, None], (1, 96, 3))
    noisy = (clean / 255 + np.random.default_rng(0).normal(0, 25 / 255, clean.shape)).astype(np.float32)
    for make in (quality._bilateral, quality._non_local_means):
        restore, about = make(25.0, 1, noisy, clean)
        assert quality._psnr(restore(noisy), clean) > quality._psnr(noisy, clean) + 3
        assert about["settings"]
