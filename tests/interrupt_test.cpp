// Waits that a user ends: the hook that languages with Ctrl-C use.
#include "mixcomm/interrupt.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "mixcomm/mixcomm.hpp"

namespace mixcomm::test {
namespace {

bool always() {
  return true;
}
bool never() {
  return false;
}

TEST(Interrupt, ScopesNestAndEnd) {
  EXPECT_FALSE(interrupted());
  {
    const InterruptScope outer(always);
    EXPECT_TRUE(interrupted());
    {
      const InterruptScope inner(nullptr);
      EXPECT_FALSE(interrupted());
    }
    EXPECT_TRUE(interrupted());
  }
  EXPECT_FALSE(interrupted());
}

/// Rank 1 never comes to the second call; rank 0 waits under `check`. What each waiting rank was told.
std::vector<std::string> told(InterruptCheck check, Milliseconds timeout) {
  std::vector<std::string> texts(3);
  run_threads(3, [&](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 3, .timeout = timeout});
    std::vector<float> data(8, 1.0F);
    const auto reduce = [&] {
      communicator.all_reduce(tensor(std::as_const(data).data(), 1, 8), tensor(data.data(), 1, 8));
    };
    reduce();
    (void)bootstrap.exchange("leaving the first call", "");  // or rank 1 would learn of the interrupt in it
    if (bootstrap.rank() == 1) return;
    const InterruptScope scope(bootstrap.rank() == 0 ? check : nullptr);
    try {
      reduce();
    } catch (const Timeout& error) {
      texts[static_cast<std::size_t>(bootstrap.rank())] = error.what();
      EXPECT_EQ(error.missing(), std::vector{check == always ? 0 : 1});
    }
  });
  return texts;
}

TEST(Interrupt, EndsTheWaitOfAllRanksAndNamesTheOneThatLeft) {
  const auto texts = told(always, std::chrono::minutes(5));
  EXPECT_NE(texts[0].find("rank 0 was interrupted"), std::string::npos) << texts[0];
  EXPECT_EQ(texts[2], texts[0]);
}

TEST(Interrupt, ACheckThatSaysNoChangesNothing) {
  const auto texts = told(never, std::chrono::milliseconds(300));
  EXPECT_NE(texts[0].find("rank 1"), std::string::npos) << texts[0];
}

}  // namespace
}  // namespace mixcomm::test
