// The tiny model, and what transformers computed with it (tests/data/README.md).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "mixcomm/mixcomm.hpp"
#include "runner/decoder.hpp"
#include "runner/generate.hpp"
#include "runner/temporary_directory.hpp"

namespace mixcomm::runner::test {

namespace fs = std::filesystem;

inline const fs::path model_directory = fs::path(MIXCOMM_SOURCE_DIR) / "models" / "tiny-qwen3_5-moe";
inline const fs::path data_directory = fs::path(MIXCOMM_SOURCE_DIR) / "tests" / "data";

struct ReferencePrompt {
  std::vector<int> ids;
  std::vector<int> continuation;   ///< greedy, fp32
  std::vector<float> logits;       ///< ids.size() x vocab_size, fp32
  std::vector<float> logits_bf16;  ///< the same of the model in bf16
};

struct TinyModel {
  ModelConfig config;
  Safetensors weights;
  int eos = 0;
  std::vector<ReferencePrompt> prompts;

  /// Read once, used by all tests and all rank threads.
  static const TinyModel& get() {
    static const TinyModel model;
    return model;
  }

 private:
  TinyModel() : config(read_model_config(model_directory)), weights(model_directory) {
    const auto reference = nlohmann::json::parse(std::ifstream(data_directory / "reference.json"));
    eos = reference.at("eos");
    TemporaryDirectory
        links;  // Safetensors reads a model's directory; this makes one of the reference's file
    fs::create_symlink(data_directory / "reference_logits.safetensors", links.path() / "model.safetensors");
    const Safetensors logits(links.path());
    for (const auto& prompt : reference.at("prompts")) {
      ReferencePrompt read{prompt.at("ids"), prompt.at("continuation"), {}, {}};
      const std::string number = std::to_string(prompts.size());
      read.logits = floats(logits, "logits." + number, read.ids.size());
      read.logits_bf16 = floats(logits, "logits_bf16." + number, read.ids.size());
      prompts.push_back(std::move(read));
    }
  }

  [[nodiscard]] std::vector<float> floats(const Safetensors& from, const std::string& name,
                                          std::size_t rows) const {
    const std::vector<std::size_t> shape{rows, config.vocab_size};
    const StoredTensor& tensor = from.at(name, shape);
    std::vector<float> values(rows * config.vocab_size);
    if (tensor.dtype != DType::fp32) throw std::runtime_error(name + " is not fp32");
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
};

/// One rank of the tiny model.
struct Rank {
  Communicator communicator;
  Decoder decoder;

  Rank(Bootstrap& bootstrap, const Parallelism& parallelism, const DecoderOptions& options)
      : communicator(bootstrap, {.tp = parallelism.attn_tp, .dp = parallelism.attn_dp}),
        decoder(TinyModel::get().config, TinyModel::get().weights, parallelism, communicator, options) {}
};

/// Logits of every position of the given token lists, in one step on one rank.
inline std::vector<float> logits_of(Decoder& decoder, const std::vector<std::vector<int>>& prompts) {
  std::vector<SequenceInput> inputs;
  std::size_t rows = 0;
  for (const auto& prompt : prompts) {
    inputs.push_back({inputs.size(), prompt});
    rows += prompt.size();
  }
  const std::vector<std::size_t> counts{rows};
  const auto logits = decoder.step(inputs, counts, true);
  for (std::size_t i = 0; i < prompts.size(); ++i) decoder.release(i);
  return {logits.begin(), logits.end()};
}

struct Difference {
  double largest = 0.0;
  double median = 0.0;
};

/// Of |a - b|, element by element; NaN is the largest of all.
inline Difference difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size() || a.empty()) throw std::runtime_error("nothing to compare, or different sizes");
  std::vector<double> each(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    each[i] = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (std::isnan(each[i])) each[i] = std::numeric_limits<double>::infinity();
  }
  const auto middle = each.begin() + static_cast<std::ptrdiff_t>(each.size() / 2);
  std::nth_element(each.begin(), middle, each.end());
  return {*std::max_element(each.begin(), each.end()), *middle};
}

}  // namespace mixcomm::runner::test
