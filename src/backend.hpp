// What a communicator needs of a backend: memory that peers reach, and one algorithm run on one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "algorithms/blocks.hpp"
#include "call.hpp"
#include "choice/learnt_choice.hpp"

namespace mixcomm {

/// One checked call, ready to run. `algorithm` is one that has a body (not automatic, not composed).
struct Call {
  bool gathers = true;  ///< see OpShape
  TeamKind team = TeamKind::world;
  Algorithm algorithm = Algorithm::one_shot;
  DType dtype = DType::fp32;
  const void* in = nullptr;
  void* out = nullptr;
  Placement in_placement;
  Placement out_placement;
  bool reads_in_place = false;  ///< CPU, one_shot: peers read my input where it is, not a copy of it
  Blocks blocks;                ///< with counts in device memory: of the largest counts there may be
  const std::int64_t* device_rows =
      nullptr;  ///< CUDA: the counts themselves, of the operation's first block on
  std::size_t hidden = 0;
  std::size_t most_rows = 0;  ///< of the tensor with all rows; looked at with counts in device memory only
  void* stream = nullptr;
  Epilogue epilogue;  ///< with one, `out` holds fp8_e4m3 where that quantizes, else `dtype` as ever
  LaunchShape shape;  ///< CUDA: what is known better than launching knows
  CallRecord record;

  /// CPU: whether in one_shot ranks need the residuals of other DP groups' rows.
  [[nodiscard]] bool shares_residuals() const {
    return algorithm == Algorithm::one_shot && gathers && blocks.dp() > 1 && epilogue.adds();
  }

  /// A buffer as peers find it.
  struct Seen {
    const void* data;
    Placement placement;
    bool all_blocks;  ///< it holds all blocks
  };
  /// Where peers find my input and my output. One that is this rank's block of the other buffer is another
  /// block for each DP rank: they find it there.
  [[nodiscard]] Seen seen_input() const {
    if (in_placement.kind == Placement::Kind::in_place) return {out, out_placement, true};
    return {in, in_placement, !gathers};
  }
  [[nodiscard]] Seen seen_output() const {
    if (out_placement.kind == Placement::Kind::in_place) return {in, in_placement, true};
    return {out, out_placement, gathers};
  }
};

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
  /// Collective. `options` are checked, with nothing left to choose. Throws Unsupported where there are none.
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
  virtual void run(Call& call) = 0;
  /// Runs `call` through collectives that are not this library's. Throws Unsupported where there are none.
  virtual void run_nccl(const Call& call);
  /// Local: in host memory unless a backend says otherwise.
  virtual void copy(const RowCopy& copy, void* stream);
  virtual void clear(void* data, std::size_t bytes, void* stream);
  /// The steps of an epilogue by themselves, checked. Local: in host memory unless a backend says otherwise.
  virtual void apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out, void* stream);
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
  /// How the devices of all ranks are joined.
  [[nodiscard]] virtual Link link() const { return Link::shared; }
};

}  // namespace mixcomm
