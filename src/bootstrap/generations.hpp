// The variables of this process, and of those that started it.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace mixcomm {

using Variables = std::map<std::string, std::string, std::less<>>;

/// This process's variables as they are now.
[[nodiscard]] Variables variables_of_this_process();

/// ... then its parent's, that one's parent's, and so on, each as it was started with: as far up as the
/// system shows them (not those of other users, for example).
[[nodiscard]] std::vector<Variables> generations();

/// From the bytes of /proc/PID/environ; empty where they are none any more: programs that change their title
/// write over them.
[[nodiscard]] Variables variables_in(const std::string& bytes);

}  // namespace mixcomm
