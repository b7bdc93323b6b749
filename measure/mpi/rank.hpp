// One rank of a job that `mixcomm bench --against` measures, whatever library it calls: sleeps until the
// bench orders a chunk of calls, makes them as that library's users would, and notes how long each took.
#pragma once

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "measure/bench_cells.hpp"
#include "measure/exact_inputs.hpp"
#include "measure/meeting.hpp"
#include "measure/mpi/control.hpp"
#include "mixcomm/grid.hpp"

namespace mixcomm::tools::mpi {

/// Maps what the bench has made at `path`. Throws SystemError.
[[nodiscard]] std::shared_ptr<std::byte> map_control(const char* path);

class Rank {
 public:
  /// Throws SystemError if there are not as many ranks as the bench wants.
  Rank(const std::shared_ptr<std::byte>& memory, int rank, int world);
  virtual ~Rank() = default;
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  /// Until the bench says that it is over, or is gone.
  void serve();

 protected:
  /// The call that is measured: from in() to result(). Throws Error.
  virtual void run(Op op) = 0;

  [[nodiscard]] const Control& control() const { return control_; }
  [[nodiscard]] const Grid& grid() const { return grid_; }
  [[nodiscard]] std::byte* in() const { return in_.get(); }
  [[nodiscard]] std::byte* out() const { return out_.get(); }
  /// Where the call leaves what it gives; out() unless told otherwise in each call.
  void result_is_at(std::byte* result) { result_ = result; }

  // Of the present order, in elements:
  std::vector<int> counts_;   ///< of each DP rank's block
  std::vector<int> offsets_;  ///< where it begins in the tensor with all rows
  bool even_ = true;
  int own_ = 0;
  int all_ = 0;
  std::byte* block_ = nullptr;  ///< mine, in a tensor with all rows that is the output

 private:
  using Memory = std::unique_ptr<std::byte, decltype(&std::free)>;
  static Memory aligned(std::size_t bytes);
  void carry_out(const Order& order);
  void prepare(const Order& order);

  Control& control_;
  int rank_;
  Grid grid_;
  Meeting meeting_;
  ExactInputs inputs_;
  Memory in_;
  Memory out_;
  std::byte* result_ = nullptr;
  std::uint64_t round_ = 0;
  Cell cell_;
  std::size_t in_bytes_ = 0;
  std::size_t out_bytes_ = 0;
};

/// Maps `path` and makes a Rank of it that serves. Returns 0; or 2 where that throws, and the bench is told.
[[nodiscard]] int serve_control(const char* path,
                                const std::function<void(const std::shared_ptr<std::byte>&)>& serve);

/// Tells the bench what went wrong, if it can be told; the first rank to fail does.
void report_failure(const std::shared_ptr<std::byte>& memory, const char* what);

}  // namespace mixcomm::tools::mpi
