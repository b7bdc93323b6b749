#include "runner/nfc.hpp"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <vector>

#include "mixcomm/error.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

using CodePoints = std::vector<utf8proc_int32_t>;

constexpr auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

CodePoints decompose(std::string_view text) {
  CodePoints result;
  result.reserve(text.size());
  while (!text.empty()) {
    const CodePoint next = next_code_point(text);
    text.remove_prefix(next.length_bytes);
    if (next.value < 0x80) {
      result.push_back(static_cast<utf8proc_int32_t>(next.value));
      continue;
    }
    std::array<utf8proc_int32_t, 16> parts{};  // the longest canonical decomposition has 4
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(next.value), parts.data(),
                                               static_cast<utf8proc_ssize_t>(parts.size()), options, nullptr);
    if (count < 0 || static_cast<std::size_t>(count) > parts.size()) {
      throw SystemError(fmt::format("utf8proc cannot decompose U+{:04X}", static_cast<unsigned>(next.value)));
    }
    result.insert(result.end(), parts.begin(), parts.begin() + count);
  }
  return result;
}

/// Canonical order: each run of combining marks by class. utf8proc's own pass is an insertion sort, quadratic
/// on long runs.
void reorder(CodePoints& text) {
  const auto is_mark = [](utf8proc_int32_t c) { return combining_class(c) != 0; };
  for (auto begin = std::find_if(text.begin(), text.end(), is_mark); begin != text.end();) {
    const auto end = std::find_if_not(begin, text.end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = std::find_if(end, text.end(), is_mark);
  }
}

}  // namespace

std::string nfc(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  CodePoints code_points = decompose(text);
  reorder(code_points);
  const auto length = utf8proc_normalize_utf32(code_points.data(),
                                               static_cast<utf8proc_ssize_t>(code_points.size()), options);
  if (length < 0) throw SystemError(fmt::format("utf8proc cannot compose: {}", utf8proc_errmsg(length)));
  code_points.resize(static_cast<std::size_t>(length));

  std::string result;
  result.reserve(text.size());
  for (const utf8proc_int32_t c : code_points) append_utf8(result, static_cast<char32_t>(c));
  return result;
}

}  // namespace mixcomm::runner
