// The same model, stored in the other ways in which checkpoints come.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <map>

#include "mixcomm/error.hpp"
#include "runner/shard.hpp"
#include "runner/tiny_model.hpp"
#include "runner/tokenizer.hpp"

namespace mixcomm::runner::test {
namespace {

struct RawTensor {
  std::string dtype;
  std::vector<std::size_t> shape;
  std::string bytes;
};
using Checkpoint = std::map<std::string, RawTensor>;

/// Reads a file in the format's own terms: it shares no code with Safetensors.
Checkpoint read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::uint64_t header_bytes = 0;
  file.read(reinterpret_cast<char*>(&header_bytes), sizeof header_bytes);
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header.size()));
  const std::string data{std::istreambuf_iterator<char>(file), {}};
  Checkpoint checkpoint;
  const auto entries = nlohmann::json::parse(header);
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    const std::array<std::size_t, 2> offsets = entry.at("data_offsets");
    checkpoint[name] = {entry.at("dtype"), entry.at("shape"),
                        data.substr(offsets[0], offsets[1] - offsets[0])};
  }
  return checkpoint;
}

void write(const Checkpoint& checkpoint, const fs::path& path) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : checkpoint) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  const std::string text = header.dump();
  const std::uint64_t header_bytes = text.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes);
  file << text << data;
}

Checkpoint original() {
  return read(model_directory / "model.safetensors");
}

struct Form {
  ModelConfig config = TinyModel::get().config;
  Parallelism parallelism;
  Checkpoint checkpoint = original();
};

/// The first prompt's logits, on rank 0.
std::vector<float> load_and_run(const Form& form) {
  const TemporaryDirectory directory;
  write(form.checkpoint, directory.path() / "model.safetensors");
  const Safetensors weights(directory.path());
  std::vector<float> result;
  run_threads(form.parallelism.world(), [&](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = form.parallelism.attn_tp, .dp = form.parallelism.attn_dp});
    Decoder decoder(form.config, weights, form.parallelism, communicator, {});
    const auto logits = logits_of(decoder, {TinyModel::get().prompts[0].ids});
    if (bootstrap.rank() == 0) result = logits;
  });
  return result;
}

TEST(CheckpointForms, ConditionalGenerationPrefix) {
  Form form;
  form.checkpoint.clear();
  for (auto& [name, tensor] : original()) {
    const bool is_head = name == "lm_head.weight";
    form.checkpoint[is_head ? name : "model.language_model." + name.substr(6)] = tensor;
  }
  EXPECT_EQ(load_and_run(form), load_and_run(Form{}));
}

