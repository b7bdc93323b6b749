#include "bootstrap/descriptors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>

#include "bootstrap/mailbox.hpp"
#include "bootstrap/star.hpp"
#include "bootstrap/system_call.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

// What ranks tell each other: a mailbox's name behind one of these, or one of the problems.
constexpr char gives = '+';
constexpr char gives_none = '-';
constexpr char failed = '!';   // and the text of a SystemError
constexpr char missing = '?';  // and the set of ranks from which nothing came, in hexadecimal
constexpr char ended = 'x';    // and the set of ranks from which nothing will come

/// How often to look whether a rank that is waited for has gone.
constexpr Milliseconds slice{25};

std::size_t index(int rank) {
  return static_cast<std::size_t>(rank);
}

/// Throws what any rank has reported; the same on every rank.
void raise_reported(const std::vector<std::string>& reports, std::string_view step, Milliseconds timeout) {
  // What was wrong on a rank is why others miss something of it.
  for (std::size_t r = 0; r < reports.size(); ++r)
    if (reports[r].starts_with(failed))
      throw SystemError(fmt::format("rank {}, {}: {}", r, step, reports[r].substr(1)));
  for (std::size_t r = 0; r < reports.size(); ++r) {
    const std::string& report = reports[r];
    if (!report.starts_with(missing) && !report.starts_with(ended)) continue;
    RankSet set = 0;
    std::from_chars(report.data() + 1, report.data() + report.size(), set, 16);
    const std::vector<int> ranks = ranks_in(set);
    if (report.starts_with(ended))
      throw PeerGone(fmt::format("{} ended while rank {} waited for {} descriptor, {}; look at {} output",
                                 name_ranks(ranks), r, ranks.size() == 1 ? "its" : "their", step,
                                 ranks.size() == 1 ? "its" : "their"),
                     ranks);
    throw Timeout(fmt::format("rank {} waited (at most {} ms) for the descriptor{} of rank{} {} while {}", r,
                              timeout.count(), ranks.size() == 1 ? "" : "s", ranks.size() == 1 ? "" : "s",
                              fmt::join(ranks, ", "), step),
                  ranks);
  }
}

/// One rank's part. All descriptors go through rank 0, which then sends each rank everyone's in one parcel: 2
/// messages a rank, and no mailbox fills up with those of others.
class Passing {
 public:
  Passing(int rank, std::vector<std::string> mailboxes, Mailbox mailbox, Fd mine, const Patience& patience)
      : rank_(rank), mailboxes_(std::move(mailboxes)), mailbox_(std::move(mailbox)), patience_(patience) {
    for (std::size_t r = 0; r < mailboxes_.size(); ++r)
      if (mailboxes_[r].starts_with(gives)) givers_ += static_cast<char>(r);
    for (std::string& name : mailboxes_) name.erase(0, 1);
    all_.resize(mailboxes_.size());
    all_[index(rank)] = std::move(mine);
  }

  /// "", or what to report.
  std::string pass() {
    if (givers_.empty() || all_.size() == 1) return "";
    try {
      return rank_ == 0 ? collect() : hand_in();
    } catch (const SystemError& error) {
      return failed + std::string(error.what());
    }
  }

  std::vector<Fd> take() { return std::move(all_); }

 private:
  std::string collect() {
    std::string problem;
    try {
      problem = wait_for_givers();
    } catch (const SystemError& error) {
      problem = failed + std::string(error.what());
    }
    // An empty parcel says that there is nothing to wait for.
    const std::string_view note = problem.empty() ? std::string_view(givers_) : std::string_view();
    std::vector<int> descriptors;
    for (const char giver : note) descriptors.push_back(all_[index(giver)].get());
    const Deadline deadline(patience_.timeout);
    for (std::size_t r = 1; r < mailboxes_.size(); ++r) try {
        send_parcel(mailbox_, mailboxes_[r], note, descriptors, deadline);
      } catch (const SystemError& error) {
        if (problem.empty()) problem = failed + std::string(error.what());
      }
    return problem;
  }

  /// "", or what to report.
  std::string wait_for_givers() {
    const Deadline deadline(patience_.timeout);
    for (;;) {
      std::vector<int> late;
      for (const char giver : givers_)
        if (!all_[index(giver)].valid()) late.push_back(giver);
      if (late.empty()) return "";
      // Asked before the mailbox is read: what a rank sent before it ended is there then.
      const RankSet lost = patience_.gone() & set_of(late);
      const RankSet further = patience_.speaking() & set_of(late);
      std::optional<Parcel> parcel = receive_parcel(mailbox_, deadline.at_most(slice));
      const bool one = parcel && parcel->note.size() == 1 && parcel->descriptors.size() == 1;
      if (one && std::ranges::find(late, int{parcel->note[0]}) != late.end())
        all_[index(parcel->note[0])] = std::move(parcel->descriptors[0]);
      else if (!parcel && lost != 0)
        return fmt::format("{}{:x}", ended, lost);
      else if (!parcel && further != 0)
        return fmt::format("{}{:x}", missing, further);  // what went wrong there it reports itself
      else if (deadline.passed())
        // What came is not what we wait for, however much of it there is.
        return fmt::format("{}{:x}", missing, set_of(late));
    }
  }

  std::string hand_in() {
    const Deadline deadline(patience_.timeout + grace);
    if (const Fd& mine = all_[index(rank_)]; mine.valid()) {
      const int fd = mine.get();
      send_parcel(mailbox_, mailboxes_[0], std::string(1, static_cast<char>(rank_)), {&fd, 1}, deadline);
    }
    do {
      const bool lost = patience_.gone() != 0;
      std::optional<Parcel> parcel = receive_parcel(mailbox_, deadline.at_most(slice));
      if (!parcel && lost) return fmt::format("{}{:x}", ended, just(0));
      if (!parcel) continue;
      if (parcel->note.empty()) return "";  // rank 0 reports why
      if (parcel->note != givers_ || parcel->descriptors.size() != givers_.size()) continue;
      for (std::size_t i = 0; i < givers_.size(); ++i)
        if (givers_[i] != rank_) all_[index(givers_[i])] = std::move(parcel->descriptors[i]);
      return "";
    } while (!deadline.passed());
    return fmt::format("{}{:x}", missing, just(0));
  }

  int rank_;
  std::vector<std::string> mailboxes_;
  Mailbox mailbox_;
  const Patience& patience_;
  std::string givers_;  ///< the ranks, ascending, one a char
  std::vector<Fd> all_;
};

}  // namespace

std::vector<Fd> pass_descriptors(Meeting& meeting, std::string_view step, const Offer& mine,
                                 const Patience& patience) {
  Mailbox mailbox;
  Fd copy;
  std::string report;
  try {
    // Everyone's may come, besides the mailbox and this copy. Found out while all can still be told.
    if (!mine.problem.empty()) throw SystemError(mine.problem);
    need_descriptors(meeting.world() + 1, "this");
    mailbox = open_mailbox();
    copy = duplicate(mine.descriptor);
    report = (copy.valid() ? gives : gives_none) + mailbox.name;
  } catch (const SystemError& error) {
    report = failed + std::string(error.what());
  }
  auto mailboxes = meeting.exchange(step, report);
  raise_reported(mailboxes, step, patience.timeout);
  Passing passing(meeting.rank(), std::move(mailboxes), std::move(mailbox), std::move(copy), patience);
  report = passing.pass();
  raise_reported(meeting.exchange(fmt::format("{}: taking descriptors", step), report), step,
                 patience.timeout);
  return passing.take();
}

}  // namespace mixcomm
