"""A batch on a Ray cluster: the bytes of one machine, also where a machine is lost."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as PilImage

import fastrestore as fr
from fastrestore import bulk, checkpoint, cluster
from tests.test_burst import shots as taken_shots
from tests.test_stream import create

ray = pytest.importorskip("ray", reason="Ray is not installed")
utils = pytest.importorskip("ray.cluster_utils", reason="this Ray has no cluster for tests")
pytest.importorskip("psutil", reason="psutil is not installed")


def _second_node(nodes, attempts: int = 3):
    """Ray gives a node half a minute to start, which on a busy machine is not always enough."""
    try:
        return nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
    except Exception:
        if attempts == 1:
            raise
        return _second_node(nodes, attempts - 1)


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """Two nodes of one CPU each: (cluster, the one that may be lost)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves them
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        options = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        nodes = utils.Cluster(initialize_head=True, head_node_args=options)
        lost = _second_node(nodes)
        nodes.wait_for_nodes()
        yield nodes, lost
        ray.shutdown()
        nodes.shutdown()


def hashes(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != bulk.MANIFEST)
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures, one of them damaged, and two TIFFs that are restored in parts."""
    source, random = tmp_path / "in", np.random.default_rng(0)
    source.mkdir()
    for n in range(6):
        PilImage.fromarray(random.integers(0, 256, (90, 100 + n, 3), np.uint8)).save(source / f"{n}.png")
    (source / "bad.png").write_bytes(b"no picture")
    pixels = random.integers(0, 65536, (260, 240, 3), np.uint16)
    for name, options in (("tiles", {"tile": (64, 64), "compression": "zlib"}), ("strips", {"rowsperstrip": 3})):
        tifffile.imwrite(source / f"{name}.tif", pixels, photometric="rgb", metadata=None, **options)
    damaged = bytearray((source / "tiles.tif").read_bytes())
    with tifffile.TiffFile(source / "tiles.tif") as tif:
        place = tif.pages[0].dataoffsets[9]
    damaged[place : place + 20] = b"\xff" * 20
    (source / "torn.tif").write_bytes(damaged)
    return source


def test_bursts_and_clips(two_nodes, tmp_path):
    """As on one machine, to the bytes."""
    pytest.importorskip("av", reason="PyAV is not installed")
    from tests.test_video import make

    folder, model = tmp_path / "in", str(tmp_path / "m.safetensors")
    folder.mkdir()
    checkpoint.save(create("fusion-unet"), model)
    make(folder / "a.mp4", times=list(range(0, 120, 24)))
    for n, shot in enumerate(taken_shots(3, sigma=8)[0]):
        PilImage.fromarray(shot).save(folder / f"night-{n}.png")
    options = {"model": model, "sigma": 10.0, "threads": 1, "bursts": "name", "codec": "ffv1", "suffix": ".mkv"}
    expected = list(fr.batch(folder, tmp_path / "alone", **options))
    records = list(fr.batch(folder, tmp_path / "out", ray=two_nodes[0].address, **options))
    assert [(r["kind"], r["ok"], r["skipped"]) for r in records] == [("clip", True, False), ("burst", True, False)]
    assert hashes(tmp_path / "out") == hashes(tmp_path / "alone")
    for mine, theirs in zip(records, expected, strict=True):
        assert mine.keys() == theirs.keys()
    again = fr.batch(folder, tmp_path / "out", resume=True, **options)
    assert all(record["skipped"] for record in again)


def test_a_node_is_lost_in_the_middle(two_nodes, folder, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("fastrestore.restorer.WHOLE_BYTES", 200_000)
    monkeypatch.setattr(cluster, "PART_BYTES", 100_000)
    alone, out = tmp_path / "alone", tmp_path / "out"
    expected_records = list(fr.batch(folder, alone, model=plan, sigma=20.0, threads=1))
    nodes, lost = two_nodes
    records = []
    for record in fr.batch(folder, out, model=plan, sigma=20.0, ray=nodes.address):
        records.append(record)
        if len(records) == 3:
            nodes.remove_node(lost, allow_graceful=False)
    assert [r["input"] for r in records] == [r["input"] for r in expected_records]
    errors = {r["input"]: r["error"] for r in records if not r["ok"]}
    assert sorted(errors) == ["bad.png", "torn.tif"]
    assert all(name in error for name, error in errors.items())
    assert hashes(out) == hashes(alone)
    for mine, theirs in zip(records, expected_records, strict=True):
        for key in ("input_sha256", "output_sha256", "model_sha256", "settings", "height", "sigma", "notices"):
            assert mine.get(key) == theirs.get(key)
    again = list(fr.batch(folder, out, model=plan, sigma=20.0, ray=nodes.address, resume=True))
    assert all(record["skipped"] for record in again if record["ok"])
    back = list(fr.batch(folder, out, model=plan, sigma=20.0, threads=1, resume=True))  # here what was done there
    assert all(record["skipped"] for record in back if record["ok"])
    last = {}
    for line in (out / bulk.MANIFEST).read_text().splitlines():
        last[json.loads(line)["input"]] = json.loads(line)
    assert {name for name, record in last.items() if record["ok"]} == {r["input"] for r in records if r["ok"]}
