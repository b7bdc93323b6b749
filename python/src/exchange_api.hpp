// DLPack's table of C functions (1.3, ``__dlpack_c_exchange_api__``): a tensor is read in a tenth of the time
// that its attributes take. Source: the specification of DLPack, "C exchange API".
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace mixcomm::python {

struct ExchangeApi {
  std::uint32_t major;
  std::uint32_t minor;
  ExchangeApi* older;
  void* allocate;
  void* owning_tensor_from;
  void* to_object;
  /// Fills in what `object`, of the very type that has this table, is; valid as long as that does not change.
  /// No stream waits. -1: with a Python exception. May be null.
  int (*tensor_from)(void* object, nanobind::dlpack::dltensor* tensor);
  int (*current_stream)(std::int32_t device_type, std::int32_t device, void** stream);
};

/// The table of a type; null where it has none, or one of another major version that cannot read tensors.
inline const ExchangeApi* exchange_api_of(nanobind::handle type) {
  const auto capsule = nanobind::steal(PyObject_GetAttrString(type.ptr(), "__dlpack_c_exchange_api__"));
  const auto* api =
      capsule.is_valid() && PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api") != 0
          ? static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"))
          : nullptr;
  PyErr_Clear();
  return api != nullptr && api->major == 1 && api->tensor_from != nullptr ? api : nullptr;
}

}  // namespace mixcomm::python
