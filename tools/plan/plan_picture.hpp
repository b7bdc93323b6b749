// A plan as a picture.
#pragma once

#include <filesystem>

#include "tools/command/command.hpp"

namespace mixcomm::tools {

/// Writes plan_json() as Graphviz (.dot, .gv) or as SVG (.svg), by the file's name. Throws InvalidArgument
/// for another name, SystemError.
void write_picture(const Json& plan, const std::filesystem::path& path);

}  // namespace mixcomm::tools
