// The secret of a job: who knows it can prove it, and does not tell it.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace mixcomm {

/// Random bytes that are used once, so that no answer to them can be one that was heard before.
using Nonce = std::array<unsigned char, 32>;
/// A keyed hash.
using Proof = std::array<unsigned char, 32>;

/// Throws SystemError where the system gives no random bytes.
[[nodiscard]] Nonce make_nonce();

class Secret {
 public:
  /// Any text. What is guessed easily protects little: take 16 random bytes.
  explicit Secret(std::string_view text);

  /// HMAC-SHA-512-256 of `statement` under a key made from the secret.
  [[nodiscard]] Proof prove(std::string_view statement) const;
  /// Whether that is the proof of `statement`; takes as long for a wrong one as for the right one.
  [[nodiscard]] bool check(std::string_view statement, const Proof& proof) const;

 private:
  std::array<unsigned char, 32> key_{};
};

}  // namespace mixcomm
