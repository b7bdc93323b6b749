// What every backend says when ranks do not come, or call different things.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

/// `missing`: ranks, at least one; `where`: the operation, and what else is known of the wait.
[[nodiscard]] std::string timeout_text(int rank, Milliseconds timeout, const std::vector<int>& missing,
                                       std::string_view where);

/// Behind timeout_text(), where nothing told whether the processes of these ranks have ended. "" for none.
[[nodiscard]] std::string unseen_text(const std::vector<int>& unseen);

/// `gone`: ranks whose processes have ended, at least one.
[[nodiscard]] std::string gone_text(int rank, const std::vector<int>& gone, std::string_view where);

[[nodiscard]] std::string disagreement_text(int other_rank, std::string_view their_call, int rank,
                                            std::string_view my_call);

}  // namespace mixcomm
