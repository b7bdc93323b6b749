// Which launcher started this process, where several left their variables.
#pragma once

#include <span>

#include "bootstrap/generations.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm {

/// What launch_info() makes of a process whose variables and ancestors' are these, its own first; its own
/// alone do where one launcher has set any.
[[nodiscard]] LaunchInfo launch_info_of(std::span<const Variables> generations);

}  // namespace mixcomm
