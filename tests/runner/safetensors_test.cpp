// safetensors files: what is read, and each way in which a file can lie.
#include "runner/safetensors.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "runner/model_config.hpp"
#include "tests/runner/temporary_directory.hpp"

namespace mixcomm::runner {
namespace {

using test::read_file;
using test::refusal;
using test::says;
using test::TemporaryDirectory;

std::string little_endian(std::uint64_t value) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

/// A safetensors file of this header and so many data bytes, which count up.
std::string file_of(std::string_view header, std::size_t data_bytes) {
  std::string file = little_endian(header.size()) + std::string(header);
  for (std::size_t i = 0; i < data_bytes; ++i) file.push_back(static_cast<char>(i));
  return file;
}

constexpr std::string_view two_tensors =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}})";

const std::array<std::size_t, 2> shape_of_a{2, 1};

/// The refusal of a model of this one file.
std::string refusal_of(std::string_view file) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", file);
  const std::string message = refusal([&] { const Safetensors tensors(directory.path()); });
  EXPECT_TRUE(says(message, "model.safetensors: "));
  return message;
}

std::string refusal_of_header(std::string_view header, std::size_t data_bytes = 0) {
  return refusal_of(file_of(header, data_bytes));
}

TEST(Safetensors, ReadsOneFile) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", file_of(two_tensors, 12));
  Safetensors tensors(directory.path());
  EXPECT_EQ(tensors.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(tensors.contains("a"));
  EXPECT_FALSE(tensors.contains("c"));
  EXPECT_FALSE(tensors.contains("__metadata__"));

  const StoredTensor& a = tensors.at("a", shape_of_a);
  EXPECT_EQ(a.dtype, DType::bf16);
  EXPECT_EQ(a.shape, (std::vector<std::size_t>{2, 1}));
  ASSERT_EQ(a.bytes.size(), 4U);
  EXPECT_EQ(std::to_integer<int>(a.bytes[3]), 3);
  const StoredTensor& b = tensors.at("b", std::array<std::size_t, 1>{2});
  EXPECT_EQ(b.dtype, DType::fp32);
  EXPECT_EQ(std::to_integer<int>(b.bytes[0]), 4);

  const std::span<const std::byte> before = a.bytes;
  const Safetensors moved = std::move(tensors);
  EXPECT_EQ(moved.at("a", shape_of_a).bytes.data(), before.data());
}

TEST(Safetensors, ReadsScalarsEmptyTensorsAndPadding) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors",
                  file_of(R"({"s":{"dtype":"F16","shape":[],"data_offsets":[0,2]},)"
                          R"("e":{"dtype":"F32","shape":[0,9],"data_offsets":[2,2]}}     )",
                          2));
  const Safetensors tensors(directory.path());
  EXPECT_EQ(tensors.at("s", {}).dtype, DType::fp16);
  EXPECT_TRUE(tensors.at("e", std::array<std::size_t, 2>{0, 9}).bytes.empty());
}

TEST(Safetensors, ReadsTheTinyModel) {
  const std::filesystem::path directory =
      std::filesystem::path(MIXCOMM_SOURCE_DIR) / "models" / "tiny-qwen3_5-moe";
  const ModelConfig config = read_model_config(directory);
  const Safetensors tensors(directory);
  const std::array<std::size_t, 2> shape{config.vocab_size, config.hidden_size};
  const StoredTensor& embedding = tensors.at("model.embed_tokens.weight", shape);
  EXPECT_EQ(embedding.bytes.size(), config.vocab_size * config.hidden_size * size_of(embedding.dtype));
}

TEST(Safetensors, NamesAMissingTensorAndAWrongShape) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", file_of(two_tensors, 12));
  const Safetensors tensors(directory.path());
  EXPECT_TRUE(says(refusal([&] { static_cast<void>(tensors.at("c", shape_of_a)); }),
                   R"(tensor "c" is missing; the model needs it with shape [2, 1])"));
  for (const std::vector<std::size_t>& shape : {std::vector<std::size_t>{1, 2}, {2}, {2, 1, 1}, {}}) {
    EXPECT_TRUE(says(refusal([&] { static_cast<void>(tensors.at("a", shape)); }),
                     R"(tensor "a" has shape [2, 1]; the model needs [)"));
  }
}

