// Messages of the rendezvous as bytes: what is read is what was written, and nothing else is read.
#include "bootstrap/message.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "mixcomm/grid.hpp"

namespace mixcomm::test {
namespace {

using nlohmann::json;

Hello hello() {
  Hello message{.rank = 3, .world = 8};
  message.nonce.fill(7);
  message.proof.fill(200);
  return message;
}

std::vector<Message> examples() {
  Everyone everyone;
  for (int r = 0; r < max_ranks; ++r) everyone.parts.emplace_back(static_cast<std::size_t>(r), '\0');
  return {Challenge{hello().nonce},
          hello(),
          Welcome{{0, 2, 63}, hello().proof},
          Part{"sharing \xff memory", std::string("a\0b", 3)},
          Part{},
          everyone,
          Verdict{Verdict::Kind::gone, "rank 5 has ended", {5}},
          Verdict{}};
}

std::string packed(const json& value) {
  const auto bytes = json::to_msgpack(value);
  return {bytes.begin(), bytes.end()};
}

json unpacked(const Message& message) {
  return json::from_msgpack(to_bytes(message));
}

TEST(Messages, AreReadAsTheyWereWritten) {
  for (const Message& message : examples()) {
    const std::string bytes = to_bytes(message);
    const auto read = message_from(bytes);
    ASSERT_TRUE(read.has_value()) << bytes;
    EXPECT_EQ(read->index(), message.index());
    EXPECT_EQ(to_bytes(*read), bytes);
  }
  const auto read = only<Hello>(to_bytes(hello()));
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->rank, 3);
  EXPECT_EQ(read->world, 8);
  EXPECT_EQ(read->nonce, hello().nonce);
  EXPECT_EQ(read->proof, hello().proof);
  EXPECT_FALSE(only<Welcome>(to_bytes(hello())).has_value()) << "another kind";
}

TEST(Messages, CutShortOrWithMoreBehindAreRefused) {
  for (const Message& message : examples()) {
    const std::string bytes = to_bytes(message);
    for (std::size_t n = 0; n < bytes.size(); ++n)
      EXPECT_FALSE(message_from(std::string_view(bytes).substr(0, n)).has_value()) << n;
    EXPECT_FALSE(message_from(bytes + '\0').has_value());
    EXPECT_FALSE(message_from(bytes + bytes).has_value());
  }
}

/// A changed byte gives another message or none, never one that was written in another way.
TEST(Messages, WithAChangedByteAreRefusedOrOthers) {
  std::mt19937 random(1);
  for (const Message& message : examples()) {
    const std::string bytes = to_bytes(message);
    for (int i = 0; i < 2000; ++i) {
      std::string changed = bytes;
      changed[random() % changed.size()] = static_cast<char>(random());
      const auto read = message_from(changed);
      EXPECT_EQ(read ? to_bytes(*read) : changed, changed);
    }
  }
}

TEST(Messages, OfAnotherShapeAreRefused) {
  const auto with = [](const Message& message, const char* name, const json& value) {
    json members = unpacked(message);
    members[name] = value;
    return packed(members);
  };
  EXPECT_TRUE(message_from(with(hello(), "rank", 4)).has_value());
  for (const json& rank : {json(-1), json(64), json(3.0), json("3"), json(), json(std::int64_t{1} << 40U),
                           json(std::uint64_t(-1)), json::array({3}), json::object()})
    EXPECT_FALSE(message_from(with(hello(), "rank", rank)).has_value()) << rank;
  EXPECT_FALSE(message_from(with(hello(), "world", 0)).has_value());
  EXPECT_FALSE(message_from(with(hello(), "more", 1)).has_value());
  EXPECT_FALSE(message_from(with(hello(), "version", "mixcomm rendezvous 1")).has_value());
  EXPECT_FALSE(message_from(with(hello(), "kind", "farewell")).has_value());
  EXPECT_FALSE(message_from(with(hello(), "nonce", json::binary({1, 2, 3}))).has_value());
  EXPECT_FALSE(message_from(with(hello(), "nonce", std::string(32, 'x'))).has_value()) << "text, not bytes";
  const Message welcome = Welcome{{0, 1}, {}};
  for (const json& members : {json::array({1, 0}), json::array({1, 1}), json::array({0, 64}), json(5),
                              json::array({json::array({1})}), json::object({{"a", 1}})})
    EXPECT_FALSE(message_from(with(welcome, "members", members)).has_value()) << members;
  EXPECT_FALSE(
      message_from(with(Everyone{}, "parts", json::array_t(max_ranks + 1, json::binary({})))).has_value());
  for (const json& other : {json(), json(1), json("hello"), json::array(), json::object()})
    EXPECT_FALSE(message_from(packed(other)).has_value()) << other;
}

TEST(Messages, HostileBytesAreRefused) {
  EXPECT_FALSE(message_from("GET / HTTP/1.1\r\n\r\n").has_value());
  EXPECT_FALSE(message_from(std::string(1 << 20, '\x91')).has_value()) << "a list in a list in a list ...";
  EXPECT_FALSE(message_from(std::string(1 << 20, '\x81')).has_value()) << "an object in an object ...";
  // Lengths of 4 GiB, with nothing behind.
  for (const char type : {'\xc6', '\xdb', '\xdd', '\xdf', '\xc9'})
    EXPECT_FALSE(message_from(type + std::string(4, '\xff')).has_value());
}

}  // namespace
}  // namespace mixcomm::test
