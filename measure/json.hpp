// JSON that keeps the order in which it was written.
#pragma once

#include <nlohmann/json.hpp>

namespace mixcomm::tools {

using Json = nlohmann::ordered_json;

}  // namespace mixcomm::tools
