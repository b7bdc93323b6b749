#include "runner/oniguruma.hpp"

#include <fmt/format.h>

#include <array>
#include <cstddef>

#include "mixcomm/error.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

// \s is Unicode's White_Space in Oniguruma. PCRE2's \s has U+180E besides, which no longer is.
constexpr std::string_view white_space =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view not_white_space =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{d7ff}\x{e000}-\x{10ffff})";

constexpr std::array<std::string_view, 8> groups{"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_printable_ascii(char c) {
  return c > ' ' && c < 0x7F;
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) step();
    if (in_class_) refuse("a character class without its end");
    return std::move(result_);
  }

 private:
  [[nodiscard]] std::string_view rest() const { return pattern_.substr(at_); }

  [[noreturn]] void refuse(std::string_view construct) const {
    throw InvalidArgument(fmt::format("the pattern {} has {} at byte {}, which is not supported",
                                      in_quotes(pattern_), construct, at_));
  }

  void copy(std::size_t bytes) {
    result_ += rest().substr(0, bytes);
    at_ += bytes;
  }

  void step() {
    if (pattern_[at_] == '\\') {
      escape();
    } else if (in_class_) {
      class_member();
    } else if (pattern_[at_] == '[') {
      open_class();
    } else if (pattern_[at_] == '(') {
      open_group();
    } else if (pattern_[at_] == '{') {
      repeat();
    } else {
      copy(1);
    }
  }

  void open_class() {
    copy(rest().starts_with("[^") ? 2 : 1);
    if (rest().starts_with(']')) refuse("an empty character class");
    in_class_ = true;
    class_begin_ = at_;
  }

  void class_member() {
    if (pattern_[at_] == '[') refuse("'[' inside a character class");
    if (rest().starts_with("&&")) refuse("'&&' inside a character class");
    if (pattern_[at_] == ']') in_class_ = false;
    copy(1);
  }

  void open_group() {
    if (rest().starts_with("(*")) refuse("'(*'");
    if (!rest().starts_with("(?")) return copy(1);
    for (const std::string_view group : groups) {
      if (rest().starts_with(group)) return copy(group.size());
    }
    refuse(in_quotes(rest().substr(0, 4)));
  }

  /// {n}, {n,} and {n,m}; what follows one ('+': again, not possessive; after {n}, '?': optional, not lazy)
  /// is read differently.
  void repeat() {
    std::size_t end = at_ + 1;
    const auto digits = [&] {
      const std::size_t begin = end;
      while (end < pattern_.size() && is_digit(pattern_[end])) ++end;
      return end > begin;
    };
    if (!digits()) refuse("'{' that begins no {n,m}");
    const bool comma = end < pattern_.size() && pattern_[end] == ',';
    if (comma) {
      ++end;
      digits();
    }
    if (end == pattern_.size() || pattern_[end] != '}') refuse("'{' that begins no {n,m}");
    ++end;
    const std::string_view after = pattern_.substr(end);
    if (after.starts_with('+') || (!comma && after.starts_with('?'))) refuse("a repeat of {n,m}");
    copy(end - at_);
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) refuse("a '\\' at its end");
    const char letter = pattern_[at_ + 1];
    switch (letter) {
      case 's':
        return white(white_space);
      case 'S':
        return white(not_white_space);
      case 'p':
      case 'P':
        return property();
      case 'x':
        return hex();
      case 'u':
        return code_unit();
      case 'v':
        return put(R"(\x{b})", 2);
      case 'd':
      case 'D':
      case 'r':
      case 'n':
      case 't':
      case 'f':
        return copy(2);
      case 'A':
      case 'z':
        if (!in_class_) return copy(2);
        break;
      default:
        if (is_printable_ascii(letter) && !is_letter(letter) && !is_digit(letter)) return copy(2);
        break;
    }
    refuse(in_quotes(rest().substr(0, 2)));
  }

  void put(std::string_view translated, std::size_t source_bytes) {
    result_ += translated;
    at_ += source_bytes;
  }

  /// \s or \S, written out.
  void white(std::string_view set) {
    if (!in_class_) return put(fmt::format("[{}]", set), 2);
    // The set must not become the end of a range.
    const std::string_view after = rest().substr(2);
    const bool range_before = at_ > class_begin_ && pattern_[at_ - 1] == '-';
    const bool range_after = after.starts_with('-') && !after.starts_with("-]");
    if (range_before || range_after) refuse("'-' beside \\s");
    put(set, 2);
  }

  /// \p{name}: general categories have the same names; a longer one is taken for a script, and PCRE2 refuses
  /// what is none.
  void property() {
    const std::size_t end = rest().find('}');
    if (!rest().substr(2).starts_with('{') || end == std::string_view::npos) refuse("\\p without {name}");
    std::string_view name = rest().substr(3, end - 3);
    const std::string_view negation = name.starts_with('^') ? "^" : "";
    name.remove_prefix(negation.size());
    for (const char c : name) {
      if (!is_letter(c) && c != '_') refuse(in_quotes(rest().substr(0, end + 1)));
    }
    const std::string_view kind = name.size() > 2 ? "sc:" : "";
    put(fmt::format("\\{}{{{}{}{}}}", pattern_[at_ + 1], negation, kind, name), end + 1);
  }

  /// \x41 and \x{41}. In Oniguruma, \xE9 is a byte of a longer character.
  void hex() {
    std::size_t end = at_ + 2;
    if (rest().substr(2).starts_with('{')) {
      end = pattern_.find('}', at_);
      if (end == std::string_view::npos || end == at_ + 3) refuse("\\x{ without its end");
      for (std::size_t i = at_ + 3; i < end; ++i) {
        if (!is_hex(pattern_[i])) refuse("\\x{ without hexadecimal digits");
      }
      return copy(end + 1 - at_);
    }
    while (end < pattern_.size() && end < at_ + 4 && is_hex(pattern_[end])) ++end;
    const bool ascii = end == at_ + 3 || (end == at_ + 4 && pattern_[at_ + 2] < '8');
    if (end == at_ + 2 || !ascii) refuse("\\x of a byte that is not ASCII");
    copy(end - at_);
  }

  /// \u3042
  void code_unit() {
    const std::string_view digits = rest().substr(2, 4);
    if (digits.size() != 4) refuse("\\u without four digits");
    for (const char c : digits) {
      if (!is_hex(c)) refuse("\\u without four digits");
    }
    put(fmt::format("\\x{{{}}}", digits), 6);
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::size_t class_begin_ = 0;  // of the first member
  std::string result_;
};

}  // namespace

std::string pcre2_from_oniguruma(std::string_view pattern) {
  return Translator(pattern).run();
}

}  // namespace mixcomm::runner
