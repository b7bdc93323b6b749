#include "runner/json_file.hpp"

#include <fmt/format.h>

#include <unordered_set>
#include <vector>

#include "mixcomm/error.hpp"
#include "runner/mapped_file.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

// Far above any real model's files, and far below what would exhaust memory (some 100 bytes a value).
constexpr int max_depth = 64;
constexpr std::size_t max_values = std::size_t{1} << 24U;

/// Watches the parser: what would not fail there, and must.
class Watch {
 public:
  explicit Watch(const std::string& file) : file_(file) {}

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if (event != Event::object_end && event != Event::array_end && ++values_ > max_values) {
      fail(fmt::format("holds more than {} values", max_values));
    }
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= max_depth) fail(fmt::format("is nested deeper than {} levels", max_depth));
    }
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key && !keys_.back().insert(parsed.get_ref<const std::string&>()).second) {
      fail(
          fmt::format("has the key {} twice in one object", in_quotes(parsed.get_ref<const std::string&>())));
    }
    return true;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw InvalidArgument(fmt::format("{}: {}", file_, what));
  }

  const std::string& file_;
  std::size_t values_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

/// nlohmann's message without its "[json.exception....] ".
std::string_view without_prefix(std::string_view message) {
  const std::size_t end = message.find("] ");
  return message.starts_with("[json.exception") && end != std::string_view::npos ? message.substr(end + 2)
                                                                                 : message;
}

const char* article_and_type(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_null()) return "null";
  return "a number";
}

}  // namespace

Json parse_json(std::string_view text, const std::string& file) {
  Watch watch(file);
  try {
    return Json::parse(
        text.begin(), text.end(),
        [&watch](int depth, Json::parse_event_t event, Json& parsed) { return watch(depth, event, parsed); });
  } catch (const Json::exception& error) {
    throw InvalidArgument(
        fmt::format("{}: is damaged JSON: {}", file, in_quotes(without_prefix(error.what()))));
  }
}

Json read_json_file(const std::filesystem::path& path, std::size_t max_bytes) {
  const MappedFile file(path);
  if (file.bytes().size() > max_bytes) {
    throw InvalidArgument(
        fmt::format("{}: has {} bytes; at most {} are read", file.path(), file.bytes().size(), max_bytes));
  }
  return parse_json(file.text(), file.path());
}

std::string shown(const Json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  return value.is_structured() ? article_and_type(value) : value.dump();
}

void JsonView::fail(std::string_view what) const {
  throw InvalidArgument(fmt::format("{}: {} {}", file_, way_.empty() ? "the top level" : way_, what));
}

std::string JsonView::way_to(std::string_view key) const {
  std::string name = in_quotes(key);
  name = name.substr(1, name.size() - 2);
  return way_.empty() ? name : fmt::format("{}.{}", way_, name);
}

bool JsonView::has(std::string_view key) const {
  return as_object().find(key) != as_object().end();
}

std::optional<JsonView> JsonView::find(std::string_view key) const {
  const auto found = as_object().find(key);
  if (found == as_object().end() || found->second.is_null()) return std::nullopt;
  return JsonView(found->second, file_, way_to(key));
}

JsonView JsonView::at(std::string_view key) const {
  const auto found = as_object().find(key);
  if (found == as_object().end()) throw InvalidArgument(fmt::format("{}: {} is missing", file_, way_to(key)));
  return JsonView(found->second, file_, way_to(key));
}

JsonView JsonView::element(std::size_t index) const {
  return JsonView(as_array().at(index), file_, fmt::format("{}[{}]", way_, index));
}

const Json::object_t& JsonView::as_object() const {
  if (!value_->is_object()) fail(fmt::format("must be an object, is {}", shown(*value_)));
  return value_->get_ref<const Json::object_t&>();
}

const Json::array_t& JsonView::as_array() const {
  if (!value_->is_array()) fail(fmt::format("must be an array, is {}", shown(*value_)));
  return value_->get_ref<const Json::array_t&>();
}

const std::string& JsonView::as_string() const {
  if (!value_->is_string()) fail(fmt::format("must be a string, is {}", shown(*value_)));
  return value_->get_ref<const std::string&>();
}

bool JsonView::as_bool() const {
  if (!value_->is_boolean()) fail(fmt::format("must be true or false, is {}", shown(*value_)));
  return value_->get<bool>();
}

std::uint64_t JsonView::as_integer(Range<std::uint64_t> range) const {
  // nlohmann reads an integer without a sign as unsigned; a negative one is out of every range here.
  if (value_->is_number_unsigned()) {
    const auto integer = value_->get<std::uint64_t>();
    if (integer >= range.min && integer <= range.max) return integer;
  }
  fail(fmt::format("must be an integer from {} to {}, is {}", range.min, range.max, shown(*value_)));
}

double JsonView::as_number(Range<double> range) const {
  if (value_->is_number()) {
    const auto number = value_->get<double>();
    if (number >= range.min && number <= range.max) return number;
  }
  fail(fmt::format("must be a number from {} to {}, is {}", range.min, range.max, shown(*value_)));
}

}  // namespace mixcomm::runner
