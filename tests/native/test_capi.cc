// Every misuse of the C API that faults.md names is an error code, and the process lives.
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "count_allocations.h"
#include "engine/plan_file.h"
#include "include/fastrestore.h"
#include "plans.h"

using namespace fr;

namespace {

constexpr int64_t kHeight = 37, kWidth = 53;

std::string plan_content() {
  return write_plan_file(test::small_graph(3), Precision::float32, json::Object{{"name", "tiny"}});
}

fr_plan* load(const std::string& content) {
  fr_plan* plan = nullptr;
  CHECK(fr_plan_load_memory(content.data(), content.size(), &plan) == FR_OK);
  return plan;
}

template <class T>
struct Pictures {
  explicit Pictures(int32_t type, int32_t channels = 3, int64_t gap = 0)
      : in(static_cast<size_t>(kHeight * (kWidth * channels + gap))), out(in.size(), T(7)) {
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>(type == FR_F32 ? 0 : i * 31 % 251);
    image.in = in.data();
    image.out = out.data();
    image.height = kHeight;
    image.width = kWidth;
    image.channels = channels;
    image.type = type;
    image.in_row_bytes = image.out_row_bytes = (kWidth * channels + gap) * static_cast<int64_t>(sizeof(T));
  }
  std::vector<T> in, out;
  fr_image image = FR_IMAGE_INIT;
};

fr_run_options with_sigma(float sigma) {
  fr_run_options options = FR_RUN_OPTIONS_INIT;
  options.sigma = sigma;
  return options;
}

// The code, and that there is a sentence if and only if it is an error.
bool gives(fr_status wanted, fr_status status) {
  if ((status == FR_OK) != (*fr_last_error() == '\0')) return false;
  if (status != wanted) std::fprintf(stderr, "%s: %s\n", fr_status_name(status), fr_last_error());
  return status == wanted;
}

void check_plan() {
  const std::string content = plan_content();
  fr_plan* plan = nullptr;
  CHECK(gives(FR_INVALID_ARGUMENT, fr_plan_load(nullptr, &plan)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_plan_load("x", nullptr)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_plan_load_memory(nullptr, 0, &plan)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_plan_load_memory(content.data(), SIZE_MAX, &plan)));
  CHECK(gives(FR_BAD_FILE, fr_plan_load_memory(content.data(), 0, &plan)));
  CHECK(gives(FR_BAD_FILE, fr_plan_load_memory(content.data(), content.size() - 1, &plan)));
  CHECK(gives(FR_SYSTEM_ERROR, fr_plan_load("/nonexistent/plan.frp", &plan)));
  CHECK(gives(FR_BAD_FILE, fr_plan_load("/", &plan)));
  CHECK(gives(FR_BAD_FILE, fr_plan_load("/dev/zero", &plan)));
  CHECK(plan == nullptr);

  const std::string shifted = "x" + content;  // at an odd address
  CHECK(gives(FR_OK, fr_plan_load_memory(shifted.data() + 1, content.size(), &plan)));
  fr_plan_info info = FR_PLAN_INFO_INIT;
  CHECK(gives(FR_OK, fr_plan_query(plan, &info)));
  CHECK(info.channels == 3 && info.takes_sigma == 1 && info.multiple_of == 2 && info.halo > 0 && info.packed_bytes > 0);
  CHECK(info.precision == std::string("float32") && info.card == std::string("{\"name\":\"tiny\"}"));
  CHECK(std::strlen(info.isa) > 0 && std::strlen(fr_version()) > 0);
  CHECK(gives(FR_INVALID_ARGUMENT, fr_plan_query(plan, nullptr)));
  for (size_t size : {size_t{0}, sizeof info - 1, sizeof info + 8, SIZE_MAX}) {
    info.struct_size = size;
    CHECK(gives(FR_INVALID_ARGUMENT, fr_plan_query(plan, &info)));
  }
  CHECK(gives(FR_OK, fr_plan_free(plan)));
  CHECK(gives(FR_INVALID_HANDLE, fr_plan_free(plan)));
  CHECK(gives(FR_INVALID_HANDLE, fr_plan_query(plan, &info)));
  CHECK(gives(FR_INVALID_HANDLE, fr_plan_query(nullptr, &info)));
  CHECK(gives(FR_INVALID_HANDLE, fr_plan_query(reinterpret_cast<fr_plan*>(&info), &info)));
  CHECK(gives(FR_OK, fr_plan_free(nullptr)));
  CHECK(std::strcmp(fr_status_name(static_cast<fr_status>(99)), "unknown status") == 0);
}

void check_session() {
  fr_plan* plan = load(plan_content());
  fr_session* session = nullptr;
  const auto refused = [&](fr_status status, auto change) {
    fr_session_options options = FR_SESSION_OPTIONS_INIT;
    change(options);
    return gives(status, fr_session_create(plan, &options, &session)) && session == nullptr;
  };
  CHECK(refused(FR_INVALID_ARGUMENT, [](auto& o) { o.struct_size = 4; }));
  CHECK(refused(FR_INVALID_ARGUMENT, [](auto& o) { o.threads = -1; }));
  CHECK(refused(FR_INVALID_ARGUMENT, [](auto& o) { o.threads = 1 << 30; }));
  CHECK(refused(FR_INVALID_ARGUMENT, [](auto& o) { o.memory = -1; }));
  CHECK(refused(FR_INVALID_ARGUMENT, [](auto& o) { o.reserved = 1; }));
  CHECK(refused(FR_UNSUPPORTED, [](auto& o) { o.device = "cuda"; }));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_create(plan, nullptr, nullptr)));
  CHECK(gives(FR_INVALID_HANDLE, fr_session_create(nullptr, nullptr, &session)));
  fr_session_options options = FR_SESSION_OPTIONS_INIT;
  options.memory = 1000;
  CHECK(gives(FR_OK, fr_session_create(plan, &options, &session)));
  int64_t bytes = 0;
  CHECK(gives(FR_OVER_BUDGET, fr_session_working_bytes(session, kHeight, kWidth, &bytes)));
  CHECK(gives(FR_OK, fr_session_free(session)));
  CHECK(gives(FR_OK, fr_session_create(plan, nullptr, &session)));
  CHECK(gives(FR_OK, fr_plan_free(plan)));  // the session keeps what it needs
  CHECK(gives(FR_OK, fr_session_working_bytes(session, kHeight, kWidth, &bytes)) && bytes > 0);
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_working_bytes(session, 0, 5, &bytes)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_working_bytes(session, 5, INT64_MAX, &bytes)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_working_bytes(session, 5, 5, nullptr)));
  CHECK(gives(FR_INVALID_HANDLE, fr_plan_free(reinterpret_cast<fr_plan*>(session))));
  CHECK(gives(FR_OK, fr_session_free(session)));
  CHECK(gives(FR_INVALID_HANDLE, fr_session_free(session)));
  CHECK(gives(FR_INVALID_HANDLE, fr_session_working_bytes(session, 5, 5, &bytes)));
  CHECK(gives(FR_OK, fr_session_free(nullptr)));
}

