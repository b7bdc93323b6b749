// A crossing over a transport: in chunks, with a deadline, and an error that says who did not send.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "bootstrap/message.hpp"
#include "hosts/crossing.hpp"
#include "hosts/host_state.hpp"
#include "hosts/patience.hpp"
#include "hosts/transport.hpp"

namespace mixcomm {

class TransportCrossing final : public Crossing {
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
  explicit TransportCrossing(Setup setup) : setup_(std::move(setup)) {}
  ~TransportCrossing() override { drive(told_); }
  TransportCrossing(const TransportCrossing&) = delete;
  TransportCrossing& operator=(const TransportCrossing&) = delete;

  /// Waits for the end: `stream` is for others.
  [[nodiscard]] Finding run(const CallRecord& call, std::vector<Stream> out, std::vector<Stream> in,
                            void* stream) override;
  void tell(const Finding& finding) override;

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
