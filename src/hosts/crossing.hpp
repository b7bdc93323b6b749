// Data from this rank to members on other hosts, and from them to here: in chunks, with a deadline, and an
// error that says who did not send.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backend.hpp"
#include "bootstrap/message.hpp"
#include "hosts/host_state.hpp"
#include "hosts/patience.hpp"
#include "hosts/transport.hpp"

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
  struct Setup {
    Transport* transport = nullptr;
    HostState* state = nullptr;
    std::vector<RankSet> hosts;  ///< the ranks of each
    int host = 0;                ///< this rank's
    Milliseconds timeout = default_timeout;
    std::size_t chunk_bytes = 0;
    int data_tag = 0;
    int notice_tag = 0;
    int spins = 0;
  };
  explicit Crossing(Setup setup) : setup_(std::move(setup)) {}
  ~Crossing() { drive(told_); }
  Crossing(const Crossing&) = delete;
  Crossing& operator=(const Crossing&) = delete;

  /// Sends and receives all of it. `call` is compared with that of each peer. Returns what went wrong; an
  /// empty text where nothing did.
  [[nodiscard]] Finding run(const CallRecord& call, std::vector<Stream> out, std::vector<Stream> in);

  /// Tells the ranks of all other hosts, as far as they can be reached. Does not wait for them.
  void tell(const Finding& finding);

  [[nodiscard]] int rank() const { return setup_.transport->rank(); }

 private:
  struct Chunks;
  struct Lane;
  [[nodiscard]] bool send_some(Lane& lane, const CallRecord& call);
  [[nodiscard]] bool receive_some(Lane& lane, const CallRecord& call, Finding& finding);
  /// Takes what ranks of other hosts say beside their data: why they have failed, or that they wait as well.
  [[nodiscard]] Finding notice();
  /// Says that this rank waits for others, so that nobody takes it for the one to blame.
  void say_waiting();
  void to_all_others(const Message& message);
  /// What to make of it that the transport will not carry anything to a peer: it may have said why it ended.
  [[nodiscard]] Finding refused(int peer, const std::string& why);
  [[nodiscard]] Finding late(const std::vector<Lane>& lanes, const CallRecord& call) const;
  /// Two chunks' memory for each peer and direction, made when first used.
  [[nodiscard]] std::vector<Letter>& letters(int peer, bool outgoing);

  Setup setup_;
  std::map<std::pair<int, bool>, std::vector<Letter>> letters_;
  std::vector<Letter> told_;
};

}  // namespace mixcomm