// A model that remembers: the second picture's result is another, after a reset it is the first one's again.
void check_states() {
  const std::string content = write_plan_file(test::recurrent_graph(3), Precision::float32, json::Object{});
  fr_plan* plan = load(content);
  fr_session* session = nullptr;
  CHECK(fr_session_create(plan, nullptr, &session) == FR_OK);
  Pictures<uint8_t> pictures(FR_U8);
  std::vector<std::vector<uint8_t>> results;
  for (int run = 0; run < 3; ++run) {
    if (run == 2) CHECK(gives(FR_OK, fr_session_reset(session)));
    CHECK(gives(FR_OK, fr_session_run(session, &pictures.image, nullptr, nullptr)));
    results.push_back(pictures.out);
  }
  CHECK(results[0] != results[1] && results[0] == results[2]);
  CHECK(gives(FR_INVALID_HANDLE, fr_session_reset(nullptr)));
  CHECK(gives(FR_OK, fr_session_free(session)));
  CHECK(gives(FR_INVALID_HANDLE, fr_session_reset(session)));
  CHECK(gives(FR_OK, fr_plan_free(plan)));
}

void check_run() {
  fr_plan* plan = load(plan_content());
  fr_session* session = nullptr;
  CHECK(fr_session_create(plan, nullptr, &session) == FR_OK);
  const fr_run_options options = with_sigma(10);
  Pictures<uint8_t> pictures(FR_U8);
  fr_report report = FR_REPORT_INIT;
  CHECK(gives(FR_OK, fr_session_run(session, &pictures.image, &options, &report)));
  CHECK(report.strips == 1 && report.band > 0 && report.working_bytes > 0 && report.seconds > 0);
  CHECK(gives(FR_INVALID_HANDLE, fr_session_run(nullptr, &pictures.image, &options, nullptr)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_run(session, nullptr, &options, nullptr)));
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_run(session, &pictures.image, nullptr, nullptr)));  // needs sigma
  report.struct_size = 1;
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_run(session, &pictures.image, &options, &report)));

  const auto image_refused = [&](auto change) {
    Pictures<uint8_t> own(FR_U8);
    change(own.image);
    const bool ok = gives(FR_INVALID_ARGUMENT, fr_session_run(session, &own.image, &options, nullptr));
    for (uint8_t value : own.out)
      if (value != 7) return false;
    return ok;
  };
  CHECK(image_refused([](auto& i) { i.struct_size = 8; }));
  CHECK(image_refused([](auto& i) { i.in = nullptr; }));
  CHECK(image_refused([](auto& i) { i.out = nullptr; }));
  for (int64_t size : {int64_t{0}, int64_t{-1}, INT64_MIN, INT64_MAX, int64_t{1} << 62}) {
    CHECK(image_refused([&](auto& i) { i.height = size; }));
    CHECK(image_refused([&](auto& i) { i.width = size; }));
  }
  for (int32_t channels : {0, -1, 2, 4, INT32_MAX}) CHECK(image_refused([&](auto& i) { i.channels = channels; }));
  for (int32_t type : {-1, 4, INT32_MAX}) CHECK(image_refused([&](auto& i) { i.type = type; }));
  for (int64_t bytes : {int64_t{1}, int64_t{-1}, 3 * kWidth - 1, INT64_MIN, INT64_MAX, INT64_MAX / kHeight}) {
    CHECK(image_refused([&](auto& i) { i.in_row_bytes = bytes; }));
    CHECK(image_refused([&](auto& i) { i.out_row_bytes = bytes; }));
  }
  CHECK(image_refused([](auto& i) { i.out = const_cast<void*>(i.in); }));
  CHECK(image_refused([](auto& i) {
    i.in = static_cast<const char*>(i.out) + 3 * kWidth * (kHeight - 1);  // one row in common
  }));
  Pictures<uint16_t> wide(FR_U16, 1);
  wide.image.in = reinterpret_cast<const char*>(wide.in.data()) + 1;
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_run(session, &wide.image, &options, nullptr)));
  Pictures<uint16_t> odd(FR_U16, 1, 1);
  odd.image.out_row_bytes -= 1;
  CHECK(gives(FR_INVALID_ARGUMENT, fr_session_run(session, &odd.image, &options, nullptr)));

  const auto options_refused = [&](auto change) {
    fr_run_options own = options;
    change(own);
    return gives(FR_INVALID_ARGUMENT, fr_session_run(session, &pictures.image, &own, nullptr));
  };
  CHECK(options_refused([](auto& o) { o.struct_size = 0; }));
  CHECK(options_refused([](auto& o) { o.sigma = -1; }));
  CHECK(options_refused([](auto& o) { o.sigma = NAN; }));
  CHECK(options_refused([](auto& o) { o.sigma = INFINITY; }));
  CHECK(options_refused([](auto& o) { o.strength = NAN; }));
  CHECK(options_refused([](auto& o) { o.reserved = 1; }));

  Pictures<uint8_t> gap(FR_U8, 3, 5);  // the gap between rows stays untouched
  CHECK(gives(FR_OK, fr_session_run(session, &gap.image, &options, nullptr)));
  for (int64_t y = 0; y < kHeight; ++y)
    for (int64_t x = 3 * kWidth; x < 3 * kWidth + 5; ++x)
      CHECK(gap.out[static_cast<size_t>(y * (3 * kWidth + 5) + x)] == 7);
  Pictures<float> floats(FR_F32);
  CHECK(gives(FR_OK, fr_session_run(session, &floats.image, &options, nullptr)));
  CHECK(fr_plan_free(plan) == FR_OK && fr_session_free(session) == FR_OK);
}

