// Sessions: nothing allocated once warm, the same bits from many threads and after a fork, cancelling, exceptions.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "check.h"
#include "count_allocations.h"
#include "engine/session.h"

namespace fr {
namespace {

ConvSpec conv_spec(int64_t in, int64_t out, int64_t side, Activation activation, Residual residual) {
  ConvSpec spec;
  spec.in_channels = in;
  spec.out_channels = out;
  spec.kernel_h = spec.kernel_w = side;
  spec.pad_top = spec.pad_left = side / 2;
  spec.activation = activation;
  spec.residual = residual;
  return spec;
}

std::vector<float> noise(int64_t count, float scale) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 12345;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = scale * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
  }
  return values;
}

// Every operator there is.
Graph every_operator() {
  Graph graph;
  const auto conv = [&](int x, ConvSpec spec, int residual = -1) {
    const int64_t count = spec.in_channels * spec.out_channels * spec.kernel_h * spec.kernel_w;
    return graph.conv2d(x, spec, noise(count, 0.1f), noise(spec.out_channels, 0.1f), residual);
  };
  const int in = graph.input(3);
  const int small = graph.pixel_unshuffle(in, 2);
  const int head = conv(graph.concat({small, graph.sigma_plane(small, 1.0f / 255.0f)}),
                        conv_spec(13, 16, 3, Activation::relu, Residual::none));
  const int body = conv(head, conv_spec(16, 16, 3, Activation::none, Residual::after_scale), head);
  ConvSpec down = conv_spec(16, 32, 2, Activation::leaky_relu, Residual::none);
  down.stride_h = down.stride_w = 2;
  down.pad_top = down.pad_left = 0;
  down.slope = 0.1f;
  ConvSpec up = conv_spec(32, 16, 2, Activation::none, Residual::after_scale);
  up.stride_h = up.stride_w = 2;
  up.pad_top = up.pad_left = 0;
  const int back = graph.conv_transpose2d(conv(body, down), up, noise(32 * 16 * 4, 0.1f), {}, body);
  const int curved = graph.activate(back, CurveSpec{Curve::gelu, 0.0f, 0.0f, 0.0f});
  const int scaled = graph.affine(curved, noise(16, 1.0f), noise(16, 0.1f));
  const int gated = graph.multiply(scaled, back, {0, 16}, {0, 16});
  ConvSpec window = conv_spec(16, 16, 2, Activation::none, Residual::none);
  window.stride_h = window.stride_w = 2;
  window.pad_top = window.pad_left = 0;
  const int pooled = graph.pool(gated, Pool::max, window, 0);
  const int large = graph.resize(pooled, Resize::bilinear, true, 2);
  const ConvSpec last = conv_spec(16, 12, 3, Activation::none, Residual::none);
  const int tail = graph.conv2d(large, last, noise(16 * 12 * 9, 0.1f), {}, -1, Border::reflect);
  graph.set_output(graph.add(in, graph.pixel_shuffle(tail, 2), 1.0f, -0.5f));
  return graph;
}

struct Frame {
  Frame(int64_t height, int64_t width) : in(noise(height * width * 3, 1.0f)), out(in.size(), 0.0f) {
    picture.in = in.data();
    picture.out = out.data();
    picture.type = Pixel::f32;
    picture.height = height;
    picture.width = width;
    picture.channels = 3;
    picture.in_row_bytes = picture.out_row_bytes = width * 3 * static_cast<int64_t>(sizeof(float));
  }
  bool same(const Frame& other) const {
    return std::memcmp(out.data(), other.out.data(), out.size() * sizeof(float)) == 0;
  }
  std::vector<float> in, out;
  Picture picture;
};

RunOptions with_sigma() {
  RunOptions options;
  options.sigma = 20.0f;
  options.clip = false;
  return options;
}

