#include "runner/safetensors_header.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>

#include "mixcomm/error.hpp"
#include "runner/json_file.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::size_t length_bytes = 8;
constexpr std::size_t max_header_bytes = 100'000'000;  // the format's own limit
constexpr std::size_t max_rank = 32;
constexpr std::uint64_t any_size = std::numeric_limits<std::uint64_t>::max();

struct StoredDType {
  std::string_view name;
  std::size_t bits;
  std::optional<DType> dtype = std::nullopt;
};

constexpr std::array stored_dtypes{
    StoredDType{"BF16", 16, DType::bf16},
    StoredDType{"F16", 16, DType::fp16},
    StoredDType{"F32", 32, DType::fp32},
    StoredDType{"BOOL", 8},
    StoredDType{"F4", 4},
    StoredDType{"F6_E2M3", 6},
    StoredDType{"F6_E3M2", 6},
    StoredDType{"U8", 8},
    StoredDType{"I8", 8},
    StoredDType{"F8_E5M2", 8},
    StoredDType{"F8_E4M3", 8},
    StoredDType{"F8_E8M0", 8},
    StoredDType{"F8_E4M3FNUZ", 8},
    StoredDType{"F8_E5M2FNUZ", 8},
    StoredDType{"I16", 16},
    StoredDType{"U16", 16},
    StoredDType{"I32", 32},
    StoredDType{"U32", 32},
    StoredDType{"I64", 64},
    StoredDType{"U64", 64},
    StoredDType{"F64", 64},
    StoredDType{"C64", 64},
};

const StoredDType& read_dtype(const JsonView& tensor) {
  const JsonView dtype = tensor.at("dtype");
  const std::string& name = dtype.as_string();
  const auto found = std::find_if(stored_dtypes.begin(), stored_dtypes.end(),
                                  [&name](const StoredDType& candidate) { return candidate.name == name; });
  if (found == stored_dtypes.end()) dtype.fail(fmt::format("is {}, no dtype of the format", in_quotes(name)));
  return *found;
}

/// How many bytes the shape asks for; fails where that cannot be said in 64 bits.
std::size_t bytes_of(const JsonView& tensor, std::span<const std::size_t> shape, const StoredDType& dtype) {
  std::size_t bits = dtype.bits;
  for (const std::size_t extent : shape) {
    if (__builtin_mul_overflow(bits, extent, &bits)) {
      tensor.fail(fmt::format("has shape {}, more than fits in memory", shape_to_string(shape)));
    }
  }
  if (bits % 8 != 0) {
    tensor.fail(
        fmt::format("has shape {} of {}, which ends inside a byte", shape_to_string(shape), dtype.name));
  }
  return bits / 8;
}

/// A tensor with its place in the data section, not yet compared with the file's size.
struct Placed {
  DeclaredTensor tensor;
  std::size_t begin = 0;
  std::size_t end = 0;
};

Placed read_tensor(const JsonView& entry, const std::string& name) {
  const StoredDType& dtype = read_dtype(entry);
  Placed placed{
      .tensor = {.name = name, .stored_dtype = dtype.name, .dtype = dtype.dtype, .shape = {}, .bytes = {}}};

  const JsonView shape = entry.at("shape");
  const std::size_t rank = shape.as_array().size();
  if (rank > max_rank) shape.fail(fmt::format("has {} dimensions; at most {} are read", rank, max_rank));
  for (std::size_t i = 0; i < rank; ++i) {
    placed.tensor.shape.push_back(shape.element(i).as_integer({.min = 0, .max = any_size}));
  }

  const JsonView offsets = entry.at("data_offsets");
  if (offsets.as_array().size() != 2) offsets.fail("must be [begin, end]");
  placed.begin = offsets.element(0).as_integer({.min = 0, .max = any_size});
  placed.end = offsets.element(1).as_integer({.min = 0, .max = any_size});
  if (placed.begin > placed.end)
    offsets.fail(fmt::format("is [{}, {}]: ends before it begins", placed.begin, placed.end));

  const std::size_t bytes = bytes_of(entry, placed.tensor.shape, dtype);
  if (bytes != placed.end - placed.begin) {
    entry.fail(fmt::format("takes {} bytes (shape {} of {}), but data_offsets [{}, {}] hold {}", bytes,
                           shape_to_string(placed.tensor.shape), dtype.name, placed.begin, placed.end,
                           placed.end - placed.begin));
  }
  return placed;
}