struct FromProgress {
  fr_session* session;
  const fr_image* image;
  fr_status nested;
  int calls;
};

int cancel(double done, void* user) {
  FromProgress& from = *static_cast<FromProgress*>(user);
  CHECK(done >= 0 && done <= 1);
  const fr_run_options options = with_sigma(10);
  from.nested = fr_session_run(from.session, from.image, &options, nullptr);
  return ++from.calls;
}

int follow(double done, void* user) {
  double& last = *static_cast<double*>(user);
  CHECK(done >= last && done <= 1);
  last = done;
  return 0;
}

int throws(double, void*) { throw 1; }

void check_progress() {
  fr_plan* plan = load(plan_content());
  fr_session* session = nullptr;
  CHECK(fr_session_create(plan, nullptr, &session) == FR_OK);
  Pictures<uint8_t> pictures(FR_U8);
  FromProgress from = {session, &pictures.image, FR_OK, 0};
  fr_run_options options = with_sigma(10);
  options.progress = cancel;
  options.user = &from;
  CHECK(gives(FR_CANCELLED, fr_session_run(session, &pictures.image, &options, nullptr)));
  CHECK(from.calls == 1 && from.nested == FR_BUSY);
  double last = 0;
  options.progress = follow;
  options.user = &last;
  CHECK(gives(FR_OK, fr_session_run(session, &pictures.image, &options, nullptr)));
  CHECK(last == 1);
  options.progress = throws;
  CHECK(gives(FR_INTERNAL, fr_session_run(session, &pictures.image, &options, nullptr)));
  options.progress = nullptr;
  CHECK(gives(FR_OK, fr_session_run(session, &pictures.image, &options, nullptr)));
  CHECK(fr_plan_free(plan) == FR_OK && fr_session_free(session) == FR_OK);
}

