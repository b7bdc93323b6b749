// The alphabet of byte-level tokenizers: every byte is written as one printable character (GPT-2's table).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mixcomm::runner {

/// The character that stands for a byte: itself for printable Latin-1; U+0100 and up for the 68 others.
[[nodiscard]] char32_t byte_level_character(unsigned char byte);

/// The bytes that a token of such characters stands for; none when the token (UTF-8) has another character.
[[nodiscard]] std::optional<std::string> byte_level_bytes(std::string_view token);

}  // namespace mixcomm::runner
