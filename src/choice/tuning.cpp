#include "mixcomm/tuning.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "call_record.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view format_name = "mixcomm tuning table";
constexpr std::size_t most_text_bytes = std::size_t{1} << 20U;
constexpr int most_levels = 8;  ///< a table has four; what reads and prints JSON calls itself for each

/// What a damaged file holds may be anything; it goes into an error's text as ASCII.
std::string printable(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c >= ' ' && c <= '~')
      result += c;
    else
      result += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return result;
}

[[noreturn]] void refuse(const std::string& why) {
  throw InvalidArgument(why);
}

/// All but the hash.
Json json_of(const TuningTable& table) {
  Json choices = Json::array();
  for (const TuningTable::Choice& choice : table.choices) {
    Json steps = Json::array();
    for (const TuningTable::Step& step : choice.steps) {
      Json one;
      if (step.up_to_bytes != UINT64_MAX) one["up_to_bytes"] = step.up_to_bytes;
      one["algorithm"] = name(step.algorithm);
      if (step.shape.protocol != Protocol::automatic) one["protocol"] = name(step.shape.protocol);
      if (step.shape.lanes != 0) one["lanes"] = step.shape.lanes;
      if (step.shape.threads != 0) one["threads"] = step.shape.threads;
      steps.push_back(one);
    }
    choices.push_back(
        {{"op", name(choice.op)}, {"buffers", choice.symmetric ? "symmetric" : "plain"}, {"steps", steps}});
  }
  return {{"format", format_name},
          {"version", TuningTable::version},
          {"machine", table.machine},
          {"backend", name(table.backend)},
          {"tp", table.tp},
          {"dp", table.dp},
          {"crowded", table.crowded},
          {"costs",
           {{"wait_us", table.costs.wait_us},
            {"read_gbps", table.costs.read_gbps},
            {"flag_us", table.costs.flag_us}}},
          {"choices", choices}};
}

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

template <class T>
T value(const Json& json, const char* key) {
  if (!json.is_object() || !json.contains(key)) refuse(fmt::format("'{}' is missing", key));
  try {
    return json.at(key).get<T>();
  } catch (const Json::exception&) {
    const Json& found = json.at(key);
    refuse(fmt::format("'{}' is {}", key, found.is_structured() ? "a list or an object" : dump(found, -1)));
  }
}

std::uint64_t unsigned_value(const Json& json, const char* key) {
  if (!json.contains(key) || !json.at(key).is_number_unsigned()) refuse(fmt::format("'{}' is no count", key));
  return json.at(key).get<std::uint64_t>();
}

double cost(const Json& json, const char* key) {
  const auto number = value<double>(json, key);
  if (!std::isfinite(number) || number < 0) refuse(fmt::format("'{}' is {}", key, number));
  return number;
}

int ranks(const Json& json, const char* key) {
  const std::uint64_t count = unsigned_value(json, key);
  if (count < 1 || count > static_cast<std::uint64_t>(max_ranks))
    refuse(fmt::format("'{}' is {}; it may be 1 to {}", key, count, max_ranks));
  return static_cast<int>(count);
}

LaunchShape shape_from(const Json& step) {
  LaunchShape shape;
  if (step.contains("protocol")) shape.protocol = protocol_from_name(value<std::string>(step, "protocol"));
  const auto count = [&](const char* key) -> int {
    if (!step.contains(key)) return 0;
    const std::uint64_t number = unsigned_value(step, key);
    if (number > 1024) refuse(fmt::format("'{}' is {}; it may be 0 to 1024", key, number));
    return static_cast<int>(number);
  };
  shape.lanes = count("lanes");
  shape.threads = count("threads");
  if (shape.threads % 32 != 0)
    refuse(fmt::format("'threads' is {}, which is no multiple of 32", shape.threads));
  return shape;
}

TuningTable::Choice choice_from(const Json& json) {
  TuningTable::Choice choice;
  choice.op = op_from_name(value<std::string>(json, "op"));
  const auto buffers = value<std::string>(json, "buffers");
  if (buffers != "symmetric" && buffers != "plain") refuse(fmt::format("'buffers' is '{}'", buffers));
  choice.symmetric = buffers == "symmetric";
  const auto steps = value<Json>(json, "steps");
  if (!steps.is_array() || steps.empty()) refuse("'steps' is no list, or empty");
  for (const Json& each : steps) {
    TuningTable::Step step;
    step.algorithm = algorithm_from_name(value<std::string>(each, "algorithm"));
    if (step.algorithm != Algorithm::one_shot && step.algorithm != Algorithm::two_shot)
      refuse(fmt::format("algorithm '{}' cannot be chosen", name(step.algorithm)));
    step.shape = shape_from(each);
    if (each.contains("up_to_bytes")) step.up_to_bytes = unsigned_value(each, "up_to_bytes");
    if (!choice.steps.empty() && step.up_to_bytes <= choice.steps.back().up_to_bytes)
      refuse(fmt::format("steps of {} do not ascend at {} bytes", name(choice.op), step.up_to_bytes));
    choice.steps.push_back(step);
  }
  if (choice.steps.back().up_to_bytes != UINT64_MAX)
    refuse(fmt::format("the last step of {} ends at {} bytes", name(choice.op),
                       choice.steps.back().up_to_bytes));
  return choice;
}

