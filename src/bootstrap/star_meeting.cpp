#include "bootstrap/star_meeting.hpp"

#include "bootstrap/socket.hpp"

namespace mixcomm {

std::vector<std::string> StarMeeting::exchange(std::string_view step, std::string_view mine) {
  check_exchange(step, mine);
  if (world_ == 1) return {std::string(mine)};
  // Once a step has failed, ranks may be in different ones, and what lies in the sockets belongs to another.
  if (failure_) std::rethrow_exception(failure_);
  try {
    return exchange_over(star_, world_, step, mine, timeout_);
  } catch (...) {
    failure_ = std::current_exception();
    throw;
  }
}

}  // namespace mixcomm