TEST(Safetensors, KeepsOtherDTypesOutAndNamesThem) {
  const TemporaryDirectory directory;
  directory.write("model.safetensors", file_of(R"({"w":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[0,3]},)"
                                               R"("q":{"dtype":"F4","shape":[2],"data_offsets":[3,4]}})",
                                               4));
  const Safetensors tensors(directory.path());
  EXPECT_TRUE(tensors.contains("w"));
  EXPECT_TRUE(says(refusal([&] { static_cast<void>(tensors.at("w", std::array<std::size_t, 1>{3})); }),
                   R"(tensor "w" has dtype F8_E4M3, which is unsupported)"));
}

TEST(Safetensors, RefusesAMissingModel) {
  const TemporaryDirectory directory;
  EXPECT_TRUE(says(refusal([&] { const Safetensors tensors(directory.path()); }),
                   "holds neither model.safetensors nor model.safetensors.index.json"));
  EXPECT_TRUE(
      says(refusal([&] { const Safetensors tensors(directory.path() / "absent"); }), "holds neither"));
  std::filesystem::create_directory(directory.path() / "model.safetensors");
  EXPECT_TRUE(says(refusal([&] { const Safetensors tensors(directory.path()); }), "is not a regular file"));
}

TEST(Safetensors, SaysHowMuchOfATruncatedFileIsThere) {
  const std::string file = file_of(two_tensors, 12);
  for (std::size_t size = 0; size < file.size(); ++size) {
    const std::string message = refusal_of(file.substr(0, size));
    EXPECT_TRUE(says(message, "is truncated: "));
    EXPECT_TRUE(says(message, std::to_string(size) + " are there"));
  }
  EXPECT_TRUE(
      says(refusal_of(file.substr(0, file.size() - 1)), std::to_string(file.size()) + " bytes are expected"));
  EXPECT_TRUE(says(refusal_of(file + "x"), "has 1 bytes after its last tensor"));
}

TEST(Safetensors, RefusesHeaderLengthsThatLie) {
  EXPECT_TRUE(says(refusal_of(little_endian(~std::uint64_t{0}) + "{}"),
                   "declares a header of 18446744073709551615 bytes"));
  EXPECT_TRUE(says(refusal_of(little_endian(100'000'001) + "{}"), "the format allows 100000000"));
  EXPECT_TRUE(
      says(refusal_of(little_endian(100'000'000) + "{}"), "is truncated: 100000008 bytes are expected"));
  EXPECT_TRUE(says(refusal_of(little_endian(1) + "{}"), "is damaged JSON"));
  EXPECT_TRUE(says(refusal_of(little_endian(0) + "{}"), "does not begin with '{'"));
}

TEST(Safetensors, RefusesDamagedHeaders) {
  EXPECT_TRUE(says(refusal_of_header("[]"), "does not begin with '{'"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":)"), "is damaged JSON"));
  EXPECT_TRUE(says(refusal_of_header("{\"\xFF\":1}"), "is damaged JSON"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":1})"), "a must be an object, is 1"));
  EXPECT_TRUE(says(refusal_of_header(R"({"__metadata__":[]})"), "__metadata__ must be an object"));
  EXPECT_TRUE(says(refusal_of_header(R"({"__metadata__":{"x":1}})"), "__metadata__.x must be a string"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"shape":[],"data_offsets":[0,0]}})"), "a.dtype is missing"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F99","shape":[],"data_offsets":[0,0]}})"),
                   R"(a.dtype is "F99")"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","data_offsets":[0,0]}})"), "a.shape is missing"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})"),
                   "a.shape[0] must be"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4),
                   "a.shape[0] must be"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[0]}})"), "a.data_offsets is missing"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0]}})"),
                   "must be [begin, end]"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[4,0]}})"),
                   "ends before it begins"));
  const std::string twice = R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  EXPECT_TRUE(says(refusal_of_header("{" + twice + "," + twice + "}"), R"(has the key "a" twice)"));
}