TuningTable table_from(const Json& json) {
  if (value<std::string>(json, "format") != format_name) refuse("it is no tuning table");
  if (const int found = value<int>(json, "version"); found != TuningTable::version)
    refuse(fmt::format("it has version {}, but this library reads {}", found, TuningTable::version));
  TuningTable table;
  table.machine = value<std::string>(json, "machine");
  table.backend = backend_from_name(value<std::string>(json, "backend"));
  table.tp = ranks(json, "tp");
  table.dp = ranks(json, "dp");
  table.crowded = value<bool>(json, "crowded");
  const auto costs = value<Json>(json, "costs");
  table.costs = {cost(costs, "wait_us"), cost(costs, "read_gbps"), cost(costs, "flag_us")};
  const auto choices = value<Json>(json, "choices");
  if (!choices.is_array()) refuse("'choices' is no list");
  for (const Json& each : choices) {
    table.choices.push_back(choice_from(each));
    const auto& added = table.choices.back();
    for (std::size_t i = 0; i + 1 < table.choices.size(); ++i)
      if (table.choices[i].op == added.op && table.choices[i].symmetric == added.symmetric)
        refuse(fmt::format("there are two choices for {}", name(added.op)));
  }
  const auto hash = value<std::string>(json, "hash");
  if (hash != fmt::format("{:016x}", table.hash()))
    refuse(fmt::format("its hash is {}, but its contents have {:016x}: it was changed", hash, table.hash()));
  return table;
}

}  // namespace

TuningTable::Step TuningTable::step(Op op, bool symmetric, std::uint64_t bytes) const {
  for (const Choice& choice : choices) {
    if (choice.op != op || choice.symmetric != symmetric) continue;
    for (const Step& step : choice.steps)
      if (bytes <= step.up_to_bytes) return step;
  }
  return {.algorithm = Algorithm::automatic};
}

Algorithm TuningTable::algorithm(Op op, bool symmetric, std::uint64_t bytes) const {
  return step(op, symmetric, bytes).algorithm;
}

std::uint64_t TuningTable::hash() const {
  // Numbers as text, as they are in files: what is read again has the hash of what was written.
  std::uint64_t hash = 0;
  for (const char c : dump(json_of(*this), -1)) hash = fold(hash, static_cast<unsigned char>(c));
  return hash;
}

std::string TuningTable::text() const {
  Json json = json_of(*this);
  json["hash"] = fmt::format("{:016x}", hash());
  return dump(json, 1) + "\n";
}

TuningTable TuningTable::parse(std::string_view text, std::string_view origin) {
  try {
    if (text.size() > most_text_bytes) refuse(fmt::format("it has {} bytes", text.size()));
    const auto watch = [](int depth, Json::parse_event_t /*event*/, Json& /*parsed*/) {
      if (depth > most_levels) refuse(fmt::format("it is nested deeper than {} levels", most_levels));
      return true;
    };
    const Json json = Json::parse(text, watch, false);
    if (json.is_discarded()) refuse("it is no JSON");
    return table_from(json);
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(
        fmt::format("the tuning table {} is damaged, or none: {}; make a new one with 'mixcomm tune'", origin,
                    printable(error.what())));
  }
}

void TuningTable::save(const std::filesystem::path& file) const {
  // Beside it first, so that nobody reads half a table.
  std::filesystem::path draft = file;
  draft += fmt::format(".{}", getpid());
  std::ofstream out(draft, std::ios::binary);
  out << text();
  out.close();
  std::error_code error;
  if (out) std::filesystem::rename(draft, file, error);
  if (out && !error) return;
  std::error_code ignored;
  std::filesystem::remove(draft, ignored);
  throw SystemError(fmt::format("cannot write the tuning table {}; give a place where files can be written",
                                file.string()));
}

TuningTable TuningTable::load(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text(most_text_bytes + 1, '\0');
  if (in) in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || (!in && !in.eof()) || !in.is_open())
    throw SystemError(
        fmt::format("cannot read the tuning table {}; make one with 'mixcomm tune'", file.string()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return parse(text, file.string());
}

}  // namespace mixcomm
