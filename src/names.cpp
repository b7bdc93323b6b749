// Names of enumerators: one table each, used both ways.
#include <fmt/format.h>

#include <array>
#include <string>
#include <utility>

#include "mixcomm/communicator.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

template <class E, std::size_t N>
struct NameTable {
  std::string_view what;
  std::array<std::pair<E, std::string_view>, N> rows;

  [[nodiscard]] std::string_view name(E value) const {
    for (const auto& [candidate, text] : rows)
      if (candidate == value) return text;
    return "?";
  }

  [[nodiscard]] E value(std::string_view name) const {
    std::string all;
    for (const auto& [candidate, text] : rows) {
      if (text == name) return candidate;
      all += fmt::format("{}{}", all.empty() ? "" : ", ", text);
    }
    throw InvalidArgument(fmt::format("no {} is named '{}'; there are: {}", what, name, all));
  }
};

constexpr NameTable<DType, 3> dtypes{"dtype",
                                     {{{DType::bf16, "bf16"}, {DType::fp16, "fp16"}, {DType::fp32, "fp32"}}}};

constexpr NameTable<Quantize, 4> quantizes{"quantization",
                                           {{{Quantize::none, "none"},
                                             {Quantize::per_token, "per_token"},
                                             {Quantize::per_128_columns, "per_128_columns"},
                                             {Quantize::fixed, "fixed"}}}};

constexpr NameTable<Op, 5> ops{"operation",
                               {{{Op::all_reduce, "all_reduce"},
                                 {Op::all_gather, "all_gather"},
                                 {Op::reduce_scatter, "reduce_scatter"},
                                 {Op::all_reduce_all_gather, "all_reduce_all_gather"},
                                 {Op::reduce_scatter_all_reduce, "reduce_scatter_all_reduce"}}}};

constexpr NameTable<Algorithm, 5> algorithms{"algorithm",
                                             {{{Algorithm::automatic, "auto"},
                                               {Algorithm::one_shot, "one_shot"},
                                               {Algorithm::two_shot, "two_shot"},
                                               {Algorithm::composed, "composed"},
                                               {Algorithm::nccl, "nccl"}}}};

constexpr NameTable<BackendKind, 2> backends{"backend",
                                             {{{BackendKind::cpu, "cpu"}, {BackendKind::cuda, "cuda"}}}};

constexpr NameTable<Protocol, 4> protocols{"protocol",
                                           {{{Protocol::automatic, "auto"},
                                             {Protocol::packets, "packets"},
                                             {Protocol::lines, "lines"},
                                             {Protocol::barriers, "barriers"}}}};

constexpr NameTable<Link, 3> links{
    "link", {{{Link::shared, "one GPU"}, {Link::nvlink, "NVLink"}, {Link::pcie, "PCIe"}}}};

}  // namespace

std::string_view name(DType dtype) {
  return dtype == DType::fp8_e4m3 ? "fp8_e4m3" : dtypes.name(dtype);  // no dtype of sums
}
std::string_view name(Quantize quantize) {
  return quantizes.name(quantize);
}
std::string_view name(Op op) {
  return ops.name(op);
}
std::string_view name(Algorithm algorithm) {
  return algorithms.name(algorithm);
}
std::string_view name(BackendKind backend) {
  return backends.name(backend);
}
std::string_view name(Protocol protocol) {
  return protocols.name(protocol);
}
std::string_view name(Link link) {
  return links.name(link);
}
BackendKind backend_from_name(std::string_view name) {
  return backends.value(name);
}
Protocol protocol_from_name(std::string_view name) {
  return protocols.value(name);
}
Quantize quantize_from_name(std::string_view name) {
  return quantizes.value(name);
}
DType dtype_from_name(std::string_view name) {
  return dtypes.value(name);
}
Op op_from_name(std::string_view name) {
  return ops.value(name);
}
Algorithm algorithm_from_name(std::string_view name) {
  return algorithms.value(name);
}

}  // namespace mixcomm
