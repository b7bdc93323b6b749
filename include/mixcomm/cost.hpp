// What an operation costs: bytes, waits, and a prediction from constants that name their source.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/communicator.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// What connects ranks. A prediction is call_us + waits * wait_us + bytes per rank / gbps: what an operation
/// costs when nobody else uses the link and no rank is late.
struct LinkConstants {
  std::string name;
  double call_us = 0;          ///< of any operation: a kernel's start, a function call
  double wait_us = 0;          ///< until all ranks know of each other
  double gbps = 1;             ///< GB/s (10^9 bytes) that a rank can receive
  Link joined = Link::nvlink;  ///< CUDA: what choose() goes by
  BackendKind backend = BackendKind::cuda;
  bool crowded = false;  ///< more ranks than processors, see Circumstances
  std::string source;
};

/// Those that the library knows, public figures and own measurements.
[[nodiscard]] std::span<const LinkConstants> known_links();

/// Throws InvalidArgument, with the names, for any other.
[[nodiscard]] const LinkConstants& link_from_name(std::string_view name);

/// Ranks 0 .. per_node - 1 are a node, and so on. Operations whose ranks lie in several nodes go through
/// `network`.
struct CostModel {
  LinkConstants link = link_from_name("nvlink4");
  LinkConstants network = link_from_name("network400");
  int per_node = 8;
  const TuningTable* tuning = nullptr;  ///< what `automatic` goes by on its grid; null: static rules
};

/// Bytes that each rank must receive (and send) at the least, on average: of a reduce-scatter over the TP
/// ranks of a block, (tp-1)/tp * B/dp, then an all-gather over all n ranks, (n-1)/n * B; for the scattering
/// operations the same backwards. `bytes` B are those of the tensor with all rows. An operation over one team
/// has the other of size 1, so this is 2(n-1)/n * B for all_reduce and (n-1)/n * B for all_gather and
/// reduce_scatter, as nccl-tests has it.
[[nodiscard]] double wire_bytes(Op op, int tp, int dp, std::size_t bytes);

/// One operation on a tp x dp grid. `bytes` are those of the tensor with all rows (of all_reduce: of the
/// tensor).
struct Operation {
  Op op = Op::all_reduce;
  int tp = 1;
  int dp = 1;
  std::size_t bytes = 0;
  bool across_nodes = false;
};

struct Prediction {
  Algorithm algorithm = Algorithm::two_shot;  ///< that `automatic` runs
  int waits = 0;
  double bytes_per_rank = 0;  ///< received, with that algorithm
  double us = 0;
};

/// With `algorithm` one_shot, two_shot, or automatic for what the library chooses in symmetric memory. 0 for
/// an operation of one rank or no bytes.
[[nodiscard]] Prediction predict(const Operation& operation, const CostModel& model,
                                 Algorithm algorithm = Algorithm::automatic);

}  // namespace mixcomm
