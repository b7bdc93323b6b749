#include "runner/split_pattern.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <string>

#include "mixcomm/error.hpp"
#include "runner/oniguruma.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::size_t max_pattern_bytes = std::size_t{16} << 10U;
// Of one match. Real patterns need a few steps per byte of the word; a hostile one must end.
constexpr std::uint32_t max_steps = 20'000'000;
constexpr std::uint32_t max_heap_kib = 256U << 10U;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

template <class T, void (*free_one)(T*)>
struct Free {
  void operator()(T* object) const { free_one(object); }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code, pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data, pcre2_match_data_free>>;
using MatchContext =
    std::unique_ptr<pcre2_match_context, Free<pcre2_match_context, pcre2_match_context_free>>;
using CompileContext =
    std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context, pcre2_compile_context_free>>;

template <class Pointer>
Pointer checked(Pointer pointer) {
  if (!pointer) throw SystemError("PCRE2 has no memory");
  return pointer;
}

PCRE2_SPTR units(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

Code compile(std::string_view pattern) {
  if (pattern.size() > max_pattern_bytes) {
    throw InvalidArgument(
        fmt::format("the pattern has {} bytes; at most {} are compiled", pattern.size(), max_pattern_bytes));
  }
  const std::string translated = pcre2_from_oniguruma(pattern);
  const CompileContext context = checked(CompileContext(pcre2_compile_context_create(nullptr)));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  constexpr std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  int error = 0;
  PCRE2_SIZE where = 0;
  Code code(pcre2_compile(units(translated), translated.size(), options, &error, &where, context.get()));
  if (!code) {
    throw InvalidArgument(
        fmt::format("the pattern {} cannot be compiled: {} (at byte {} of its translation {})",
                    in_quotes(pattern), message_of(error), where, in_quotes(translated)));
  }
  // Where there is no JIT compiler, or it cannot do this pattern, matching is slower and the same.
  static_cast<void>(pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE));
  return code;
}

}  // namespace

struct SplitPattern::State {
  Code code;
  MatchContext limits;

  /// The first match at or after `from`; none: false, and the match data is meaningless.
  bool match(std::string_view text, std::size_t from, pcre2_match_data* data) const {
    // NO_UTF_CHECK: the text is valid, and checking all of it for each word would be quadratic.
    int result =
        pcre2_match(code.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK, data, limits.get());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter's stack is on the heap
      result = pcre2_match(code.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           data, limits.get());
    }
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) {
      throw InvalidArgument(
          fmt::format("the tokenizer's pattern gave up at byte {} of a text of {} bytes: {}", from,
                      text.size(), message_of(result)));
    }
    return true;
  }
};

SplitPattern::SplitPattern(std::string_view pattern)
    : state_(std::make_unique<State>(State{
          .code = compile(pattern), .limits = checked(MatchContext(pcre2_match_context_create(nullptr)))})) {
  pcre2_set_match_limit(state_->limits.get(), max_steps);
  pcre2_set_heap_limit(state_->limits.get(), max_heap_kib);
}

SplitPattern::~SplitPattern() = default;
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;

std::vector<std::string_view> SplitPattern::split(std::string_view text) const {
  std::vector<std::string_view> words;
  std::size_t begin = 0;  // of what is in no word yet
  const auto cut = [&](std::size_t end) {
    if (end > begin) words.push_back(text.substr(begin, end - begin));
    begin = end;
  };
  const MatchData data =
      checked(MatchData(pcre2_match_data_create_from_pattern(state_->code.get(), nullptr)));
  for (std::size_t from = 0; from < text.size() && state_->match(text, from, data.get());) {
    const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer(data.get());
    cut(ends[0]);
    cut(ends[1]);
    // An empty match cuts where it is; the search goes on behind the next character.
    from = ends[1];
    if (ends[0] == ends[1] && from < text.size()) from += next_code_point(text.substr(from)).length_bytes;
  }
  cut(text.size());
  return words;
}

}  // namespace mixcomm::runner
