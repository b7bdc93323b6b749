#include "failure_text.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace mixcomm {

std::string timeout_text(int rank, Milliseconds timeout, const std::vector<int>& missing,
                         std::string_view where) {
  return fmt::format(
      "rank {} waited {} ms for rank{} {} in {}. It may have ended, hang, or be in other work: look at its "
      "output; if it is only slow, raise the communicator's timeout. The communicator is failed.",
      rank, timeout.count(), missing.size() == 1 ? "" : "s", fmt::join(missing, ", "), where);
}

std::string unseen_text(const std::vector<int>& unseen) {
  if (unseen.empty()) return "";
  return fmt::format(
      " Whether rank{} {} ended was not to be seen, for want of pidfd_open: a seccomp filter, as containers "
      "have "
      "one, forbids it (allow it, and deaths are found at once), or Linux is older than 5.3.",
      unseen.size() == 1 ? "" : "s", fmt::join(unseen, ", "));
}

std::string gone_text(int rank, const std::vector<int>& gone, std::string_view where) {
  const bool one = gone.size() == 1;
  return fmt::format(
      "rank {} waits in {}, but the process{} of rank{} {} {} ended: look at {} output. The communicator is "
      "failed; those that are left can go on with Bootstrap::survivors().",
      rank, where, one ? "" : "es", one ? "" : "s", fmt::join(gone, ", "), one ? "has" : "have",
      one ? "its" : "their");
}

std::string disagreement_text(int other_rank, std::string_view their_call, int rank,
                              std::string_view my_call) {
  return fmt::format(
      "rank {} calls {}, but rank {} calls {}. Every rank of a communicator makes the same calls, with the "
      "same rows, hidden, dtype, algorithm and kind of buffers, in the same order. The communicator is "
      "failed.",
      other_rank, their_call, rank, my_call);
}

}  // namespace mixcomm
