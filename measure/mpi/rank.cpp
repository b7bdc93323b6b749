#include "measure/mpi/rank.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>

#include "algorithms/blocks.hpp"
#include "futex.hpp"
#include "measure/consume.hpp"
#include "measure/processors.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools::mpi {
namespace {

using Clock = std::chrono::steady_clock;

Control& control_of(const std::shared_ptr<std::byte>& memory, int world) {
  auto& control = *reinterpret_cast<Control*>(memory.get());
  if (world != control.tp * control.dp)
    throw SystemError(fmt::format("{} ranks were started for {} x {}", world, control.tp, control.dp));
  return control;
}

}  // namespace

std::shared_ptr<std::byte> map_control(const char* path) {
  const int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) throw SystemError(fmt::format("cannot open {}: {}", path, std::strerror(errno)));
  std::uint64_t bytes = 0;
  if (pread(fd, &bytes, sizeof(bytes), 0) != sizeof(bytes)) throw SystemError("cannot read what to do");
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (data == MAP_FAILED) throw SystemError("cannot map what to do");
  return {static_cast<std::byte*>(data), [bytes](std::byte* p) { munmap(p, bytes); }};
}

Rank::Rank(const std::shared_ptr<std::byte>& memory, int rank, int world)
    : control_(control_of(memory, world)),
      rank_(rank),
      grid_(Grid::of(control_.tp, control_.dp, rank)),
      // Which looks how many processors there are.
      meeting_(std::shared_ptr<std::byte>(memory, memory.get() + sizeof(Control)), grid_.world, most_calls,
               Milliseconds(control_.timeout_ms)),
      inputs_(control_.dtype, control_.most_bytes),
      in_(aligned(control_.most_bytes)),
      out_(aligned(control_.most_bytes)) {
  if (control_.binds) bind_to_processors_of(rank, control_.threads);
}

Rank::Memory Rank::aligned(std::size_t bytes) {
  const std::size_t whole = round_up(std::max<std::size_t>(bytes, 1), 4096);
  Memory memory(static_cast<std::byte*>(std::aligned_alloc(4096, whole)), std::free);
  std::memset(memory.get(), 0, whole);
  return memory;
}

void Rank::serve() {
  for (std::uint32_t done = 0;;) {
    while (control_.ordered.load() == done) {
      if (control_.ends.load() || (kill(control_.owner, 0) != 0 && errno == ESRCH)) return;
      futex_wait(control_.ordered, done, std::chrono::seconds(1));
    }
    ++done;
    carry_out(control_.order);
    const auto world = static_cast<std::uint32_t>(grid_.world.size);
    if (control_.arrived.fetch_add(1) + 1 != done * world) continue;
    control_.finished.store(done);
    futex_wake_all(control_.finished);
  }
}

void Rank::carry_out(const Order& order) {
  cell_.op = order.op;
  cell_.rows.assign(order.rows.begin(), order.rows.begin() + grid_.dp.size);
  prepare(order);
  for (std::uint32_t i = 0; i < order.calls; ++i) {
    std::memcpy(in_.get(), inputs_.of(rank_, ++round_), in_bytes_);
    result_ = out_.get();
    meeting_.barrier();
    const auto begin = Clock::now();
    run(order.op);
    meeting_.latencies(rank_)[i] = std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
    consume(result_, out_bytes_);
  }
  if (!order.check) return;
  const std::string wrong = inputs_.wrong(cell_, grid_, order.hidden, round_, result_);
  if (!wrong.empty()) throw SystemError(wrong);
}

void Rank::prepare(const Order& order) {
  const auto own = static_cast<std::size_t>(grid_.dp.member);
  counts_.clear();
  offsets_.clear();
  all_ = 0;
  for (const std::size_t rows : cell_.rows) {
    offsets_.push_back(all_);
    counts_.push_back(static_cast<int>(rows * order.hidden));
    all_ += counts_.back();
  }
  even_ = std::all_of(counts_.begin(), counts_.end(), [&](int n) { return n == counts_[0]; });
  own_ = counts_[own];
  block_ = out_.get() + static_cast<std::size_t>(offsets_[own]) * size_of(control_.dtype);
  const TensorRows rows = tensor_rows(cell_, grid_);
  const std::size_t row_bytes = order.hidden * size_of(control_.dtype);
  in_bytes_ = rows.in * row_bytes;
  out_bytes_ = rows.out * row_bytes;
}

int serve_control(const char* path, const std::function<void(const std::shared_ptr<std::byte>&)>& serve) {
  std::shared_ptr<std::byte> memory;
  try {
    memory = map_control(path);
    serve(memory);
    return 0;
  } catch (const std::exception& error) {
    report_failure(memory, error.what());
    return 2;
  }
}

void report_failure(const std::shared_ptr<std::byte>& memory, const char* what) {
  fmt::print(stderr, "{}\n", what);
  if (!memory) return;
  auto& control = *reinterpret_cast<Control*>(memory.get());
  if (control.failed.exchange(true)) return;
  std::strncpy(control.failure.data(), what, control.failure.size() - 1);
  control.finished.store(control.ordered.load() | 1U << 31U);  // whatever is waited for
  futex_wake_all(control.finished);
}

}  // namespace mixcomm::tools::mpi
