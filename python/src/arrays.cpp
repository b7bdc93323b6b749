#include "arrays.hpp"

#include <fmt/format.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string_view>

#include "exchange_api.hpp"
#include "mixcomm/error.hpp"
#include "process.hpp"

namespace nb = nanobind;

namespace mixcomm::python {
namespace {

[[noreturn]] void refuse(const char* which, const std::string& why) {
  throw InvalidArgument(fmt::format("'{}' {}", which, why));
}

std::string text_of(nb::handle object) {
  return nb::cast<std::string>(nb::steal<nb::object>(PyObject_Str(object.ptr())));
}

std::string class_of(nb::handle object) {
  return text_of(object.type());
}

/// Whether the object's class is of a package whose name begins so: "cupy", or "jax" (which is jaxlib as
/// well).
bool is_from(nb::handle object, std::string_view package) {
  return text_of(nb::object(object.type().attr("__module__"))).starts_with(package);
}

/// By the type's name in C, which is quicker to get than its module.
bool is_numpy(nb::handle object) {
  return std::string_view(Py_TYPE(object.ptr())->tp_name).starts_with("numpy.");
}

/// The package whose arrays never change, if it is one of these: their DLPack capsules are of the kind that
/// cannot say so, and compiled code may rely on it.
std::optional<std::string_view> never_changes(nb::handle object) {
  if (is_numpy(object)) return std::nullopt;
  for (const std::string_view package : {"jax", "tensorflow"})
    if (is_from(object, package)) return package;
  return std::nullopt;
}

/// What torch has, looked up once it is imported: tensors' attributes are read in a third of the time that
/// __dlpack__ takes, and its C functions in a tenth.
struct Torch {
  nb::object tensor;
  nb::object bf16, fp16, fp32, int64, uint8;
  nb::object is_grad_enabled;
  nb::object raw_stream;   ///< none where torch has no CUDA
  const ExchangeApi* api;  ///< of plain tensors; null before torch 2.10

  static const Torch* find() {
    static const Torch* found = nullptr;
    if (found != nullptr) return found;
    // A module that is still being imported has not all of its names yet.
    PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
    if (module == nullptr || !nb::hasattr(module, "Tensor") || !nb::hasattr(module, "is_grad_enabled"))
      return nullptr;
    const nb::handle torch(module);
    nb::object stream = nb::none();
    if (nb::hasattr(torch.attr("_C"), "_cuda_getCurrentRawStream"))
      stream = torch.attr("_C").attr("_cuda_getCurrentRawStream");
    // Never destroyed: the interpreter may be gone by then.
    found = new Torch{torch.attr("Tensor"),
                      torch.attr("bfloat16"),
                      torch.attr("float16"),
                      torch.attr("float32"),
                      torch.attr("int64"),
                      torch.attr("uint8"),
                      torch.attr("is_grad_enabled"),
                      stream,
                      exchange_api_of(torch.attr("Tensor"))};
    return found;
  }
  [[nodiscard]] bool holds(nb::handle object) const {
    return PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(tensor.ptr())) != 0;
  }
};

const Torch* torch_of(nb::handle object) {
  const Torch* torch = Torch::find();
  return torch != nullptr && torch->holds(object) ? torch : nullptr;
}

void fold_shape(Tensor& tensor, std::size_t axis, std::size_t length) {
  if (axis == 0)
    tensor.rows = length;
  else
    tensor.hidden *= length;
}

/// Takes in the shape of an array by shape(axis) and stride(axis), in elements. Whether it is contiguous.
template <class Shape, class Stride>
bool fold_axes(Tensor& tensor, std::size_t axes, const Shape& shape, const Stride& stride) {
  tensor.hidden = 1;
  std::int64_t expected = 1;
  bool contiguous = true;
  for (std::size_t i = axes; i-- > 0;) {
    const auto length = static_cast<std::int64_t>(shape(i));
    fold_shape(tensor, i, static_cast<std::size_t>(length));
    contiguous = contiguous && (length <= 1 || stride(i) == expected);
    expected *= length;
  }
  return contiguous || tensor.elements() == 0;
}

std::optional<DType> dtype_of_dlpack(nb::dlpack::dtype dtype, Access access) {
  if (dtype.lanes != 1) return std::nullopt;
  if (access == Access::write_codes) {
    const bool codes =
        dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::UInt) && dtype.bits == 8;
    return codes ? std::optional(DType::fp8_e4m3) : std::nullopt;
  }
  if (dtype.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Bfloat) && dtype.bits == 16)
    return DType::bf16;
  if (dtype.code != static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float)) return std::nullopt;
  if (dtype.bits == 16) return DType::fp16;
  if (dtype.bits == 32) return DType::fp32;
  return std::nullopt;
}

