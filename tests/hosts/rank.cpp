// One rank of scripts/check-hosts, started by mpirun: it meets the others over MPI, and
//   rank check TP [OP...]  runs every case of the operations against the oracle
//   rank lost TP MS RANKS OP  a fused operation, again and again, until ranks are lost: those, as "2,3", must
//   be
//                          named
//   rank late              the last rank does not come to a set-up step: all others must name it
//
// Exits with 0 if all was as it should be, and says so in one line. What was lost ends the ranks before they
// could end MPI, so they leave files in the folder MIXCOMM_NOTES: exact.RANK, begun.RANK and named.RANK.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "verify/verify.hpp"

namespace mixcomm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::vector<int> numbers_in(const std::string& text) {
  std::vector<int> numbers;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    numbers.push_back(std::stoi(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return numbers;
}

int good(Bootstrap& bootstrap, const std::string& what) {
  if (bootstrap.rank() == 0) {
    const Hosts hosts = bootstrap.hosts();
    std::vector<std::size_t> sizes;
    for (int h = 0; h < hosts.count(); ++h) sizes.push_back(hosts.ranks_on(h).size());
    fmt::print("{} hosts of {} ranks: {}\n", hosts.count(), fmt::join(sizes, ", "), what);
  }
  return 0;
}

int bad(Bootstrap& bootstrap, const std::string& what) {
  fmt::print("rank {}: {}\n", bootstrap.rank(), what);
  std::fflush(stdout);
  std::this_thread::sleep_for(std::chrono::seconds(2));
  return 1;
}

/// This rank says in a file where the script looks (what a launcher prints may be cut up by others' lines).
void note(const Bootstrap& bootstrap, std::string_view what, const std::string& text) {
  if (const char* path = std::getenv("MIXCOMM_NOTES"))
    std::ofstream(fmt::format("{}/{}.{}", path, what, bootstrap.rank())) << text << '\n';
}

int check(Bootstrap& bootstrap, int tp, const std::vector<Op>& ops) {
  const int dp = bootstrap.world() / tp;
  const auto cases = verify::cases_of({.tp = tp, .dp = dp, .ops = ops, .algorithms = {}, .dtypes = {}});
  Communicator communicator(bootstrap, {.tp = tp, .dp = dp, .workspace_bytes = verify::workspace_bytes});
  verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
  if (const std::string wrong = verifier.run(cases); !wrong.empty()) return bad(bootstrap, wrong);
  (void)bootstrap.exchange("through", "");
  note(bootstrap, "exact", std::to_string(cases.size()));
  return good(bootstrap, fmt::format("tp {} x dp {}, {} cases are exact", tp, dp, cases.size()));
}

int lost(Bootstrap& bootstrap, int tp, milliseconds timeout, const std::vector<int>& expected, Op op) {
  const int dp = bootstrap.world() / tp;
  Communicator communicator(bootstrap, {.tp = tp, .dp = dp, .timeout = timeout});
  constexpr std::size_t rows = 16;
  constexpr std::size_t hidden = 4096;
  const std::size_t all_rows = static_cast<std::size_t>(dp) * rows;
  std::vector<float> one(rows * hidden, 1.0F);
  std::vector<float> all(all_rows * hidden, 1.0F);
  const auto operate = [&] {
    if (shape_of(op).body == Body::gather)
      communicator.run(op, tensor(one.data(), rows, hidden), tensor(all.data(), all_rows, hidden), rows);
    else
      communicator.run(op, tensor(all.data(), all_rows, hidden), tensor(one.data(), rows, hidden), rows);
  };
  const auto until = Clock::now() + std::chrono::seconds(60);
  for (int i = 0; Clock::now() < until; ++i) {
    const auto begin = Clock::now();
    try {
      operate();
    } catch (const Timeout& error) {
      const auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
      const std::vector<int>& named = error.missing();
      const auto is_lost = [&](int rank) { return std::ranges::find(expected, rank) != expected.end(); };
      // Who is cut off is without all others, and names those that it waits for.
      const bool right = is_lost(bootstrap.rank()) ? !named.empty() && std::ranges::none_of(named, is_lost)
                                                   : named == expected;
      if (!right)
        return bad(bootstrap, fmt::format("named {}, not {}: {}", fmt::join(named, ", "),
                                          fmt::join(expected, ", "), error.what()));
      if (took > timeout + Milliseconds(1000))  // which a busy machine takes to wake all ranks
        return bad(bootstrap, fmt::format("took {} ms with a deadline of {}", took.count(), timeout.count()));
      note(bootstrap, "named", fmt::format("{} after {} ms", fmt::join(named, ","), took.count()));
      // A launcher ends all ranks when one ends so, and others have to say what they have found.
      std::this_thread::sleep_for(std::chrono::seconds(2));
      return 0;
    }
    if (i == 20) note(bootstrap, "begun", "");
  }
  return bad(bootstrap, "nobody was lost");
}

int late(Bootstrap& bootstrap) {
  const int last = bootstrap.world() - 1;
  if (bootstrap.rank() == last) {
    std::this_thread::sleep_for(std::chrono::seconds(4));
    return 0;
  }
  try {
    (void)bootstrap.exchange("waiting for the last rank", "");
  } catch (const Timeout& error) {
    if (error.missing() != std::vector{last}) return bad(bootstrap, error.what());
    note(bootstrap, "named", std::to_string(last));
    std::this_thread::sleep_for(std::chrono::seconds(2));  // as above
    return 0;
  }
  return bad(bootstrap, "no error");
}

int run(const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  const auto bootstrap = bootstrap_mpi(what == "late" ? milliseconds(2000) : milliseconds(20'000));
  if (what == "late") return late(*bootstrap);
  const int tp = std::stoi(arguments.at(1));
  if (what == "lost")
    return lost(*bootstrap, tp, milliseconds(std::stoi(arguments.at(2))), numbers_in(arguments.at(3)),
                op_from_name(arguments.at(4)));
  std::vector<Op> ops;
  for (std::size_t i = 2; i < arguments.size(); ++i) ops.push_back(op_from_name(arguments[i]));
  return check(*bootstrap, tp, ops);
}

}  // namespace
}  // namespace mixcomm

int main(int argc, char** argv) try {
  const int code = mixcomm::run({argv + 1, argv + argc});
  std::fflush(stdout);
  // What was lost makes MPI's own end wait, or end the others: this rank has said all that it has to say.
  if (code != 0 || std::string(argc > 1 ? argv[1] : "") != "check") _exit(code);
  return code;
} catch (const std::exception& error) {
  fmt::print("{}\n", error.what());
  std::fflush(stdout);
  _exit(2);
}
