// Who knows the secret of a job can prove it; nothing else passes for a proof.
#include "bootstrap/secret.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mixcomm::test {
namespace {

TEST(Secrets, AreProvenByWhoKnowsThem) {
  const Secret secret("0123456789abcdef");
  const Proof proof = secret.prove("rank 1 of 4");
  EXPECT_TRUE(secret.check("rank 1 of 4", proof));
  EXPECT_TRUE(Secret("0123456789abcdef").check("rank 1 of 4", proof));
  EXPECT_FALSE(secret.check("rank 2 of 4", proof));
  EXPECT_FALSE(Secret("0123456789abcdeg").check("rank 1 of 4", proof));
  EXPECT_FALSE(Secret("").check("rank 1 of 4", proof));
  for (std::size_t i = 0; i < proof.size(); ++i) {
    Proof changed = proof;
    changed[i] ^= 1U;
    EXPECT_FALSE(secret.check("rank 1 of 4", changed)) << i;
  }
}

TEST(Secrets, AreOfAnyLength) {
  for (const std::size_t size : {0U, 1U, 32U, 64U, 65U, 100'000U}) {
    const std::string text(size, 'x');
    EXPECT_TRUE(Secret(text).check("a", Secret(text).prove("a"))) << size;
    EXPECT_FALSE(Secret(text).check("a", Secret(text + "x").prove("a"))) << size;
  }
}

TEST(Nonces, AreNeverTheSame) {
  EXPECT_NE(make_nonce(), make_nonce());
}

}  // namespace
}  // namespace mixcomm::test