std::string dtypes_of(Access access) {
  return access == Access::write_codes ? "with quantize it holds float8_e4m3fn, or its bits as uint8"
                                       : "the dtypes are bfloat16, float16 and float32";
}

/// What a plain tensor is, where torch can say it at once.
std::optional<nb::dlpack::dltensor> described(const Torch& torch, nb::handle object) {
  nb::dlpack::dltensor tensor;
  if (torch.api == nullptr || !object.type().is(torch.tensor)) return std::nullopt;
  if (torch.api->tensor_from(object.ptr(), &tensor) == 0 && tensor.strides != nullptr) return tensor;
  PyErr_Clear();
  return std::nullopt;
}

void* data_of(const nb::dlpack::dltensor& tensor) {
  return static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
}

/// A plain tensor that can be taken as it is. Nothing for all others, of which read_torch() says what is
/// wrong.
std::optional<Array> read_at_once(const Torch& torch, nb::handle object, Access access) {
  if (nb::cast<bool>(torch.is_grad_enabled()) && nb::cast<bool>(object.attr("requires_grad")))
    return std::nullopt;
  const auto tensor = described(torch, object);
  if (!tensor || tensor->ndim == 0) return std::nullopt;
  const auto dtype = dtype_of_dlpack(tensor->dtype, access);
  const int kind = tensor->device.device_type;
  Array array;
  array.is_torch = true;
  array.on_cuda = kind == nb::device::cuda::value;
  array.device = tensor->device.device_id;
  if (!dtype || (!array.on_cuda && kind != nb::device::cpu::value)) return std::nullopt;
  array.tensor.dtype = *dtype;
  array.tensor.data = data_of(*tensor);
  const bool contiguous = fold_axes(
      array.tensor, static_cast<std::size_t>(tensor->ndim), [&](std::size_t i) { return tensor->shape[i]; },
      [&](std::size_t i) { return tensor->strides[i]; });
  return contiguous ? std::optional(array) : std::nullopt;
}

Array read_torch(const Torch& torch, nb::handle object, const char* which, Access access) {
  Array array;
  array.is_torch = true;
  array.tensor.hidden = 1;
  const nb::object dtype = object.attr("dtype");
  if (access == Access::write_codes && dtype.is(torch.uint8))
    array.tensor.dtype = DType::fp8_e4m3;
  else if (access != Access::write_codes && dtype.is(torch.bf16))
    array.tensor.dtype = DType::bf16;
  else if (access != Access::write_codes && dtype.is(torch.fp16))
    array.tensor.dtype = DType::fp16;
  else if (access == Access::write_codes || !dtype.is(torch.fp32))
    refuse(which, fmt::format("is a tensor of {}; {}", text_of(dtype), dtypes_of(access)));
  if (nb::cast<bool>(object.attr("requires_grad")) && nb::cast<bool>(torch.is_grad_enabled()))
    refuse(which,
           "requires grad, and mixcomm has no backward pass (it is for inference): run under "
           "torch.inference_mode() or "
           "torch.no_grad(), or pass tensor.detach()");
  if (!nb::cast<bool>(object.attr("is_contiguous")()))
    refuse(which, "is not contiguous (row-major); pass tensor.contiguous()");
  const nb::object shape = object.attr("shape");
  const std::size_t axes = nb::len(shape);
  if (axes == 0) refuse(which, "has no axes; its first axis are the rows");
  for (std::size_t i = 0; i < axes; ++i) fold_shape(array.tensor, i, nb::cast<std::size_t>(shape[i]));
  array.on_cuda = nb::cast<bool>(object.attr("is_cuda"));
  if (array.on_cuda)
    array.device = nb::cast<int>(object.attr("get_device")());
  else if (!nb::cast<bool>(object.attr("is_cpu")))
    refuse(which, fmt::format("is on the device {}; mixcomm works on cpu and cuda",
                              text_of(nb::object(object.attr("device")))));
  array.tensor.data = pointer_from(object.attr("data_ptr")());
  return array;
}

/// numpy has no bfloat16 of its own, and exports that of ml_dtypes to nobody: its bits are.
nb::object bits_of_bfloat16(nb::handle object) {
  const auto dtype = nb::steal(PyObject_GetAttrString(object.ptr(), "dtype"));
  const auto type = dtype.is_valid() ? nb::steal(PyObject_GetAttrString(dtype.ptr(), "type")) : nb::object();
  if (!type.is_valid() || PyType_Check(type.ptr()) == 0) {
    PyErr_Clear();
    return {};
  }
  // ml_dtypes' own type, whose name may have its module before it.
  const std::string_view name = reinterpret_cast<PyTypeObject*>(type.ptr())->tp_name;
  if (name != "bfloat16" && !name.ends_with(".bfloat16")) return {};
  if (is_from(object, "jax")) return {};  // whose views are copies, and which does export it
  return object.attr("view")("uint16");
}

