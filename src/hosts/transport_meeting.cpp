#include "hosts/transport_meeting.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "bootstrap/deadline.hpp"
#include "bootstrap/socket.hpp"
#include "bootstrap/star.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

/// A part with the name of its step, or a verdict.
constexpr std::size_t most_bytes = max_exchange_bytes + 1024;

}  // namespace

TransportMeeting::TransportMeeting(Transport& transport, std::vector<int> members, int tag,
                                   Milliseconds timeout)
    : transport_(transport), members_(std::move(members)), tag_(tag), timeout_(timeout) {
  rank_ = static_cast<int>(std::ranges::find(members_, transport.rank()) - members_.begin());
}

std::vector<std::string> TransportMeeting::exchange(std::string_view step, std::string_view mine) {
  check_exchange(step, mine);
  if (world() == 1) return {std::string(mine)};
  if (failure_) std::rethrow_exception(failure_);
  try {
    return gather(step, mine);
  } catch (const PeerGone& error) {
    give_up({Verdict::Kind::gone, error.what(), error.missing()});
    throw;
  } catch (const Timeout& error) {
    give_up({Verdict::Kind::timeout, error.what(), error.missing()});
    throw;
  } catch (const Disagreement& error) {
    give_up({Verdict::Kind::disagreement, error.what(), {}});
    throw;
  } catch (const Error& error) {
    give_up({Verdict::Kind::system, error.what(), {}});
    throw;
  }
}

std::vector<std::string> TransportMeeting::gather(std::string_view step, std::string_view mine) {
  std::erase_if(sent_, [](Letter& letter) { return letter.complete(); });
  std::vector<std::optional<std::string>> parts(members_.size());
  std::vector<std::pair<int, Letter>> coming;
  for (int m = 0; m < world(); ++m) {
    if (m == rank_) continue;
    coming.emplace_back(m, Letter(most_bytes));
    coming.back().second.receive(transport_, members_[static_cast<std::size_t>(m)], tag_);
  }
  parts[static_cast<std::size_t>(rank_)] = mine;
  tell_all(Part{std::string(step), std::string(mine)});
  const Deadline deadline(timeout_);
  for (Pause pause; !coming.empty(); pause.once()) {
    std::erase_if(coming, [&](auto& each) {
      if (!each.second.complete()) return false;
      parts[static_cast<std::size_t>(each.first)] = take(each.first, each.second, step);
      return true;
    });
    if (coming.empty()) break;
    if (pause.interrupted())
      throw Timeout(fmt::format("the user of rank {} ended its wait while {}", rank_, step), {rank_});
    if (!deadline.passed()) continue;
    std::vector<int> late;
    for (const auto& each : coming) late.push_back(each.first);
    throw Timeout(
        fmt::format("rank {} waited {} ms for {} while {}", rank_, timeout_.count(), name_ranks(late), step),
        late);
  }
  std::vector<std::string> all;
  for (auto& part : parts) all.push_back(std::move(*part));
  return all;
}

std::string TransportMeeting::take(int member, const Letter& letter, std::string_view step) const {
  const auto message = message_from({reinterpret_cast<const char*>(letter.data()), letter.bytes()});
  if (message && std::holds_alternative<Verdict>(*message)) raise(std::get<Verdict>(*message));
  if (!message || !std::holds_alternative<Part>(*message))
    throw SystemError(fmt::format("rank {} sent a malformed message while {}", member, step));
  const Part& part = std::get<Part>(*message);
  if (part.step != step)
    throw Disagreement(
        fmt::format("rank {} is {}, but rank {} is {}; all ranks must set up in the same order", member,
                    part.step, rank_, step));
  return part.mine;
}

void TransportMeeting::tell_all(const Message& message) {
  const std::string bytes = to_bytes(message);
  if (bytes.size() > most_bytes)
    throw InvalidArgument(
        fmt::format("a set-up message of {} bytes is longer than {}", bytes.size(), most_bytes));
  for (int m = 0; m < world(); ++m) {
    if (m == rank_) continue;
    Letter letter(bytes.size());
    std::memcpy(letter.data(), bytes.data(), bytes.size());
    letter.send(transport_, members_[static_cast<std::size_t>(m)], tag_, bytes.size());
    sent_.push_back(std::move(letter));
  }
}

void TransportMeeting::give_up(const Verdict& verdict) {
  failure_ = std::current_exception();
  transport_.abandon();
  Verdict cut = verdict;
  cut.text.resize(std::min(cut.text.size(), max_exchange_bytes / 2));
  try {
    tell_all(cut);
    drive(sent_);
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch): who is not told finds out by the deadline
  }
}

}  // namespace mixcomm
