// Takes times of jobs whose ranks are on several hosts, in turns, for scripts/bench-hosts, which has made the
// hosts and says how each job is started:
//
//   bench_hosts OPTION=VALUE... -- JOB WORKER LAUNCHER ARGUMENT... -- JOB WORKER LAUNCHER ARGUMENT...
//
// seconds, rows, hidden, tp, dp, ops: of the cells; interfaces: whose received bytes are what hosts have
// sent; json: where the results go. A job named mixcomm/X is this library over X, any other one an MPI's two
// calls; one whose name ends in /within has two ranks on one host.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "measure/mpi/job.hpp"
#include "measure/split.hpp"
#include "measure/statistics.hpp"
#include "mixcomm/mixcomm.hpp"

namespace mixcomm::tools {
namespace {

using Json = nlohmann::json;

struct Options {
  std::map<std::string, std::string> values;
  [[nodiscard]] const std::string& at(const std::string& key) const {
    const auto found = values.find(key);
    if (found == values.end()) throw InvalidArgument(fmt::format("there is no {}=", key));
    return found->second;
  }
  [[nodiscard]] int number(const std::string& key) const { return std::stoi(at(key)); }
};

/// A job and how it is started: one that has refused a call is started again.
class Contestant {
 public:
  Contestant(std::string name, const mpi::Flavour& flavour, const mpi::JobOptions& options)
      : name_(std::move(name)), flavour_(flavour), options_(options) {
    start();
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] bool is_ours() const { return name_.starts_with("mixcomm/"); }
  [[nodiscard]] bool is_within() const { return name_.ends_with("/within"); }
  mpi::Job& job() { return *job_; }

  /// Makes some calls and compares the last result with the exact sums. "", or why the library refuses it.
  std::string try_out(const Cell& cell, std::size_t hidden) {
    try {
      call(cell, hidden, 4, true);
      return "";
    } catch (const SystemError& error) {
      const std::string said = error.what();
      if (!is_ours() || said.find("so far") == std::string::npos) throw;
      start();
      return said;
    }
  }
  void call(const Cell& cell, std::size_t hidden, std::uint32_t calls, bool check) {
    job_->order(cell, hidden, calls, check);
    job_->wait();
  }

 private:
  void start() {
    job_.reset();
    job_ = std::make_unique<mpi::Job>(flavour_, flavour_.settings.front(), options_);
    job_->order({}, 0, 0, false);
    job_->wait();
  }

  std::string name_;
  mpi::Flavour flavour_;
  mpi::JobOptions options_;
  std::unique_ptr<mpi::Job> job_;
};

/// Bytes that came in at these interfaces, which are what the hosts behind them have sent.
std::uint64_t received_at(const std::vector<std::string>& interfaces) {
  std::ifstream file("/proc/self/net/dev");
  std::uint64_t sum = 0;
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    std::string name = line.substr(0, colon);
    name.erase(0, name.find_first_not_of(' '));
    if (std::ranges::find(interfaces, name) == interfaces.end()) continue;
    std::istringstream numbers(line.substr(colon + 1));
    std::uint64_t bytes = 0;
    numbers >> bytes;
    sum += bytes;
  }
  return sum;
}

/// Of all hosts together, in one call: each host's rows once to each other host; of sums over DP, each host's
/// partial sums of the rows of others, in fp32 unless they are of one rank. An operation over one team is
/// each TP rank's own.
double must_cross(Op op, std::size_t rows, std::size_t hidden, DType dtype, int tp, int dp, int hosts) {
  const TeamKind team = shape_of(op).team;
  if (team == TeamKind::tp) return 0;
  const bool each_its_own = team == TeamKind::dp;
  const int added_up = shape_of(op).body == Body::scatter ? dp / hosts * (each_its_own ? 1 : tp) : 1;
  const double row =
      static_cast<double>(hidden) * static_cast<double>(added_up > 1 ? sizeof(float) : size_of(dtype));
  return (each_its_own ? tp : 1) * static_cast<double>(dp) * (hosts - 1) * static_cast<double>(rows) * row;
}

struct Taken {
  Latencies us;
  std::uint64_t bytes = 0;
  std::uint64_t calls = 0;
};

class Contest {
 public:
  Contest(const Options& options, std::vector<std::unique_ptr<Contestant>>& all)
      : all_(all),
        seconds_(std::stod(options.at("seconds"))),
        hidden_(static_cast<std::size_t>(options.number("hidden"))),
        tp_(options.number("tp")),
        dp_(options.number("dp")),
        interfaces_(split(options.at("interfaces"))) {}

