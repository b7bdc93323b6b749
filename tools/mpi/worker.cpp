// One rank of an MPI job that `mixcomm bench --against` measures: sleeps until the bench orders a chunk of
// calls, runs it as MPI's users would, and notes how long each call took. Built once per MPI.
#include <fcntl.h>
#include <fmt/format.h>
#include <mpi.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

#include "algorithms/blocks.hpp"
#include "cpu/kernels.hpp"
#include "futex.hpp"
#include "mixcomm/error.hpp"
#include "tools/consume.hpp"
#include "tools/exact_inputs.hpp"
#include "tools/meeting.hpp"
#include "tools/mpi/control.hpp"
#include "tools/processors.hpp"

namespace mixcomm::tools::mpi {
namespace {

using Clock = std::chrono::steady_clock;

void check(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw SystemError(fmt::format("{}: {}", what, text));
}

/// The sum of 16-bit floats, with the same SIMD as the library's own; MPI rounds at every step.
template <DType dtype>
void add(void* in, void* inout, int* count, MPI_Datatype* /*type*/) {
  const void* sources[] = {in, inout};
  void* destinations[] = {inout};
  cpu::ordered_sum({.dtype = dtype,
                    .sources = sources,
                    .inner = 2,
                    .outer = 1,
                    .destinations = destinations,
                    .destination_count = 1,
                    .size = static_cast<std::size_t>(*count)});
}

class Worker {
 public:
  Worker(Control& control, const std::shared_ptr<std::byte>& memory)
      : control_(control),
        rank_(world_rank()),
        grid_(Grid::of(control.tp, control.dp, rank_)),
        meeting_(std::shared_ptr<std::byte>(memory, memory.get() + sizeof(Control)), grid_.world, most_calls,
                 Milliseconds(control.timeout_ms)),
        inputs_(control.dtype, control.most_bytes),
        in_(aligned(control.most_bytes)),
        out_(aligned(control.most_bytes)) {
    check(MPI_Comm_split(MPI_COMM_WORLD, grid_.dp.member, rank_, &tp_), "MPI_Comm_split");
    check(MPI_Comm_split(MPI_COMM_WORLD, grid_.tp.member, rank_, &dp_), "MPI_Comm_split");
    sum_ = MPI_SUM;
    type_ = control.dtype == DType::fp32 ? MPI_FLOAT : MPI_UINT16_T;
    if (control.dtype != DType::fp32)
      check(MPI_Op_create(control.dtype == DType::bf16 ? add<DType::bf16> : add<DType::fp16>, 1, &sum_),
            "MPI_Op_create");
  }

