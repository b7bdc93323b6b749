#include "tools/model/step_times.hpp"

#include <algorithm>
#include <chrono>

#include "measure/statistics.hpp"

namespace mixcomm::tools {
namespace {

std::int64_t nanoseconds(runner::Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

Interval interval(const runner::CommInterval& times) {
  return {nanoseconds(times.begin), nanoseconds(times.end)};
}

using Ranks = std::vector<std::vector<RankStep>>;

/// The end of a step on the last rank.
std::int64_t end_of(const Ranks& ranks, std::size_t step) {
  std::int64_t last = ranks[0][step].end;
  for (const auto& rank : ranks) last = std::max(last, rank[step].end);
  return last;
}

/// When the last rank came to a collective.
std::int64_t all_come(const Ranks& ranks, std::size_t step, std::size_t collective) {
  std::int64_t last = ranks[0][step].collectives[collective].begin;
  for (const auto& rank : ranks) last = std::max(last, rank[step].collectives[collective].begin);
  return last;
}

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

std::vector<RankStep> rank_steps(const runner::Generated& generated) {
  std::vector<RankStep> all;
  for (std::size_t s = 0; s < generated.steps.size(); ++s) {
    const runner::StepTimes& times = generated.steps[s];
    const runner::CommInterval& exchange = generated.exchanges[s];
    RankStep step{nanoseconds(exchange.begin), nanoseconds(times.end), {interval(exchange)}};
    for (const runner::CommInterval& each : times.comm) step.collectives.push_back(interval(each));
    all.push_back(std::move(step));
  }
  return all;
}

Json to_json(const std::vector<RankStep>& steps) {
  Json all = Json::array();
  for (const RankStep& step : steps) {
    Json collectives = Json::array();
    for (const Interval& each : step.collectives) {
      collectives.push_back(each.begin);
      collectives.push_back(each.end);
    }
    all.push_back({step.begin, step.end, std::move(collectives)});
  }
  return all;
}

std::vector<RankStep> rank_steps_from(const Json& json) {
  std::vector<RankStep> all;
  for (const Json& each : json) {
    RankStep step{each[0].get<std::int64_t>(), each[1].get<std::int64_t>(), {}};
    for (std::size_t i = 0; i + 1 < each[2].size(); i += 2)
      step.collectives.push_back({each[2][i].get<std::int64_t>(), each[2][i + 1].get<std::int64_t>()});
    all.push_back(std::move(step));
  }
  return all;
}

void LatencyReport::add(const Ranks& ranks) {
  const std::size_t steps = ranks[0].size();
  if (steps == 0) return;
  std::int64_t start = ranks[0][0].begin;
  for (const auto& rank : ranks) start = std::min(start, rank[0].begin);
  prefill_ns_ += static_cast<double>(end_of(ranks, 0) - start);
  for (std::size_t s = 1; s < steps; ++s) {
    inter_token_ns_.push_back(static_cast<double>(end_of(ranks, s) - end_of(ranks, s - 1)));
    for (const auto& rank : ranks) ranks_ns_ += rank[s].end - rank[s - 1].end;
    for (std::size_t c = 0; c < ranks[0][s].collectives.size(); ++c) {
      const std::int64_t come = all_come(ranks, s, c);
      for (const auto& rank : ranks) {
        const Interval& own = rank[s].collectives[c];
        collectives_ns_ += own.end - own.begin;
        without_waiting_ns_ += std::max<std::int64_t>(own.end - come, 0);
      }
    }
  }
}

double LatencyReport::collectives_share() const {
  return share(collectives_ns_, ranks_ns_);
}

double LatencyReport::collectives_share_without_waiting() const {
  return share(without_waiting_ns_, ranks_ns_);
}

Json LatencyReport::json() const {
  Json json{{"prefill_ms", rounded(prefill_ns_ / 1e6)}, {"decode_steps", inter_token_ns_.size()}};
  const bool any = !inter_token_ns_.empty();
  json["inter_token_p50_us"] = any ? Json(rounded(percentile(inter_token_ns_, 0.5) / 1e3)) : Json();
  json["inter_token_p99_us"] = any ? Json(rounded(percentile(inter_token_ns_, 0.99) / 1e3)) : Json();
  json["collectives_share"] = any ? Json(rounded(collectives_share())) : Json();
  json["collectives_share_without_waiting"] =
      any ? Json(rounded(collectives_share_without_waiting())) : Json();
  return json;
}

}  // namespace mixcomm::tools
