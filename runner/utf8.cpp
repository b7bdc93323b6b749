#include "runner/utf8.hpp"

#include <algorithm>

namespace mixcomm::runner {
namespace {

/// What a first byte asks for. Only the second byte's range depends on it (Unicode, table 3-7).
struct Lead {
  std::size_t length_bytes = 0;  // 0: no first byte
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xBF;
  unsigned char payload = 0;
};

Lead lead_of(unsigned char byte) {
  const auto payload = [byte](unsigned mask) { return static_cast<unsigned char>(byte & mask); };
  if (byte < 0x80) return {.length_bytes = 1, .payload = byte};
  if (byte < 0xC2) return {};
  if (byte < 0xE0) return {.length_bytes = 2, .payload = payload(0x1F)};
  if (byte == 0xE0) return {.length_bytes = 3, .second_min = 0xA0, .payload = payload(0x0F)};
  if (byte == 0xED) return {.length_bytes = 3, .second_max = 0x9F, .payload = payload(0x0F)};
  if (byte < 0xF0) return {.length_bytes = 3, .payload = payload(0x0F)};
  if (byte == 0xF0) return {.length_bytes = 4, .second_min = 0x90, .payload = payload(0x07)};
  if (byte == 0xF4) return {.length_bytes = 4, .second_max = 0x8F, .payload = payload(0x07)};
  if (byte < 0xF4) return {.length_bytes = 4, .payload = payload(0x07)};
  return {};
}

}  // namespace

CodePoint next_code_point(std::string_view text) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  if (lead.length_bytes == 0) return {};
  char32_t value = lead.payload;
  for (std::size_t i = 1; i < lead.length_bytes; ++i) {
    if (i == text.size()) return {.length_bytes = i};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char min = i == 1 ? lead.second_min : 0x80;
    const unsigned char max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {.length_bytes = i};
    value = (value << 6U) | (byte & 0x3FU);
  }
  return {.value = value, .length_bytes = lead.length_bytes, .valid = true};
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&text](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  const auto continuation = [](char32_t bits) { return 0x80U | (bits & 0x3FU); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0U | (code_point >> 6U));
    put(continuation(code_point));
  } else if (code_point < 0x10000) {
    put(0xE0U | (code_point >> 12U));
    put(continuation(code_point >> 6U));
    put(continuation(code_point));
  } else {
    put(0xF0U | (code_point >> 18U));
    put(continuation(code_point >> 12U));
    put(continuation(code_point >> 6U));
    put(continuation(code_point));
  }
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const CodePoint next = next_code_point(text);
    if (!next.valid) return false;
    text.remove_prefix(next.length_bytes);
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const CodePoint next = next_code_point(text);
    if (next.valid) {
      result.append(text.substr(0, next.length_bytes));
    } else {
      append_utf8(result, replacement_character);
    }
    text.remove_prefix(next.length_bytes);
  }
  return result;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t max_bytes = 160;
  std::string result = "\"";
  while (!text.empty() && result.size() < max_bytes) {
    const CodePoint next = next_code_point(text);
    // Names come from files: none of their control characters (C0, DEL, C1) reaches a terminal or a log.
    const bool control = next.value < 0x20 || (next.value >= 0x7F && next.value < 0xA0) ||
                         next.value == 0x2028 || next.value == 0x2029;
    append_utf8(result, control ? replacement_character : next.value);
    text.remove_prefix(next.length_bytes);
  }
  if (!text.empty()) result += "...";
  return result + "\"";
}

}  // namespace mixcomm::runner
