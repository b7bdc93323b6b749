// Answers of word problems: numbers, not texts.
#include "tools/model/problems.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

#include "tests/runner/temporary_directory.hpp"
#include "tools/model/plain_number.hpp"

namespace mixcomm::tools {
namespace {

using runner::test::refusal;
using runner::test::says;
using runner::test::TemporaryDirectory;

constexpr std::nullopt_t none = std::nullopt;

TEST(Numbers, EqualOnesHaveOneForm) {
  for (const char* six :
       {"6", "6.", "6.0", "6.00", "06", "006.000", "+6", " 6 ", "$6", "$6.00", "+$6", "\u20ac6"})
    EXPECT_EQ(plain_number(six), "6") << six;
  for (const char* text : {"-6", "\u22126", "-$6", "$-6", "\u2212$06.0"})
    EXPECT_EQ(plain_number(text), "-6") << text;
  for (const char* zero : {"0", "-0", "0.00", "00", "\u22120.0"}) EXPECT_EQ(plain_number(zero), "0") << zero;
  EXPECT_EQ(plain_number("1,234.50"), "1234.5");
  EXPECT_EQ(plain_number("1,234,567"), "1234567");
  EXPECT_EQ(plain_number(".5"), "0.5");
  EXPECT_EQ(plain_number("-0.05"), "-0.05");
  // Exactly, where a double would take them for equal.
  EXPECT_NE(plain_number("9007199254740993"), plain_number("9007199254740992"));
}

TEST(Numbers, OtherTextsAreNone) {
  for (const char* text :
       {"",      " ",   "six", "6/7", "6e3", "6:30", "6 1/2", "6 apples", "6,5", "1,23", "1234,567", "1,2345",
        "6.5.3", "--6", "- 6", "-",   "$",   ".",    "6%",    "1 000",    "6,",  "6..",  "\u2212",   "0x6"})
    EXPECT_EQ(plain_number(text), none) << text;
}

TEST(Numbers, BehindTheMarkWordsMayFollow) {
  for (const char* text : {"#### 6", "####6", "a\n#### 5\n#### 6", "#### 6.", "#### 6 apples",
                           "#### $6.00 a day", "#### **6**", "#### 6\n7", "#### 6 in 2 weeks",
                           "#### 06, then.", "#### 6%", "#### 6 (six)", "##### 6", "#### 6 - no more"})
    EXPECT_EQ(marked_number(text), "6") << text;
  for (const char* text : {"6", "### 6", "####", "#### six", "#### 6/7", "#### 6e3", "#### 6:30",
                           "#### 6 1/2", "#### 6 / 7", "#### 6, 7", "#### 6,5", "#### 6 - 2 = 4", "#### 6k",
                           "#### 6\u00bd", "#### 6*2", "#### 5\n#### ", "#### \n6"})
    EXPECT_EQ(marked_number(text), none) << text;
  EXPECT_EQ(marked_number("#### \u22126"), "-6");
}

TEST(Numbers, TheLastOneOfAText) {
  EXPECT_EQ(last_number("She has 3 + 3 = 6 apples."), "6");
  EXPECT_EQ(last_number("so $1,234.50, all in all"), "1234.5");
  EXPECT_EQ(last_number("10-6"), "6");
  EXPECT_EQ(last_number("(10)-6"), "6");
  EXPECT_EQ(last_number("it is -6"), "-6");
  EXPECT_EQ(last_number("it is = \u22126 degrees"), "-6");
  EXPECT_EQ(last_number("6 - no, none"), "6");
  EXPECT_EQ(last_number("\\boxed{42}"), "42");
  EXPECT_EQ(last_number("none"), none);
  EXPECT_EQ(last_number(""), none);
}

/// Whether one line is read, and with which number: "" if it is left out.
std::string expected_of(const std::string& line) {
  const TemporaryDirectory files;
  files.write("a.jsonl", "{\"question\": \"q\", \"answer\": \"#### 1\"}\n" + line + "\n");
  const Problems read = read_problems(files.path() / "a.jsonl", 10);
  EXPECT_EQ(read.problems.size() + read.left_out.size(), 2U) << line;
  if (read.problems.size() == 2) return read.problems[1].expected;
  EXPECT_EQ(read.left_out[0].line, 2U);
  return "";
}

std::string expected_of_answer(const std::string& json) {
  return expected_of("{\"question\": \"q\", \"answer\": " + json + "}");
}

TEST(Problems, AnswersAreNumbers) {
  for (const char* six : {R"("#### 6")", R"("#### 6.00")", R"("#### 06")", R"("####6")", R"("#### +6")",
                          R"("5\n#### 6\n")", R"("6")", "6", "6.0", R"("x #### 5 #### 6")"})
    EXPECT_EQ(expected_of_answer(six), "6") << six;
  for (const char* text : {R"("#### \u22126")", R"("#### −6")", "-6"})
    EXPECT_EQ(expected_of_answer(text), "-6") << text;
  EXPECT_EQ(expected_of_answer(R"("#### 1,234")"), "1234");
}

TEST(Problems, OddLinesAreLeftOut) {
  for (const char* answer : {R"("#### 6/7")", R"("#### 6e3")", R"("#### 6:30")", R"("#### 6 1/2")",
                             R"("#### 6 apples")", R"("####")", R"("six")", "null", "[6]", "true", "1e300"})
    EXPECT_EQ(expected_of_answer(answer), "") << answer;
  for (const char* line :
       {"{", "[1]", R"({"answer": "#### 6"})", R"({"question": 5, "answer": "#### 6"})", "\xff"})
    EXPECT_EQ(expected_of(line), "") << line;
}

TEST(Problems, SayWhatWasLeftOut) {
  const TemporaryDirectory files;
  files.write("a.jsonl", R"({"question": "a", "answer": "#### 6/7"}

{"question": "b", "answer": "#### 2"}
{"question": "c"
{"question": "d", "answer": "#### 3"})");
  const Problems read = read_problems(files.path() / "a.jsonl", 10);
  ASSERT_EQ(read.problems.size(), 2U);
  EXPECT_EQ(read.problems[0].line, 3U);
  EXPECT_EQ(read.problems[1].line, 5U);
  ASSERT_EQ(read.left_out.size(), 2U);
  EXPECT_TRUE(says(read.left_out[0].why, R"(has the answer " 6/7", which is no plain number)"));
  EXPECT_EQ(read.left_out[1].line, 4U);
  EXPECT_EQ(read_problems(files.path() / "a.jsonl", 2).problems.size(), 1U);  // what is left out counts, too

  files.write("none.jsonl", "\n{\"question\": \"a\", \"answer\": \"6:30\"}\n");
  EXPECT_TRUE(says(refusal([&] { (void)read_problems(files.path() / "none.jsonl", 10); }),
                   "none.jsonl:2: the line has"));
}

}  // namespace
}  // namespace mixcomm::tools