  /// Until the bench says that it is over, or is gone.
  void serve() {
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

 private:
  using Memory = std::unique_ptr<std::byte, decltype(&std::free)>;

  static int world_rank() {
    int rank = 0;
    check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
    return rank;
  }
  static Memory aligned(std::size_t bytes) {
    const std::size_t whole = round_up(std::max<std::size_t>(bytes, 1), 4096);
    Memory memory(static_cast<std::byte*>(std::aligned_alloc(4096, whole)), std::free);
    std::memset(memory.get(), 0, whole);
    return memory;
  }

  void carry_out(const Order& order) {
    cell_.op = order.op;
    cell_.rows.assign(order.rows.begin(), order.rows.begin() + grid_.dp.size);
    prepare(order);
    for (std::uint32_t i = 0; i < order.calls; ++i) {
      std::memcpy(in_.get(), inputs_.of(rank_, ++round_), in_bytes_);
      meeting_.barrier();
      const auto begin = Clock::now();
      run(order.op);
      meeting_.latencies(rank_)[i] = std::chrono::duration<float, std::micro>(Clock::now() - begin).count();
      consume(out_.get(), out_bytes_);
    }
    if (!order.check) return;
    const std::string wrong = inputs_.wrong(cell_, grid_, order.hidden, round_, out_.get());
    if (!wrong.empty()) throw SystemError(wrong);
  }

  void prepare(const Order& order) {
    const auto own = static_cast<std::size_t>(grid_.dp.member);
    counts_.clear();
    offsets_.clear();
    int all = 0;
    for (const std::size_t rows : cell_.rows) {
      offsets_.push_back(all);
      counts_.push_back(static_cast<int>(rows * order.hidden));
      all += counts_.back();
    }
    even_ = std::all_of(counts_.begin(), counts_.end(), [&](int n) { return n == counts_[0]; });
    own_ = counts_[own];
    block_ = out_.get() + static_cast<std::size_t>(offsets_[own]) * size_of(control_.dtype);
    const bool one_block = order.op != Op::reduce_scatter && order.op != Op::reduce_scatter_all_reduce;
    in_bytes_ = static_cast<std::size_t>(one_block ? own_ : all) * size_of(control_.dtype);
    const bool gathers = order.op == Op::all_gather || order.op == Op::all_reduce_all_gather;
    out_bytes_ = static_cast<std::size_t>(gathers ? all : own_) * size_of(control_.dtype);
  }

  void run(Op op) {
    switch (op) {
      case Op::all_reduce:
        return all_reduce(in_.get(), out_.get());
      case Op::all_gather:
        return all_gather(in_.get());
      case Op::reduce_scatter:
        return reduce_scatter();
      case Op::all_reduce_all_gather:
        if (grid_.tp.size == 1) return all_gather(in_.get());
        all_reduce(in_.get(), block_);
        if (grid_.dp.size > 1) all_gather(MPI_IN_PLACE);
        return;
      case Op::reduce_scatter_all_reduce:
        if (grid_.dp.size == 1) return all_reduce(in_.get(), out_.get());
        reduce_scatter();
        if (grid_.tp.size > 1) all_reduce(MPI_IN_PLACE, out_.get());
    }
  }
  void all_reduce(const void* in, void* out) {
    check(MPI_Allreduce(in, out, own_, type_, sum_, tp_), "MPI_Allreduce");
  }
  void all_gather(const void* in) {
    if (even_)
      check(MPI_Allgather(in, own_, type_, out_.get(), own_, type_, dp_), "MPI_Allgather");
    else
      check(MPI_Allgatherv(in, own_, type_, out_.get(), counts_.data(), offsets_.data(), type_, dp_),
            "MPI_Allgatherv");
  }
  void reduce_scatter() {
    if (even_)
      check(MPI_Reduce_scatter_block(in_.get(), out_.get(), own_, type_, sum_, dp_),
            "MPI_Reduce_scatter_block");
    else
      check(MPI_Reduce_scatter(in_.get(), out_.get(), counts_.data(), type_, sum_, dp_),
            "MPI_Reduce_scatter");
  }

  Control& control_;
  int rank_;
  Grid grid_;
  Meeting meeting_;
  ExactInputs inputs_;
  Memory in_;
  Memory out_;
  MPI_Comm tp_{};
  MPI_Comm dp_{};
  MPI_Op sum_{};
  MPI_Datatype type_{};
  std::uint64_t round_ = 0;

  // Of the present order:
  Cell cell_;
  std::vector<int> counts_;   ///< elements of each DP rank's block
  std::vector<int> offsets_;  ///< where it begins in the tensor with all rows
  bool even_ = true;
  int own_ = 0;
  std::byte* block_ = nullptr;  ///< mine, in a tensor with all rows
  std::size_t in_bytes_ = 0;
  std::size_t out_bytes_ = 0;
};

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

int run_worker(const char* path) {
  Control* control = nullptr;
  std::shared_ptr<std::byte> memory;
  try {
    memory = map_control(path);
    control = reinterpret_cast<Control*>(memory.get());
    if (MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS) return 2;
    int rank = 0;
    int world = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    if (world != control->tp * control->dp)
      throw SystemError(fmt::format("{} ranks were started for {} x {}", world, control->tp, control->dp));
    Worker worker(*control, memory);  // which looks how many processors there are
    if (control->binds) bind_to_processor_of(rank);
    worker.serve();
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    if (control != nullptr && !control->failed.exchange(true)) {
      std::strncpy(control->failure.data(), error.what(), control->failure.size() - 1);
      control->finished.store(control->ordered.load() | 1U << 31U);  // whatever is waited for
      futex_wake_all(control->finished);
    }
    return 2;
  }
}

}  // namespace
}  // namespace mixcomm::tools::mpi

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "this is started by 'mixcomm bench --against'\n");
    return 2;
  }
  MPI_Init(&argc, &argv);
  const int code = mixcomm::tools::mpi::run_worker(argv[1]);
  if (code != 0) MPI_Abort(MPI_COMM_WORLD, code);
  MPI_Finalize();
  return code;
}
