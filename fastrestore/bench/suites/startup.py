"""From the start of a process to its first restored frame, and what the command line and the import take.

Everything a process needs lies in files: a plan for us, an ONNX model for those that read one, weights for torch.
"""

import copy
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastrestore import engine
from fastrestore import image as images
from fastrestore.bench.contest import Line, Truth
from fastrestore.bench.embedded import FROM_C, Embedded, program
from fastrestore.bench.machine import machine
from fastrestore.bench.networks import NETWORKS, SIGMA, Plain, picture, sides
from fastrestore.bench.peers import PEERS, Peer, chosen, missing, onnx_model
from fastrestore.bench.timing import OURS

AXES = {"network": ["ffdnet"], "size": ["256x256"], "threads": [1]}
SHORT = [{"network": "ffdnet", "size": "256x256", "peers": "onnxruntime,openvino,torch", "rounds": 3}]
QUICK = {"size": ["64x64"]}
ROUNDS = 7
# Each reads in.npy, [H, W, 3], and writes the restored out.npy.
PROGRAMS = {
    OURS: """
import numpy as np
from fastrestore import Plan
x = np.load("in.npy")
np.save("out.npy", Plan.load("model.frp").session(threads={threads}).run(x, sigma={sigma}, clip=False))
""",
    "torch eager, channels last": """
import numpy as np, torch
torch.set_num_threads({threads})
x = torch.from_numpy(np.load("in.npy")).permute(2, 0, 1)[None]
model = torch.jit.load("model.pt")
with torch.inference_mode():
    np.save("out.npy", model(x.contiguous(memory_format=torch.channels_last))[0].permute(1, 2, 0).numpy())
""",
    "ONNX Runtime": """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
x = np.ascontiguousarray(np.load("in.npy").transpose(2, 0, 1)[None])
np.save("out.npy", session.run(None, {{"in": x}})[0][0].transpose(1, 2, 0))
""",
    "OpenVINO": """
import numpy as np, openvino
settings = {{"INFERENCE_NUM_THREADS": {threads}, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}}
model = openvino.Core().compile_model("model.onnx", "CPU", settings)
x = np.ascontiguousarray(np.load("in.npy").transpose(2, 0, 1)[None])
np.save("out.npy", model(x)[0][0].transpose(1, 2, 0))
""",
}
DENOISE = "from fastrestore.cli import main; main('denoise in.png -o out.png --overwrite --threads {threads}'.split())"
# Programs, and where they keep plans.  The command restores with denoise-cnn, not with the network of the others.
COMMANDS = {
    "fastrestore denoise, plan kept": (DENOISE, "cache"),
    "fastrestore denoise, none kept": (DENOISE, ""),
    "fastrestore --help": ("from fastrestore.cli import main; main(['--help'])", ""),
    "import fastrestore": ("import fastrestore", ""),
    "import torch": ("import torch", ""),
}


def name(network: str, size: str, threads: int = 1, **_: Any) -> str:
    return f"startup-{network}-{size}-{threads}t"


def run(network: str, size: str, threads: int = 1, peers: str = "all", rounds: int | None = None) -> dict[str, Any]:
    """Each round starts a new process for each row, with all its files in the system's cache."""
    net, (height, width) = NETWORKS[network], sides(size)
    image, model = picture(height, width), net.model()
    truth = Truth(net, image)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def check(who: str, result: np.ndarray | None) -> dict[str, float]:
            if result is None:
                return {}  # a command: nobody else has its result
            return embedded.check(result) if who == FROM_C else truth.check(who, result, "float32")

        line = Line(check)
        np.save(place / "in.npy", image)
        images.write(place / "in.png", images.Image(images.convert(image, np.uint8)))
        plan = engine.compile(model)
        plan.save(place / "model.frp")
        line.make(OURS, lambda: Peer(_process(place, OURS, threads, model.takes_sigma)), "fastrestore")
        line.prove(OURS)
        if restore := program():
            embedded = Embedded(restore, place, plan, image, SIGMA if model.takes_sigma else None, threads)
            line.admit(FROM_C, lambda: Peer(lambda: (embedded.run(), embedded.read())[1]), "fastrestore")
        plain = net.make_plain(model, height, width)
        for peer in [peer for peer in chosen(peers) if peer in PROGRAMS]:
            if reason := missing(peer, "float32"):
                line.left_out[peer] = reason
                continue
            if "onnx" in PEERS[peer].packages:
                (place / "model.onnx").write_bytes(onnx_model(plain, image, "float32"))
            else:
                _save_traced(plain, image, place / "model.pt")
            line.admit(peer, lambda p=peer: Peer(_process(place, p, threads)), PEERS[peer].packages[0])
        for what, (script, cache) in COMMANDS.items():
            call = partial(_call, script.format(threads=threads), place, cache)
            line.admit(what, lambda call=call: Peer(call), "fastrestore")
        compared = line.compare(0.0, threads, rounds or ROUNDS)
    return {"machine": machine(), "suite": "startup", "network": network, "size": size, **compared}


def _save_traced(plain: Plain, image: np.ndarray, path: Path) -> None:
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as for the peer
        torch.jit.trace(copy.deepcopy(plain).to(memory_format=torch.channels_last), x).save(path)


def _process(place: Path, who: str, threads: int, takes_sigma: bool = True) -> Callable[[], np.ndarray]:
    program = PROGRAMS[who].format(threads=threads, sigma=SIGMA if takes_sigma else None)

    def run() -> np.ndarray:
        _call(program, place)
        return np.load(place / "out.npy")

    return run


def _call(program: str, place: Path, cache: str = "") -> None:
    """Runs Python in the folder of the files, but with the packages of this process.  cache: where plans are kept."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "FASTRESTORE_CACHE": cache}
    subprocess.run([sys.executable, "-c", program], cwd=place, env=environment, check=True, capture_output=True)


def text(result: dict[str, Any]) -> str:
    title = f"{NETWORKS[result['network']].title}, {result['size']}: from the start of a process to the first frame"
    lines = [f"  {who:28} {row['ms']:9.0f} ms" for who, row in result["rows"].items()]
    return "\n".join([title, *lines, *(f"  careful: {warning}" for warning in result["conditions"]["warnings"])])
