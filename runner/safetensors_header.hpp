// What one safetensors file says of itself.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mixcomm/tensor.hpp"
#include "runner/mapped_file.hpp"

namespace mixcomm::runner {

/// A tensor as a header declares it.
struct DeclaredTensor {
  std::string name;
  std::string_view stored_dtype;  ///< the format's name of it ("F8_E4M3"); lives for ever
  std::optional<DType> dtype;     ///< none: a dtype that mixcomm does not have
  std::vector<std::size_t> shape;
  std::span<const std::byte> bytes;
};

/// Reads and checks the header of a safetensors file: 8 bytes of length (little-endian), a JSON object of
/// {name: {dtype, shape, data_offsets: [begin, end]}}, then the data, which the tensors must cover without
/// overlap or gap. Throws InvalidArgument, naming the file and what is wrong.
[[nodiscard]] std::vector<DeclaredTensor> read_safetensors_header(const MappedFile& file);

/// "[2, 3]"
[[nodiscard]] std::string shape_to_string(std::span<const std::size_t> shape);

}  // namespace mixcomm::runner
