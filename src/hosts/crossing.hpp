// What carries data from this rank to ranks on other hosts, and from them to here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "call.hpp"
#include "cpu/shared_state.hpp"
#include "rank_set.hpp"

namespace mixcomm {

/// Elements that travel between this rank and another one, as bytes.
struct Stream {
  int peer = 0;  ///< rank
  std::byte* data = nullptr;
  std::size_t bytes = 0;
};

/// What a failure is; see HostState::failure.
struct Finding {
  cpu::Failure::Kind kind = cpu::Failure::Kind::timeout;
  std::string text;
  RankSet missing = 0;  ///< ranks of the whole job
};

/// Streams are cut into messages of as many bytes at most: over TCP, MPIs ask before they send more than 64
/// KiB at once (Open MPI's btl_tcp_eager_limit), and what is copied in and out beside the network is small.
inline constexpr std::size_t most_chunk_bytes = std::size_t{56} << 10U;
/// Of each stream, messages that may be under way at once.
inline constexpr std::size_t chunks_under_way = 2;

class Crossing {
 public:
  virtual ~Crossing() = default;

  /// Throws Unsupported for a call that cannot cross, before anything of it is sent.
  virtual void check_call(const Call& /*call*/) const {}
  /// Sends and receives all of it, or puts that on `stream`. `call` is compared with that of each peer.
  /// Returns what went wrong; an empty text where nothing did, or is not known yet.
  [[nodiscard]] virtual Finding run(const CallRecord& call, std::vector<Stream> out, std::vector<Stream> in,
                                    void* stream) = 0;
  /// What has gone wrong with what run() has put on streams. Does not wait.
  [[nodiscard]] virtual Finding check() { return {}; }
  /// As Backend::run_nccl(), over all ranks; false where there is no communicator to do it with.
  virtual bool run_nccl(const Call& /*call*/) { return false; }
  /// Tells the ranks of all other hosts, as far as they can be reached. Does not wait for them.
  virtual void tell(const Finding& finding) = 0;
};

/// The same for calls that ranks on two hosts may make together. How a host carries out its part is its own
/// affair.
[[nodiscard]] inline std::uint64_t hash_between_hosts(const CallRecord& call) {
  std::uint64_t hash = fold(0, call.number);
  for (const std::uint64_t value :
       {static_cast<std::uint64_t>(call.op), static_cast<std::uint64_t>(call.dtype), call.hidden,
        call.row_blocks, call.rows_hash, call.epilogue})
    hash = fold(hash, value);
  return hash;
}

}  // namespace mixcomm