// Threads that share a session, and one that frees it under them, get the result or a code.
void check_threads() {
  fr_plan* plan = load(plan_content());
  fr_session* session = nullptr;
  CHECK(fr_session_create(plan, nullptr, &session) == FR_OK);
  const fr_run_options options = with_sigma(10);
  Pictures<uint8_t> expected(FR_U8);
  CHECK(fr_session_run(session, &expected.image, &options, nullptr) == FR_OK);
  std::atomic<int> done{0}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      Pictures<uint8_t> own(FR_U8);
      for (;;) {
        const fr_status status = fr_session_run(session, &own.image, &options, nullptr);
        if (status == FR_INVALID_HANDLE) break;
        if (status == FR_OK && own.out != expected.out) ++wrong;
        if (status == FR_OK) ++done;
        if (status != FR_OK && status != FR_BUSY) ++wrong;
      }
    });
  while (done < 50) std::this_thread::yield();
  CHECK(fr_plan_free(plan) == FR_OK);
  CHECK(fr_session_free(session) == FR_OK);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

void check_file() {
  char path[] = "/tmp/fastrestore-test-XXXXXX";
  const int file = mkstemp(path);
  CHECK(file >= 0);
  const std::string content = plan_content();
  CHECK(write(file, content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  close(file);
  fr_plan* plan = nullptr;
  CHECK(gives(FR_OK, fr_plan_load(path, &plan)));
  CHECK(gives(FR_OK, fr_plan_free(plan)));
  CHECK(truncate(path, static_cast<off_t>(content.size() - 4)) == 0);
  CHECK(gives(FR_BAD_FILE, fr_plan_load(path, &plan)));
  unlink(path);
}

}  // namespace

void check_nothing_is_allocated() {
  fr_plan* plan = load(plan_content());
  fr_session* session = nullptr;
  fr_session_options two = FR_SESSION_OPTIONS_INIT;
  two.threads = 2;
  CHECK(fr_session_create(plan, &two, &session) == FR_OK);
  Pictures<float> picture(FR_F32);
  int bands = 0;
  fr_run_options options = with_sigma(10);
  options.user = &bands;
  options.progress = [](double, void* user) { return ++*static_cast<int*>(user) < 0 ? 1 : 0; };
  fr_report report = FR_REPORT_INIT;
  CHECK(fr_session_run(session, &picture.image, &options, &report) == FR_OK);
  const int64_t before = allocations;
  bool fine = true;  // CHECK itself allocates
  for (int i = 0; i < 3; ++i) fine = fr_session_run(session, &picture.image, &options, &report) == FR_OK && fine;
  const int64_t after = allocations;
  CHECK(fine);
  CHECK(after == before);
  CHECK(bands >= 4);
  CHECK(fr_session_free(session) == FR_OK);
  CHECK(fr_plan_free(plan) == FR_OK);
}

int main() {
  check_plan();
  check_session();
  check_run();
  check_states();
  check_nothing_is_allocated();
  check_progress();
  check_threads();
  check_file();
  return test::result();
}