TEST(Safetensors, RefusesSizesThatDoNotAddUp) {
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
                   "a takes 8 bytes (shape [2] of F32), but data_offsets [0, 4] hold 4"));
  EXPECT_TRUE(
      says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})"),
           "more than fits in memory"));
  EXPECT_TRUE(says(
      refusal_of_header(R"({"a":{"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]}})", 4),
      "more than fits in memory"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
                   "ends inside a byte"));
  // As large as it can be said: 2^61 - 1 bytes.
  EXPECT_TRUE(says(
      refusal_of_header(
          R"({"a":{"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]}})"),
      "is truncated"));
  const std::string far =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}})";
  EXPECT_TRUE(says(refusal_of_header(far), "belong to no tensor"));
}

TEST(Safetensors, RefusesOverlapsAndGaps) {
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                     R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                                     12),
                   R"(tensors "a" at [0, 8] and "b" at [4, 12] overlap)"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                     R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                                     8),
                   "overlap"));
  EXPECT_TRUE(says(refusal_of_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
                   "data bytes [0, 4]"));
}

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    directory_.write("one.safetensors",
                     file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
    directory_.write("two.safetensors",
                     file_of(R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  }
  void index(std::string_view weight_map) const {
    directory_.write("model.safetensors.index.json",
                     R"({"metadata":{},"weight_map":)" + std::string(weight_map) + "}");
  }
  [[nodiscard]] std::string refused(std::string_view weight_map) const {
    index(weight_map);
    return refusal([&] { const Safetensors tensors(directory_.path()); });
  }
  TemporaryDirectory directory_;
};

TEST_F(Shards, AreReadThroughTheIndex) {
  index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  const Safetensors tensors(directory_.path());
  EXPECT_EQ(tensors.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(tensors.at("b", std::array<std::size_t, 1>{1}).bytes.size(), 4U);
}

TEST_F(Shards, MustBeBesideTheIndex) {
  for (const std::string_view name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "..", ".",
                                      "", "a\\\\b.safetensors", "one.safetensors\\u0000"}) {
    EXPECT_TRUE(says(refused(R"({"a":")" + std::string(name) + R"("})"), "a shard is a plain file name"))
        << name;
  }
  EXPECT_TRUE(says(refused(R"({"a":"three.safetensors"})"),
                   R"(weight_map names the file "three.safetensors" for tensor "a"; there is no such file)"));
}

TEST_F(Shards, MustHoldWhatTheIndexSays) {
  EXPECT_TRUE(says(refused(R"({"a":"two.safetensors","b":"two.safetensors"})"),
                   R"(says that "two.safetensors" holds tensor "a"; it does not)"));
  EXPECT_TRUE(says(refused(R"({"a":"two.safetensors","b":"one.safetensors"})"), "it does not"));
  EXPECT_TRUE(
      says(refused(R"({"a":"one.safetensors","c":"one.safetensors"})"), R"(holds tensor "c"; it does not)"));
}

TEST_F(Shards, MustNotHoldATensorTwice) {
  directory_.write("two.safetensors", read_file(directory_.path() / "one.safetensors"));
  EXPECT_TRUE(says(refused(R"({"a":"one.safetensors","b":"two.safetensors"})"), R"(tensor "a" is also in)"));
}

TEST_F(Shards, NeedAnIndexThatIsOne) {
  EXPECT_TRUE(says(refused("{}"), "weight_map names no tensor"));
  EXPECT_TRUE(says(refused("[]"), "weight_map must be an object"));
  EXPECT_TRUE(says(refused(R"({"a":1})"), "weight_map.a must be a string"));
  directory_.write("model.safetensors.index.json", "{}");
  EXPECT_TRUE(says(refusal([&] { const Safetensors tensors(directory_.path()); }), "weight_map is missing"));
}

}  // namespace
}  // namespace mixcomm::runner
