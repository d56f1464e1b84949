#include "engine/cuda_session.h"

#include <algorithm>

#include "base/buffer.h"
#include "cuda/values.h"

namespace fr {

using cuda::ConstImages;

namespace {

constexpr size_t kMostShapes = 32;  // whose launches are kept from one picture to the next

// Rows or columns of a picture of `size` that stand for those of the padded one.
Interval source_of(Interval read, int64_t size, Border border) {
  Interval source{read.begin, std::min(read.end, size)};
  for (int64_t x = size; x < read.end && border != Border::zero; ++x) {
    const int64_t pixel = border_pixel(border, x, size);
    source = hull(source, {pixel, pixel + 1});
  }
  return source;
}

Interval divided(Interval interval, int64_t stride) { return {interval.begin / stride, interval.end / stride}; }

}  // namespace

CudaSession::CudaSession(std::shared_ptr<const Graph> graph, cuda::Type type, int64_t memory)
    : graph_(graph), program_(std::move(graph), type), memory_(memory), states_(graph_->states().size()) {
  if (memory < 0) throw std::invalid_argument("session: memory must not be negative");
  non_finite_ = cuda::DeviceMemory(sizeof(unsigned long long));
}

int64_t CudaSession::Tiling::tiles() const { return ceil_div(height, core_height) * ceil_div(width, core_width); }

// What the parts of these cores take.
void CudaSession::measure(Tiling& tiling) const {
  const bool several = tiling.tiles() > 1;
  const int64_t margin = round_up(tiling.halo, program_.grid());
  tiling.read_height = std::min(tiling.height, tiling.core_height + 2 * margin);  // the largest has it at both ends
  tiling.read_width = std::min(tiling.width, tiling.core_width + 2 * margin);
  tiling.arena_bytes = program_.lay_out(tiling.read_height, tiling.read_width).bytes;
  tiling.copy_bytes =
      CudaCopies::bytes(checked_product(tiling.read_height, tiling.read_width),
                        checked_product(tiling.core_height, tiling.core_width), graph_->channels(), several);
}

CudaSession::Tiling CudaSession::tile(int64_t height, int64_t width) const {
  Tiling tiling;
  tiling.height = round_up(height, graph_->multiple_of());
  tiling.width = round_up(width, graph_->multiple_of());
  tiling.core_height = tiling.height;
  tiling.core_width = tiling.width;
  for (size_t i = 0; i < states_.size(); ++i) {
    const Node& node = program_.node(static_cast<size_t>(graph_->states()[i].now));
    tiling.state_bytes += 2 * checked_product(extent(node, Axis::rows, tiling.height),
                                              extent(node, Axis::columns, tiling.width), state_pitch(i));
  }
  measure(tiling);
  if (tiling.bytes() <= memory_) return tiling;
  if (graph_->sees_everything()) throw MemoryBudgetExceeded(memory_, tiling.bytes());
  tiling.halo = graph_->reach();
  while (tiling.bytes() > memory_) {
    int64_t& side = tiling.core_height >= tiling.core_width ? tiling.core_height : tiling.core_width;
    if (side <= program_.grid()) throw MemoryBudgetExceeded(memory_, tiling.bytes());
    side = round_up(side / 2, program_.grid());
    measure(tiling);
  }
  return tiling;
}

CudaSession::Part CudaSession::part(const Tiling& tiling, int64_t index, const Picture& picture) const {
  const int64_t across = ceil_div(tiling.width, tiling.core_width), grid = program_.grid();
  const Border border = program_.node(0).border;
  Part part;
  const auto cut = [&](int64_t which, int64_t core, int64_t side, int64_t size, Interval Box::* axis) {
    const Interval written{which * core, std::min(side, (which + 1) * core)};
    part.core.*axis = written;
    part.read.*axis = {std::max<int64_t>(0, (written.begin - tiling.halo) / grid * grid),
                       std::min(side, round_up(written.end + tiling.halo, grid))};
    part.source.*axis = source_of(part.read.*axis, size, border);
    part.kept.*axis = {written.begin, std::min(written.end, size)};
  };
  cut(index / across, tiling.core_height, tiling.height, picture.height, &Box::rows);
  cut(index % across, tiling.core_width, tiling.width, picture.width, &Box::columns);
  return part;
}

RunReport CudaSession::preview(int64_t height, int64_t width) const {
  check_picture_size(height, width);
  const Tiling tiling = tile(height, width);
  return {0, tiling.tiles(), tiling.core_height, tiling.bytes(), {}};
}

cuda::Type CudaSession::state_type(size_t number) const {
  return program_.type_of(static_cast<size_t>(graph_->states()[number].now));
}

// From pixel to pixel, in bytes.
int64_t CudaSession::state_pitch(size_t number) const {
  const Node& node = program_.node(static_cast<size_t>(graph_->states()[number].now));
  return round_up(node.channels, 8) * cuda::type_bytes(state_type(number));
}

// The memory of the device that a run takes; states that there are not yet, or not of this size, are zero.
void CudaSession::prepare(const Tiling& tiling) {
  if (shapes_.size() > kMostShapes) shapes_.clear();  // nothing runs now that they would be needed for
  const int64_t copies =
      copies_.bytes_after(tiling.read_height * tiling.read_width, tiling.core_height * tiling.core_width,
                          graph_->channels(), tiling.tiles() > 1);
  if (std::max(arena_.bytes(), tiling.arena_bytes) + tiling.state_bytes + copies > memory_) {  // of other sizes
    shapes_.clear();
    arena_ = cuda::DeviceMemory();
    copies_.release();
  }
  if (tiling.arena_bytes > arena_.bytes()) {
    shapes_.clear();  // launches were recorded for where the images lay
    arena_ = cuda::DeviceMemory();
    arena_ = cuda::DeviceMemory(tiling.arena_bytes);
  }
  for (size_t i = 0; i < states_.size(); ++i) {
    const Node& node = program_.node(static_cast<size_t>(graph_->states()[i].now));
    DeviceState& state = states_[i];
    const int64_t height = extent(node, Axis::rows, tiling.height), width = extent(node, Axis::columns, tiling.width);
    const int64_t bytes = checked_product(height, width, state_pitch(i));
    if (state.height != height || state.width != width) {
      state = {0, 0, cuda::DeviceMemory(), cuda::DeviceMemory()};
      state = {height, width, cuda::DeviceMemory(bytes), cuda::DeviceMemory()};
      cuda::clear(state.now.data(), bytes, copies_.work());
    }
    if (state.next.bytes() != bytes) state.next = cuda::DeviceMemory(bytes);
  }
}

CudaSession::Shape& CudaSession::shape(int64_t height, int64_t width) {
  Shape& shape = shapes_[{height, width}];
  if (shape.layout.offset.empty()) shape.layout = program_.lay_out(height, width);
  return shape;
}

// The first time kernels are launched one by one, which loads them; the second time their launches are recorded.
void CudaSession::compute(Shape& shape) {
  const auto launch = [&] { program_.launch(shape.layout, arena_.data(), copies_.work()); };
  if (shape.known && shape.launches.get() == nullptr) shape.launches = cuda::record_launches(copies_.work(), launch);
  if (shape.launches.get() != nullptr)
    cuda::launch(shape.launches, copies_.work());
  else
    launch();
  shape.known = true;
}

// Of a part: all that it reads of the states, or its core of their successors.
void CudaSession::copy_states(const Shape& shape, const Part& part, bool to_parts) {
  for (size_t i = 0; i < states_.size(); ++i) {
    const State& pair = graph_->states()[i];
    const size_t n = static_cast<size_t>(to_parts ? pair.now : pair.next);
    const int64_t stride = program_.node(n).stride, pixel = state_pitch(i), whole_row = states_[i].width * pixel;
    const Box& box = to_parts ? part.read : part.core;
    const Interval rows = divided(box.rows, stride), columns = divided(box.columns, stride);
    const Interval from_rows = divided(part.read.rows, stride), from_columns = divided(part.read.columns, stride);
    const int64_t part_row = from_columns.size() * pixel;
    uint8_t* const in_part = arena_.data() + shape.layout.offset[n] + (rows.begin - from_rows.begin) * part_row +
                             (columns.begin - from_columns.begin) * pixel;
    const int64_t offset = rows.begin * whole_row + columns.begin * pixel;
    if (to_parts)
      cuda::copy(in_part, part_row, states_[i].now.data() + offset, whole_row, columns.size() * pixel, rows.size(),
                 copies_.work());
    else
      cuda::copy(states_[i].next.data() + offset, whole_row, in_part, part_row, columns.size() * pixel, rows.size(),
                 copies_.work());
  }
}

void CudaSession::reset() {
  std::lock_guard<std::mutex> lock(running_);
  for (DeviceState& state : states_) state.height = state.width = 0;
}

StateImage CudaSession::state(size_t number) {
  std::lock_guard<std::mutex> lock(running_);
  check_state(*graph_, number);
  const DeviceState& state = states_[number];
  if (state.height == 0) return {};
  const int64_t pitch = state_pitch(number), size = cuda::type_bytes(state_type(number));
  StateImage image{
      state.height, state.width, program_.node(static_cast<size_t>(graph_->states()[number].now)).channels, {}};
  std::vector<uint8_t> bytes(static_cast<size_t>(state.now.bytes()));
  cuda::copy(bytes.data(), state.now.bytes(), state.now.data(), state.now.bytes(), state.now.bytes(), 1,
             copies_.work());
  cuda::wait(copies_.work());
  for (int64_t pixel = 0; pixel < image.height * image.width; ++pixel)
    for (int64_t c = 0; c < image.channels; ++c)
      image.values.push_back(cuda::load_value(state_type(number), bytes.data() + pixel * pitch + c * size));
  return image;
}

void CudaSession::set_state(size_t number, StateImage image) {
  std::lock_guard<std::mutex> lock(running_);
  check_state(*graph_, number, image);
  DeviceState& state = states_[number];
  state = {image.height, image.width, cuda::DeviceMemory(), cuda::DeviceMemory()};
  if (image.height == 0) return;
  const int64_t pitch = state_pitch(number), size = cuda::type_bytes(state_type(number));
  std::vector<uint8_t> bytes(static_cast<size_t>(checked_product(image.height, image.width, pitch)), 0);
  for (int64_t pixel = 0; pixel < image.height * image.width; ++pixel)
    for (int64_t c = 0; c < image.channels; ++c)
      cuda::store_value(state_type(number), image.values[static_cast<size_t>(pixel * image.channels + c)],
                        bytes.data() + pixel * pitch + c * size);
  state.now = cuda::DeviceMemory(static_cast<int64_t>(bytes.size()));
  cuda::copy(state.now.data(), state.now.bytes(), bytes.data(), state.now.bytes(), state.now.bytes(), 1,
             copies_.work());
  cuda::wait(copies_.work());
}

RunReport CudaSession::run(const Picture& picture, const RunOptions& options) {
  check_run(*graph_, picture, options);
  std::lock_guard<std::mutex> lock(running_);
  RunReport report;
  try {
    report = run_parts(picture, options);
  } catch (...) {
    copies_.wait_for_all();  // the caller's memory is free again
    throw;
  }
  if (report.non_finite == 0 || program_.type() == cuda::Type::f32 || !states_.empty()) return report;
  shapes_.clear();  // the budget holds for both
  arena_ = cuda::DeviceMemory();
  copies_.release();
  try {
    CudaSession wide(graph_, cuda::Type::f32, memory_);
    report = wide.run(picture, options);
    report.recomputed = report.strips;
  } catch (const MemoryBudgetExceeded&) {  // the counted result stands
  }
  return report;
}

RunReport CudaSession::run_parts(const Picture& picture, const RunOptions& options) {
  const Tiling tiling = tile(picture.height, picture.width);
  const int64_t tiles = tiling.tiles();
  const size_t output = static_cast<size_t>(graph_->output());
  const cuda::Stream work = copies_.work();
  auto* const counter = reinterpret_cast<unsigned long long*>(non_finite_.data());
  prepare(tiling);
  copies_.begin(picture, checked_product(tiling.read_height, tiling.read_width),
                checked_product(tiling.core_height, tiling.core_width), graph_->channels(), tiles > 1, options.stream);
  cuda::clear(counter, sizeof *counter, work);

  Part part = this->part(tiling, 0, picture), before;
  copies_.send(0, part.source);
  for (int64_t index = 0; index < tiles; ++index) {
    Shape& shape = this->shape(part.read.rows.size(), part.read.columns.size());
    const CudaCopies::Held held = copies_.arrived(index);
    cuda::gather_tile(held.rows, held.data, part.read.rows.begin, part.read.columns.begin,
                      edge_of(program_.node(0).border), program_.type_of(0), program_.extent_of(0, shape.layout),
                      program_.images(0, shape.layout, arena_.data()), work);
    program_.fill_sigma(shape.layout, arena_.data(), options.sigma.value_or(0.0f), work);
    copy_states(shape, part, true);
    compute(shape);
    ConstImages kept = program_.images(output, shape.layout, arena_.data());
    const int64_t first = (part.kept.rows.begin - part.read.rows.begin) * kept.row_pitch +
                          (part.kept.columns.begin - part.read.columns.begin) * kept.pixel_pitch;
    kept.data = static_cast<const uint8_t*>(kept.data) + first * cuda::type_bytes(program_.type_of(output));
    const CudaCopies::Held result = copies_.result(index, part.kept);
    cuda::store_tile(program_.type_of(output), kept,
                     {1, part.kept.rows.size(), part.kept.columns.size(), program_.node(output).channels}, held.rows,
                     held.data, result.rows, result.data, part.kept.rows.begin, part.kept.columns.begin,
                     options.strength, options.clip, counter, work);
    copy_states(shape, part, false);
    copies_.worked(index);
    const Part next = this->part(tiling, std::min(index + 1, tiles - 1), picture);
    if (index + 1 < tiles) copies_.send(index + 1, next.source);
    copies_.fetch(index, part.kept);
    if (index > 0) copies_.finish(index - 1, before.kept);
    const double done = static_cast<double>(index + 1) / static_cast<double>(tiles);
    if (options.progress && !options.progress(done)) throw Cancelled();
    before = std::exchange(part, next);
  }
  copies_.finish(tiles - 1, before.kept);
  unsigned long long non_finite = 0;
  cuda::copy(&non_finite, sizeof non_finite, counter, sizeof non_finite, sizeof non_finite, 1, work);
  cuda::wait(work);
  for (DeviceState& state : states_) std::swap(state.now, state.next);  // a run that did not come to its end: no change
  return {static_cast<int64_t>(non_finite), tiles, tiling.core_height, tiling.bytes(), {}};
}

}  // namespace fr
