// Arrays of any framework as the library's tensors, without a copy.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mixcomm/tensor.hpp"

namespace mixcomm::python {

/// An array as found: its first axis are the rows, the others together are hidden.
struct Array {
  Tensor tensor;
  bool on_cuda = false;
  int device = 0;
  bool is_torch = false;
  std::shared_ptr<void> keeps;  ///< what holds the memory while this lives, where the array itself does not
};

/// What is done with an array.
enum class Access : std::uint8_t {
  read,
  write,
  write_codes,  ///< of fp8_e4m3, which the array has as uint8
};

/// Accepts torch tensors, everything that speaks DLPack or the buffer protocol, and numpy arrays of
/// ml_dtypes.bfloat16. `which` names it in errors. Throws InvalidArgument for other things, other dtypes,
/// arrays that are not contiguous or (Access::write) read-only; for tensors that require grad while autograd
/// records.
[[nodiscard]] Array read_array(nanobind::handle object, const char* which, Access access);

/// The stream on which the array's framework runs now, for CUDA.
[[nodiscard]] void* current_stream(nanobind::handle object, const Array& array);

/// Throws InvalidArgument for an array that is in another memory than the communicator's, or on another CUDA
/// device (-1: any). Where there are no elements, there is no memory.
void check_place(const Array& array, const char* which, bool on_cuda, int device);

/// Row counts as Python has them: an int for all DP ranks; a sequence or host array with one per DP rank; or
/// an int64 CUDA array with one per DP rank. None: `uniform` for all.
class Counts {
 public:
  Counts(nanobind::handle rows, std::size_t uniform);
  /// For a grid of that many DP ranks.
  [[nodiscard]] RowCounts value(int dp) const;

 private:
  void read_device(nanobind::handle rows);

  std::vector<std::size_t> list_;
  const std::int64_t* device_ = nullptr;
  std::size_t given_ = 0;  ///< in device memory
  std::size_t uniform_ = 0;
  bool is_list_ = false;
  std::shared_ptr<void> keeps_;
};

/// A new array object of no framework over memory that `owner` holds; it speaks DLPack and the buffer
/// protocol. bf16 has no buffer format; there `as_bits` gives uint16.
struct View {
  void* data = nullptr;
  std::vector<std::size_t> shape;
  DType dtype = DType::fp32;
  bool as_bits = false;
  bool on_cuda = false;
  int device = 0;
};
[[nodiscard]] nanobind::object make_array(const View& view, nanobind::handle owner);

}  // namespace mixcomm::python
