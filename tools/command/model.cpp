#include "tools/command/model.hpp"

#include <cstdio>
#include <system_error>

#include "tools/command/ranks.hpp"

namespace mixcomm::tools {
namespace {

constexpr const char* default_directory = "models/tiny-qwen3_5-moe";

DType runner_dtype_from_name(std::string_view name) {
  const DType dtype = dtype_from_name(name);
  if (dtype == DType::fp16) throw InvalidArgument("models run in bf16 or fp32, not in fp16");
  return dtype;
}

}  // namespace

void add_model_flags(Flags& flags, ModelFlags& values) {
  const Integers ranks{1, values.most_ranks};
  flags.directory("--model", values.directory,
                  fmt::format("Directory of a Qwen3.5-MoE model ({})", default_directory));
  flags.number("--attn-tp", values.attn_tp, ranks, "TP ranks of attention (1)");
  flags.number("--attn-dp", values.attn_dp, ranks, "DP ranks of attention (1)");
  flags.number("--moe-tp", values.moe_tp, ranks, "TP ranks of the experts (1, or what --moe-ep leaves)");
  flags.number("--moe-ep", values.moe_ep, ranks, "EP ranks of the experts (all that divide them)");
  add_named(flags, "--algorithm", values.algorithm, algorithm_from_name,
            "auto (default), one_shot, two_shot or composed");
  add_named(flags, "--dtype", values.dtype, runner_dtype_from_name, "bf16 (default) or fp32");
}

std::filesystem::path model_directory(const ModelFlags& flags) {
  std::error_code ignored;
  if (!flags.directory.empty()) {
    if (!std::filesystem::is_directory(flags.directory, ignored))
      throw InvalidArgument(fmt::format("--model: there is no directory {}", flags.directory.string()));
    return flags.directory;
  }
  if (std::filesystem::is_directory(default_directory, ignored)) return default_directory;
  throw InvalidArgument(
      fmt::format("there is no {} here; name a model's directory with --model", default_directory));
}

runner::Parallelism parallelism_of(const ModelFlags& flags, const runner::ModelConfig& config) {
  const int world = world_of(flags.attn_tp, flags.attn_dp, flags.most_ranks);
  runner::Parallelism parallelism{flags.attn_tp, flags.attn_dp, flags.moe_tp, flags.moe_ep};
  const auto rest = [world](int ranks) {
    return world % ranks == 0 ? world / ranks : 1;
  };  // 1: check_parallelism explains
  if (flags.moe_ep == 0 && flags.moe_tp == 0) {
    int ep = world;
    while (world % ep != 0 || config.num_experts % static_cast<std::size_t>(ep) != 0) --ep;
    parallelism.moe_ep = ep;
    parallelism.moe_tp = world / ep;
  } else if (flags.moe_ep == 0) {
    parallelism.moe_ep = rest(flags.moe_tp);
  } else if (flags.moe_tp == 0) {
    parallelism.moe_tp = rest(flags.moe_ep);
  }
  check_parallelism(parallelism, config);
  return parallelism;
}

void print_notes(const std::vector<std::string>& notes) {
  if (!this_process_prints()) return;
  for (const std::string& note : notes) fmt::print(stderr, "mixcomm: note: {}\n", note);
}

Json to_json(const Parallelism& parallelism) {
  return {{"attn_tp", parallelism.attn_tp},
          {"attn_dp", parallelism.attn_dp},
          {"moe_tp", parallelism.moe_tp},
          {"moe_ep", parallelism.moe_ep},
          {"mlp_tp", parallelism.dense_tp()}};
}

}  // namespace mixcomm::tools
