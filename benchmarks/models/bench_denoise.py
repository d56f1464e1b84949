"""Whole denoising networks against the strongest peers, interleaved in one process a case (benchmarks/compare.py).

    pytest benchmarks/models/bench_denoise.py -s [--network ffdnet] [--size 512x512] [--threads 1]
        [--precision float32] [--peers ncnn,openvino] [--rounds 5] [--quick] [--record FOLDER]

Every answer is compared with float64 before and after it is timed.
"""

import pytest
from harness import in_fresh_process

from fastrestore import engine

CASES = {
    "network": ["dncnn20", "ffdnet", "drunet"],
    "size": ["512x512", "1920x1080"],
    "precision": ["float32", "bfloat16"],
    "threads": [1, 2],
}
QUICK = {"size": ["96x64"]}


def test_denoise(network, size, precision, threads, options, record):
    if precision not in engine.PRECISIONS:
        pytest.skip(f"fastrestore has no {precision} yet")
    case = [network, "--size", size, "--precision", precision, "--threads", threads]
    result = in_fresh_process("compare.py", *case, *options)
    record(f"{network}-{size}-{'' if precision == 'float32' else precision + '-'}{threads}t", result)
