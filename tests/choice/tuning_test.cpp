// Tuning tables: what they say, how they are kept, and that no rank goes by one that does not belong.
#include "mixcomm/tuning.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "mixcomm/mixcomm.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

/// For this machine, where two ranks may have a processor each or not.
TuningTable example(bool crowded) {
  return {
      .machine = machine_name(),
      .backend = BackendKind::cpu,
      .tp = 2,
      .dp = 1,
      .crowded = crowded,
      .costs = {.wait_us = 0.1, .read_gbps = 20.25, .flag_us = 1e-3},
      .choices = {{Op::all_reduce, false, {{4096, Algorithm::two_shot}, {65536, Algorithm::one_shot}, {}}},
                  {Op::all_reduce, true, {{UINT64_MAX, Algorithm::one_shot}}}}};
}

template <class Error, class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_HAS(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(Tuning, AlgorithmsGoByTheSteps) {
  const TuningTable table = example(false);
  EXPECT_EQ(table.algorithm(Op::all_reduce, false, 0), Algorithm::two_shot);
  EXPECT_EQ(table.algorithm(Op::all_reduce, false, 4096), Algorithm::two_shot);
  EXPECT_EQ(table.algorithm(Op::all_reduce, false, 4097), Algorithm::one_shot);
  EXPECT_EQ(table.algorithm(Op::all_reduce, false, 65537), Algorithm::two_shot);
  EXPECT_EQ(table.algorithm(Op::all_gather, false, 1), Algorithm::automatic);
  Circumstances c{.op = Op::all_reduce, .tp = 2, .bytes = 4096, .tuning = &table};
  EXPECT_EQ(choose(c), Algorithm::two_shot);
  EXPECT_HAS(why_chosen(c), "tuned");
  c.epilogue = true;  // of which tables know nothing
  EXPECT_EQ(choose(c), Algorithm::one_shot);
  c.epilogue = false;
  c.tuning = nullptr;
  EXPECT_EQ(choose(c), Algorithm::one_shot);
  c.tuning = &table;
  c.op = Op::all_reduce_all_gather;  // not in the table: as without one
  EXPECT_EQ(choose(c), Algorithm::one_shot);
}

TEST(Tuning, WhatIsWrittenIsRead) {
  const TuningTable table = example(true);
  const TuningTable read = TuningTable::parse(table.text(), "here");
  EXPECT_EQ(read.text(), table.text());
  EXPECT_EQ(read.hash(), table.hash());
  EXPECT_EQ(read.costs.flag_us, 1e-3);
  const std::string file = testing::TempDir() + "mixcomm_tuning_test.json";
  table.save(file);
  EXPECT_EQ(TuningTable::load(file).hash(), table.hash());
  std::filesystem::remove(file);
  EXPECT_HAS(message_of<SystemError>([&] { (void)TuningTable::load(file); }), "mixcomm tune");
  EXPECT_HAS(message_of<SystemError>([&] { table.save("/nonexistent/table.json"); }),
             "/nonexistent/table.json");
}

TEST(Tuning, EveryPartCountsForTheHash) {
  std::vector<TuningTable> tables(9, example(false));
  tables[1].machine += "!";
  tables[2].backend = BackendKind::cuda;
  tables[3].tp = 3;
  tables[4].crowded = true;
  tables[5].costs.read_gbps += 1;
  tables[6].choices[0].op = Op::all_gather;
  tables[7].choices[0].steps[0].up_to_bytes = 4095;
  tables[8].choices[1].steps[0].algorithm = Algorithm::two_shot;
  for (std::size_t a = 0; a < tables.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) EXPECT_NE(tables[a].hash(), tables[b].hash()) << a << " " << b;
}

/// As `mixcomm tune --backend cuda` makes them.
TuningTable example_of_gpus() {
  const LaunchShape lines{Protocol::lines, 0, 128};
  const LaunchShape barriers{Protocol::barriers, 32, 512};
  return {.machine = "NVIDIA H200, NVLink",
          .backend = BackendKind::cuda,
          .tp = 2,
          .dp = 2,
          .costs = {.wait_us = 0.73, .read_gbps = 356, .flag_us = 0.73},
          .choices = {{Op::all_reduce,
                       true,
                       {{8192, Algorithm::one_shot, {}},
                        {262144, Algorithm::two_shot, lines},
                        {UINT64_MAX, Algorithm::two_shot, barriers}}}}};
}

TEST(Tuning, ShapesAreReadAsTheyWereWritten) {
  const TuningTable table = example_of_gpus();
  const TuningTable read = TuningTable::parse(table.text(), "here");
  EXPECT_EQ(read.text(), table.text());
  ASSERT_EQ(read.choices.size(), 1U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(read.choices[0].steps[i].shape, table.choices[0].steps[i].shape) << i;
    EXPECT_EQ(read.choices[0].steps[i].algorithm, table.choices[0].steps[i].algorithm) << i;
  }
  std::vector<TuningTable> tables(4, table);
  tables[1].choices[0].steps[1].shape.protocol = Protocol::packets;
  tables[2].choices[0].steps[1].shape.lanes = 1;
  tables[3].choices[0].steps[1].shape.threads = 256;
  for (std::size_t a = 0; a < tables.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) EXPECT_NE(tables[a].hash(), tables[b].hash()) << a << " " << b;
}

TEST(Tuning, DamagedShapesAreRefused) {
  const auto refused = [](LaunchShape shape) {
    TuningTable table = example_of_gpus();
    table.choices[0].steps[1].shape = shape;
    return message_of<InvalidArgument>([&] { (void)TuningTable::parse(table.text(), "here"); });
  };
  EXPECT_EQ(refused({Protocol::lines, 1024, 1024}), "");
  EXPECT_HAS(refused({Protocol::lines, 0, 100}), "multiple of 32");
  EXPECT_HAS(refused({Protocol::lines, 0, 1056}), "'threads' is 1056");
  EXPECT_HAS(refused({Protocol::lines, 1025, 0}), "'lanes' is 1025");
  EXPECT_HAS(refused({Protocol::lines, -1, 0}), "'lanes'");
  const auto changed = [](const std::string& from, const std::string& to) {
    std::string text = example_of_gpus().text();
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    if (at != std::string::npos) text.replace(at, from.size(), to);
    return message_of<InvalidArgument>([&] { (void)TuningTable::parse(text, "here"); });
  };
  EXPECT_HAS(changed("\"protocol\": \"lines\"", "\"protocol\": \"pigeons\""), "pigeons");
  EXPECT_HAS(changed("\"protocol\": \"lines\"", "\"protocol\": 3"), "protocol");
  EXPECT_HAS(changed("\"protocol\": \"lines\"", "\"protocol\": \"packets\""), "hash");
  EXPECT_HAS(changed("\"threads\": 128", "\"threads\": 160"), "hash");
  EXPECT_HAS(changed("\"threads\": 128", "\"threads\": \"128\""), "threads");
  EXPECT_HAS(changed("\"lanes\": 32", "\"lanes\": 3.5"), "lanes");
}

/// A step's shape is taken by the algorithm that it was measured with; what it leaves open stays the rule's.
TEST(Tuning, ShapesGoByTheSteps) {
  TuningTable table = example_of_gpus();
  Circumstances c{.op = Op::all_reduce,
                  .tp = 2,
                  .dp = 2,
                  .bytes = 65536,
                  .symmetric = true,
                  .largest_block_bytes = 65536,
                  .backend = BackendKind::cuda,
                  .link = Link::nvlink,
                  .tuning = &table};
  Circumstances untuned = c;
  untuned.tuning = nullptr;
  EXPECT_EQ(choose(c), Algorithm::two_shot);
  EXPECT_EQ(choose_shape(c, Algorithm::two_shot), (LaunchShape{Protocol::lines, 0, 128}));
  EXPECT_EQ(choose_shape(c, Algorithm::one_shot), choose_shape(untuned, Algorithm::one_shot));
  table.choices[0].steps[1].shape = {Protocol::automatic, 0, 512};
  EXPECT_EQ(choose_shape(c, Algorithm::two_shot),
            (LaunchShape{choose_shape(untuned, Algorithm::two_shot).protocol, 0, 512}));
  c.bytes = 4096;
  EXPECT_EQ(choose(c), Algorithm::one_shot);
  c.bytes = 1U << 20U;
  EXPECT_EQ(choose_shape(c, Algorithm::two_shot), (LaunchShape{Protocol::barriers, 32, 512}));
}

/// Any one character changed or left out: another table never comes of it.
TEST(Tuning, ADamagedTableIsRefused) {
  const TuningTable table = example(false);
  const std::string text = table.text();
  int refused = 0;
  const auto try_one = [&](const std::string& damaged) {
    try {
      const TuningTable read = TuningTable::parse(damaged, "here");
      EXPECT_EQ(read.hash(), table.hash()) << damaged;  // white space, or the like
    } catch (const InvalidArgument& error) {
      ++refused;
      EXPECT_HAS(std::string(error.what()), "here");
    }
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string damaged = text;
    damaged[i] = static_cast<char>(damaged[i] ^ 1);
    try_one(damaged);
    try_one(text.substr(0, i) + text.substr(i + 1));
    try_one(text.substr(0, i));
  }
  EXPECT_GT(refused, static_cast<int>(text.size()) * 2);
  for (const char* other :
       {"", "[]", "null", "{}", "3", "{\"format\": \"mixcomm tuning table\", \"version\": 2}"})
    EXPECT_HAS(message_of<InvalidArgument>([&] { (void)TuningTable::parse(other, "here"); }), "here");
  EXPECT_HAS(message_of<InvalidArgument>([&] {
               (void)TuningTable::parse("{\"format\": \"mixcomm tuning table\", \"version\": 2}", "here");
             }),
             "version 2");
}

TEST(Tuning, ADeepTextIsRefusedAndNotFollowed) {
  constexpr std::size_t levels = 500'000;
  const std::string deep = R"({"format":)" + std::string(levels, '[') + std::string(levels, ']') + "}";
  EXPECT_HAS(message_of<InvalidArgument>([&] { (void)TuningTable::parse(deep, "deep"); }), "nested deeper");
}

TEST(Tuning, WhatADamagedTableHoldsIsPrintedAsAscii) {
  const std::string text = R"({"format": "mixcomm tuning table", "version": "\u0001\u00e9"})";
  const std::string why = message_of<InvalidArgument>([&] { (void)TuningTable::parse(text, "here"); });
  EXPECT_HAS(why, "version");
  for (const char c : why) EXPECT_TRUE(c >= ' ' && c <= '~') << why;
}

TEST(Tuning, ATableThatDoesNotHoldTogetherIsRefused) {
  const auto refused = [](auto change) {
    TuningTable table = example(false);
    change(table);
    return message_of<InvalidArgument>([&] { (void)TuningTable::parse(table.text(), "here"); });
  };
  EXPECT_HAS(refused([](TuningTable& t) { t.choices[0].steps[1].up_to_bytes = 4096; }), "ascend");
  EXPECT_HAS(refused([](TuningTable& t) { t.choices[0].steps.pop_back(); }), "last step");
  EXPECT_HAS(refused([](TuningTable& t) { t.choices[0].steps.clear(); }), "steps");
  EXPECT_HAS(refused([](TuningTable& t) { t.choices[1] = t.choices[0]; }), "two choices");
  EXPECT_HAS(refused([](TuningTable& t) { t.choices[0].steps[0].algorithm = Algorithm::composed; }),
             "composed");
  EXPECT_HAS(refused([](TuningTable& t) { t.tp = 65; }), "65");
  EXPECT_HAS(refused([](TuningTable& t) { t.costs.wait_us = -1; }), "wait_us");
}

/// What each of two ranks says about a communicator with that table.
std::vector<std::string> communicators(const std::function<std::optional<TuningTable>(int)>& table_of,
                                       int tp = 2) {
  return spawn(Ranks::threads, 2, [&](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = tp, .dp = 2 / tp, .tuning = table_of(bootstrap.rank())});
    const std::vector<float> in(5000, 1.0F);
    std::vector<float> out(5000);
    communicator.all_reduce(tensor(in.data(), 1, in.size()), tensor(out.data(), 1, out.size()));
    return out[4999] == static_cast<float>(tp) ? "" : "wrong sum";
  });
}

