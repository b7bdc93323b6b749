// What machine this is.
#pragma once

#include <string>

#include "tools/command.hpp"

namespace mixcomm::tools {

/// Processors that this process may run on.
[[nodiscard]] int usable_processors();

/// {"cpu": "...", "processors": 2, ...}: nothing in it names the host or the user. What the system does not
/// tell is left out.
[[nodiscard]] Json machine();

/// The same in lines of text, indented by two.
[[nodiscard]] std::string machine_text(const Json& machine);

}  // namespace mixcomm::tools