/// What nanobind imports. cupy makes a stream that its consumer names wait for its current one, and the
/// default stream where none is named; but operations run on the current one, and another one that waits
/// would end a capture. (cupy's arrays have the buffer protocol as well, for memory that the host can read.)
nb::object without_waiting(nb::handle object) {
  if (is_numpy(object) || !is_from(object, "cupy")) return nb::borrow(object);
  return object.attr("__dlpack__")(nb::arg("stream") = -1);
}

template <class NdArray>
void read_imported(const NdArray& imported, const char* which, Array& array) {
  if (imported.ndim() == 0) refuse(which, "has no axes; its first axis are the rows");
  const bool contiguous = fold_axes(
      array.tensor, imported.ndim(), [&](std::size_t i) { return imported.shape(i); },
      [&](std::size_t i) { return imported.stride(i); });
  if (!contiguous) refuse(which, "is not contiguous (row-major); pass a contiguous copy of it");
  const int kind = imported.device_type();
  array.on_cuda = kind == nb::device::cuda::value || kind == nb::device::cuda_managed::value;
  if (!array.on_cuda && kind != nb::device::cpu::value && kind != nb::device::cuda_host::value)
    refuse(which, fmt::format("is on a device of DLPack kind {}; mixcomm works on cpu and cuda", kind));
  array.device = imported.device_id();
  array.tensor.data = const_cast<void*>(static_cast<const void*>(imported.data()));
  array.keeps = std::make_shared<NdArray>(imported);
}

template <class NdArray>
Array read_any(nb::handle object, const char* which, Access access) {
  Array array;
  if (access != Access::read)
    if (const auto package = never_changes(object))
      refuse(which, fmt::format("is read-only, as arrays of {} always are; pass one of numpy, torch or cupy",
                                *package));
  const nb::object bits = bits_of_bfloat16(object);
  NdArray imported;
  if (!nb::try_cast(without_waiting(bits.is_valid() ? nb::handle(bits) : object), imported)) {
    PyErr_Clear();
    NdArray unused;
    nb::ndarray<nb::ro> readable;
    if (access != Access::read && nb::try_cast(object, readable))
      refuse(which, "is read-only; pass an array that can be written");
    refuse(
        which,
        fmt::format("is {}, which is no array: pass what speaks DLPack or the buffer protocol (numpy, torch, "
                    "cupy, jax) and holds numbers",
                    class_of(object)));
  }
  if (bits.is_valid() && access != Access::write_codes) {
    array.tensor.dtype = DType::bf16;
  } else if (const auto dtype = dtype_of_dlpack(imported.dtype(), access)) {
    array.tensor.dtype = *dtype;
  } else {
    refuse(which, fmt::format("has a dtype of {} bits of kind {}; {}", imported.dtype().bits,
                              imported.dtype().code, dtypes_of(access)));
  }
  read_imported(imported, which, array);
  return array;
}

std::size_t count_from(nb::handle object) {
  const Py_ssize_t count = PyNumber_AsSsize_t(object.ptr(), PyExc_OverflowError);
  if (count == -1 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    throw InvalidArgument(fmt::format("row counts are whole numbers, not {}", class_of(object)));
  }
  if (count < 0) throw InvalidArgument(fmt::format("a row count is {}; it may be 0 or more", count));
  return static_cast<std::size_t>(count);
}

}  // namespace

Array read_array(nb::handle object, const char* which, Access access) {
  if (const Torch* torch = torch_of(object)) {
    if (auto array = read_at_once(*torch, object, access)) return *array;
    return read_torch(*torch, object, which, access);
  }
  if (access != Access::read) return read_any<nb::ndarray<>>(object, which, access);
  return read_any<nb::ndarray<nb::ro>>(object, which, access);
}

void* current_stream(nb::handle object, const Array& array) {
  if (!array.on_cuda) return nullptr;
  if (array.is_torch) {
    const Torch& torch = *Torch::find();
    void* stream = nullptr;
    if (torch.api != nullptr &&
        torch.api->current_stream(nb::device::cuda::value, array.device, &stream) == 0)
      return stream;
    PyErr_Clear();
    if (!torch.raw_stream.is_none()) return pointer_from(torch.raw_stream(array.device));
  }
  if (is_from(object, "cupy"))
    return pointer_from(
        nb::object(nb::module_::import_("cupy.cuda").attr("get_current_stream")().attr("ptr")));
  return nullptr;  // the default stream, with which a DLPack export without a stream is in order
}

