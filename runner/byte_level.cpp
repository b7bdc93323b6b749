#include "runner/byte_level.hpp"

#include <array>
#include <cstddef>

#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr char32_t first_extra = 0x100;
constexpr std::size_t extras = 68;

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/// characters[byte], and bytes[character]: -1 where the character stands for no byte.
struct Table {
  std::array<char32_t, 256> characters{};
  std::array<int, first_extra + extras> bytes{};
};

constexpr Table make_table() {
  Table table;
  table.bytes.fill(-1);
  char32_t extra = first_extra;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const char32_t character = stands_for_itself(byte) ? char32_t{byte} : extra++;
    table.characters[byte] = character;
    table.bytes[character] = static_cast<int>(byte);
  }
  return table;
}

constexpr Table table = make_table();
static_assert(table.characters[' '] == 0x120 && table.bytes.back() == 0xAD);

}  // namespace

char32_t byte_level_character(unsigned char byte) {
  return table.characters[byte];
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const CodePoint next = next_code_point(token);
    if (!next.valid || next.value >= table.bytes.size() || table.bytes[next.value] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(table.bytes[next.value]));
    token.remove_prefix(next.length_bytes);
  }
  return bytes;
}

}  // namespace mixcomm::runner
