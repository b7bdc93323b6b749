#include "runner/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>
#include <vector>

#include "mixcomm/error.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::array<std::string_view, 2> prefixes{"model.", "model.language_model."};
constexpr std::string_view embedding = "embed_tokens.weight";

/// What quantized layers have in place of a "weight", or besides it: GPTQ and AWQ, compressed-tensors, FP8 in
/// blocks, MXFP4, bitsandbytes.
constexpr std::array<std::string_view, 7> quantized{
    ".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", "_blocks", ".weight.absmax", ".SCB"};

[[noreturn]] void refuse_quantized(const Safetensors& weights, std::string_view what) {
  throw InvalidArgument(fmt::format(
      "{}: the checkpoint is quantized ({}); this decoder takes tensors in BF16, F16 and F32: use the "
      "checkpoint that it was made from, or convert it back",
      weights.directory().string(), what));
}

/// "a. (12 tensors), b.c. (3 tensors)": what stands before "layers.", or else before the last two parts of a
/// name, the most frequent first.
std::string beginnings(const std::vector<std::string>& names) {
  std::map<std::string, std::size_t> counts;
  for (const std::string& name : names) {
    const std::size_t layers = name.find("layers.");
    std::size_t end = layers;
    if (layers == std::string::npos) {
      const std::size_t last = name.rfind('.');
      const std::size_t before = last == std::string::npos || last == 0 ? last : name.rfind('.', last - 1);
      end = before == std::string::npos ? 0 : before + 1;
    }
    ++counts[name.substr(0, end)];
  }
  std::vector<std::pair<std::string, std::size_t>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  constexpr std::size_t most = 5;
  std::string text;
  for (std::size_t i = 0; i < std::min(most, sorted.size()); ++i)
    text += fmt::format("{}{} ({} tensor{})", i == 0 ? "" : ", ",
                        sorted[i].first.empty() ? "nothing" : in_quotes(sorted[i].first), sorted[i].second,
                        sorted[i].second == 1 ? "" : "s");
  return text;
}

}  // namespace

std::string prefix_of(const Safetensors& weights) {
  for (const std::string_view prefix : prefixes)
    if (weights.contains(std::string(prefix) + std::string(embedding))) return std::string(prefix);
  return std::string(prefixes[0]);
}

void check_checkpoint(const ModelConfig& config, const Safetensors& weights) {
  if (!config.quantization.empty()) refuse_quantized(weights, config.quantization);
  const std::vector<std::string> names = weights.names();
  for (const std::string& name : names)
    for (const std::string_view end : quantized)
      if (name.ends_with(end))
        refuse_quantized(weights, fmt::format("it has the tensor {}", in_quotes(name)));
  const bool known = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return std::any_of(prefixes.begin(), prefixes.end(), [&name](std::string_view prefix) {
      return name == fmt::format("{}{}", prefix, embedding) ||
             name.starts_with(fmt::format("{}layers.", prefix));
    });
  });
  if (known) return;
  throw InvalidArgument(fmt::format(
      "{}: no tensor's name begins with \"{}\" or \"{}\" and goes on with \"layers.\" or \"{}\"; names "
      "begin with: {}; rename the tensors",
      weights.directory().string(), prefixes[0], prefixes[1], embedding,
      names.empty() ? "there are none" : beginnings(names)));
}

}  // namespace mixcomm::runner
