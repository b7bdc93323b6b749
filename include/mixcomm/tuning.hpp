// Which algorithm pays where, as measured on one machine: made by `mixcomm tune`, passed to communicators.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/operation.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// How an operation is launched on CUDA. What is 0 or automatic is the library's choice.
struct LaunchShape {
  Protocol protocol = Protocol::automatic;
  int lanes = 0;    ///< thread blocks at most
  int threads = 0;  ///< of a thread block: a multiple of 32

  /// This one, with what `wanted` names in its place. Lanes and threads are for a protocol: another one has
  /// its own.
  [[nodiscard]] LaunchShape with(const LaunchShape& wanted) const {
    LaunchShape shape = *this;
    if (wanted.protocol != Protocol::automatic && wanted.protocol != protocol)
      shape = {wanted.protocol, 0, 0};
    if (wanted.lanes != 0) shape.lanes = wanted.lanes;
    if (wanted.threads != 0) shape.threads = wanted.threads;
    return shape;
  }
  friend bool operator==(const LaunchShape&, const LaunchShape&) = default;
};

/// What was measured on one machine for one grid and backend. Without one, choose() goes by static rules. All
/// ranks of a communicator must have the same table (compared by hash when it is made), so that all choose
/// alike. A value; `load` and `parse` give only tables that hold together.
struct TuningTable {
  static constexpr int version = 1;  ///< of the files

  // What it is for:
  std::string machine;  ///< of where it was measured: CPU: machine_name(); CUDA: the GPU, and what joins the
                        ///< ranks' GPUs: "NVIDIA H200, NVLink"
  BackendKind backend = BackendKind::cpu;
  int tp = 1;
  int dp = 1;
  bool crowded = false;  ///< CPU: with more ranks than processors

  /// For models of what an operation costs: wait_us * waits + bytes received / read_gbps.
  struct Costs {
    double wait_us = 0;    ///< until all ranks have come to a point, when they come at the same time; CUDA: a
                           ///< flag from one rank to another; microseconds
    double read_gbps = 0;  ///< at which a rank copies what others have just written, all ranks at once; CUDA:
                           ///< at which bytes arrive at each rank when all write to all; 1e9 bytes/s
    double flag_us = 0;    ///< a flag from one processor, or GPU, to another; microseconds; 0: not measured
  };
  Costs costs;

  struct Step {
    std::uint64_t up_to_bytes = UINT64_MAX;  ///< of the tensor with all rows, inclusive
    Algorithm algorithm = Algorithm::two_shot;
    LaunchShape shape{};  ///< CUDA: what is 0 or automatic in it goes by static rules
  };
  /// What is best for one operation and kind of memory, by size.
  struct Choice {
    Op op = Op::all_reduce_all_gather;
    bool symmetric = false;
    std::vector<Step> steps;  ///< ascending; the last one is without a limit
  };
  std::vector<Choice> choices;  ///< none for what was not measured: there the static rules go on

  /// What is best for that many bytes: its algorithm is automatic where nothing was measured.
  [[nodiscard]] Step step(Op op, bool symmetric, std::uint64_t bytes) const;
  /// Its algorithm.
  [[nodiscard]] Algorithm algorithm(Op op, bool symmetric, std::uint64_t bytes) const;

  /// Of all of the above; equal for equal tables.
  [[nodiscard]] std::uint64_t hash() const;

  /// As versioned JSON, with the hash.
  [[nodiscard]] std::string text() const;
  /// The table in such a text, which `origin` names in errors. Throws InvalidArgument for one that is
  /// damaged, of another version, or does not hold together; it says where.
  [[nodiscard]] static TuningTable parse(std::string_view text, std::string_view origin);

  /// To and from files. Throw SystemError where they cannot be written or read, and what parse() throws.
  void save(const std::filesystem::path& file) const;
  [[nodiscard]] static TuningTable load(const std::filesystem::path& file);
};

/// This machine, as tables name it: its processors and their number. Nothing in it names the host.
[[nodiscard]] std::string machine_name();

}  // namespace mixcomm
