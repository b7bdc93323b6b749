// What machine this is.
#pragma once

#include <string>

#include "measure/processors.hpp"
#include "tools/command/command.hpp"

namespace mixcomm::tools {

/// {"cpu": "...", "processors": 2, ...}: nothing in it names the host or the user. What the system does not
/// tell is left out.
[[nodiscard]] Json machine();

/// The commit that this was built from: what MIXCOMM_COMMIT says when it is built, or now; or what git said;
/// or "unknown".
[[nodiscard]] std::string commit();

/// machine() in lines of text, indented by two.
[[nodiscard]] std::string machine_text(const Json& machine);

}  // namespace mixcomm::tools
