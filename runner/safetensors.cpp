#include "runner/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <system_error>
#include <utility>

#include "mixcomm/error.hpp"
#include "runner/json_file.hpp"
#include "runner/mapped_file.hpp"
#include "runner/safetensors_header.hpp"
#include "runner/text_hash.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::string_view single_file = "model.safetensors";
constexpr std::string_view index_file = "model.safetensors.index.json";
constexpr std::size_t max_index_bytes = std::size_t{256} << 20U;

/// A tensor that is in the files, usable or not.
struct Entry {
  StoredTensor tensor;
  std::string_view stored_dtype;
  bool usable = false;
  std::size_t file = 0;  // of State::files
};

bool is_there(const std::filesystem::path& path) {
  std::error_code ignored;  // a path that cannot be examined is reported by who opens it
  return std::filesystem::exists(path, ignored);
}

/// A shard is a file beside the index: a name that leads elsewhere is an attack or an accident.
void check_shard_name(const JsonView& index, std::string_view tensor, const std::string& shard) {
  constexpr std::string_view forbidden("/\\\0", 3);
  if (shard.empty() || shard == "." || shard.find("..") != std::string::npos ||
      shard.find_first_of(forbidden) != std::string::npos) {
    index.fail(fmt::format("names the file {} for tensor {}; a shard is a plain file name without \"..\"",
                           in_quotes(shard), in_quotes(tensor)));
  }
}

}  // namespace

struct Safetensors::State {
  std::filesystem::path directory;
  std::vector<MappedFile> files;
  TextMap<Entry> tensors;

  void add(const std::filesystem::path& path) {
    files.emplace_back(path);
    for (DeclaredTensor& declared : read_safetensors_header(files.back())) {
      Entry entry{.tensor = {.dtype = declared.dtype.value_or(DType::fp32),
                             .shape = std::move(declared.shape),
                             .bytes = declared.bytes},
                  .stored_dtype = declared.stored_dtype,
                  .usable = declared.dtype.has_value(),
                  .file = files.size() - 1};
      const auto [place, inserted] = tensors.try_emplace(std::move(declared.name), std::move(entry));
      if (!inserted) {
        throw InvalidArgument(fmt::format("{}: tensor {} is also in {}", files.back().path(),
                                          in_quotes(place->first), files[place->second.file].path()));
      }
    }
  }

  void add_shards(const std::filesystem::path& index_path) {
    const Json document = read_json_file(index_path, max_index_bytes);
    const JsonView weight_map = JsonView(document, index_path.string()).at("weight_map");
    if (weight_map.as_object().empty()) weight_map.fail("names no tensor");

    std::map<std::string, std::size_t> file_of_shard;
    for (const auto& [tensor, value] : weight_map.as_object()) {
      const std::string& shard = value.is_string() ? value.get_ref<const std::string&>()
                                                   : weight_map.at(tensor).as_string();  // says what it is
      if (file_of_shard.contains(shard)) continue;
      check_shard_name(weight_map, tensor, shard);
      if (!is_there(directory / shard)) {
        weight_map.fail(fmt::format("names the file {} for tensor {}; there is no such file",
                                    in_quotes(shard), in_quotes(tensor)));
      }
      file_of_shard.emplace(shard, files.size());
      add(directory / shard);
    }
    for (const auto& [tensor, value] : weight_map.as_object()) {
      const auto& shard = value.get_ref<const std::string&>();
      const auto found = tensors.find(tensor);
      if (found == tensors.end() || found->second.file != file_of_shard.at(shard)) {
        weight_map.fail(
            fmt::format("says that {} holds tensor {}; it does not", in_quotes(shard), in_quotes(tensor)));
      }
    }
  }
};

Safetensors::Safetensors(const std::filesystem::path& directory) : state_(std::make_unique<State>()) {
  state_->directory = directory;
  // As in transformers: a single file wins over an index beside it.
  if (is_there(directory / single_file)) {
    state_->add(directory / single_file);
  } else if (is_there(directory / index_file)) {
    state_->add_shards(directory / index_file);
  } else {
    throw InvalidArgument(
        fmt::format("{}: holds neither {} nor {}", directory.string(), single_file, index_file));
  }
}

Safetensors::~Safetensors() = default;
Safetensors::Safetensors(Safetensors&&) noexcept = default;
Safetensors& Safetensors::operator=(Safetensors&&) noexcept = default;

// A tensor of an unusable dtype counts as contained: who then asks for it learns why it cannot be had, and
// nobody takes it for an optional one that the model leaves out.
bool Safetensors::contains(std::string_view name) const {
  return state_->tensors.contains(name);
}

const StoredTensor& Safetensors::at(std::string_view name, std::span<const std::size_t> shape) const {
  const auto found = state_->tensors.find(name);
  if (found == state_->tensors.end()) {
    throw InvalidArgument(fmt::format("{}: tensor {} is missing; the model needs it with shape {}",
                                      state_->directory.string(), in_quotes(name), shape_to_string(shape)));
  }
  const Entry& entry = found->second;
  const std::string& file = state_->files[entry.file].path();
  if (!entry.usable) {
    throw InvalidArgument(
        fmt::format("{}: tensor {} has dtype {}, which is unsupported; convert it to BF16, F16 or F32", file,
                    in_quotes(name), entry.stored_dtype));
  }
  if (!std::equal(entry.tensor.shape.begin(), entry.tensor.shape.end(), shape.begin(), shape.end())) {
    throw InvalidArgument(fmt::format("{}: tensor {} has shape {}; the model needs {}", file, in_quotes(name),
                                      shape_to_string(entry.tensor.shape), shape_to_string(shape)));
  }
  return entry.tensor;
}

const std::filesystem::path& Safetensors::directory() const {
  return state_->directory;
}

std::vector<std::string> Safetensors::names() const {
  std::vector<std::string> result;
  result.reserve(state_->tensors.size());
  for (const auto& [name, entry] : state_->tensors) result.push_back(name);
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace mixcomm::runner
