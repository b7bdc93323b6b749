// JSON from files that nobody vouches for, with errors that name file and field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace mixcomm::runner {

using Json = nlohmann::json;

/// Parses `text`; `file` is for the error. Throws InvalidArgument for what is no JSON, for an object that has
/// a key twice, and for nesting or a number of values that no model file has.
[[nodiscard]] Json parse_json(std::string_view text, const std::string& file);

/// Reads and parses a file of at most `max_bytes`.
[[nodiscard]] Json read_json_file(const std::filesystem::path& path, std::size_t max_bytes);

/// Both ends belong to it.
template <class T>
struct Range {
  T min;
  T max;
};

/// A value in a JSON file and the way to it. A view: the document must outlive it. What it is asked for and
/// is not there, or of another type, is an InvalidArgument like "DIR/config.json: text_config.head_dim must
/// be an integer, is null".
class JsonView {
 public:
  /// The top level of `file`.
  JsonView(const Json& document, std::string file) : value_(&document), file_(std::move(file)) {}

  /// Throws InvalidArgument: file, way, `what`.
  [[noreturn]] void fail(std::string_view what) const;

  [[nodiscard]] const Json& value() const { return *value_; }
  [[nodiscard]] const std::string& file() const { return file_; }

  /// Of an object: whether the key is there, be it null.
  [[nodiscard]] bool has(std::string_view key) const;
  /// Of an object: the key's value, unless absent or null.
  [[nodiscard]] std::optional<JsonView> find(std::string_view key) const;
  /// Of an object: the key's value, which must be there (null is a value).
  [[nodiscard]] JsonView at(std::string_view key) const;
  /// Of an array: an element that is there.
  [[nodiscard]] JsonView element(std::size_t index) const;

  [[nodiscard]] const Json::object_t& as_object() const;
  [[nodiscard]] const Json::array_t& as_array() const;
  [[nodiscard]] const std::string& as_string() const;
  [[nodiscard]] bool as_bool() const;
  [[nodiscard]] std::uint64_t as_integer(Range<std::uint64_t> range) const;
  [[nodiscard]] double as_number(Range<double> range) const;

 private:
  JsonView(const Json& value, std::string file, std::string way)
      : value_(&value), file_(std::move(file)), way_(std::move(way)) {}
  [[nodiscard]] std::string way_to(std::string_view key) const;

  const Json* value_;
  std::string file_;
  std::string way_;  // "text_config.rope_parameters"; empty: the top level
};

/// A value for an error message: a short value in full, a container by its type alone.
[[nodiscard]] std::string shown(const Json& value);

}  // namespace mixcomm::runner
