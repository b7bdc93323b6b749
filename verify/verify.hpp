// Checks calls of operations against an oracle of its own, with fresh inputs. Used by `mixcomm check` and by
// the tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "verify/device.hpp"

namespace mixcomm::verify {

enum class Buffers : std::uint8_t {
  plain,
  symmetric,
  mixed,  ///< one of both is symmetric
  in_place,
  symmetric_in_place,
};
[[nodiscard]] std::string_view name(Buffers buffers);

enum class Values : std::uint8_t {
  integers,  ///< small integers: every sum is exact in every dtype, so any order gives the same
  floats,    ///< random: the result must have the bits of the ordered sum
};

/// The steps of a call's epilogue; none by default.
struct Steps {
  bool adds = false;
  bool keeps = false;
  bool norms = false;
  bool plus_one = false;
  bool in_place = false;  ///< residual_out is residual
  Quantize quantize = Quantize::none;
  float eps = 1e-6F;
};

/// One call. `rows` has one count per DP rank.
struct Case {
  Op op = Op::all_reduce_all_gather;
  Algorithm algorithm = Algorithm::automatic;
  DType dtype = DType::fp32;
  Buffers buffers = Buffers::plain;
  Values values = Values::integers;
  std::vector<std::size_t> rows{};
  std::size_t hidden = 1;
  /// Another one for every call. It also picks where buffers begin: cases that differ only in it, by a
  /// multiple of same_buffers, have theirs at the same places.
  std::uint64_t seed = 0;
  /// CUDA: if it is not 0, the counts are in device memory, and tensors have room for this many rows per DP
  /// rank. Not for composed and nccl, nor in place unless the operation has one block.
  std::size_t most = 0;
  std::size_t room = 0;  ///< with `most`: rows of the tensor with all rows; 0: dp * most
  Steps steps{};
};
inline constexpr std::uint64_t same_buffers = 70;

[[nodiscard]] std::string describe(const Case& c);

/// The workspace to verify with: small, so that messages pass in chunks.
inline constexpr std::size_t workspace_bytes = std::size_t{64} << 10;

/// What one rank checks with: a communicator, and memory for `slots` calls at a time.
///
/// Making and destroying one allocates and frees memory, which on CUDA may wait for kernels of other ranks:
/// so every rank makes it before any rank's first call, and destroys it when all have made their last.
class Verifier {
 public:
  /// Collective. `most_elements`: see most_elements(). A device of the communicator's backend is made.
  Verifier(Communicator& communicator, std::size_t most_elements, int slots = 1);
  /// The same with a device of the caller's.
  Verifier(Communicator& communicator, std::shared_ptr<Device> device, std::size_t most_elements,
           int slots = 1);
  ~Verifier();
  Verifier(const Verifier&) = delete;
  Verifier& operator=(const Verifier&) = delete;

  /// Makes the call on this rank and compares every element, and what lies around `out` and `in`. Returns
  /// what is wrong, or "".
  [[nodiscard]] std::string run(const Case& c);
  /// All of them, one after the other: what is wrong with the first one that is not exact, or "".
  [[nodiscard]] std::string run(const std::vector<Case>& cases);

  /// The same in steps, so that calls can follow each other, or be captured in a graph, before any is
  /// checked. Writes the inputs of a case to a slot, and poison around them and to its output.
  void prepare(const Case& c, int slot = 0);
  /// Calls the operation, on the device's stream or another one. The slot's buffers stay where they are.
  void launch(int slot = 0) { launch_on(device_->stream(), slot); }
  void launch_on(void* stream, int slot = 0);
  /// What is wrong, or "". The stream launched on must have been waited for. Throws the communicator's
  /// failure.
  [[nodiscard]] std::string check(int slot = 0);

  [[nodiscard]] Device& device() { return *device_; }

 private:
  struct Region;
  struct Slot;

  /// Rows of this rank; what its tensors of rows[d] and its output have room for.
  struct EpilogueRows {
    std::size_t own;
    std::size_t room;
    std::size_t out;
  };
  void prepare_epilogue(Slot& s, int slot, const EpilogueRows& rows);
  [[nodiscard]] std::string compare_output(const Slot& slot, const std::vector<std::byte>& got) const;
  [[nodiscard]] std::string compare_finished(const Slot& slot);

  Communicator& communicator_;
  std::shared_ptr<Device> device_;
  std::size_t region_bytes_;
  SymmetricBuffer symmetric_in_;
  SymmetricBuffer symmetric_out_;
  std::shared_ptr<std::byte> plain_in_;
  std::shared_ptr<std::byte> plain_out_;
  std::shared_ptr<std::byte> plain_residual_;
  std::shared_ptr<std::byte> plain_kept_;
  std::shared_ptr<std::byte> plain_scales_;
  std::shared_ptr<std::byte> plain_weight_;
  std::shared_ptr<std::byte> counts_;
  std::vector<std::byte> read_back_;
  std::vector<Slot> slots_;
};

/// One of all epilogues, by a random number; none in which FP8 would lie over its input.
[[nodiscard]] Steps some_steps(std::uint64_t seed, Buffers buffers);

/// The cases of one grid, each with its own seed, the same on every rank: all operations, algorithms and
/// buffer kinds over row counts 0, 1, odd, uneven, idle DP ranks, and more than the smallest workspace.
struct Matrix {
  int tp = 1;
  int dp = 1;
  std::vector<Op> ops{};                ///< empty: all
  std::vector<Algorithm> algorithms{};  ///< empty: automatic, one_shot, two_shot, composed
  std::vector<DType> dtypes{};          ///< empty: all
  bool large = true;                    ///< with messages of several passes of the smallest workspace
  BackendKind backend =
      BackendKind::cpu;    ///< cuda: with row counts in device memory, and models' hidden sizes
  bool epilogues = false;  ///< every call with an epilogue, in place of none
};
[[nodiscard]] std::vector<Case> cases_of(const Matrix& matrix);

/// The elements of the largest case's largest tensor.
[[nodiscard]] std::size_t most_elements(const std::vector<Case>& cases, int dp);

}  // namespace mixcomm::verify
