#include "tools/step_times.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "tools/statistics.hpp"

namespace mixcomm::tools {
namespace {

std::int64_t nanoseconds(runner::Clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

/// The largest (or smallest) over the ranks of what `get` takes from a rank's step.
template <class Get>
std::pair<double, double> range(const std::vector<Json>& ranks, std::size_t step, const Get& get) {
  double least = get(ranks[0][step]);
  double most = least;
  for (const Json& rank : ranks) {
    least = std::min(least, get(rank[step]));
    most = std::max(most, get(rank[step]));
  }
  return {least, most};
}

double begin_of(const Json& step) {
  return step[0].get<double>();
}
double end_of(const Json& step) {
  return step[1].get<double>();
}

double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

}  // namespace

Json to_json(const std::vector<runner::StepTimes>& steps) {
  Json all = Json::array();
  for (const runner::StepTimes& step : steps) {
    Json comm = Json::array();
    for (const runner::CommInterval& each : step.comm) {
      comm.push_back(nanoseconds(each.begin));
      comm.push_back(nanoseconds(each.end));
    }
    all.push_back({nanoseconds(step.begin), nanoseconds(step.end), std::move(comm)});
  }
  return all;
}

void LatencyReport::add(const std::vector<Json>& ranks) {
  const std::size_t steps = ranks[0].size();
  if (steps == 0) return;
  const auto [start, first_begin] = range(ranks, 0, begin_of);
  double before = range(ranks, 0, end_of).second;
  prefill_ns_ += before - start;
  for (std::size_t s = 1; s < steps; ++s) {
    const double end = range(ranks, s, end_of).second;
    inter_token_ns_.push_back(end - before);
    decode_ns_ += end - before;
    before = end;
    for (std::size_t i = 0; i + 1 < ranks[0][s][2].size(); i += 2) {
      const auto come = range(ranks, s, [i](const Json& step) { return step[2][i].get<double>(); }).second;
      const auto gone =
          range(ranks, s, [i](const Json& step) { return step[2][i + 1].get<double>(); }).second;
      comm_without_waiting_ns_ += gone - come;
      for (const Json& rank : ranks)
        comm_ns_ += (rank[s][2][i + 1].get<double>() - rank[s][2][i].get<double>()) /
                    static_cast<double>(ranks.size());
    }
  }
}

Json LatencyReport::json() const {
  Json json{{"prefill_ms", rounded(prefill_ns_ / 1e6)}, {"decode_steps", inter_token_ns_.size()}};
  const bool any = !inter_token_ns_.empty();
  json["inter_token_p50_us"] = any ? Json(rounded(percentile(inter_token_ns_, 0.5) / 1e3)) : Json();
  json["inter_token_p99_us"] = any ? Json(rounded(percentile(inter_token_ns_, 0.99) / 1e3)) : Json();
  json["collectives_share"] = any ? Json(rounded(comm_ns_ / decode_ns_)) : Json();
  json["collectives_share_without_waiting"] =
      any ? Json(rounded(comm_without_waiting_ns_ / decode_ns_)) : Json();
  return json;
}

}  // namespace mixcomm::tools
