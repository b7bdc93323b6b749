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
  double call_us = 0;  ///< of any operation: a kernel's start, a function call; of a network: what a message
                       ///< costs the rank that sends or receives it
  double wait_us = 0;  ///< until all ranks know of each other; of a network: its latency
  double gbps = 1;     ///< GB/s (10^9 bytes) that a rank can receive; of a network: a NIC, in each direction
  Link joined = Link::nvlink;  ///< CUDA: what choose() goes by
  BackendKind backend = BackendKind::cuda;
  bool crowded = false;  ///< more ranks than processors, see Circumstances
  std::string source;
};

/// Those that the library knows, public figures and own measurements.
[[nodiscard]] std::span<const LinkConstants> known_links();

/// Throws InvalidArgument, with the names, for any other.
[[nodiscard]] const LinkConstants& link_from_name(std::string_view name);

/// Ranks 0 .. per_node - 1 are a node, and so on. Operations whose ranks lie in several nodes run in two
/// levels: inside each node over `link`, and between nodes over `network`.
struct CostModel {
  LinkConstants link = link_from_name("nvlink4");
  LinkConstants network = link_from_name("network400");
  int per_node = 8;
  int nics_per_node = 0;                ///< that the ranks of a node share; 0: one for each rank
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
  int stride = 1;  ///< its ranks are { first + m * stride }, as PlanGrid has it
  int world = 0;   ///< all ranks, on which it runs once for each `first`; 0: those of one grid
  DType dtype = DType::bf16;
};

/// What of an operation is between nodes. Rows that are complete leave a node once for each other node that
/// needs them. Sums over several nodes: each node's partial sum of a block, in fp32, goes once to the node
/// whose rows they are. Of the rank and the node of which it is most, sent or received, all teams of the
/// operation together; shares are taken as equal.
struct AcrossNodes {
  int nodes = 1;  ///< that the ranks of one team lie on; 1: nothing crosses
  double bytes_per_rank = 0;
  double bytes_per_node = 0;
  double partial_bytes_per_node = 0;  ///< of these: partial sums
  int messages = 0;                   ///< that a rank sends
  bool whole_groups = true;           ///< each TP group is on one node
  double us = 0;                      ///< latency + bytes / bandwidth + messages * what one costs
  std::string before;                 ///< what each node does first, within it; "": nothing
  double before_us = 0;
  std::string after;
  double after_us = 0;
  std::string not_yet;  ///< why the library does not run this yet; "": it does
};

struct Prediction {
  Algorithm algorithm = Algorithm::two_shot;  ///< that `automatic` runs; of several nodes: within a node
  int waits = 0;
  double bytes_per_rank = 0;  ///< received, with that algorithm
  double us = 0;
  AcrossNodes across{};
};

/// With `algorithm` one_shot, two_shot, or automatic for what the library chooses in symmetric memory. 0 for
/// an operation of one rank or no bytes.
[[nodiscard]] Prediction predict(const Operation& operation, const CostModel& model,
                                 Algorithm algorithm = Algorithm::automatic);

}  // namespace mixcomm
