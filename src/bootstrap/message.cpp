#include "bootstrap/message.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "mixcomm/grid.hpp"

namespace mixcomm {
namespace {

using nlohmann::json;

constexpr std::string_view version = "mixcomm rendezvous 2";

/// Stops the parser at nesting that no message of ours has: it is recursive, and the message may be
/// anybody's.
class DepthCheck : public nlohmann::json_sax<json> {
 public:
  bool null() override { return true; }
  bool boolean(bool /*value*/) override { return true; }
  bool number_integer(number_integer_t /*value*/) override { return true; }
  bool number_unsigned(number_unsigned_t /*value*/) override { return true; }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override { return true; }
  bool string(string_t& /*value*/) override { return true; }
  bool binary(binary_t& /*value*/) override { return true; }
  bool key(string_t& /*value*/) override { return true; }
  bool start_object(std::size_t /*elements*/) override { return ++depth_ <= most; }
  bool start_array(std::size_t /*elements*/) override { return ++depth_ <= most; }
  bool end_object() override { return depth_-- > 0; }
  bool end_array() override { return depth_-- > 0; }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const json::exception& /*error*/) override {
    return false;
  }

 private:
  static constexpr int most = 2;  // a list in an object
  int depth_ = 0;
};

template <class Bytes>
json binary(const Bytes& bytes) {
  return json::binary({bytes.begin(), bytes.end()});
}

// How the members of messages are written. All start with the version and their kind.

json to_json(const Challenge& m) {
  return {{"kind", "challenge"}, {"nonce", binary(m.nonce)}};
}
json to_json(const Hello& m) {
  return {{"kind", "hello"},
          {"rank", m.rank},
          {"world", m.world},
          {"nonce", binary(m.nonce)},
          {"proof", binary(m.proof)}};
}
json to_json(const Welcome& m) {
  return {{"kind", "welcome"}, {"members", m.members}, {"proof", binary(m.proof)}};
}
json to_json(const Part& m) {
  return {{"kind", "part"}, {"step", binary(m.step)}, {"mine", binary(m.mine)}};
}
json to_json(const Everyone& m) {
  json parts = json::array();
  for (const std::string& part : m.parts) parts.push_back(binary(part));
  return {{"kind", "everyone"}, {"parts", parts}};
}
json to_json(const Verdict& m) {
  return {{"kind", "verdict"},
          {"failure", static_cast<int>(m.kind)},
          {"text", binary(m.text)},
          {"ranks", m.ranks}};
}

// How they are read. A json::exception says that something is missing or of another type; what is there too
// much is found when the result is written again.

int number(const json& value, int least, int most) {
  if (!value.is_number_integer()) throw json::other_error::create(500, "no whole number", &value);
  const auto n = value.get<std::int64_t>();
  if (n < least || n > most) throw json::other_error::create(500, "out of range", &value);
  return static_cast<int>(n);
}

std::vector<int> ranks(const json& list) {
  std::vector<int> all;
  for (const json& each : list) all.push_back(number(each, all.empty() ? 0 : all.back() + 1, max_ranks - 1));
  return all;
}

std::string text(const json& value) {
  const auto& bytes = value.get_ref<const json::binary_t&>();
  return {bytes.begin(), bytes.end()};
}

template <std::size_t size>
std::array<unsigned char, size> array(const json& value) {
  const auto& bytes = value.get_ref<const json::binary_t&>();
  std::array<unsigned char, size> all{};
  if (bytes.size() != size) throw json::other_error::create(500, "another length", &value);
  std::copy(bytes.begin(), bytes.end(), all.begin());
  return all;
}

Message read(const json& m) {
  const auto kind = m.at("kind").get<std::string>();
  if (kind == "challenge") return Challenge{array<sizeof(Nonce)>(m.at("nonce"))};
  if (kind == "hello")
    return Hello{.rank = number(m.at("rank"), 0, max_ranks - 1),
                 .world = number(m.at("world"), 1, max_ranks),
                 .nonce = array<sizeof(Nonce)>(m.at("nonce")),
                 .proof = array<sizeof(Proof)>(m.at("proof"))};
  if (kind == "welcome") return Welcome{ranks(m.at("members")), array<sizeof(Proof)>(m.at("proof"))};
  if (kind == "part") return Part{text(m.at("step")), text(m.at("mine"))};
  if (kind == "everyone") {
    Everyone everyone;
    const json& parts = m.at("parts");
    if (parts.size() > std::size_t{max_ranks}) throw json::other_error::create(500, "too many", &parts);
    for (const json& part : parts) everyone.parts.push_back(text(part));
    return everyone;
  }
  if (kind == "verdict")
    return Verdict{static_cast<Verdict::Kind>(number(m.at("failure"), 0, 3)), text(m.at("text")),
                   ranks(m.at("ranks"))};
  throw json::other_error::create(500, "another kind", &m);
}

}  // namespace

std::string to_bytes(const Message& message) {
  json members = std::visit([](const auto& m) { return to_json(m); }, message);
  members["version"] = version;
  const auto bytes = json::to_msgpack(members);
  return {bytes.begin(), bytes.end()};
}

std::optional<Message> message_from(std::string_view bytes) {
  DepthCheck check;
  if (!json::sax_parse(bytes, &check, json::input_format_t::msgpack)) return std::nullopt;
  try {
    Message message = read(json::from_msgpack(bytes));
    if (to_bytes(message) != bytes) return std::nullopt;
    return message;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

}  // namespace mixcomm
