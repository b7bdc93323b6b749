// Lists in flags and environment variables.
#pragma once

#include <string>
#include <vector>

namespace mixcomm::tools {

/// The parts of "a,b,c".
[[nodiscard]] std::vector<std::string> split(const std::string& text);

}  // namespace mixcomm::tools
