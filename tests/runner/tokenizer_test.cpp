// The tokenizer against the ids that `tokenizers` gave, on small vocabularies of its own, and on files that
// it must refuse.
#include "runner/tokenizer.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runner/byte_level.hpp"
#include "runner/utf8.hpp"
#include "tests/runner/temporary_directory.hpp"

namespace mixcomm::runner {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int>;
using test::read_file;
using test::refusal;
using test::says;
using test::TemporaryDirectory;

constexpr std::string_view qwen_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", use_regex}};
}

Json split(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json added(std::string_view content, int id, bool special, bool normalized) {
  return {{"id", id},        {"content", content}, {"single_word", false},    {"lstrip", false},
          {"rstrip", false}, {"special", special}, {"normalized", normalized}};
}

/// A tokenizer in Qwen's structure. A byte's id is the byte; then come the merges' tokens.
Json qwen_like() {
  Json vocab;
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    append_utf8(character, byte_level_character(static_cast<unsigned char>(byte)));
    vocab[character] = byte;
  }
  int id = 256;
  for (const std::string_view token : {"ab", "bc", "abc", "aa", "aaaa", "\u0120a"})
    vocab[std::string(token)] = id++;
  Json merges;
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{
           {"a", "b"}, {"b", "c"}, {"ab", "c"}, {"a", "a"}, {"aa", "aa"}, {"\u0120", "a"}}) {
    merges.push_back(Json::array({left, right}));
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", Json::array()},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer",
           {{"type", "Sequence"}, {"pretokenizers", Json::array({split(qwen_pattern), byte_level(false)})}}},
          {"post_processor", byte_level(false)},
          {"decoder", byte_level(true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", merges}}}};
}

Tokenizer made_of(const Json& json) {
  const TemporaryDirectory directory;
  directory.write("tokenizer.json", json.dump());
  return Tokenizer(directory.path());
}

/// What is said of a tokenizer.json that differs from qwen_like() in one place.
std::string refusal_with(std::string_view pointer, const Json& value) {
  Json json = qwen_like();
  json[Json::json_pointer(std::string(pointer))] = value;
  const std::string message = refusal([&] { static_cast<void>(made_of(json)); });
  EXPECT_TRUE(says(message, "tokenizer.json: "));
  return message;
}

TEST(Tokenizer, GivesTheIdsOfTokenizers) {
  const std::filesystem::path root(MIXCOMM_SOURCE_DIR);
  const Tokenizer tokenizer(root / "models" / "tiny-qwen3_5-moe");
  const Json data = Json::parse(read_file(root / "tests" / "data" / "tokenizer_cases.json"));
  ASSERT_FALSE(data.at("cases").empty());
  for (const Json& one : data.at("cases")) {
    const auto text = one.at("text").get<std::string>();
    const auto ids = one.at("ids").get<Ids>();
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
    EXPECT_EQ(tokenizer.decode(ids), one.at("decoded_skip_special").get<std::string>()) << text;
  }
  ASSERT_FALSE(data.at("decode_only").empty());
  for (const Json& one : data.at("decode_only")) {
    EXPECT_EQ(tokenizer.decode(one.at("ids").get<Ids>()), one.at("decoded").get<std::string>()) << one;
  }
  EXPECT_EQ(tokenizer.vocab_size(), 1024U);
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  const Tokenizer tokenizer = made_of(qwen_like());
  EXPECT_EQ(tokenizer.encode("abc"), Ids{258});
  EXPECT_EQ(tokenizer.encode("bc"), Ids{257});
  EXPECT_EQ(tokenizer.encode("abcab"), (Ids{258, 256}));
  EXPECT_EQ(tokenizer.encode("aaa"), (Ids{259, 'a'}));
  EXPECT_EQ(tokenizer.encode("aaaaaaa"), (Ids{260, 259, 'a'}));
  EXPECT_EQ(tokenizer.encode("aab"), (Ids{'a', 256}));
  EXPECT_EQ(tokenizer.encode("x a"), (Ids{'x', 261}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.decode(Ids{258, 261, 'x'}), "abc ax");
  EXPECT_EQ(tokenizer.vocab_size(), 262U);
}

TEST(Tokenizer, ReadsTheOlderFormOfMerges) {
  Json json = qwen_like();
  Json& model = json["model"];
  model["merges"] = {"#version: 0.2", "a b", "b c", "ab c"};
  model.erase("type");  // the oldest files have none
  model["continuing_subword_prefix"] = "";
  model["end_of_word_suffix"] = "";
  EXPECT_EQ(made_of(json).encode("abcbc"), (Ids{258, 257}));
}

TEST(Tokenizer, IgnoresMergesForWholeWordsWhenTold) {
  Json json = qwen_like();
  json["model"]["vocab"]["xyz"] = 300;
  json["model"]["vocab"]["\u0120xyz"] = 301;
  EXPECT_EQ(made_of(json).encode("xyz"), (Ids{'x', 'y', 'z'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(made_of(json).encode("xyz xyz xyzz"), (Ids{300, 301, ' ', 'x', 'y', 'z', 'z'}));
}

TEST(Tokenizer, LeavesOutBytesThatTheVocabularyLacks) {
  Json json = qwen_like();
  json["model"]["vocab"].erase("q");
  EXPECT_EQ(made_of(json).encode("aqb"), Ids{256});  // as `tokenizers` does
  json["model"]["unk_token"] = "a";
  EXPECT_TRUE(
      says(refusal([&] { static_cast<void>(made_of(json)); }), "model.unk_token is \"a\" and needed"));
}

TEST(Tokenizer, MatchesAddedTokensFirst) {
  Json json = qwen_like();
  json["added_tokens"] = {added("<|end|>", 400, true, false), added("<|end|>>", 401, false, false),
                          added("ab", 256, false, false), added("caf\u00e9", 403, false, true),
                          added("e\u0301!", 404, false, false)};
  const Tokenizer tokenizer = made_of(json);
  EXPECT_EQ(tokenizer.encode("<|end|>>>"), (Ids{401, '>'}));
  EXPECT_EQ(tokenizer.encode("x<|end|>a"), (Ids{'x', 400, 'a'}));
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{256, 'c'}));
  EXPECT_EQ(tokenizer.encode("cafe\u0301"), Ids{403});  // looked for in the normalized text
  EXPECT_EQ(tokenizer.encode("e\u0301!"), Ids{404});    // looked for in the text as it is
  EXPECT_EQ(tokenizer.encode("\u00e9!"), (Ids{0xC3, 0xA9, '!'}));
  EXPECT_EQ(tokenizer.encode("<|end"), (Ids{'<', '|', 'e', 'n', 'd'}));
  EXPECT_EQ(tokenizer.decode(Ids{'x', 400, 401, 256}), "x<|end|>>ab");  // only the special one is left out
  EXPECT_EQ(tokenizer.decode(Ids{402, 'x'}), "x");                      // an id that no token has
  EXPECT_EQ(tokenizer.vocab_size(), 405U);
}

TEST(Tokenizer, NormalizesWhenTold) {
  Json json = qwen_like();
  const Ids composed{0xC3, 0xA9};
  EXPECT_EQ(made_of(json).encode("e\u0301"), composed);
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({{{"type", "NFC"}}})}};
  EXPECT_EQ(made_of(json).encode("e\u0301"), composed);
  EXPECT_EQ(made_of(json).encode("\u1112\u1161\u11ab"), (Ids{0xED, 0x95, 0x9C}));        // Hangul
  EXPECT_EQ(made_of(json).encode("\u0958"), (Ids{0xE0, 0xA4, 0x95, 0xE0, 0xA4, 0xBC}));  // never composed
  EXPECT_EQ(made_of(json).encode("x\u0300\u0316"), (Ids{'x', 0xCC, 0x96, 0xCC, 0x80}));  // reordered
  json["normalizer"] = nullptr;
  EXPECT_EQ(made_of(json).encode("e\u0301"), (Ids{'e', 0xCC, 0x81}));
}

TEST(Tokenizer, ReplacesWhatIsNoUtf8) {
  const Tokenizer tokenizer = made_of(qwen_like());
  // One U+FFFD per maximal subpart, as Python's errors="replace": 4 for the surrogate's 3 bytes and the lone
  // 0xFF.
  const std::array<std::pair<std::string_view, std::string_view>, 5> cases{{
      {"a\xFF", "a\ufffd"},
      {"\xE2\x82", "\ufffd"},
      {"\xE2\x82x", "\ufffdx"},
      {"\xED\xA0\x80\xFF", "\ufffd\ufffd\ufffd\ufffd"},
      {"\xF0\x9F\x98\xC0\xAF", "\ufffd\ufffd\ufffd"},
  }};
  for (const auto& [damaged, replaced] : cases) {
    EXPECT_EQ(tokenizer.encode(damaged), tokenizer.encode(replaced));
    Ids ids;
    for (const char c : damaged) ids.push_back(static_cast<unsigned char>(c));
    EXPECT_EQ(tokenizer.decode(ids), replaced);
  }
  EXPECT_EQ(tokenizer.encode(std::string_view("\0", 1)), Ids{0});
}

/// Heads are padded: ids behind the last token have no text, as in `tokenizers` 0.23.3.
TEST(Tokenizer, IdsBehindItsVocabularyAreNoText) {
  const Tokenizer tokenizer = made_of(qwen_like());
  for (const int id : {262, 1244, std::numeric_limits<int>::max()})
    EXPECT_EQ(tokenizer.decode(std::array{int{'a'}, id, int{'b'}}), "ab") << id;
  for (const int id : {-1, std::numeric_limits<int>::min()})
    EXPECT_TRUE(says(refusal([&] {
                       static_cast<void>(tokenizer.decode(std::array{0, id}));
                     }),
                     "token id " + std::to_string(id) + " is none"));
}

TEST(Tokenizer, TakesLongWordsInItsStride) {
  const Tokenizer tokenizer = made_of(qwen_like());
  constexpr std::size_t length = 400'000;
  EXPECT_EQ(tokenizer.encode(std::string(length, 'a')), Ids(length / 4, 260));
  EXPECT_EQ(tokenizer.encode(std::string(length, ' ') + "x").size(), length + 1);
  EXPECT_EQ(tokenizer.encode(std::string(length, '\n')).size(), length);
  std::string marks = "e";
  for (std::size_t i = 0; i < length / 4; ++i) marks += "\u0300";
  for (std::size_t i = 0; i < length / 4; ++i) marks += "\u0316";  // each must move before all of the former
  EXPECT_EQ(tokenizer.encode(marks).size(), length + 1 - 1);  // the first U+0300 and the e are one character
}

TEST(Tokenizer, ServesManyThreads) {
  const Tokenizer tokenizer = made_of(qwen_like());
  const std::string text = "The abc's 12 caf\u00e9s aaaa\n\n bc  x";
  const Ids expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::array<bool, 4> equal{};
  for (std::size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      bool same = true;
      for (int i = 0; i < 200; ++i) same = same && tokenizer.encode(text) == expected;
      equal[t] = same;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const bool one : equal) EXPECT_TRUE(one);
}

TEST(Tokenizer, RefusesOtherKinds) {
  EXPECT_TRUE(says(refusal_with("/model", {{"type", "WordPiece"}, {"vocab", Json::object()}}),
                   R"(model is "WordPiece", not BPE)"));
  EXPECT_TRUE(says(refusal_with("/model", {{"type", "Unigram"}, {"vocab", Json::array()}}),
                   R"(model is "Unigram", not BPE)"));
  EXPECT_TRUE(says(refusal_with("/model", {{"vocab", Json::object()}}), "model is of no type, not BPE"));
  EXPECT_TRUE(says(refusal_with("/model/byte_fallback", true), "model.byte_fallback is true"));
  EXPECT_TRUE(says(refusal_with("/model/dropout", 0.1), "model.dropout is 0.1"));
  EXPECT_TRUE(
      says(refusal_with("/model/end_of_word_suffix", "</w>"), R"(model.end_of_word_suffix is "</w>")"));
  EXPECT_TRUE(
      says(refusal_with("/normalizer", {{"type", "Lowercase"}}), R"(normalizer is "Lowercase"; only NFC)"));
  EXPECT_TRUE(says(
      refusal_with("/normalizer", {{"type", "Sequence"}, {"normalizers", Json::array({{{"type", "NFKC"}}})}}),
      R"(normalizer.normalizers[0] is "NFKC")"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer", {{"type", "Metaspace"}}),
                   R"(pre_tokenizer is "Metaspace"; supported is)"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer", nullptr), "has no pre_tokenizer"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer/pretokenizers/0", {{"type", "Digits"}}),
                   R"(is "Digits" where Split)"));
  EXPECT_TRUE(
      says(refusal_with("/pre_tokenizer/pretokenizers/1", split("a")), R"(is "Split" where ByteLevel)"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer/pretokenizers", Json::array()), "has 0 entries"));
  EXPECT_TRUE(
      says(refusal_with("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), R"(behavior is "Removed")"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer/pretokenizers/0/invert", true), "invert is true"));
  EXPECT_TRUE(
      says(refusal_with("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}), "pattern is no Regex"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer/pretokenizers/1/add_prefix_space", true),
                   "add_prefix_space is true"));
  EXPECT_TRUE(says(refusal_with("/decoder", {{"type", "Metaspace"}}), R"(decoder is "Metaspace")"));
  EXPECT_TRUE(says(refusal_with("/decoder", nullptr), "has no decoder"));
  EXPECT_TRUE(says(refusal_with("/post_processor", {{"type", "BertProcessing"}}),
                   R"(post_processor is "BertProcessing")"));
}

TEST(Tokenizer, AcceptsATemplateOnlyWhereItAddsNothing) {
  const Json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json start = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  Json json = qwen_like();
  const Json harmless = {{"type", "TemplateProcessing"}, {"single", Json::array({text})}};
  json["post_processor"] = {{"type", "Sequence"}, {"processors", Json::array({byte_level(false), harmless})}};
  EXPECT_EQ(made_of(json).encode("abc"), Ids{258});
  EXPECT_TRUE(says(refusal_with("/post_processor",
                                {{"type", "TemplateProcessing"}, {"single", Json::array({start, text})}}),
                   "post_processor.single[0] adds a token to each text"));
  EXPECT_TRUE(says(refusal_with("/post_processor",
                                {{"type", "TemplateProcessing"}, {"single", Json::array({text, text})}}),
                   "does not give the text once"));
}

TEST(Tokenizer, RefusesDamagedFiles) {
  const TemporaryDirectory directory;
  const auto message = [&] { return refusal([&] { const Tokenizer tokenizer(directory.path()); }); };
  EXPECT_TRUE(says(message(), "tokenizer.json: cannot be opened"));
  directory.write("tokenizer.json", qwen_like().dump().substr(0, 1000));
  EXPECT_TRUE(says(message(), "tokenizer.json: is damaged JSON"));
  directory.write("tokenizer.json", "[]");
  EXPECT_TRUE(says(message(), "the top level must be an object"));
  directory.write("tokenizer.json", "{}");
  EXPECT_TRUE(says(message(), "model is missing"));

  EXPECT_TRUE(says(refusal_with("/model/vocab", Json::object()), "model.vocab is empty"));
  EXPECT_TRUE(says(refusal_with("/model/vocab", Json::array()), "model.vocab must be an object"));
  EXPECT_TRUE(says(refusal_with("/model/vocab/zz", -1), "model.vocab.zz must be an integer"));
  EXPECT_TRUE(says(refusal_with("/model/vocab/zz", 4294967296), "model.vocab.zz must be an integer"));
  EXPECT_TRUE(says(refusal_with("/model/vocab/zz", 97), "gives the id 97 to both \"a\" and \"zz\""));
  EXPECT_TRUE(says(refusal_with("/model/merges", 1), "model.merges must be an array"));
  EXPECT_TRUE(
      says(refusal_with("/model/merges/0", "a  b"), R"(model.merges[0] is "a  b", no pair of tokens)"));
  EXPECT_TRUE(says(refusal_with("/model/merges/0", {"a", "b", "c"}), "model.merges[0] is an array, no pair"));
  EXPECT_TRUE(says(refusal_with("/model/merges/0", {"a", "x"}), R"(model.merges needs the token "ax")"));
  EXPECT_TRUE(says(refusal_with("/model/ignore_merges", 1), "model.ignore_merges must be true or false"));
  EXPECT_TRUE(says(refusal_with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a"),
                   R"(the pattern "(a" cannot be compiled)"));
}

TEST(Tokenizer, RefusesAddedTokensThatItCannotHave) {
  const auto refused = [](const Json& tokens) { return refusal_with("/added_tokens", tokens); };
  Json token = added("<x>", 400, false, false);
  for (const std::string_view field : {"lstrip", "rstrip", "single_word"}) {
    Json stripping = token;
    stripping[std::string(field)] = true;
    EXPECT_TRUE(says(refused(Json::array({stripping})),
                     "added_tokens[0]." + std::string(field) + " of \"<x>\" is true"));
  }
  EXPECT_TRUE(says(refused({token, added("<x>", 401, false, false)}), R"(adds "<x>" again)"));
  EXPECT_TRUE(says(refused(Json::array({added("ab", 400, false, false)})), "in model.vocab it has 256"));
  EXPECT_TRUE(
      says(refused(Json::array({added("<x>", 256, false, false)})), R"(gives "<x>" the id 256 of "ab")"));
  EXPECT_TRUE(says(refused(Json::array({added(std::string(1025, 'x'), 400, false, false)})),
                   "at most 1024 are supported"));
  token.erase("id");
  EXPECT_TRUE(says(refused(Json::array({token})), "added_tokens[0].id is missing"));
}

}  // namespace
}  // namespace mixcomm::runner