void test_nothing_is_allocated(const std::shared_ptr<const Plan>& plan) {
  for (int threads : {1, 3})
    for (int64_t memory : {int64_t{1} << 30, int64_t{1} << 21}) {
      Session session(plan, threads, memory);
      Frame frame(150, 222);
      RunOptions options = with_sigma();
      int64_t bands = 0;
      options.progress = [&](double) { return ++bands > 0; };
      RunReport report;
      session.run(frame.picture, options, report);
      const int64_t before = allocations;
      for (int i = 0; i < 3; ++i) session.run(frame.picture, options, report);
      const int64_t made = allocations - before;
      CHECK_SAYING(made == 0, std::to_string(made) + " allocations on " + std::to_string(threads) + " threads");
      CHECK(bands >= 4 && report.seconds.size() == plan->size() + 1);
    }
}

void test_many_threads(const std::shared_ptr<const Plan>& plan) {
  const RunOptions options = with_sigma();
  Frame expected(30, 44);
  Session(plan, 1, int64_t{1} << 30).run(expected.picture, options);
  std::atomic<int> same{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 16; ++c)
    callers.emplace_back([&, c] {
      Session session(plan, 1 + c % 3, int64_t{1} << 30);
      Frame frame(30, 44);
      for (int run = 0; run < 200; ++run) {
        std::fill(frame.out.begin(), frame.out.end(), 0.0f);
        session.run(frame.picture, options);
        same += frame.same(expected);
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(same == 3200);
}

// Two threads may call one session: their runs follow one another.
void test_one_session_shared(const std::shared_ptr<const Plan>& plan) {
  const RunOptions options = with_sigma();
  Session session(plan, 2, int64_t{1} << 30);
  Frame expected[] = {Frame(30, 44), Frame(50, 20)};
  for (Frame& frame : expected) Session(plan, 1, int64_t{1} << 30).run(frame.picture, options);
  std::atomic<int> same{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&, c] {
      Frame frame(expected[c % 2].picture.height, expected[c % 2].picture.width);
      for (int run = 0; run < 20; ++run) {
        session.run(frame.picture, options);
        same += frame.same(expected[c % 2]);
      }
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(same == 80);
}

void test_cancel_and_exceptions(const std::shared_ptr<const Plan>& plan) {
  for (int threads : {1, 3}) {
    Session session(plan, threads, int64_t{1} << 21);
    Frame expected(150, 222), frame(150, 222);
    Session(plan, 1, int64_t{1} << 30).run(expected.picture, with_sigma());
    RunOptions stopping = with_sigma();
    int calls = 0;
    stopping.progress = [&](double share) {
      CHECK(share >= 0 && share < 1);
      return ++calls < 2;
    };
    CHECK_THROWS(session.run(frame.picture, stopping), Cancelled);
    CHECK(calls == 2);  // not a band more than was allowed
    RunOptions throwing = with_sigma();
    throwing.progress = [](double) -> bool { throw std::runtime_error("the caller's own"); };
    CHECK_THROWS(session.run(frame.picture, throwing), std::runtime_error);
    RunOptions wrong;  // without the sigma that the model needs
    CHECK_THROWS(session.run(frame.picture, wrong), std::invalid_argument);
    Frame torn(4, 4);
    torn.picture.in_row_bytes = 40;  // less than its pixels take
    CHECK_THROWS(session.run(torn.picture, with_sigma()), std::invalid_argument);
    CHECK_THROWS(Session(plan, threads, 1024).run(frame.picture, with_sigma()), MemoryBudgetExceeded);
    session.run(frame.picture, with_sigma());
    CHECK(frame.same(expected));
  }
}

void test_fork(const std::shared_ptr<const Plan>& plan) {
  Session session(plan, 3, int64_t{1} << 30);
  Frame before(80, 120), after(80, 120);
  session.run(before.picture, with_sigma());
  const pid_t child = fork();
  if (child == 0) {
    session.run(after.picture, with_sigma());
    _exit(after.same(before) ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace fr

int main() {
  using namespace fr;
  for (Precision precision : {Precision::float32, Precision::bfloat16}) {
    const auto plan = std::make_shared<const Plan>(every_operator(), precision);
    test_nothing_is_allocated(plan);
    test_many_threads(plan);
    test_one_session_shared(plan);
    test_cancel_and_exceptions(plan);
    test_fork(plan);
  }
  return test::result();
}