/// One tensor per kind, [experts, ...], from one tensor per expert.
void fuse_experts(Checkpoint& checkpoint, const std::string& prefix, const ModelConfig& config) {
  const std::size_t width = config.moe_intermediate_size;
  RawTensor gate_up{"BF16", {config.num_experts, 2 * width, config.hidden_size}, ""};
  RawTensor down{"BF16", {config.num_experts, config.hidden_size, width}, ""};
  for (std::size_t e = 0; e < config.num_experts; ++e) {
    const std::string expert = prefix + std::to_string(e);
    gate_up.bytes += checkpoint.at(expert + ".gate_proj.weight").bytes;
    gate_up.bytes += checkpoint.at(expert + ".up_proj.weight").bytes;
    down.bytes += checkpoint.at(expert + ".down_proj.weight").bytes;
    for (const char* kind : {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"}) {
      checkpoint.erase(expert + kind);
    }
  }
  checkpoint[prefix + "gate_up_proj"] = gate_up;
  checkpoint[prefix + "down_proj"] = down;
}

// transformers saves experts one by one; in memory, and in some published checkpoints, they are fused.
TEST(CheckpointForms, FusedExperts) {
  for (const Parallelism& parallelism :
       {Parallelism{1, 1, 1, 1}, Parallelism{2, 1, 2, 1}, Parallelism{2, 1, 1, 2}}) {
    Form one_by_one;
    one_by_one.parallelism = parallelism;
    ASSERT_TRUE(one_by_one.checkpoint.contains("model.layers.0.mlp.experts.0.gate_proj.weight"));
    Form fused = one_by_one;
    for (std::size_t layer = 0; layer < fused.config.layers.size(); ++layer) {
      fuse_experts(fused.checkpoint, "model.layers." + std::to_string(layer) + ".mlp.experts.", fused.config);
    }
    EXPECT_EQ(load_and_run(fused), load_and_run(one_by_one));
  }
}

TEST(CheckpointForms, TiedEmbeddings) {
  Form tied;
  tied.config.tie_word_embeddings = true;
  tied.checkpoint.erase("lm_head.weight");
  Form copied;
  copied.checkpoint["lm_head.weight"] = copied.checkpoint.at("model.embed_tokens.weight");
  EXPECT_EQ(load_and_run(tied), load_and_run(copied));
}

TEST(CheckpointForms, StoredAsFp32) {
  Form form;
  for (auto& [name, tensor] : form.checkpoint) {
    if (tensor.dtype != "BF16") continue;
    std::string wide;
    for (std::size_t i = 0; i < tensor.bytes.size(); i += 2)
      wide += std::string(2, '\0') + tensor.bytes.substr(i, 2);
    tensor = {"F32", tensor.shape, wide};
  }
  EXPECT_EQ(load_and_run(form), load_and_run(Form{}));
}

TEST(CheckpointForms, AMissingTensorIsNamed) {
  for (const std::string name : {"lm_head.weight", "model.norm.weight", "model.layers.0.mlp.gate.weight"}) {
    Form form;
    form.checkpoint.erase(name);
    try {
      (void)load_and_run(form);
      ADD_FAILURE() << "loaded without " << name;
    } catch (const InvalidArgument& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  }
}

TEST(CheckpointForms, AWrongShapeIsNamed) {
  Form form;
  form.config.moe_intermediate_size /= 2;
  try {
    (void)load_and_run(form);
    ADD_FAILURE() << "loaded";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("experts.0.gate_proj.weight"), std::string::npos)
        << error.what();
  }
}

/// What loading says.
std::string refusal_of(const Form& form) {
  return refusal([&] { (void)load_and_run(form); });
}

/// The quantization is named, not one of the hundred tensors that are missing for it.
TEST(CheckpointForms, QuantizedOnesAreNamed) {
  Form by_config;
  by_config.config.quantization = "gptq, 4 bits, says quantization_config in config.json";
  EXPECT_TRUE(says(refusal_of(by_config), "the checkpoint is quantized (gptq, 4 bits,"));
  EXPECT_TRUE(says(refusal_of(by_config), "BF16, F16 and F32"));
  for (const char* end : {".qweight", ".weight_packed", ".weight_scale_inv", "_blocks"}) {
    Form by_tensors;
    const std::string name = std::string("model.layers.0.mlp.experts.0.gate_proj") + end;
    by_tensors.checkpoint[name] = {"I32", {1}, std::string(4, '\0')};
    by_tensors.checkpoint.erase("model.layers.0.mlp.experts.0.gate_proj.weight");
    EXPECT_TRUE(
        says(refusal_of(by_tensors), "the checkpoint is quantized (it has the tensor \"" + name + "\")"));
  }
}

TEST(CheckpointForms, OtherPrefixesAreShown) {
  for (const std::string prefix :
       {"model.language_model.language_model.", "language_model.model.", "transformer."}) {
    Form form;
    form.checkpoint.clear();
    for (auto& [name, tensor] : original())
      form.checkpoint[name == "lm_head.weight" ? name : prefix + name.substr(6)] = tensor;
    const std::string message = refusal_of(form);
    EXPECT_TRUE(says(message, "names begin with: \"" + prefix + "\" ("));
    EXPECT_TRUE(says(message, R"("model." or "model.language_model.")"));
  }
}

/// A clone without Git LFS has text in place of large files.
TEST(CheckpointForms, GitLfsPointersAreNamed) {
  constexpr const char* pointer =
      "version https://git-lfs.github.com/spec/v1\n"
      "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
  const TemporaryDirectory directory;
  directory.write("model.safetensors", pointer);
  directory.write("config.json", pointer);
  const auto expected = [](const std::string& message, const char* file) {
    EXPECT_TRUE(
        says(message, std::string(file) + ": is a Git LFS pointer, not the file itself (of 12345 bytes)"));
    EXPECT_TRUE(says(message, "git lfs pull"));
  };
  expected(refusal([&] { (void)Safetensors(directory.path()); }), "model.safetensors");
  expected(refusal([&] { (void)read_model_config(directory.path()); }), "config.json");
  fs::remove(directory.path() / "model.safetensors");
  directory.write("tokenizer.json", pointer);
  directory.write("model.safetensors.index.json", pointer);
  expected(refusal([&] { (void)Safetensors(directory.path()); }), "model.safetensors.index.json");
  expected(refusal([&] { (void)Tokenizer(directory.path()); }), "tokenizer.json");
}

TEST(CheckpointForms, EveryFp16Value) {
  std::string bytes;
  for (unsigned bits = 0; bits < 0x10000U; ++bits) {
    bytes += static_cast<char>(bits & 0xFFU);
    bytes += static_cast<char>(bits >> 8U);
  }
  const TemporaryDirectory directory;
  write({{"model.half", {"F16", {0x10000}, bytes}}}, directory.path() / "model.safetensors");
  const Safetensors weights(directory.path());
  const auto values = Shards(weights, Precision(DType::fp32)).vector("half", 0x10000);
  for (unsigned bits = 0; bits < 0x10000U; ++bits) {
    const int exponent = static_cast<int>((bits >> 10U) & 0x1FU);
    const auto mantissa = static_cast<float>(bits & 0x3FFU);
    if (exponent == 31 && mantissa > 0.0F) {
      EXPECT_TRUE(std::isnan(values[bits])) << bits;
      continue;
    }
    const float magnitude = exponent == 31  ? std::numeric_limits<float>::infinity()
                            : exponent == 0 ? std::ldexp(mantissa, -24)
                                            : std::ldexp(mantissa + 1024.0F, exponent - 25);
    const float expected = bits >= 0x8000U ? -magnitude : magnitude;
    EXPECT_EQ(std::bit_cast<std::uint32_t>(values[bits]), std::bit_cast<std::uint32_t>(expected)) << bits;
  }
}

TEST(CheckpointForms, RoundingToBf16) {
  EXPECT_EQ(bf16_bits(1.0F), 0x3F80);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3F808000U)), 0x3F80);  // a tie goes to the even one
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3F818000U)), 0x3F82);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x3F808001U)), 0x3F81);
  EXPECT_EQ(bf16_bits(std::bit_cast<float>(0x7F7FFFFFU)), 0x7F80);  // beyond the largest: infinity
  EXPECT_EQ(bf16_bits(-0.0F), 0x8000);
  EXPECT_TRUE(std::isnan(from_bf16_bits(bf16_bits(std::bit_cast<float>(0x7FFFFFFFU)))));
  EXPECT_TRUE(std::isnan(from_bf16_bits(bf16_bits(std::bit_cast<float>(0xFF800001U)))));
}

}  // namespace
}  // namespace mixcomm::runner::test