void check_place(const Array& array, const char* which, bool on_cuda, int device) {
  if (array.tensor.elements() == 0) return;
  if (array.on_cuda != on_cuda)
    throw InvalidArgument(fmt::format(
        "'{}' is in {} memory, but the communicator's backend is {}; make one with backend=\"{}\"", which,
        array.on_cuda ? "CUDA" : "host", on_cuda ? "cuda" : "cpu", array.on_cuda ? "cuda" : "cpu"));
  if (on_cuda && device >= 0 && array.device != device)
    throw InvalidArgument(fmt::format(
        "'{}' is on CUDA device {}, but the communicator's is {}; move the array, or make one with "
        "device={}",
        which, array.device, device, array.device));
}

Counts::Counts(nb::handle rows, std::size_t uniform) : uniform_(uniform) {
  if (rows.is_none()) return;
  if (torch_of(rows) != nullptr && nb::cast<bool>(rows.attr("is_cuda"))) {
    read_device(rows);
    return;
  }
  if (PyIndex_Check(rows.ptr()) != 0 && PySequence_Check(rows.ptr()) == 0) {  // numpy's integers as well
    uniform_ = count_from(rows);
    return;
  }
  const bool is_array = nb::hasattr(rows, "__dlpack_device__");
  if (is_array) {
    const nb::tuple device = nb::cast<nb::tuple>(rows.attr("__dlpack_device__")());
    if (nb::cast<int>(device[0]) == nb::device::cuda::value) {
      read_device(rows);
      return;
    }
  }
  const auto fast =
      nb::steal(PySequence_Fast(is_array ? nb::object(rows.attr("tolist")()).ptr() : rows.ptr(), ""));
  if (!fast.is_valid()) {
    PyErr_Clear();
    throw InvalidArgument(
        fmt::format("row counts are an int, a sequence of ints or an array of them, not {}", class_of(rows)));
  }
  is_list_ = true;
  const auto size = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(fast.ptr()));
  for (std::size_t i = 0; i < size; ++i)
    list_.push_back(count_from(PySequence_Fast_GET_ITEM(fast.ptr(), static_cast<Py_ssize_t>(i))));
}

void Counts::read_device(nb::handle rows) {
  constexpr const char* rule =
      "row counts in device memory must be a contiguous int64 array with one count per DP rank";
  if (const Torch* torch = torch_of(rows)) {
    if (const auto tensor = described(*torch, rows)) {
      constexpr auto integer = static_cast<std::uint8_t>(nb::dlpack::dtype_code::Int);
      if (tensor->dtype.code != integer || tensor->dtype.bits != 64 || tensor->ndim != 1 ||
          (tensor->shape[0] > 1 && tensor->strides[0] != 1))
        throw InvalidArgument(rule);
      device_ = static_cast<const std::int64_t*>(data_of(*tensor));
      given_ = static_cast<std::size_t>(tensor->shape[0]);
      return;
    }
    if (!nb::object(rows.attr("dtype")).is(torch->int64) || nb::cast<int>(rows.attr("dim")()) != 1 ||
        !nb::cast<bool>(rows.attr("is_contiguous")()))
      throw InvalidArgument(rule);
    device_ = static_cast<const std::int64_t*>(pointer_from(rows.attr("data_ptr")()));
    given_ = nb::len(rows);
    return;
  }
  nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig> imported;
  if (!nb::try_cast(without_waiting(rows), imported)) throw InvalidArgument(rule);
  device_ = imported.data();
  given_ = imported.size();
  keeps_ = std::make_shared<decltype(imported)>(imported);
}

RowCounts Counts::value(int dp) const {
  // The library cannot tell, and would read beyond them.
  if (device_ != nullptr && given_ != static_cast<std::size_t>(dp))
    throw InvalidArgument(fmt::format(
        "{} row counts in device memory were given for {} DP ranks; pass one count per DP rank", given_, dp));
  if (device_ != nullptr) return RowCounts::on_device(device_, uniform_);
  return is_list_ ? RowCounts(list_) : RowCounts(uniform_);
}

nb::object make_array(const View& view, nb::handle owner) {
  const auto code = view.as_bits                ? nb::dlpack::dtype_code::UInt
                    : view.dtype == DType::bf16 ? nb::dlpack::dtype_code::Bfloat
                                                : nb::dlpack::dtype_code::Float;
  const nb::dlpack::dtype dtype{static_cast<std::uint8_t>(code),
                                static_cast<std::uint8_t>(size_of(view.dtype) * 8), 1};
  const nb::ndarray<nb::array_api> array(
      view.data, view.shape.size(), view.shape.data(), owner, nullptr, dtype,
      view.on_cuda ? nb::device::cuda::value : nb::device::cpu::value, view.device);
  return nb::cast(array);
}

}  // namespace mixcomm::python