TEST(Tuning, ACommunicatorTakesItsOwnTableAndNoOther) {
  // Whether two ranks have a processor each here: one of the two fits, and the other is refused.
  const bool crowded = !failures(communicators([](int) { return example(false); })).empty();
  EXPECT_EQ(failures(communicators([&](int) { return example(crowded); })), "");

  for (const auto& [change, part] : std::vector<std::pair<std::function<void(TuningTable&)>, std::string>>{
           {[](TuningTable& t) { t.machine = "abacus"; }, "abacus"},
           {[](TuningTable& t) { t.backend = BackendKind::cuda; }, "backend cuda"},
           {[](TuningTable& t) { std::swap(t.tp, t.dp); }, "tp 1 x dp 2"},
           {[](TuningTable& t) { t.crowded = !t.crowded; }, "processors"}})
    for (const std::string& said : communicators([&, &change = change](int) {
           TuningTable table = example(crowded);
           change(table);
           return table;
         })) {
      EXPECT_HAS(said, part);
      EXPECT_HAS(said, "mixcomm tune");
    }
}

TEST(Tuning, RanksWithOtherTablesDisagree) {
  for (const std::string& said : communicators([](int rank) {
         TuningTable table = example(false);
         table.choices[0].steps[0].up_to_bytes += static_cast<std::uint64_t>(rank);
         return table;
       }))
    EXPECT_HAS(said, "rank 1 has");
  for (const std::string& said :
       communicators([](int rank) { return rank == 0 ? std::optional(example(false)) : std::nullopt; }))
    EXPECT_HAS(said, "tuning table none");
}

}  // namespace
}  // namespace mixcomm::test
