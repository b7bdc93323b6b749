// UTF-8 that may be damaged.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mixcomm::runner {

inline constexpr char32_t replacement_character = 0xFFFD;

/// One step through a text: a character, or as many bytes as one U+FFFD stands for.
struct CodePoint {
  char32_t value = replacement_character;
  std::size_t length_bytes = 1;
  bool valid = false;
};

/// The character that `text` (not empty) begins with. Where it begins with no UTF-8, one U+FFFD stands for
/// the longest prefix of a character that could have been ("maximal subpart"), as in Python's
/// errors="replace" and in Rust.
[[nodiscard]] CodePoint next_code_point(std::string_view text);

void append_utf8(std::string& text, char32_t code_point);

[[nodiscard]] bool is_ascii(std::string_view text);
[[nodiscard]] bool is_utf8(std::string_view text);

/// `text` with U+FFFD for what is no UTF-8.
[[nodiscard]] std::string replace_invalid_utf8(std::string_view text);

/// `text` in double quotes for an error message: one line, printable, shortened when it is long.
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace mixcomm::runner
