// Attention within windows of up to 8 x 8 pixels. On tensor cores a block takes one head of one window: queries, keys
// and values in shared memory, scores and sums in registers. Windows, their shift and the distances of the bias are
// arithmetic on indices: nothing is rolled, partitioned or masked in memory.
#include "cuda/common.cuh"

namespace fr::cuda {
namespace {

constexpr int kTokens = 64;  // of the largest window
constexpr int kMostSide = 8;
constexpr int kMostBias = (2 * kMostSide - 1) * (2 * kMostSide - 1);
constexpr float kLog2E = 1.44269504f;

struct Params {
  WindowAttention attention;
  ConstImages qkv;
  Images y;
  Extent out;
  int rows, columns;     // windows of an image
  int first_y, first_x;  // where the first window begins, at most 0
};

struct Window {
  int image, y, x;  // of its first pixel, which may lie outside of the image
};

__device__ __forceinline__ Window window_at(const Params& p, int index) {
  const int image = index / (p.rows * p.columns), rest = index - image * p.rows * p.columns;
  const int side = static_cast<int>(p.attention.side), row = rest / p.columns;
  return {image, p.first_y + row * side, p.first_x + (rest - row * p.columns) * side};
}

// Whether pixel `token` of the window lies inside of the image.
__device__ __forceinline__ bool inside(const Params& p, const Window& window, int token) {
  const int side = static_cast<int>(p.attention.side);
  const int y = window.y + token / side, x = window.x + token % side;
  return token < side * side && y >= 0 && x >= 0 && y < p.out.height && x < p.out.width;
}

// Which of the (2 side - 1)^2 distances a pair of pixels has.
__device__ __forceinline__ int distance(int side, int query, int key) {
  return (query / side - key / side + side - 1) * (2 * side - 1) + query % side - key % side + side - 1;
}

// kDepth: channels of a head, padded.
template <class T, int kDepth>
__global__ void __launch_bounds__(kThreads) window_attention_kernel(const Params p) {
  using Rows = Swizzle<kDepth / 8>;
  constexpr uint32_t kPlane = kTokens * Rows::kRowBytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int heads = static_cast<int>(p.attention.heads), depth = static_cast<int>(p.attention.head_channels);
  const int side = static_cast<int>(p.attention.side);
  const int head = static_cast<int>(blockIdx.x) % heads;
  const Window window = window_at(p, static_cast<int>(blockIdx.x) / heads);
  const uint32_t queries = shared_base(), keys = queries + kPlane, values = keys + kPlane, biases = values + kPlane;

  constexpr int kPairs = kDepth / 2;
#pragma unroll 1
  for (int i = thread; i < 3 * kTokens * kPairs; i += kThreads) {
    const int pair = i % kPairs, token = i / kPairs % kTokens, plane = i / (kPairs * kTokens);
    uint32_t value = 0;
    if (pair * 2 < depth && inside(p, window, token)) {
      const T* const pixel = pixel_at<T>(p.qkv, window.image, window.y + token / side, window.x + token % side);
      value = global_load(reinterpret_cast<const uint32_t*>(pixel + (plane * heads + head) * depth + pair * 2));
    }
    shared_store(queries + plane * kPlane + Rows::offset(token, pair / 4) + static_cast<uint32_t>(pair % 4 * 4), value);
  }
  const int distances = (2 * side - 1) * (2 * side - 1);
#pragma unroll 1
  for (int i = thread; i < distances; i += kThreads)
    shared_store(biases + static_cast<uint32_t>(i * 4),
                 p.attention.bias ? global_load(p.attention.bias + head * distances + i) * kLog2E : 0.0f);
  __syncthreads();

  // Scores of this warp's 16 queries: lane holds queries lane / 4 and lane / 4 + 8, of each 8 keys two.
  float scores[kTokens / 8][4];
#pragma unroll
  for (int n = 0; n < kTokens / 8; ++n) scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
  const uint32_t a_lane = queries + Rows::offset(warp * 16 + (lane & 15), lane >> 4);
  const uint32_t b_lane = keys + Rows::offset((lane & 7) + ((lane >> 4) << 3), lane >> 3 & 1);
#pragma unroll
  for (int k = 0; k < kDepth / 16; ++k) {
    uint32_t a[4];
    ldmatrix_x4(a, Rows::advance(a_lane, 2 * k));
#pragma unroll
    for (int n = 0; n < kTokens / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4(b, Rows::advance(b_lane, 2 * k) + static_cast<uint32_t>(n * 16 * Rows::kRowBytes));
      mma_16816<T>(scores[2 * n], a, b[0], b[1]);
      mma_16816<T>(scores[2 * n + 1], a, b[2], b[3]);
    }
  }

  float sums[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = warp * 16 + (lane >> 2) + 8 * h;
    const int last = side * side - 1;  // stands for what lies beyond it, of which nothing is kept: no bank is met twice
    const int known = query < last ? query : last;
    float most = -INFINITY;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int key = n * 8 + (lane & 3) * 2 + e;
        const int other = key < last ? key : last;
        const float bias = shared_load<float>(biases + static_cast<uint32_t>(distance(side, known, other) * 4));
        float& score = scores[n][2 * h + e];
        score = inside(p, window, key) ? score * (p.attention.scale * kLog2E) + bias : -INFINITY;
        most = fmaxf(most, score);
      }
    most = fmaxf(most, shuffle_xor(most, 1));
    most = fmaxf(most, shuffle_xor(most, 2));
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[n][2 * h + e];
        score = exp2_fast(score - most);
        sum += score;
      }
    sum += shuffle_xor(sum, 1);
    sums[h] = sum + shuffle_xor(sum, 2);
  }

