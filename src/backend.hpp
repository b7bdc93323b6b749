// What a communicator needs of a backend: memory that peers reach, and one algorithm run on one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "call.hpp"
#include "choice/learnt_choice.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {

/// Where a rank's slice of symmetric memory begins, and what keeps it mapped.
struct SymmetricMemory {
  std::shared_ptr<void> owner;
  std::byte* data = nullptr;
};

class Backend {
 public:
  virtual ~Backend() = default;
  /// Collective.
  virtual SymmetricMemory allocate(std::size_t bytes) = 0;
  /// How many lanes there are room for; 0 where there are none.
  [[nodiscard]] virtual int most_lanes() const { return 0; }
  /// Collective. `options` are checked, with nothing left to choose. Throws no_lanes() where
  /// there are none.
  virtual DeviceLanes device_lanes(const DeviceLanesOptions& options) = 0;
  /// Whether [data, data + bytes) lies in one allocation, and where. Kind::plain if not.
  [[nodiscard]] virtual Placement place(const void* data, std::size_t bytes) const = 0;
  /// What a tuning table calls the machine that this runs on.
  [[nodiscard]] virtual std::string machine() const = 0;
  /// More ranks than processors; the same on every rank.
  [[nodiscard]] virtual bool crowded() const = 0;
  /// Where the members of a team, by member, say what calls took; none where nothing is learnt.
  [[nodiscard]] virtual std::vector<LearningNotes*> learning_notes(TeamKind /*team*/) { return {}; }
  /// Throws the error of a rank that has failed.
  virtual void check_alive() const = 0;
  /// Whether in one_shot peers read a call's input where it is, not a copy of it. Asked while the call is
  /// made: its placements, blocks and epilogue are there. The same on every rank of the call.
  [[nodiscard]] virtual bool reads_in_place(const Call& /*call*/) const { return false; }
  /// Others have found this: ranks of this backend that wait in an operation, and all later calls, throw a
  /// Timeout that says so, unless they have a failure already. Local.
  virtual void fail(const std::string& /*why*/) {}
  virtual void run(Call& call) = 0;
  /// Runs `call` through NCCL's collectives. Throws Unsupported, no_nccl(), where there is no communicator.
  virtual void run_nccl(const Call& call) = 0;
  /// Local, in the memory that tensors of this backend live in.
  virtual void copy(const RowCopy& copy, void* stream) = 0;
  virtual void clear(void* data, std::size_t bytes, void* stream) = 0;
  /// The steps of an epilogue by themselves, checked. Local.
  virtual void apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out, void* stream) = 0;
  /// Communicator::pause() in two steps. First, when every rank has made its last call: waits for what is
  /// still running on this rank's device. Throws Unsupported where memory could not come again. Local.
  virtual void settle() = 0;
  /// Then, when all have settled. Collective; succeeds on every rank, or throws on every rank.
  virtual void pause() = 0;
  /// Communicator::resume(). Collective. Whoever throws is paused as before.
  virtual void resume() = 0;
  /// What choose() is told of this backend, beside the call's shape.
  [[nodiscard]] virtual BackendKind kind() const = 0;
  /// The CUDA device that this rank's memory is on; -1: it is host memory.
  [[nodiscard]] virtual int device() const { return -1; }
  /// With how many threads at most an operation runs on this rank.
  [[nodiscard]] virtual int threads() const { return 1; }
  /// Circumstances::lanes.
  [[nodiscard]] virtual int lanes_of_calls() const { return 1; }
  /// How the devices of all ranks are joined.
  [[nodiscard]] virtual Link link() const { return Link::shared; }

 protected:
  [[nodiscard]] static Unsupported no_lanes() {
    return Unsupported(
        "device_lanes: a communicator on backend cpu has none; make it with backend cuda, on a machine with "
        "a GPU");
  }
  [[nodiscard]] static Unsupported no_nccl() {
    return Unsupported(
        "algorithm nccl: this communicator has no NCCL communicator to run it with; make it with backend "
        "cuda and CudaOptions::nccl");
  }
};

}  // namespace mixcomm
