// What ranks send each other over the sockets of the rendezvous, and back from bytes that may be anybody's.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "bootstrap/secret.hpp"

namespace mixcomm {

// In the order in which they are sent.

/// Rank 0, to whoever connects.
struct Challenge {
  Nonce nonce{};
};

/// A rank's answer: it knows the secret, and has a challenge of its own.
struct Hello {
  int rank = 0;
  int world = 1;
  Nonce nonce{};
  Proof proof{};
};

/// Rank 0's answer, once all have come.
struct Welcome {
  std::vector<int> members;  ///< who takes part, ascending, in the numbers that they came with
  Proof proof{};
};

/// One rank's part of an exchange.
struct Part {
  std::string step;
  std::string mine;
};

/// Everyone's parts, by rank.
struct Everyone {
  std::vector<std::string> parts;
};

/// Set-up has failed; who reads this throws it.
struct Verdict {
  enum class Kind : unsigned char { timeout, gone, disagreement, system };
  Kind kind = Kind::system;
  std::string text;
  std::vector<int> ranks;  ///< that did not come, or are gone, ascending
};

using Message = std::variant<Challenge, Hello, Welcome, Part, Everyone, Verdict>;

[[nodiscard]] std::string to_bytes(const Message& message);

/// A pure function of the bytes, whoever sent them: nothing unless they are one whole message as to_bytes()
/// makes them, byte for byte, with every number in its range (ranks from 0 to max_ranks - 1, lists of them
/// ascending).
[[nodiscard]] std::optional<Message> message_from(std::string_view bytes);

/// message_from(), where only one kind will do.
template <class Kind>
[[nodiscard]] std::optional<Kind> only(std::string_view bytes) {
  std::optional<Message> message = message_from(bytes);
  Kind* kind = message ? std::get_if<Kind>(&*message) : nullptr;
  if (kind == nullptr) return std::nullopt;
  return std::move(*kind);
}

}  // namespace mixcomm