  Json measure(Op op, std::size_t rows) {
    const std::vector<Entry> entries = entries_of(op, rows);
    Json row{{"op", name(op)},
             {"tp", tp_},
             {"dp", dp_},
             {"rows", std::vector(static_cast<std::size_t>(dp_), rows)}};
    std::vector<Entry> here;
    for (const Entry& each : entries) {
      const std::string refused = each.contestant->try_out(each.cell, hidden_);
      if (refused.empty())
        here.push_back(each);
      else
        row["not_yet"][each.contestant->name()] = refused;
    }
    if (row.contains("not_yet")) return row;
    std::vector<Taken> taken(here.size());
    std::vector<std::uint32_t> calls(here.size(), 4);
    constexpr double chunk_us = 30'000;
    const auto begin = std::chrono::steady_clock::now();
    for (int round = 0;; ++round) {
      const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      if (round > least_rounds && passed > seconds_) break;
      for (std::size_t i = 0; i < here.size(); ++i) {
        Contestant& each = *here[i].contestant;
        Latencies some;
        const std::uint64_t before = received_at(interfaces_);
        each.call(here[i].cell, hidden_, calls[i], false);
        each.job().collect(some);
        if (round > 0) {  // the first one says how many calls fill a chunk
          taken[i].bytes += received_at(interfaces_) - before;
          taken[i].calls += calls[i];
          taken[i].us.insert(taken[i].us.end(), some.begin(), some.end());
        }
        const double one = std::max(median(some), 1.0);
        calls[i] = static_cast<std::uint32_t>(std::clamp(chunk_us / one, 4.0, double{mpi::most_calls}));
      }
    }
    const double must = must_cross(op, rows, hidden_, DType::bf16, tp_, dp_, 2);
    row["must_cross_bytes"] = must;
    for (std::size_t i = 0; i < here.size(); ++i) {
      Taken& t = taken[i];
      Json& cell = row["jobs"][here[i].contestant->name()];
      cell["calls"] = t.calls;
      std::ranges::sort(t.us);
      cell["p50_us"] = rounded(median(t.us));
      cell["p10_us"] = rounded(t.us[t.us.size() / 10]);
      if (here[i].contestant->is_within()) {
        cell["op"] = name(here[i].cell.op);
        continue;
      }
      const double bytes = static_cast<double>(t.bytes) / static_cast<double>(t.calls);
      cell["wire_bytes"] = rounded(bytes);
      if (must > 0) cell["wire_over_must"] = rounded(bytes / must);
    }
    return row;
  }

 private:
  static constexpr int least_rounds = 7;
  struct Entry {
    Contestant* contestant;
    Cell cell;
  };

  /// Those within a host make what the two levels make there: the operation on one host's DP rank, and the
  /// gather of what the other host's ranks have sent, a half each.
  std::vector<Entry> entries_of(Op op, std::size_t rows) {
    std::vector<Entry> entries;
    for (const auto& each : all_) {
      Cell cell;
      cell.op = op;
      cell.rows.assign(static_cast<std::size_t>(dp_), rows);
      if (each->is_within()) {
        if (op != Op::all_reduce_all_gather) continue;
        const bool sums = each->name().find("sum") != std::string::npos;
        cell.op = sums ? Op::all_reduce : Op::all_gather;
        cell.rows = sums ? std::vector{rows} : std::vector{rows - rows / 2, rows / 2};
      }
      entries.push_back({each.get(), cell});
    }
    return entries;
  }

  std::vector<std::unique_ptr<Contestant>>& all_;
  double seconds_;
  std::size_t hidden_;
  int tp_;
  int dp_;
  std::vector<std::string> interfaces_;
};

int drive(const std::vector<std::string>& words) {
  Options options;
  std::size_t at = 0;
  for (; at < words.size() && words[at] != "--"; ++at) {
    const std::size_t equals = words[at].find('=');
    if (equals == std::string::npos) throw InvalidArgument(fmt::format("'{}' is no OPTION=VALUE", words[at]));
    options.values[words[at].substr(0, equals)] = words[at].substr(equals + 1);
  }
  std::size_t most_rows = 1;
  std::vector<std::size_t> sweep;
  for (const std::string& each : split(options.at("rows"))) {
    sweep.push_back(std::stoul(each));
    most_rows = std::max(most_rows, sweep.back());
  }
  const std::size_t most_bytes = most_rows * static_cast<std::size_t>(options.number("hidden")) *
                                 static_cast<std::size_t>(options.number("dp")) * sizeof(std::uint16_t);
  std::vector<std::unique_ptr<Contestant>> all;
  while (at < words.size()) {
    const std::size_t end = static_cast<std::size_t>(
        std::find(words.begin() + static_cast<std::ptrdiff_t>(at) + 1, words.end(), "--") - words.begin());
    if (end - at < 4) throw InvalidArgument("a job has a name, a worker and a launcher");
    const std::string& job = words[at + 1];
    const bool within = job.ends_with("/within");
    const bool gathers = job.find("gather") != std::string::npos;
    mpi::Flavour flavour{.name = job,
                         .launcher = words[at + 3],
                         .worker = words[at + 2],
                         .packages = "an MPI",
                         .settings = {{.name = "hosts",
                                       .arguments = {words.begin() + static_cast<std::ptrdiff_t>(at) + 4,
                                                     words.begin() + static_cast<std::ptrdiff_t>(end)},
                                       .environment = {},
                                       .binds = false}}};
    mpi::JobOptions of_job{.tp = within ? (gathers ? 1 : 2) : options.number("tp"),
                           .dp = within ? (gathers ? 2 : 1) : options.number("dp"),
                           .threads = 1,
                           .dtype = DType::bf16,
                           .most_bytes = most_bytes,
                           .timeout = Milliseconds(30'000)};
    all.push_back(std::make_unique<Contestant>(job, flavour, of_job));
    at = end;
  }
  Contest contest(options, all);
  Json rows = Json::array();
  for (const std::string& op : split(options.at("ops")))
    for (const std::size_t each : sweep) {
      Json row = contest.measure(op_from_name(op), each);
      fmt::print("{}\n", row.dump());
      std::fflush(stdout);
      const bool refused = row.contains("not_yet");
      rows.push_back(std::move(row));
      if (refused) break;  // at any size
    }
  std::ofstream file(options.at("json"));
  file << Json{{"rows", rows}}.dump(1) << '\n';
  file.close();
  if (!file) throw SystemError("cannot write " + options.at("json"));
  return 0;
}

}  // namespace
}  // namespace mixcomm::tools

int main(int argc, char** argv) try {
  return mixcomm::tools::drive({argv + 1, argv + argc});
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_hosts: {}\n", error.what());
  return 2;
}