void check_metadata(const JsonView& metadata) {
  for (const auto& [key, value] : metadata.as_object()) {
    if (!value.is_string()) static_cast<void>(metadata.at(key).as_string());  // says what it is
  }
}

/// The header's JSON text.
std::string_view header_text(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < length_bytes) {
    throw InvalidArgument(
        fmt::format("{}: is truncated: {} bytes are expected for the header's length, {} are there",
                    file.path(), length_bytes, bytes.size()));
  }
  std::uint64_t length = 0;
  for (std::size_t i = length_bytes; i-- > 0;)
    length = (length << 8U) | std::to_integer<std::uint64_t>(bytes[i]);
  if (length > max_header_bytes) {
    throw InvalidArgument(
        fmt::format("{}: declares a header of {} bytes; the format allows {}; is it safetensors?",
                    file.path(), length, max_header_bytes));
  }
  if (length > bytes.size() - length_bytes) {
    throw InvalidArgument(
        fmt::format("{}: is truncated: {} bytes are expected up to the end of the header, {} are there",
                    file.path(), length_bytes + length, bytes.size()));
  }
  const std::string_view text = file.text().substr(length_bytes, length);
  if (!text.starts_with('{')) {
    throw InvalidArgument(
        fmt::format("{}: its header does not begin with '{{'; is it safetensors?", file.path()));
  }
  return text;
}

/// Tensors follow each other without gap or overlap, and the file ends with the last one.
void check_cover(const MappedFile& file, std::vector<Placed>& tensors, std::size_t data_begin) {
  std::sort(tensors.begin(), tensors.end(), [](const Placed& a, const Placed& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  const auto describe = [](const Placed& placed) {
    return fmt::format("{} at [{}, {}]", in_quotes(placed.tensor.name), placed.begin, placed.end);
  };
  std::size_t end = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].begin < end) {
      throw InvalidArgument(fmt::format("{}: tensors {} and {} overlap", file.path(),
                                        describe(tensors[i - 1]), describe(tensors[i])));
    }
    if (tensors[i].begin > end) {
      throw InvalidArgument(fmt::format("{}: data bytes [{}, {}], before tensor {}, belong to no tensor",
                                        file.path(), end, tensors[i].begin, describe(tensors[i])));
    }
    end = tensors[i].end;
  }
  const std::size_t there = file.bytes().size();
  if (end > there - data_begin) {
    // data_begin is small, but `end` is whatever the file says.
    std::size_t expected = 0;
    const bool overflow = __builtin_add_overflow(data_begin, end, &expected);
    throw InvalidArgument(fmt::format("{}: is truncated: {} bytes are expected, {} are there", file.path(),
                                      overflow ? "more than 2^64" : std::to_string(expected), there));
  }
  if (end < there - data_begin) {
    throw InvalidArgument(
        fmt::format("{}: has {} bytes after its last tensor: {} bytes are expected, {} are there",
                    file.path(), there - data_begin - end, data_begin + end, there));
  }
}

}  // namespace

std::string shape_to_string(std::span<const std::size_t> shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

std::vector<DeclaredTensor> read_safetensors_header(const MappedFile& file) {
  const std::string_view text = header_text(file);
  const Json document = parse_json(text, file.path());
  const JsonView header(document, file.path());

  std::vector<Placed> tensors;
  for (const auto& [name, value] : header.as_object()) {
    if (name == "__metadata__") {
      if (!value.is_null()) check_metadata(header.at(name));
    } else {
      tensors.push_back(read_tensor(header.at(name), name));
    }
  }
  const std::size_t data_begin = length_bytes + text.size();
  check_cover(file, tensors, data_begin);

  std::vector<DeclaredTensor> result;
  result.reserve(tensors.size());
  for (Placed& placed : tensors) {
    placed.tensor.bytes = file.bytes().subspan(data_begin + placed.begin, placed.end - placed.begin);
    result.push_back(std::move(placed.tensor));
  }
  return result;
}

}  // namespace mixcomm::runner
