// Unicode normalization form C.
#pragma once

#include <string>
#include <string_view>

namespace mixcomm::runner {

/// `text` (valid UTF-8) in NFC, in time n log n at worst.
[[nodiscard]] std::string nfc(std::string_view text);

}  // namespace mixcomm::runner
