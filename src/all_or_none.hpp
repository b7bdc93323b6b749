// Set-up steps that end the same way on every rank.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/meeting.hpp"

namespace mixcomm {

/// Collective: runs `mine`, which calls no collective itself, and returns what it returned on each rank, by
/// rank. If it threw on some rank, every rank throws the first such rank's error, of the same type where it
/// is one of ours (else SystemError), and says whose it was. Also throws what Meeting::exchange() does.
std::vector<std::string> all_or_none(Meeting& meeting, std::string_view step,
                                     const std::function<std::string()>& mine);

}  // namespace mixcomm
