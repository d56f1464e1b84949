"""Softmax attention between channels: each head's products of queries and keys and the squares of both in one pass over
the pixels, in parts; their softmax; the values that it mixes.  The order of the sums depends on the image's size alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastrestore.triton import widens
from fastrestore.triton.common import product, tuned
from fastrestore.triton.statistics import part_of

BLOCK_PARTS = 32
GRAM_CONFIGS = (
    {"BLOCK_PIXELS": 64, "num_warps": 4, "num_stages": 3},
    {"BLOCK_PIXELS": 128, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 128, "num_warps": 8, "num_stages": 3},
)
MIX_CONFIGS = (
    {"BLOCK_PIXELS": 64, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 128, "num_warps": 4, "num_stages": 2},
    {"BLOCK_PIXELS": 256, "num_warps": 8, "num_stages": 2},
)


@triton.jit
def gram_kernel(
    qkv, grams, pixels, part, parts, heads,
    DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, WIDEN: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """qkv: [N, pixels, 3 * heads * DEPTH]; grams: [N, heads, parts, DEPTH * (DEPTH + 2)]: of `part` pixels each the
    products, queries by keys, then the squares of queries and of keys."""
    begin = tl.program_id(0) % parts * part
    head = tl.program_id(0) // parts % heads
    image = (tl.program_id(0) // (parts * heads)).to(tl.int64)
    end = tl.minimum(begin + part, pixels)
    depth = tl.arange(0, BLOCK_DEPTH)
    held = depth < DEPTH
    products = tl.zeros((BLOCK_DEPTH, BLOCK_DEPTH), tl.float32)
    of_queries = tl.zeros((BLOCK_DEPTH,), tl.float32)
    of_keys = tl.zeros((BLOCK_DEPTH,), tl.float32)
    for first in range(begin, end, BLOCK_PIXELS):
        pixel = first + tl.arange(0, BLOCK_PIXELS)
        source = qkv + ((image * pixels + pixel) * (3 * heads) + head)[:, None] * DEPTH + depth
        kept = (pixel < end)[:, None] & held
        query = tl.load(source, mask=kept, other=0.0)
        key = tl.load(source + heads * DEPTH, mask=kept, other=0.0)
        products = product(tl.trans(query), key, products, WIDEN)
        of_queries += tl.sum(query.to(tl.float32) * query.to(tl.float32), 0)
        of_keys += tl.sum(key.to(tl.float32) * key.to(tl.float32), 0)
    target = grams + tl.program_id(0).to(tl.int64) * (DEPTH * (DEPTH + 2)) + depth
    tl.store(target + depth[:, None] * DEPTH, products, mask=held[:, None] & held)
    tl.store(target + DEPTH * DEPTH, of_queries, mask=held)
    tl.store(target + DEPTH * DEPTH + DEPTH, of_keys, mask=held)


@triton.jit
def softmax_kernel(
    grams, temperature, weights, parts, heads,
    DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, BLOCK_PARTS: tl.constexpr,
):  # fmt: skip
    """A program takes one query channel.  weights: [N, heads, DEPTH, DEPTH], queries by values."""
    query = tl.program_id(0) % DEPTH
    head = (tl.program_id(0) // DEPTH).to(tl.int64)  # of all images
    depth = tl.arange(0, BLOCK_DEPTH)
    held = depth < DEPTH
    products = tl.zeros((BLOCK_DEPTH,), tl.float32)
    of_query = 0.0
    of_keys = tl.zeros((BLOCK_DEPTH,), tl.float32)
    for first in range(0, parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        source = grams + (head * parts + part) * (DEPTH * (DEPTH + 2))
        kept = (part < parts)[:, None] & held
        products += tl.sum(tl.load(source[:, None] + query * DEPTH + depth, mask=kept, other=0.0), 0)
        of_query += tl.sum(tl.load(source + DEPTH * DEPTH + query, mask=part < parts, other=0.0), 0)
        of_keys += tl.sum(tl.load(source[:, None] + DEPTH * (DEPTH + 1) + depth, mask=kept, other=0.0), 0)
    lengths = tl.sqrt(tl.maximum(of_query, 1e-24)) * tl.sqrt(tl.maximum(of_keys, 1e-24))
    scores = tl.where(held, products / lengths * tl.load(temperature + head % heads), float("-inf"))
    scores = tl.exp(scores - tl.max(scores, 0))
    tl.store(weights + tl.program_id(0).to(tl.int64) * DEPTH + depth, scores / tl.sum(scores, 0), mask=held)


@triton.jit
def mix_kernel(
    qkv, weights, y, pixels, heads,
    DEPTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, WIDEN: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """y: [N, pixels, heads * DEPTH]."""
    blocks = tl.cdiv(pixels, BLOCK_PIXELS)
    head = tl.program_id(0) // blocks % heads
    image = (tl.program_id(0) // (blocks * heads)).to(tl.int64)
    pixel = tl.program_id(0) % blocks * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    depth = tl.arange(0, BLOCK_DEPTH)
    held = depth < DEPTH
    kept = (pixel < pixels)[:, None] & held
    source = qkv + ((image * pixels + pixel) * (3 * heads) + 2 * heads + head)[:, None] * DEPTH + depth
    value = tl.load(source, mask=kept, other=0.0)
    place = ((image * heads + head) * DEPTH + depth) * DEPTH + depth[:, None]  # the weight of a value, by query
    weight = tl.load(weights + place, mask=held[:, None] & held, other=0.0).to(value.dtype)
    mixed = product(value, weight, tl.zeros((BLOCK_PIXELS, BLOCK_DEPTH), tl.float32), WIDEN)
    target = y + ((image * pixels + pixel) * heads + head)[:, None] * DEPTH + depth
    tl.store(target, mixed.to(y.dtype.element_ty), mask=kept)


def _fits(blocks: dict[str, int], given: dict[str, int]) -> bool:
    """Blocks that an image fills, and that leave room for a head."""
    return blocks["BLOCK_PIXELS"] < 2 * given["pixels"] and blocks["BLOCK_PIXELS"] * given["BLOCK_DEPTH"] <= 1 << 14


tuned_gram = tuned(gram_kernel, GRAM_CONFIGS, ["pixels", "heads", "DEPTH"], _fits)
tuned_mix = tuned(mix_kernel, MIX_CONFIGS, ["pixels", "heads", "DEPTH"], _fits)


def channel_attention(qkv: Tensor, temperature: Tensor, y: Tensor) -> None:
    """qkv: [N, H, W, 3 C] dense, queries, keys and values one after the other, each by head; temperature: float32
    [heads]; y: [N, H, W, C], written."""
    n, height, width, channels = y.shape
    if y.numel() == 0:
        return
    heads, pixels, part = len(temperature), height * width, part_of(height * width)
    depth, parts = channels // heads, triton.cdiv(pixels, part)
    block = max(16, triton.next_power_of_2(depth))
    grams = torch.empty((n, heads, parts, depth * (depth + 2)), dtype=torch.float32, device=qkv.device)
    weights = torch.empty((n, heads, depth, depth), dtype=torch.float32, device=qkv.device)
    sizes = {"DEPTH": depth, "BLOCK_DEPTH": block}
    tuned_gram[lambda _: (n * heads * parts,)](qkv, grams, pixels, part, parts, heads, **sizes, WIDEN=widens(qkv.dtype))
    softmax_kernel[(n * heads * depth,)](grams, temperature, weights, parts, heads, **sizes, BLOCK_PARTS=BLOCK_PARTS)
    tuned_mix[lambda chosen: (n * heads * triton.cdiv(pixels, chosen["BLOCK_PIXELS"]),)](
        qkv, weights, y, pixels, heads, **sizes, WIDEN=widens(qkv.dtype)
    )
