#include "runner/parallelism.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <string_view>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm::runner {
namespace {

using Sizes = std::vector<std::size_t>;

/// Ascending.
Sizes divisors(std::size_t number) {
  Sizes result;
  for (std::size_t d = 1; d <= number / d; ++d) {
    if (number % d != 0) continue;
    result.push_back(d);
    if (d != number / d) result.push_back(number / d);
  }
  std::sort(result.begin(), result.end());
  return result;
}

/// Each TP rank has whole KV heads, or shares one with its neighbours.
bool spreads_kv_heads(std::size_t tp, std::size_t heads) {
  return heads % tp == 0 || tp % heads == 0;
}

Sizes possible_attn_tp(const ModelConfig& config) {
  Sizes result = divisors(std::gcd(config.num_attention_heads,
                                   std::gcd(config.linear_num_key_heads, config.linear_num_value_heads)));
  std::erase_if(result,
                [&config](std::size_t tp) { return !spreads_kv_heads(tp, config.num_key_value_heads); });
  return result;
}

std::string one_of(const std::vector<std::string>& names) {
  std::string result;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i > 0) result += i + 1 == names.size() ? " or " : ", ";
    result += names[i];
  }
  return result;
}

/// "1, 2, 4 or 8": of many, those nearest to what was asked for.
std::string nearest(Sizes sizes, std::size_t wanted) {
  constexpr std::size_t max_listed = 8;
  const auto distance = [wanted](std::size_t size) { return size > wanted ? size - wanted : wanted - size; };
  std::stable_sort(sizes.begin(), sizes.end(),
                   [&distance](std::size_t a, std::size_t b) { return distance(a) < distance(b); });
  if (sizes.size() > max_listed) sizes.resize(max_listed);
  std::sort(sizes.begin(), sizes.end());
  std::vector<std::string> names;
  for (const std::size_t size : sizes) names.push_back(std::to_string(size));
  return one_of(names);
}

struct Degree {
  std::string_view name;
  std::size_t value;
};

[[noreturn]] void refuse(const Degree& degree, std::string_view rule, const Sizes& possible) {
  throw InvalidArgument(fmt::format("{} {} {} of this model; {} may be {}", degree.name, degree.value, rule,
                                    degree.name, nearest(possible, degree.value)));
}

void check_positive(std::string_view name, int value) {
  if (value < 1) throw InvalidArgument(fmt::format("{} is {}; it must be at least 1", name, value));
}

/// A config that was read from a file has none of these 0; one that was filled in by hand may.
void check_has(std::string_view what, std::size_t value) {
  if (value == 0)
    throw InvalidArgument(fmt::format("the model has no {} (0); there is nothing to spread", what));
}

void check_attention(std::size_t attn_tp, const ModelConfig& config) {
  const Degree degree{"attn_tp", attn_tp};
  struct Part {
    std::string_view what;
    std::size_t count;
  };
  for (const Part& part : {Part{"attention heads", config.num_attention_heads},
                           Part{"DeltaNet key heads", config.linear_num_key_heads},
                           Part{"DeltaNet value heads", config.linear_num_value_heads}}) {
    if (part.count % attn_tp == 0) continue;
    refuse(degree, fmt::format("does not divide the {} {}", part.count, part.what), possible_attn_tp(config));
  }
  if (!spreads_kv_heads(attn_tp, config.num_key_value_heads)) {
    refuse(degree,
           fmt::format("neither divides nor is a multiple of the {} KV heads", config.num_key_value_heads),
           possible_attn_tp(config));
  }
}

void check_experts(std::size_t moe_tp, std::size_t moe_ep, const ModelConfig& config) {
  if (config.moe_intermediate_size % moe_tp != 0) {
    refuse({"moe_tp", moe_tp},
           fmt::format("does not divide the expert width {}", config.moe_intermediate_size),
           divisors(config.moe_intermediate_size));
  }
  if (config.num_experts % moe_ep != 0) {
    refuse({"moe_ep", moe_ep}, fmt::format("does not divide the {} experts", config.num_experts),
           divisors(config.num_experts));
  }
}

/// "2x4, 4x2": how the experts can be spread over that many ranks.
std::vector<std::string> possible_moe(std::size_t ranks, const ModelConfig& config) {
  std::vector<std::string> result;
  for (const std::size_t tp : divisors(ranks)) {
    if (config.moe_intermediate_size % tp == 0 && config.num_experts % (ranks / tp) == 0) {
      result.push_back(fmt::format("{}x{}", tp, ranks / tp));
    }
  }
  return result;
}

}  // namespace

void check_parallelism(const Parallelism& parallelism, const ModelConfig& config) {
  check_positive("attn_tp", parallelism.attn_tp);
  check_positive("attn_dp", parallelism.attn_dp);
  check_positive("moe_tp", parallelism.moe_tp);
  check_positive("moe_ep", parallelism.moe_ep);
  check_has("attention heads", config.num_attention_heads);
  check_has("KV heads", config.num_key_value_heads);
  check_has("DeltaNet key heads", config.linear_num_key_heads);
  check_has("DeltaNet value heads", config.linear_num_value_heads);
  check_has("expert width", config.moe_intermediate_size);
  check_has("experts", config.num_experts);

  const auto moe_tp = static_cast<std::size_t>(parallelism.moe_tp);
  const auto moe_ep = static_cast<std::size_t>(parallelism.moe_ep);
  check_attention(static_cast<std::size_t>(parallelism.attn_tp), config);
  check_experts(moe_tp, moe_ep, config);

  // In 64 bits: world() is an int, and the degrees come from a command line.
  const auto attn_ranks =
      static_cast<std::size_t>(parallelism.attn_tp) * static_cast<std::size_t>(parallelism.attn_dp);
  const std::size_t moe_ranks = moe_tp * moe_ep;
  if (attn_ranks > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    throw InvalidArgument(fmt::format("attn_tp {} * attn_dp {} is {} ranks, more than there can be",
                                      parallelism.attn_tp, parallelism.attn_dp, attn_ranks));
  }
  if (attn_ranks == moe_ranks) return;
  const std::vector<std::string> layouts = possible_moe(attn_ranks, config);
  const std::string way_out =
      layouts.empty() ? fmt::format("this model's experts cannot be spread over {} ranks", attn_ranks)
                      : fmt::format("over {} ranks, moe_tp x moe_ep may be {}", attn_ranks, one_of(layouts));
  throw InvalidArgument(fmt::format(
      "attn_tp {} * attn_dp {} is {} ranks, moe_tp {} * moe_ep {} is {}; they must be the same ranks; {}",
      parallelism.attn_tp, parallelism.attn_dp, attn_ranks, moe_tp, moe_ep, moe_ranks, way_out));
}

}  // namespace mixcomm::runner
