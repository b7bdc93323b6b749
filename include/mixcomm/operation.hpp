// The words of the library: operations, algorithms, backends.
#pragma once

#include <cstdint>
#include <string_view>

#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

enum class Op : std::uint8_t {
  all_reduce,
  all_gather,
  reduce_scatter,
  all_reduce_all_gather,
  reduce_scatter_all_reduce,
};

/// How an operation is carried out. `automatic` picks one by a rule that all ranks share (see choose() in
/// plan.hpp).
/// composed: two operations one after the other; nccl (CUDA): the same through the collectives of
/// CudaOptions::nccl.
enum class Algorithm : std::uint8_t { automatic, one_shot, two_shot, composed, nccl };

[[nodiscard]] std::string_view name(Op op);
[[nodiscard]] std::string_view name(Algorithm algorithm);

/// The value of that name ("auto" for Algorithm::automatic). Throws InvalidArgument, with the names, for any
/// other.
[[nodiscard]] Op op_from_name(std::string_view name);
[[nodiscard]] Algorithm algorithm_from_name(std::string_view name);

/// How data and signals travel on CUDA. `packets`: each 16 bytes carry 8 of data and 8 of the call's number,
/// so nothing else is waited for. `lines`: the same with 120 of 128 bytes, where GPUs are joined by NVLink,
/// or are one. `barriers` (two_shot): plain data between two barriers.
enum class Protocol : std::uint8_t { automatic, packets, lines, barriers };

[[nodiscard]] std::string_view name(Protocol protocol);
[[nodiscard]] Protocol protocol_from_name(std::string_view name);

/// How the GPUs of some ranks reach each other's memory: the slowest way between any two.
enum class Link : std::uint8_t {
  shared,  ///< they are the same GPU
  nvlink,
  pcie,  ///< whatever is not known to be NVLink
};

[[nodiscard]] std::string_view name(Link link);

/// Where tensors live: in host memory, or in the memory of a CUDA device.
enum class BackendKind : std::uint8_t { cpu, cuda };

[[nodiscard]] std::string_view name(BackendKind backend);
[[nodiscard]] BackendKind backend_from_name(std::string_view name);

}  // namespace mixcomm
