// Random operations on several communicators in turn, each with fresh inputs and every result compared bit by
// bit.
//
//   MIXCOMM_RANDOM_OPS    how many operations, over all tests of this file together (a few thousand)
//   MIXCOMM_RANDOM_SEED   where the random numbers begin (1)
//   MIXCOMM_RANDOM_FIRST  the first operation, to begin with the one that failed (0)
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "cpu/thread_count.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/random.hpp"
#include "support/sanitized.hpp"
#include "support/spawn.hpp"
#include "verify/numbers.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

constexpr std::uint64_t default_operations = sanitized ? 800 : 5000;

constexpr int batch = 4;  // operations that follow each other before their results are looked at
constexpr std::size_t most_rows = 6;
constexpr std::size_t most_hidden = 2048;

std::uint64_t number_from(const char* variable, std::uint64_t otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

verify::Case random_case(Random& random, int dp, std::uint64_t seed) {
  using enum Algorithm;
  constexpr std::size_t hiddens[] = {1, 1, 7, 8, 33, 64, 65, 96, 130, 256};
  verify::Case c;
  c.op = static_cast<Op>(random.below(5));
  c.algorithm = random.one_of({automatic, one_shot, one_shot, two_shot, two_shot, composed});
  c.dtype = random.one_of({DType::bf16, DType::bf16, DType::fp16, DType::fp32});
  c.buffers = static_cast<verify::Buffers>(random.below(5));
  c.values = verify::Values::floats;
  c.rows = random_rows(random, dp, most_rows, 5);
  // Now and then more than a workspace holds, so that it takes several passes.
  c.hidden = random.once_in(100) ? most_hidden : random.once_in(20) ? 512 : random.one_of(hiddens);
  c.seed = seed;
  if (random.once_in(3)) c.steps = verify::some_steps(random.next(), c.buffers);
  return c;
}

struct Ensemble {
  const char* name;
  Ranks ranks;
  std::uint64_t percent;                   ///< of all operations
  std::vector<std::pair<int, int>> grids;  ///< tp and dp of each communicator
  bool helped = false;  ///< ranks have several threads, each another number, which help with every tensor
};

std::vector<Ensemble> ensembles() {
  std::vector<Ensemble> all{
      {"four_ranks", Ranks::threads, 45, {{4, 1}, {2, 2}, {1, 4}, {2, 2}}},
      {"four_ranks_of_threads", Ranks::threads, 15, {{4, 1}, {2, 2}, {1, 4}, {2, 2}}, true},
      {"three_ranks", Ranks::threads, 15, {{3, 1}, {1, 3}}},
      {"six_ranks", Ranks::threads, 10, {{3, 2}, {2, 3}, {6, 1}}},
  };
#if !defined(__SANITIZE_THREAD__)  // which does not look into the memory that processes share
  all.push_back({"four_processes", Ranks::processes, 15, {{2, 2}, {4, 1}, {1, 4}}});
#endif
  return all;
}

/// One rank's part of operations [first, first + count) of a seed.
struct Stretch {
  std::uint64_t seed;
  std::uint64_t first;
  std::uint64_t count;
};

std::string run_random(Bootstrap& bootstrap, const Ensemble& ensemble, const Stretch& run) {
  std::vector<std::unique_ptr<Communicator>> communicators;
  std::vector<std::unique_ptr<verify::Verifier>> verifiers;
  for (const auto& [tp, dp] : ensemble.grids) {
    const int threads =
        ensemble.helped ? 1 + (bootstrap.rank() + static_cast<int>(communicators.size())) % 4 : 1;
    communicators.push_back(std::make_unique<Communicator>(
        bootstrap,
        CommunicatorOptions{
            .tp = tp, .dp = dp, .workspace_bytes = verify::workspace_bytes, .cpu = {.threads = threads}}));
    verifiers.push_back(std::make_unique<verify::Verifier>(
        *communicators.back(), most_rows * most_hidden * static_cast<std::size_t>(dp), batch));
  }
  for (std::uint64_t at = run.first - run.first % batch; at < run.first + run.count; at += batch) {
    Random shared(verify::mix(run.seed) + at);
    Random mine(verify::mix(run.seed + 1 + static_cast<std::uint64_t>(bootstrap.rank())) + at);
    std::size_t which[batch];
    for (int slot = 0; slot < batch; ++slot) {
      which[slot] = shared.below(ensemble.grids.size());
      const std::uint64_t number = at + static_cast<std::uint64_t>(slot);
      verifiers[which[slot]]->prepare(
          random_case(shared, ensemble.grids[which[slot]].second, verify::mix(run.seed) + number), slot);
    }
    for (int slot = 0; slot < batch; ++slot) {
      if (mine.once_in(32)) std::this_thread::sleep_for(std::chrono::microseconds(mine.below(100)));
      if (mine.once_in(8)) std::this_thread::yield();
      verifiers[which[slot]]->launch(slot);
    }
    for (int slot = 0; slot < batch; ++slot)
      if (auto wrong = verifiers[which[slot]]->check(slot); !wrong.empty())
        return "operation " + std::to_string(at + static_cast<std::uint64_t>(slot)) + " of seed " +
               std::to_string(run.seed) + " (communicator " + std::to_string(which[slot]) + "): " + wrong +
               "; again with MIXCOMM_RANDOM_SEED=" + std::to_string(run.seed) +
               ", and MIXCOMM_RANDOM_FIRST=" + std::to_string(at) + " to begin with it";
  }
  return "";
}

class RandomOperations : public testing::TestWithParam<Ensemble> {};

TEST_P(RandomOperations, AreBitExact) {
  const Ensemble& ensemble = GetParam();
  if (ensemble.helped) cpu::thread_rule() = {.least_bytes = 1, .bytes_each = 1};
  const std::uint64_t all = number_from("MIXCOMM_RANDOM_OPS", default_operations);
  const Stretch run{.seed = number_from("MIXCOMM_RANDOM_SEED", 1),
                    .first = number_from("MIXCOMM_RANDOM_FIRST", 0),
                    .count = all * ensemble.percent / 100};
  const int world = ensemble.grids[0].first * ensemble.grids[0].second;
  const auto results = spawn(ensemble.ranks, world,
                             [&](Bootstrap& bootstrap) { return run_random(bootstrap, ensemble, run); });
  EXPECT_EQ(failures(results), "");
  std::cout << run.count << " operations from " << run.first << " on, seed " << run.seed << "\n";
}

INSTANTIATE_TEST_SUITE_P(Ranks, RandomOperations, testing::ValuesIn(ensembles()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace mixcomm::test
