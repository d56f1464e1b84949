"""What `fastrestore info --plan` says of a plan is what the plan does."""

import json
import xml.etree.ElementTree as ET

import pytest
import torch
from typer.testing import CliRunner

from fastrestore import checkpoint, engine, models, planview
from fastrestore.cli import app
from fastrestore.errors import MemoryBudgetError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create("unet", widths=(16, 32, 48), blocks=1).eval()


@pytest.fixture(scope="module")
def plan(unet) -> engine.Plan:
    return engine.compile(unet)


def test_bytes_are_those_of_the_session(plan):
    for threads, memory in ((1, "1GiB"), (2, "1GiB"), (2, "1400KiB")):
        about = planview.describe(plan, 200, 300, threads, memory)
        session = plan.session(threads=threads, memory=memory)
        assert about["working_bytes"] == session.working_bytes(200, 300)
        rings = sum(s["ring_bytes"] for s in about["steps"])
        assert about["working_bytes"] == about["rings_bytes"] + about["passing_bytes"] + about["workspace_bytes"]
        assert about["rings_bytes"] <= rings  # those that do not meet share memory
        if memory == "1GiB":
            assert any(step["passing_rows"] for step in about["steps"]) and about["passing_bytes"] > 0
    assert about["strips"] > 1 and about["overlap_flops"] > 0


def test_operations_are_torchs(plan, unet):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        unet(torch.rand(1, 3, 64, 96), 10.0)
    about = planview.describe(plan, 64, 96)
    assert about["flops"] == counter.get_total_flops()
    assert about["overlap_flops"] == 0


def test_halo_and_epilogues(plan):
    steps = plan.steps
    assert steps[0]["margin"] == plan.halo and steps[-1]["margin"] == 0
    assert all(step["margin"] >= 0 for step in steps)
    three = [step for step in steps if step["op"] == "conv2d" and step["conv"]["kernel"] == (3, 3)]
    assert {(step["stride"], step["halo"]) for step in three} == {(2, 2), (4, 4), (8, 8)}
    assert sum(step["conv"]["residual"] == "after scale" for step in steps if "conv" in step) == 7
    about = planview.describe(plan, 64, 64)
    assert about["steps"][5]["fused"] == ["bias", "relu"]


def test_measured_times_and_text(plan):
    about = planview.describe(plan, 64, 64, measure=True)
    assert all(step["measured_ms"] >= 0 for step in about["steps"]) and about["measured_ms"] > 0
    lines = planview.text(about).splitlines()
    assert sum("conv 3x3" in line for line in lines) == 12
    assert "conv3x3_winograd4" in planview.text(about) or plan.isa == "baseline"


@pytest.mark.parametrize("name", ["dncnn", "drunet", "rednet"])
def test_svg_is_complete(name):
    small = {"dncnn": {"depth": 4}, "drunet": {"widths": (16, 32, 48, 64), "blocks": 1}, "rednet": {"layers": 6}}
    plan = engine.compile(models.create(name, **small[name]))
    about = planview.describe(plan, 64, 96)
    root = ET.fromstring(planview.svg(about, "<a & b>"))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words[0] == "<a & b>"
    for step in about["steps"]:
        assert f"{step['number']}  {step['what']}" in words
    skips = sum(source != step["number"] - 1 for step in about["steps"] for source in step["inputs"])
    assert len(list(root.iter(f"{SVG}path"))) == 2 * skips > 0
    assert not any("href" in key for element in root.iter() for key in element.attrib)  # nothing from elsewhere


def test_arcs_that_overlap_take_other_lanes():
    inputs = {0: [], 1: [0], 2: [1], 3: [2, 0], 4: [3, 1], 5: [4, 0], 6: [5, 4]}
    arcs = planview._lanes([{"number": number, "inputs": sources} for number, sources in inputs.items()])
    assert {(a, b) for a, b, _ in arcs} == {(0, 3), (1, 4), (0, 5), (4, 6)}
    for a, b, lane in arcs:
        assert all(lane != other or b <= c or a >= d for c, d, other in arcs if (a, b) != (c, d))


def test_over_budget(plan):
    with pytest.raises(MemoryBudgetError, match="needs"):
        planview.describe(plan, 64, 64, memory="1KiB")


class TestCommand:
    def run(self, *arguments: object) -> str:
        result = CliRunner().invoke(app, ["info", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    def test_table_json_and_picture(self, unet, tmp_path):
        model, picture = tmp_path / "m.safetensors", tmp_path / "m.svg"
        checkpoint.save(unet, model)
        assert "halo" in self.run("--plan", model, "--size", "64x48", "--svg", picture)
        assert ET.parse(picture).getroot().tag == f"{SVG}svg"
        about = json.loads(self.run("--plan", model, "--size", "64x48", "--threads", 2, "--json"))
        assert about["picture"] == [48, 64] and about["threads"] == 2 and len(about["steps"]) > 10

    def test_named_model(self):
        assert "denoise" not in self.run("--plan", "denoise-cnn", "--size", "32x32")[:10]

    @pytest.mark.parametrize(
        "wrong", [["--size", "0x5"], ["--size", "x"], ["--precision", "int1"], ["--memory", "much"], ["--threads", "0"]]
    )
    def test_usage(self, wrong):
        assert CliRunner().invoke(app, ["info", "--plan", "denoise-cnn", *wrong]).exit_code == 2
        assert CliRunner().invoke(app, ["info", "--svg", "x"]).exit_code == 2


def test_a_plan_that_sees_everything():
    """Attention's products are counted; what waits for the whole picture reaches over all of it."""
    torch.manual_seed(0)
    blocks = {"blocks": (1, 1, 1, 1), "refinement_blocks": 1}
    about = planview.describe(engine.compile(models.create("restormer", width=16, **blocks)), 64, 96)
    steps = about["steps"]
    gram = next(step for step in steps if step["op"] == "partial_gram")
    assert (gram["height"], gram["width"], gram["flops"]) == (16, 1, 2 * 64 * 96 * 16 * (16 + 2))
    mix = next(step for step in steps if step["op"] == "mix")
    assert mix["flops"] == 2 * 64 * 96 * 16 * 16
    assert about["halo"] is None
    assert {step["op"] for step in steps if step["halo"] is None} == {"partial_gram", "channel_softmax"}
    assert "halo the whole picture" in planview.text(about)
    assert "the whole picture" in planview.svg(about, "restormer")
