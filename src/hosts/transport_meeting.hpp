// A meeting of ranks over a transport: each tells each other, so that who is missing is known by name
// everywhere.
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "bootstrap/message.hpp"
#include "hosts/patience.hpp"
#include "hosts/transport.hpp"
#include "mixcomm/meeting.hpp"

namespace mixcomm {

class TransportMeeting final : public Meeting {
 public:
  /// `members`: the transport's ranks that meet, ascending, this one among them; all of them pass the same.
  /// `tag` is theirs alone. The transport must outlive this.
  TransportMeeting(Transport& transport, std::vector<int> members, int tag, Milliseconds timeout);
  /// What was said in the last step may still be on its way out.
  ~TransportMeeting() override { drive(sent_); }
  TransportMeeting(const TransportMeeting&) = delete;
  TransportMeeting& operator=(const TransportMeeting&) = delete;

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world() const override { return static_cast<int>(members_.size()); }
  [[nodiscard]] int rank_in_whole(int rank) const override {
    return members_[static_cast<std::size_t>(rank)];
  }

  /// No rank gathers for all: who has heard of everybody goes on. A rank for which the step has failed tells
  /// all others why, who throw the same in this step or in the next one.
  std::vector<std::string> exchange(std::string_view step, std::string_view mine) override;

 private:
  std::vector<std::string> gather(std::string_view step, std::string_view mine);
  std::string take(int member, const Letter& letter, std::string_view step) const;
  void tell_all(const Message& message);
  void give_up(const Verdict& verdict);

  Transport& transport_;
  std::vector<int> members_;
  int rank_ = 0;
  int tag_;
  Milliseconds timeout_;
  std::vector<Letter> sent_;  ///< that may still be under way
  std::exception_ptr failure_;
};

}  // namespace mixcomm
