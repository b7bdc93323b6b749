// Words by a pattern: as Oniguruma reads it, or not at all.
#include "runner/split_pattern.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "tests/runner/temporary_directory.hpp"

namespace mixcomm::runner {
namespace {

using Words = std::vector<std::string_view>;
using test::refusal;
using test::says;

constexpr std::string_view qwen_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

TEST(SplitPattern, SplitsAsQwenAndGpt2Do) {
  const SplitPattern qwen(qwen_pattern);
  EXPECT_EQ(qwen.split("I'LL pay 12.50 \n\n  x"),
            (Words{"I", "'LL", " pay", " ", "1", "2", ".", "5", "0", " \n\n", " ", " x"}));
  const SplitPattern gpt2(gpt2_pattern);
  EXPECT_EQ(gpt2.split("Hello, my  12 don't"), (Words{"Hello", ",", " my", " ", " 12", " don", "'t"}));
  EXPECT_TRUE(gpt2.split("").empty());
}

TEST(SplitPattern, KeepsWhatNoMatchTakes) {
  EXPECT_EQ(SplitPattern("b+").split("abbcb"), (Words{"a", "bb", "c", "b"}));
  EXPECT_EQ(SplitPattern("b*").split("abc\u00e9"), (Words{"a", "b", "c", "\u00e9"}));  // empty matches cut
  EXPECT_EQ(SplitPattern("(?=c)").split("abcc"), (Words{"ab", "c", "c"}));
}

TEST(SplitPattern, ReadsPatternsAsOnigurumaDoes) {
  // U+180E is white space to PCRE2's \s, and to Unicode no more.
  EXPECT_EQ(SplitPattern(R"(\s+)").split("a \u3000b\u180e"), (Words{"a", " \u3000", "b\u180e"}));
  EXPECT_EQ(SplitPattern(R"([^\s]+)").split("a \u180eb"), (Words{"a", " ", "\u180eb"}));
  EXPECT_EQ(SplitPattern(R"([^\S\n]+)").split("a \n b"), (Words{"a", " ", "\n", " ", "b"}));
  // A script, not the characters that share it (U+3001 has Han among its script extensions).
  EXPECT_EQ(SplitPattern(R"(\p{Han}+)").split("\u4e2d\u3001x"), (Words{"\u4e2d", "\u3001x"}));
  EXPECT_EQ(SplitPattern(R"([\u4e00-\u4e2d]+|\x41\x{42})").split("\u4e2dxAB"), (Words{"\u4e2d", "x", "AB"}));
  EXPECT_EQ(SplitPattern("(?i:s)").split("aSs\u017f"), (Words{"a", "S", "s", "\u017f"}));
  EXPECT_EQ(SplitPattern("^b").split("b\nb"), (Words{"b", "\n", "b"}));  // a line's beginning, always
}

TEST(SplitPattern, RefusesWhatItWouldReadDifferently) {
  for (const std::string_view pattern : {R"(\w+)",
                                         R"(\b)",
                                         R"(\h)",
                                         R"(\X)",
                                         R"(\1)",
                                         R"(\Qa\E)",
                                         R"(a\)",
                                         "[a[b]]",
                                         "[a&&b]",
                                         "[]a]",
                                         "[a",
                                         "(?i)a",
                                         "(?m:a)",
                                         "(?<n>a)",
                                         "(?R)",
                                         "(?C1)",
                                         "(*UTF8)",
                                         "a{2}+",
                                         "a{2}?",
                                         "a{,2}",
                                         "a{x}",
                                         R"([a-\s])",
                                         R"([\s-z])",
                                         R"(\pL)",
                                         R"(\p{L)",
                                         R"(\p{Alpha=x})",
                                         R"(\xE9)",
                                         R"(\x{zz})",
                                         R"(\x{)",
                                         R"(\u12)",
                                         "(a",
                                         "a)",
                                         R"(\p{NoSuchScript})",
                                         "**"}) {
    EXPECT_TRUE(says(refusal([&] { const SplitPattern split_pattern(pattern); }), "the pattern ")) << pattern;
  }
  EXPECT_TRUE(says(refusal([] { const SplitPattern split_pattern(std::string(20'000, 'a')); }),
                   "at most 16384 are compiled"));
}

TEST(SplitPattern, GivesUpInsteadOfHanging) {
  const SplitPattern exponential("(?:a|a|aa)+[bc]");
  EXPECT_TRUE(says(refusal([&] { static_cast<void>(exponential.split(std::string(200, 'a'))); }),
                   "the tokenizer's pattern gave up"));
}

}  // namespace
}  // namespace mixcomm::runner
