"""Training in several processes: started by accelerate on this machine's CPU, compared with one that does it all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastrestore.errors import DeviceError, MissingDependency, ModelError
from fastrestore.train import Team, load_recipe, loop, train

RECIPE = """
name = "denoise-test"
architecture = "unet"
config = {{ widths = [8, 8], blocks = 1 }}
folders = ["{}"]
steps = 4
patch = 16
batch = 4
learning_rate = 1e-3
warmup = 1
precision = "float32"
adversarial = {{ weight = 0.1, width = 4, layers = 2, start = 0.4, relativistic = false }}
save_every = 2
"""


@pytest.fixture
def recipe(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        smooth = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (48, 40), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / f"{i}.png"), smooth)
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(tmp_path), encoding="utf-8")
    return path


def test_two_processes_learn_what_one_does_from_both_their_shares(recipe, tmp_path, monkeypatch):
    pytest.importorskip("accelerate", reason="several processes need accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("two_processes.py"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--mixed_precision", "no", script]
    # Each as if on a host of its own: accelerate itself starts several processes on a CPU through MPI only.
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(loop.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    processes = [
        subprocess.Popen(
            [*launch, str(recipe), str(tmp_path)],
            env=os.environ | about | {"RANK": str(rank), "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    results = {path.stem: load_file(path) for path in tmp_path.glob("*-?.safetensors")}
    assert results.keys() == {"whole-0", "whole-1", "parts-0", "parts-1"}
    whole = results["whole-0"]
    for other in results.values():  # all hold the same, whether the training was cut off or not
        assert all(torch.equal(value, other[name]) for name, value in whole.items())

    def both(recipe, pictures, state, team, model):
        draw = loop._draws(recipe, pictures, state, team, recipe.batch // 2, model)

        def batch(step):
            shares = zip(draw(2 * step), draw(2 * step + 1), strict=True)
            return loop.Batch(*(None if parts[0] is None else torch.cat(parts) for parts in shares))

        return batch

    def distance(model):
        return max((value - whole[name]).abs().max().item() for name, value in model.named_parameters())

    apart = distance(train(load_recipe(recipe), tmp_path / "one"))
    monkeypatch.setattr(loop, "_batches", both)
    together = distance(train(load_recipe(recipe), tmp_path / "both"))
    assert together < 1e-3 * apart  # Adam turns a rounding of a small gradient into a part of a step


def test_alone_it_needs_no_launcher():
    team = Team()
    assert (team.rank, team.size, team.is_first, team.device.type) == (0, 1, True, "cpu")
    assert team.share(7) == 7
    assert team.from_first(2.5) == 2.5


def test_a_launcher_without_accelerate_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingDependency, match=r"fastrestore\[train\]"):
        Team()


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_refused(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"no {device} here"):
        Team(device)


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    team = Team()
    team.size = 3
    with pytest.raises(ModelError, match="batch of 4 cannot be shared by 3"):
        team.share(4)
