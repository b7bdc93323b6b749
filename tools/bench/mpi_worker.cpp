// One rank of an MPI job that `mixcomm bench --against` measures. Built once per MPI.
#include <fmt/format.h>
#include <mpi.h>

#include "cpu/kernels.hpp"
#include "measure/mpi/rank.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::tools::mpi {
namespace {

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

int own_rank() {
  int rank = 0;
  check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  return rank;
}
int world_size() {
  int world = 0;
  check(MPI_Comm_size(MPI_COMM_WORLD, &world), "MPI_Comm_size");
  return world;
}

class Worker final : public Rank {
 public:
  explicit Worker(const std::shared_ptr<std::byte>& memory) : Rank(memory, own_rank(), world_size()) {
    check(MPI_Comm_split(MPI_COMM_WORLD, grid().dp.member, own_rank(), &tp_), "MPI_Comm_split");
    check(MPI_Comm_split(MPI_COMM_WORLD, grid().tp.member, own_rank(), &dp_), "MPI_Comm_split");
    sum_ = MPI_SUM;
    const DType dtype = control().dtype;
    type_ = dtype == DType::fp32 ? MPI_FLOAT : MPI_UINT16_T;
    if (dtype != DType::fp32)
      check(MPI_Op_create(dtype == DType::bf16 ? add<DType::bf16> : add<DType::fp16>, 1, &sum_),
            "MPI_Op_create");
  }

 private:
  /// A fused operation is two calls, but for one that would be by this rank alone.
  void run(Op op) override {
    const std::optional<TwoCalls> two = two_calls_of(op);
    if (!two) return run_one(op, in(), out());
    if (is_alone(two->first)) return run_one(two->second, in(), out());
    if (is_alone(two->second)) return run_one(two->first, in(), out());
    run_one(two->first, in(), block(op));
    run_one(two->second, MPI_IN_PLACE, out());
  }
  /// Where the one block lies between the two calls.
  [[nodiscard]] void* block(Op op) { return shape_of(op).body == Body::gather ? block_ : out(); }
  [[nodiscard]] bool is_alone(Op op) const { return grid_of(grid(), shape_of(op).team).world.size == 1; }

  void run_one(Op op, const void* in, void* out) {
    if (op == Op::all_reduce) return all_reduce(in, out);
    if (op == Op::all_gather) return all_gather(in);
    reduce_scatter();
  }
  void all_reduce(const void* in, void* out) {
    check(MPI_Allreduce(in, out, own_, type_, sum_, tp_), "MPI_Allreduce");
  }
  void all_gather(const void* in) {
    if (even_)
      check(MPI_Allgather(in, own_, type_, out(), own_, type_, dp_), "MPI_Allgather");
    else
      check(MPI_Allgatherv(in, own_, type_, out(), counts_.data(), offsets_.data(), type_, dp_),
            "MPI_Allgatherv");
  }
  void reduce_scatter() {
    if (even_)
      check(MPI_Reduce_scatter_block(in(), out(), own_, type_, sum_, dp_), "MPI_Reduce_scatter_block");
    else
      check(MPI_Reduce_scatter(in(), out(), counts_.data(), type_, sum_, dp_), "MPI_Reduce_scatter");
  }

  MPI_Comm tp_{};
  MPI_Comm dp_{};
  MPI_Op sum_{};
  MPI_Datatype type_{};
};

int run_worker(const char* path) {
  return serve_control(path, [](const auto& memory) {
    check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    Worker(memory).serve();
  });
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
