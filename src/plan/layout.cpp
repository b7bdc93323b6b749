// Layouts in words and in numbers.
#include "mixcomm/layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

constexpr std::array all_names{TeamName::attn_tp, TeamName::attn_dp, TeamName::moe_tp,
                               TeamName::moe_ep,  TeamName::mlp_tp,  TeamName::world};

Span span_of(TeamName team, const Parallelism& p) {
  const int world = p.world();
  switch (team) {
    case TeamName::attn_tp:
      return {1, p.attn_tp};
    case TeamName::attn_dp:
      return {p.attn_tp, world};
    case TeamName::moe_tp:
      return {1, p.moe_tp};
    case TeamName::moe_ep:
      return {p.moe_tp, world};
    case TeamName::mlp_tp:
      return {1, p.dense_tp()};
    case TeamName::world:
      break;
  }
  return {1, world};
}

std::string in_words(Teams teams) {
  std::string text;
  for (const TeamName each : all_names)
    if (teams.has(each)) text += (text.empty() ? "" : " x ") + std::string(name(each));
  return text;
}

int width_of(Rows rows, const Parallelism& p) {
  switch (rows) {
    case Rows::replicated:
      return p.world();
    case Rows::by_dp_rank:
      return p.attn_tp;
    case Rows::by_mlp_team:
      return p.dense_tp();
    case Rows::scattered:
      break;
  }
  return 1;
}

}  // namespace

std::string to_string(const Parallelism& p) {
  std::string text = fmt::format("attn {}x{}, moe {}x{}", p.attn_tp, p.attn_dp, p.moe_tp, p.moe_ep);
  if (p.dense_tp() != p.attn_tp) text += fmt::format(", mlp {}", p.dense_tp());
  if (p.attn_cp != 1) text += fmt::format(", cp {}", p.attn_cp);
  return text;
}

void check(const Parallelism& p) {
  struct Degree {
    std::string_view name;
    int value;
  };
  for (const Degree& each :
       {Degree{"attn_tp", p.attn_tp}, Degree{"attn_dp", p.attn_dp}, Degree{"moe_tp", p.moe_tp},
        Degree{"moe_ep", p.moe_ep}, Degree{"mlp_tp", p.dense_tp()}, Degree{"attn_cp", p.attn_cp}})
    if (each.value < 1)
      throw InvalidArgument(fmt::format("{} is {}; it must be at least 1", each.name, each.value));
  if (p.attn_cp > 1)
    throw Unsupported(fmt::format(
        "attn_cp is {}: context-parallel attention splits the tokens of one sequence over ranks, which must "
        "then exchange keys and values, or partial softmaxes with their maxima, inside of attention; that is "
        "no sum at a layer boundary, and none of the five operations. Use attn_dp or attn_tp",
        p.attn_cp));
  const std::int64_t attention = std::int64_t{p.attn_tp} * p.attn_dp;
  const std::int64_t experts = std::int64_t{p.moe_tp} * p.moe_ep;
  if (attention != experts)
    throw InvalidArgument(fmt::format(
        "attn_tp {} * attn_dp {} is {} ranks, moe_tp {} * moe_ep {} is {}; they must be the same ranks",
        p.attn_tp, p.attn_dp, attention, p.moe_tp, p.moe_ep, experts));
  if (attention > max_planned_ranks)
    throw InvalidArgument(fmt::format("attn_tp {} * attn_dp {} is {} ranks; plans are for at most {}",
                                      p.attn_tp, p.attn_dp, attention, max_planned_ranks));
  if (attention % p.dense_tp() != 0)
    throw InvalidArgument(
        fmt::format("mlp_tp {} does not divide the {} ranks; dense MLPs run in teams of mlp_tp ranks",
                    p.dense_tp(), attention));
}

std::string_view name(TeamName team) {
  switch (team) {
    case TeamName::attn_tp:
      return "attn_tp";
    case TeamName::attn_dp:
      return "attn_dp";
    case TeamName::moe_tp:
      return "moe_tp";
    case TeamName::moe_ep:
      return "moe_ep";
    case TeamName::mlp_tp:
      return "mlp_tp";
    case TeamName::world:
      break;
  }
  return "world";
}

std::string_view name(Rows rows) {
  switch (rows) {
    case Rows::replicated:
      return "replicated";
    case Rows::by_dp_rank:
      return "by DP rank";
    case Rows::by_mlp_team:
      return "by MLP team";
    case Rows::scattered:
      break;
  }
  return "scattered";
}

std::string to_string(const Layout& layout) {
  std::string text = fmt::format("rows {}, {}", name(layout.rows),
                                 layout.owed.empty() ? "complete" : "partial over " + in_words(layout.owed));
  if (!layout.columns.empty()) text += ", columns over " + in_words(layout.columns);
  return text;
}

Span span_of(Teams teams, const Parallelism& parallelism) {
  std::vector<Span> spans;
  for (const TeamName each : all_names)
    if (const Span span = span_of(each, parallelism); teams.has(each) && !span.empty()) spans.push_back(span);
  std::sort(spans.begin(), spans.end(), [](Span a, Span b) { return a.begin < b.begin; });
  if (spans.empty()) return {};
  Span all = spans[0];
  for (std::size_t i = 1; i < spans.size(); ++i) {
    if (spans[i].begin != all.end)
      throw InvalidArgument(
          fmt::format("{} is no team of {}: {}; name teams of one grid, as moe_tp x moe_ep, or world",
                      in_words(teams), to_string(parallelism),
                      spans[i].begin < all.end ? "two of them have ranks in common, which would owe twice"
                                               : "there are ranks in between that belong to none of them"));
    all.end = spans[i].end;
  }
  return all;
}

Spread spread_of(const Layout& layout, const Parallelism& parallelism) {
  check(parallelism);
  const Spread spread{width_of(layout.rows, parallelism), span_of(layout.owed, parallelism),
                      span_of(layout.columns, parallelism)};
  const auto refuse = [&](std::string_view why) {
    throw InvalidArgument(fmt::format("({}) on {}: {}", to_string(layout), to_string(parallelism), why));
  };
  if (spread.width % spread.owed.end != 0)
    refuse(
        "ranks of that team have different rows, so their values are no parts of one sum; check over which "
        "team "
        "the module is partial, or which rows it gives");
  if (spread.width % spread.columns.end != 0)
    refuse(
        "ranks of the columns' team have different rows, so their columns do not belong together; check "
        "which rows "
        "the module gives");
  if (!spread.owed.empty() && !spread.columns.empty())
    refuse("a value whose columns are spread cannot owe a sum as well; sum first");
  return spread;
}

std::string name_of(Span span, const Parallelism& parallelism) {
  if (span.empty()) return "no team";
  if (span == span_of(TeamName::world, parallelism)) return "world";
  for (const TeamName each : all_names)
    if (span == span_of(each, parallelism)) return std::string(name(each));
  return fmt::format("teams of {} ranks, {} apart", span.size(), span.begin);
}

}  // namespace mixcomm
