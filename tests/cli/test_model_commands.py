"""fastrestore train, convert and eval, as a user would run them."""

import json

import cv2
import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fastrestore import checkpoint, engine, models
from fastrestore.cli.compile import compile
from fastrestore.cli.convert import convert
from fastrestore.cli.degrade import degrade
from fastrestore.cli.eval import eval as evaluate
from fastrestore.cli.train import train
from fastrestore.errors import ImageError, ModelError

RECIPE = """
name = "denoise-test"
architecture = "dncnn"
config = { width = 4, depth = 3 }
folders = ["$DATA"]
licence = "our own noise"
steps = 6
patch = 12
batch = 2
save_every = 3
"""


def run(command, *arguments):
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (20, 24, 3), np.uint8))
    return folder


def test_train_resumes_and_writes_a_model_with_its_card(pictures, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    path, state = tmp_path / "denoise-test.safetensors", tmp_path / "state"
    arguments = (tmp_path / "r.toml", "--data", pictures, "--state", state, "-o", path)
    result = run(train, *arguments, "--stop-after", 3)
    assert result.exit_code == 0
    assert "goes on from there" in result.output
    assert not path.exists()
    early = tmp_path / "early.safetensors"
    assert run(train, *arguments[:-1], early, "--stop-after", 0, "--unfinished").exit_code == 0
    assert checkpoint.describe(early).card["steps"] == 3
    assert run(train, *arguments).exit_code == 0
    card = checkpoint.describe(path).card
    assert (card["name"], card["task"], card["family"]) == ("denoise-test", "denoise", "test")
    assert card["licence"] == "our own noise"
    assert card["recipe"]["steps"] == 6
    assert 0 < card["final_loss"] < 1
    first = load_file(path)
    assert {value.dtype for value in first.values()} == {torch.float16}
    path.unlink()
    assert run(train, *arguments).exit_code == 0  # a finished state just gives the file again
    assert all(torch.equal(first[name], value) for name, value in load_file(path).items())


def test_train_refuses_before_it_trains(pictures, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    assert run(train, tmp_path / "r.toml", "--data", pictures, "-o", tmp_path / "m.pth").exit_code == 2
    assert run(train, tmp_path / "r.toml", "--data", pictures, "-o", tmp_path / "no" / "m.safetensors").exit_code == 2
    with pytest.raises(ModelError, match=r"none\.toml"):
        run(train, "none.toml", "-o", tmp_path / "m.safetensors")


def test_convert_states_the_configuration(tmp_path):
    save_file(models.create("ffdnet", channels=1, width=4, depth=3).state_dict(), tmp_path / "w.safetensors")
    path = tmp_path / "m.safetensors"
    result = run(convert, tmp_path / "w.safetensors", "-o", path, "--arch", "ffdnet", "--licence", "MIT")
    assert result.exit_code == 0
    assert "channels=1, width=4, depth=3" in result.output.replace("\n", "")
    assert checkpoint.load(path).config.depth == 3
    assert checkpoint.describe(path).card == {"source": "w.safetensors", "licence": "MIT"}


@pytest.mark.parametrize("item", ["depth", "depth=", "depth=many", "=3"])
def test_convert_explains_config(item, tmp_path):
    (tmp_path / "w.safetensors").touch()
    arguments = (tmp_path / "w.safetensors", "-o", tmp_path / "m.safetensors", "--arch", "dncnn", "--config", item)
    if item == "=3":
        with pytest.raises(ModelError):
            run(convert, *arguments)
    else:
        assert run(convert, *arguments).exit_code == 2
    assert not (tmp_path / "m.safetensors").exists()


def test_eval_prints_writes_and_records(pictures, tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoint.save(models.create("dncnn", width=4, depth=3), path, card={"name": "m"})
    written = tmp_path / "figures.json"
    result = run(evaluate, path, pictures, "--sigma", 15, "--sigma", 25, "--eager", "--json", written, "--record")
    assert result.exit_code == 0
    assert "m on pictures" in result.output
    figures = json.loads(written.read_text())
    assert (figures["model"], figures["set"]) == ("m", "pictures")
    assert [score["sigma"] for score in figures["scores"]] == [15, 25]
    card = checkpoint.describe(path).card
    assert card["psnr"]["pictures"] == {f"{s['sigma']:g}": round(s["psnr"], 2) for s in figures["scores"]}
    run(evaluate, path, pictures, "--sigma", 50, "--eager", "--record")
    assert set(checkpoint.describe(path).card["psnr"]["pictures"]) == {"15", "25", "50"}


def test_eval_on_a_simulated_degradation_records_input_and_result(pictures, tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoint.save(models.create("dncnn", width=4, depth=3), path, card={"name": "m"})
    written = tmp_path / "figures.json"
    assert run(evaluate, path, pictures, "--degrade", "blur", "--json", written, "--record").exit_code == 0
    (score,) = json.loads(written.read_text())["scores"]
    assert (score["kind"], score["sigma"]) == ("blur", None)
    recorded = checkpoint.describe(path).card["psnr"]["pictures"]
    assert recorded == {"blur": round(score["psnr"], 2), "blur input": round(score["input_psnr"], 2)}


def test_degrade_writes_an_aligned_pair_and_a_sheet(pictures, tmp_path):
    image, clean, again = (tmp_path / name for name in ("image.png", "clean.png", "again.png"))
    result = run(degrade, pictures / "0.png", "--kind", "moire", "--seed", 3, "-o", image, "--clean", clean)
    assert result.exit_code == 0
    assert "Moire(layout=" in result.output
    run(degrade, pictures / "0.png", "--kind", "moire", "--seed", 3, "-o", again)
    assert image.read_bytes() == again.read_bytes() != clean.read_bytes()
    assert cv2.imread(str(image)).shape == cv2.imread(str(clean)).shape == (20, 24, 3)
    sheet = tmp_path / "sheet.png"
    assert run(degrade, "--preview", sheet, "--kind", "blur", "--kind", "moire").exit_code == 0
    assert cv2.imread(str(sheet)).shape == (2 * 256, 5 * 256, 3)


@pytest.mark.parametrize(
    "arguments",
    [[], ["-o", "a.png"], ["-o", "a.png", "--kind", "rain"], ["-o", "a.png", "--preview", "b.png"]],
    ids=str,
)
def test_degrade_usage(arguments, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(degrade, pictures / "0.png", *arguments).exit_code == 2


def test_degrade_leaves_files_alone(pictures, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(ImageError, match="exists"):
        run(degrade, pictures / "0.png", "--kind", "blur", "-o", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_eval_usage(pictures, tmp_path):
    assert run(evaluate, "m.safetensors", pictures, "--pairs", "--degrade", "blur").exit_code == 2
    with pytest.raises(ImageError, match="a degradation is one of"):
        run(evaluate, "denoise-cnn", pictures, "--degrade", "rain")
    assert run(evaluate, "m.safetensors", pictures).exit_code == 2
    assert run(evaluate, "denoise-cnn", pictures, "--sigma", 25, "--record").exit_code == 2
    assert run(evaluate, "m.safetensors", pictures, "--sigma", 25, "--record", "--limit", 1).exit_code == 2
    with pytest.raises(ModelError, match="No such file"):
        run(evaluate, tmp_path / "m.safetensors", pictures, "--sigma", 25)


def test_compile_writes_a_plan_with_the_models_card(tmp_path):
    torch.manual_seed(0)
    model = models.create("dncnn", width=16, depth=3).eval()
    source, target = tmp_path / "m.safetensors", tmp_path / "m.frp"
    checkpoint.save(model, source, card={"task": "denoise"})
    assert "m, float32, 3 channels, takes no noise level" in run(compile, source, "-o", target).output
    plan = engine.Plan.load(target)
    assert plan.card == {"name": "m", "task": "denoise", "architecture": "dncnn", "config": models.config_of(model)}
    image = np.random.default_rng(0).random((20, 24, 3), dtype=np.float32)
    np.testing.assert_array_equal(plan.session().run(image), engine.compile(model).session().run(image))


def test_compile_refuses_what_it_cannot_do(tmp_path):
    source = tmp_path / "m.safetensors"
    checkpoint.save(models.create("dncnn", width=4, depth=3), source)
    assert run(compile, source, "-o", tmp_path / "m.onnx").exit_code == 2
    assert run(compile, source, "-o", tmp_path / "m.frp", "--precision", "float8").exit_code == 2
    with pytest.raises(ModelError, match="unknown model"):
        run(compile, "denoise-nothing", "-o", tmp_path / "m.frp")
    assert list(tmp_path.iterdir()) == [source]