  float out[kDepth / 8][4];
#pragma unroll
  for (int n = 0; n < kDepth / 8; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
#pragma unroll
  for (int k = 0; k < kTokens / 16; ++k) {
    const uint32_t a[4] = {pack2<T>(scores[2 * k][0], scores[2 * k][1]), pack2<T>(scores[2 * k][2], scores[2 * k][3]),
                           pack2<T>(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                           pack2<T>(scores[2 * k + 1][2], scores[2 * k + 1][3])};
    const int key = k * 16 + (lane & 15);
#pragma unroll
    for (int n = 0; n < kDepth / 16; ++n) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, values + Rows::offset(key, 2 * n + (lane >> 4)));
      mma_16816<T>(out[2 * n], a, b[0], b[1]);
      mma_16816<T>(out[2 * n + 1], a, b[2], b[3]);
    }
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = warp * 16 + (lane >> 2) + 8 * h;
    if (!inside(p, window, query)) continue;
    T* const pixel = pixel_at<T>(p.y, window.image, window.y + query / side, window.x + query % side);
    const float factor = 1.0f / sums[h];
#pragma unroll
    for (int n = 0; n < kDepth / 8; ++n) {
      const int channel = n * 8 + (lane & 3) * 2;
      if (channel < depth)
        global_store(reinterpret_cast<uint32_t*>(pixel + head * depth + channel),
                     pack2<T>(out[n][2 * h] * factor, out[n][2 * h + 1] * factor));
    }
    if (head == heads - 1)  // the padding channels
      for (int channel = heads * depth + (lane & 3) * 2; channel % 8 != 0; channel += 8) {
        if (channel >= (heads * depth + 7) / 8 * 8) break;
        global_store(reinterpret_cast<uint32_t*>(pixel + channel), 0u);
      }
  }
}

