#include "tools/model/plain_number.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

namespace mixcomm::tools {
namespace {

constexpr std::string_view blanks = " \t\r\n\v\f";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
char at(std::string_view text, std::size_t index) {
  return index < text.size() ? text[index] : '\0';
}

std::size_t digits_at(std::string_view text, std::size_t begin) {
  std::size_t end = begin;
  while (is_digit(at(text, end))) ++end;
  return end - begin;
}

/// The length of the sign, or currency sign, that the text begins with.
template <std::size_t count>
std::size_t length_of_one(std::string_view text, const std::array<std::string_view, count>& of) {
  for (const std::string_view each : of)
    if (text.starts_with(each)) return each.size();
  return 0;
}
constexpr std::array<std::string_view, 2> minus{"-", "\u2212"};
constexpr std::array<std::string_view, 3> currencies{"$", "\u00a3", "\u20ac"};

struct Scanned {
  std::string number;
  std::size_t length = 0;  ///< of the text that it takes
};

/// The digits of a number that begins at the text's start: "1,234.50" is 1234.5.
std::optional<Scanned> scan_digits(std::string_view text) {
  std::size_t end = digits_at(text, 0);
  std::string whole(text.substr(0, end));
  const bool grouped = end >= 1 && end <= 3;
  while (grouped && at(text, end) == ',' && digits_at(text, end + 1) == 3) {
    whole += text.substr(end + 1, 3);
    end += 4;
  }
  std::string fraction;
  if (at(text, end) == '.') {
    fraction = text.substr(end + 1, digits_at(text, end + 1));
    if (!fraction.empty()) end += 1 + fraction.size();
  }
  if (whole.empty() && fraction.empty()) return std::nullopt;
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
  fraction.erase(fraction.find_last_not_of('0') + 1);
  if (whole.empty()) whole = "0";
  return Scanned{fraction.empty() ? whole : whole + '.' + fraction, end};
}

/// A number that begins at the text's start, with its signs.
std::optional<Scanned> scan(std::string_view text) {
  std::size_t begin = 0;
  bool negative = false;
  const auto take_sign = [&] {
    const std::size_t length = length_of_one(text.substr(begin), minus);
    negative = length > 0;
    begin += length > 0 ? length : (at(text, begin) == '+' ? 1U : 0U);
    return begin > 0;
  };
  const bool has_sign = take_sign();
  const std::size_t currency = length_of_one(text.substr(begin), currencies);
  begin += currency;
  if (!has_sign && currency > 0) take_sign();
  auto scanned = scan_digits(text.substr(begin));
  if (!scanned) return std::nullopt;
  scanned->length += begin;
  if (negative && scanned->number != "0") scanned->number.insert(0, 1, '-');
  return scanned;
}

std::string_view without_blanks_before(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
  return text;
}

/// Whether what follows a number on its line makes it a part of something else.
bool goes_on(std::string_view rest) {
  if (is_letter(at(rest, 0)) || (at(rest, 0) == '.' && is_digit(at(rest, 1)))) return true;
  const auto next = [&rest] {
    rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
    return at(rest, 0);
  };
  if (is_digit(next())) return true;  // "6 1/2"
  constexpr std::array<std::string_view, 12> joints{"/", ":", "^", "*",      "=",      "+",
                                                    "-", ",", "x", "\u2212", "\u00d7", "\u00f7"};
  bool joint = false;
  while (const std::size_t length = length_of_one(rest, joints)) {
    joint = true;
    rest.remove_prefix(length);
    next();
  }
  if (joint) return scan(rest).has_value();
  constexpr std::array<std::string_view, 3> fractions{"\u00bc", "\u00bd", "\u00be"};
  return length_of_one(rest, fractions) > 0;
}

/// Whether "-" behind this text is a sign.
bool may_be_signed(std::string_view before) {
  if (before.empty()) return true;
  const char c = before.back();
  return !is_digit(c) && !is_letter(c) && c != ')' && c != '.' && static_cast<unsigned char>(c) < 0x80;
}

}  // namespace

std::optional<std::string> plain_number(std::string_view text) {
  text = without_blanks_before(text);
  text = text.substr(0, text.find_last_not_of(blanks) + 1);
  const auto scanned = scan(text);
  if (!scanned) return std::nullopt;
  const std::string_view rest = text.substr(scanned->length);
  if (!rest.empty() && rest != ".") return std::nullopt;
  return scanned->number;
}

std::optional<std::string> marked_number(std::string_view text) {
  constexpr std::string_view mark = "####";
  const std::size_t found = text.rfind(mark);
  if (found == std::string_view::npos) return std::nullopt;
  std::string_view rest = text.substr(found + mark.size());
  rest = rest.substr(std::min(rest.find_first_not_of(" \t*"), rest.size()));  // "#### **6**"
  rest = rest.substr(0, rest.find('\n'));
  const auto scanned = scan(rest);
  if (!scanned || goes_on(rest.substr(scanned->length))) return std::nullopt;
  return scanned->number;
}

std::optional<std::string> last_number(std::string_view text) {
  std::optional<std::string> last;
  for (std::size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    const bool sign = length_of_one(rest, minus) > 0;
    const auto scanned = sign && !may_be_signed(text.substr(0, i)) ? std::nullopt : scan(rest);
    if (scanned) last = scanned->number;
    i += scanned ? scanned->length : 1;
  }
  return last;
}

}  // namespace mixcomm::tools
