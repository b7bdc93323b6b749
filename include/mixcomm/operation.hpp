// The words of the library: operations, algorithms, backends.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "mixcomm/grid.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

enum class Op : std::uint8_t {
  all_reduce,
  all_gather,
  reduce_scatter,
  all_reduce_all_gather,
  reduce_scatter_all_reduce,
};

/// What an operation does with the rows of DP ranks. Each algorithm has a body for either.
enum class Body : std::uint8_t {
  gather,   ///< in is one block, out is all blocks
  scatter,  ///< the dual: in is all blocks, out is one
};

/// What an operation is: one of two bodies on one part of the grid. On its TP team alone there is one block,
/// that of the calling rank's DP rank; on its DP team alone nothing is summed over tp.
struct OpShape {
  Body body;
  TeamKind team;
};

[[nodiscard]] constexpr OpShape shape_of(Op op) {
  switch (op) {
    case Op::all_reduce:
      return {Body::gather, TeamKind::tp};
    case Op::all_gather:
      return {Body::gather, TeamKind::dp};
    case Op::reduce_scatter:
      return {Body::scatter, TeamKind::dp};
    case Op::all_reduce_all_gather:
      return {Body::gather, TeamKind::world};
    case Op::reduce_scatter_all_reduce:
      break;
  }
  return {Body::scatter, TeamKind::world};
}

/// Two operations on one team each, one after the other.
struct TwoCalls {
  Op first;
  Op second;
};

/// What engines call where there is no fused operation: the two that `op` is made of, each on the team that
/// shape_of() says. None for an operation on one team.
[[nodiscard]] constexpr std::optional<TwoCalls> two_calls_of(Op op) {
  switch (op) {
    case Op::all_reduce_all_gather:
      return TwoCalls{Op::all_reduce, Op::all_gather};
    case Op::reduce_scatter_all_reduce:
      return TwoCalls{Op::reduce_scatter, Op::all_reduce};
    case Op::all_reduce:
    case Op::all_gather:
    case Op::reduce_scatter:
      break;
  }
  return std::nullopt;
}

/// How an operation is carried out. `automatic` picks one by a rule that all ranks share (see choose() in
/// choice.hpp).
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