// The definition, in float32: a thread takes one head of one query.
__global__ void __launch_bounds__(kThreads) plain_kernel(const Params p) {
  const WindowAttention& attention = p.attention;
  const int side = static_cast<int>(attention.side), tokens = side * side;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int query = static_cast<int>(index % tokens), head = static_cast<int>(index / tokens % attention.heads);
  const int64_t which = index / tokens / attention.heads;
  if (which >= p.out.images * p.rows * p.columns) return;
  const Window window = window_at(p, static_cast<int>(which));
  if (!inside(p, window, query)) return;
  const int64_t depth = attention.head_channels, channels = attention.heads * depth;
  const auto row_of = [&](int token) {
    return pixel_at<float>(p.qkv, window.image, window.y + token / side, window.x + token % side) + head * depth;
  };
  const float* const own = row_of(query);
  float* const out =
      pixel_at<float>(p.y, window.image, window.y + query / side, window.x + query % side) + head * depth;
  const auto score = [&](int key) {
    const float* const other = row_of(key) + channels;
    float sum = 0.0f;
    for (int64_t c = 0; c < depth; ++c) sum += global_load(own + c) * global_load(other + c);
    const int64_t at = int64_t(head) * (2 * side - 1) * (2 * side - 1) + distance(side, query, key);
    return sum * attention.scale + (attention.bias ? global_load(attention.bias + at) : 0.0f);
  };
  float most = -INFINITY, sum = 0.0f;
  for (int key = 0; key < tokens; ++key)
    if (inside(p, window, key)) most = fmaxf(most, score(key));
  for (int64_t c = 0; c < depth; ++c) global_store(out + c, 0.0f);
  for (int key = 0; key < tokens; ++key) {
    if (!inside(p, window, key)) continue;
    const float weight = expf(score(key) - most);
    const float* const value = row_of(key) + 2 * channels;
    sum += weight;
    for (int64_t c = 0; c < depth; ++c) global_store(out + c, global_load(out + c) + weight * global_load(value + c));
  }
  for (int64_t c = 0; c < depth; ++c) global_store(out + c, global_load(out + c) / sum);
  if (head == attention.heads - 1)
    for (int64_t c = depth; (head * depth + c) % 8 != 0; ++c) global_store(out + c, 0.0f);
}

template <class T, int kDepth>
void run(const Params& p, int64_t blocks, Stream stream) {
  constexpr int kShared = 3 * kTokens * kDepth * 2 + kMostBias * 4;
  launch(window_attention_kernel<T, kDepth>, blocks, kThreads, kShared, stream, p);
}

}  // namespace

void window_attention(Type type, const WindowAttention& attention, const ConstImages& qkv, const Extent& out,
                      const Images& y, Stream stream) {
  const int64_t side = attention.side, shift = attention.shift, depth = attention.head_channels;
  require(side >= 1 && side <= kMostSide && shift >= 0 && shift < side,
          "window_attention: a window has 1 to 8 pixels a side, and is shifted by fewer");
  require(depth >= 2 && depth <= 32 && depth % 2 == 0, "window_attention: a head has 2 to 32 channels, an even number");
  require(attention.heads >= 1 && out.channels == attention.heads * depth,
          "window_attention: the output has heads * head_channels channels");
  Extent in = out;
  in.channels = 3 * out.channels;
  check_images(qkv, in, "window_attention: qkv");
  check_images(y, out, "window_attention: y");
  Params p{};
  p.attention = attention;
  p.qkv = qkv;
  p.y = y;
  p.out = out;
  p.first_y = p.first_x = static_cast<int>(shift > 0 ? shift - side : 0);
  p.rows = static_cast<int>(ceil_div(out.height - p.first_y, side));
  p.columns = static_cast<int>(ceil_div(out.width - p.first_x, side));
  if (out.pixels() == 0) return;
  const int64_t blocks = checked_product(out.images, p.rows, p.columns, attention.heads);
  require(blocks <= kMostBlocks, "window_attention: too many windows for one launch");
  if (type == Type::f32) {
    launch(plain_kernel, blocks_for(blocks * side * side, kThreads), kThreads, 0, stream, p);
    return;
  }
  require(current_device().capability >= 80, "window_attention: float16 and bfloat16 need compute capability 8.0");
  with_half_type(type, "window_attention", [&](auto t) {
    using T = decltype(t);
    depth <= 16 ? run<T, 16>(p, blocks, stream) : run<T, 32>(p, blocks, stream);
  });
}

}  // namespace fr::cuda
