// The C API: handles and structs are checked, exceptions come out as status codes, nothing is thrown across.
#include "include/fastrestore.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>

#include "base/parallel.h"
#if FR_CUDA
#include "engine/cuda_session.h"
#endif
#include "engine/plan_file.h"
#include "engine/session.h"

namespace fr {
namespace {

constexpr int64_t kDefaultMemory = int64_t{1} << 30;
constexpr int64_t kMaxPictureBytes = int64_t{1} << 47;  // what a process can address; more is a wrong stride

// Of a fixed size, so that even running out of memory can be told.
thread_local char last_error[1024] = "";

void set_error(const char* text) {
  size_t length = std::min(std::strlen(text), sizeof last_error - 1);
  while (length > 0 && length == sizeof last_error - 1 && (text[length] & 0xc0) == 0x80) --length;  // whole characters
  std::memcpy(last_error, text, length);
  last_error[length] = '\0';
}

struct Failure : std::runtime_error {
  Failure(fr_status code, const std::string& what) : std::runtime_error(what), status(code) {}
  fr_status status;
};

[[noreturn]] void fail(fr_status status, const std::string& what) { throw Failure(status, what); }

std::string to_text(const char* text) { return text; }
std::string to_text(int64_t number) { return std::to_string(number); }

// The message is put together only if it is needed: a warm run allocates nothing.
template <class... Parts>
void require(bool fine, const Parts&... what) {
  if (!fine) fail(FR_INVALID_ARGUMENT, (to_text(what) + ...));
}

// The one table from exceptions to codes.
template <class Body>
fr_status guarded(Body body) noexcept {
  const auto told = [](fr_status status, const char* what) {
    set_error(what);
    return status;
  };
  last_error[0] = '\0';
  try {
    body();
    return FR_OK;
  } catch (const Failure& error) {
    return told(error.status, error.what());
  } catch (const MemoryBudgetExceeded& error) {
    return told(FR_OVER_BUDGET, error.what());
  } catch (const Cancelled& error) {
    return told(FR_CANCELLED, error.what());
  } catch (const std::bad_alloc&) {
    return told(FR_OUT_OF_MEMORY, "out of memory");
#if FR_CUDA
  } catch (const cuda::NoDevice& error) {
    return told(FR_UNSUPPORTED, error.what());
#endif
  } catch (const std::system_error& error) {
    return told(FR_SYSTEM_ERROR, error.what());
  } catch (const std::logic_error& error) {  // invalid_argument, length_error
    return told(FR_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return told(FR_INTERNAL, error.what());
  } catch (...) {
    return told(FR_INTERNAL, "an exception of unknown type");
  }
}

// Live objects by serial number. A handle is such a number, never an address, and none is given twice: so a handle
// that was freed is known as such for ever. Whoever found an object keeps it while using it.
template <class T>
class Handles {
 public:
  explicit Handles(uintptr_t first) : next_(first) {}

  uintptr_t add(std::shared_ptr<T> object) {
    std::lock_guard<std::mutex> lock(mutex_);
    live_.emplace(next_, std::move(object));
    const uintptr_t number = next_;
    next_ += 2;  // plans odd, sessions even
    return number;
  }
  std::shared_ptr<T> find(const void* handle) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = live_.find(reinterpret_cast<uintptr_t>(handle));
    return found == live_.end() ? nullptr : found->second;
  }
  bool remove(const void* handle) {
    std::shared_ptr<T> last;  // destroyed after the lock
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = live_.find(reinterpret_cast<uintptr_t>(handle));
    if (found == live_.end()) return false;
    last = std::move(found->second);
    live_.erase(found);
    return true;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<uintptr_t, std::shared_ptr<T>> live_;
  uintptr_t next_;
};

struct LoadedPlan {
  std::shared_ptr<const Plan> plan;
  std::string card;
  int64_t halo;
};

struct OpenSession {
  OpenSession(std::shared_ptr<const Plan> plan, int threads, int64_t memory)
      : cpu(std::make_unique<Session>(std::move(plan), threads, memory)) {}
#if FR_CUDA
  OpenSession(const std::shared_ptr<const Plan>& plan, int64_t memory)
      : gpu(std::make_unique<CudaSession>(std::shared_ptr<const Graph>(plan, &plan->graph()),
                                          cuda_type(plan->precision()), memory)) {}
#endif

  RunReport preview(int64_t height, int64_t width) const {
#if FR_CUDA
    if (gpu) return gpu->preview(height, width);
#endif
    return cpu->preview(height, width);
  }
  void reset() {
#if FR_CUDA
    if (gpu) return gpu->reset();
#endif
    cpu->reset();
  }
  void run(const Picture& picture, const RunOptions& options) {
#if FR_CUDA
    if (gpu) {
      report = gpu->run(picture, options);
      return;
    }
#endif
    cpu->run(picture, options, report);
  }

  std::unique_ptr<Session> cpu;
#if FR_CUDA
  std::unique_ptr<CudaSession> gpu;
#endif
  RunReport report;  // of the last run; kept so that the next one need not allocate it
  std::atomic<bool> busy{false};
};

// Never destroyed: other threads may still use them while the process exits.
Handles<LoadedPlan>& plans() {
  static auto* handles = new Handles<LoadedPlan>(101);
  return *handles;
}
Handles<OpenSession>& sessions() {
  static auto* handles = new Handles<OpenSession>(100);
  return *handles;
}

template <class T>
std::shared_ptr<T> live(Handles<T>& handles, const void* handle, const char* kind) {
  std::shared_ptr<T> found = handles.find(handle);
  if (!found)
    fail(FR_INVALID_HANDLE, std::string(handle == nullptr ? "NULL is" : "this is") + " not a live " + kind +
                                (handle == nullptr ? "" : ": it was freed, or never was one"));
  return found;
}

template <class T>
const T& sized(const T* given, const char* name) {
  require(given != nullptr, name, " is NULL");
  require(given->struct_size == sizeof(T), name, ".struct_size is ", static_cast<int64_t>(given->struct_size),
          "; this library wants ", static_cast<int64_t>(sizeof(T)));
  return *given;
}

template <class Read>
void load(Read read, fr_plan** plan) {
  require(plan != nullptr, "plan is NULL");
  *plan = nullptr;
  const Isa isa = host_isa();
  auto loaded = std::make_shared<LoadedPlan>();
  try {
    PlanFile file = read();
    loaded->card = json::write(file.card);
    loaded->plan = std::make_shared<Plan>(std::move(file.graph), file.precision, isa, std::move(file.levels));
    loaded->halo = loaded->plan->graph().halo();
  } catch (const std::logic_error& error) {  // whatever does not fit, the file says it
    fail(FR_BAD_FILE, error.what());
  }
  *plan = reinterpret_cast<fr_plan*>(plans().add(std::move(loaded)));
}

// Where the rows of a picture lie, checked not to wrap round the address space.
struct Extent {
  uintptr_t begin, end;
};

Extent extent_of(const void* data, int64_t row_bytes, int64_t used_bytes, int64_t height, int64_t sample,
                 const char* name) {
  require(data != nullptr, "image.", name, " is NULL");
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  require(begin % static_cast<uintptr_t>(sample) == 0 && row_bytes % sample == 0, "image.", name,
          ": rows must be aligned to samples of ", sample, " bytes");
  require(row_bytes >= used_bytes, "image.", name, "_row_bytes is ", row_bytes, ", a row's pixels take ", used_bytes);
  int64_t bytes = 0;
  uintptr_t end = 0;
  require(!__builtin_mul_overflow(height - 1, row_bytes, &bytes) &&
              !__builtin_add_overflow(bytes, used_bytes, &bytes) && bytes <= kMaxPictureBytes &&
              !__builtin_add_overflow(begin, static_cast<uintptr_t>(bytes), &end),
          "image.", name, ": height times row bytes exceeds the address space");
  return {begin, end};
}

Picture checked_picture(const fr_image& image) {
  require(image.type >= FR_U8 && image.type <= FR_F32, "image.type is no fr_pixel: ", image.type);
  require(image.height >= 1 && image.width >= 1 && image.channels >= 1, "the image is empty: ", image.height, " x ",
          image.width, " x ", image.channels);
  Picture picture;
  picture.in = image.in;
  picture.out = image.out;
  picture.type = static_cast<Pixel>(image.type);
  picture.height = image.height;
  picture.width = image.width;
  picture.channels = image.channels;
  const int64_t sample = pixel_bytes(picture.type);
  const int64_t used = checked_product(image.width, image.channels, sample);
  picture.in_row_bytes = image.in_row_bytes == 0 ? used : image.in_row_bytes;
  picture.out_row_bytes = image.out_row_bytes == 0 ? used : image.out_row_bytes;
  const Extent in = extent_of(image.in, picture.in_row_bytes, used, image.height, sample, "in");
  const Extent out = extent_of(image.out, picture.out_row_bytes, used, image.height, sample, "out");
  require(in.end <= out.begin || out.end <= in.begin, "image.in and image.out overlap");
  return picture;
}

}  // namespace
}  // namespace fr

using namespace fr;

static_assert(FR_U8 == static_cast<int>(Pixel::u8) && FR_U16 == static_cast<int>(Pixel::u16) &&
              FR_F16 == static_cast<int>(Pixel::f16) && FR_F32 == static_cast<int>(Pixel::f32));

extern "C" {

const char* fr_version(void) { return FR_VERSION; }

const char* fr_last_error(void) { return last_error; }

const char* fr_status_name(fr_status code) {
  switch (code) {
#define FR_NAME(name) \
  case name:          \
    return #name;
    FR_NAME(FR_OK)
    FR_NAME(FR_INVALID_ARGUMENT)
    FR_NAME(FR_INVALID_HANDLE)
    FR_NAME(FR_BAD_FILE)
    FR_NAME(FR_SYSTEM_ERROR)
    FR_NAME(FR_OUT_OF_MEMORY)
    FR_NAME(FR_OVER_BUDGET)
    FR_NAME(FR_CANCELLED)
    FR_NAME(FR_BUSY)
    FR_NAME(FR_UNSUPPORTED)
    FR_NAME(FR_INTERNAL)
#undef FR_NAME
  }
  return "unknown status";
}

fr_status fr_plan_load(const char* path, fr_plan** plan) {
  return guarded([&] {
    require(path != nullptr, "path is NULL");
    load([&] { return load_plan_file(path); }, plan);
  });
}

fr_status fr_plan_load_memory(const void* data, size_t size, fr_plan** plan) {
  return guarded([&] {
    require(data != nullptr, "data is NULL");
    require(size <= static_cast<size_t>(PTRDIFF_MAX), "size exceeds the address space");
    load([&] { return read_plan_file({static_cast<const char*>(data), size}); }, plan);
  });
}

fr_status fr_plan_free(fr_plan* plan) {
  return guarded([&] {
    if (plan != nullptr && !plans().remove(plan)) live(plans(), plan, "plan");
  });
}

fr_status fr_plan_query(const fr_plan* plan, fr_plan_info* info) {
  return guarded([&] {
    const std::shared_ptr<LoadedPlan> loaded = live(plans(), plan, "plan");
    sized(info, "info");
    const Plan& own = *loaded->plan;
    *info = {sizeof *info,
             own.graph().channels(),
             own.graph().takes_sigma() ? 1 : 0,
             0,
             loaded->halo,
             own.graph().multiple_of(),
             own.packed_bytes(),
             isa_name(own.isa()),
             precision_name(own.precision()),
             loaded->card.c_str()};
  });
}

fr_status fr_session_create(const fr_plan* plan, const fr_session_options* options, fr_session** session) {
  return guarded([&] {
    require(session != nullptr, "session is NULL");
    *session = nullptr;
    const std::shared_ptr<LoadedPlan> loaded = live(plans(), plan, "plan");
    static constexpr fr_session_options kDefaults = FR_SESSION_OPTIONS_INIT;
    const fr_session_options& given = options == nullptr ? kDefaults : sized(options, "options");
    const std::string_view device = given.device == nullptr ? "auto" : given.device;
    if (device != "auto" && device != "cpu" && device != "cuda")
      fail(FR_UNSUPPORTED, "device must be auto, cpu or cuda, got '" + std::string(device.substr(0, 60)) + "'");
    require(given.reserved == 0, "options.reserved must be 0");
    const int threads = given.threads == 0 ? hardware_threads() : given.threads;
    const int64_t memory = given.memory == 0 ? kDefaultMemory : given.memory;
    std::shared_ptr<OpenSession> opened;
    if (device != "cuda")
      opened = std::make_shared<OpenSession>(loaded->plan, threads, memory);
    else
#if FR_CUDA
      opened = std::make_shared<OpenSession>(loaded->plan, memory);
#else
      fail(FR_UNSUPPORTED, "device cuda: this library was built without nvcc");
#endif
    *session = reinterpret_cast<fr_session*>(sessions().add(std::move(opened)));
  });
}

fr_status fr_session_free(fr_session* session) {
  return guarded([&] {
    if (session != nullptr && !sessions().remove(session)) live(sessions(), session, "session");
  });
}

fr_status fr_session_reset(fr_session* session) {
  return guarded([&] {
    const std::shared_ptr<OpenSession> opened = live(sessions(), session, "session");
    if (opened->busy) fail(FR_BUSY, "the session is running already");
    opened->reset();
  });
}

fr_status fr_session_working_bytes(const fr_session* session, int64_t height, int64_t width, int64_t* bytes) {
  return guarded([&] {
    const std::shared_ptr<OpenSession> opened = live(sessions(), session, "session");
    require(bytes != nullptr, "bytes is NULL");
    *bytes = opened->preview(height, width).working_bytes;
  });
}

fr_status fr_session_run(fr_session* session, const fr_image* image, const fr_run_options* options, fr_report* report) {
  return guarded([&] {
    const std::shared_ptr<OpenSession> opened = live(sessions(), session, "session");
    const Picture picture = checked_picture(sized(image, "image"));
    static constexpr fr_run_options kDefaults = FR_RUN_OPTIONS_INIT;
    const fr_run_options given = options == nullptr ? kDefaults : sized(options, "options");
    if (report != nullptr) sized(report, "report");
    require(given.reserved == 0, "options.reserved must be 0");
    RunOptions wanted;
    if (!(given.sigma < 0)) wanted.sigma = given.sigma;  // NaN is passed on, and refused there
    wanted.strength = given.strength;
    wanted.clip = given.clip != 0;
    wanted.stream = given.stream;
    if (given.progress != nullptr) wanted.progress = [&](double done) { return given.progress(done, given.user) == 0; };
    if (opened->busy.exchange(true)) fail(FR_BUSY, "the session is running already");
    struct Release {
      std::atomic<bool>& busy;
      ~Release() { busy = false; }
    } release{opened->busy};
    const auto start = std::chrono::steady_clock::now();
    RunReport& done = opened->report;
    opened->run(picture, wanted);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    if (report != nullptr)
      *report = {sizeof *report,     done.non_finite, done.strips,  done.band,
                 done.working_bytes, done.recomputed, spent.count()};
  });
}

}  // extern "C"
