// Measured on a Zen 4 core (N x K = 128x128 .. 1024x128, M = 1 .. 128): dnnl::matmul with packed weights
// takes 0.6 us (fp32 0.9) for one row of 128x128, inner_product the same, dnnl_sgemm 0.8 to 1.3 times as long
// and only in fp32, and matmul on unpacked weights up to 5 times as long, because it packs them on each call.
// So: matmul, packed once.
#include "runner/linear.hpp"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <oneapi/dnnl/dnnl.hpp>

#include "mixcomm/error.hpp"

namespace mixcomm::runner {
namespace {

using dnnl::memory;

/// Products run in pieces of these row counts, so that no shape needs more than 19 kernels, whatever the
/// batches: ragged prompts and rows per expert would otherwise make a new kernel (some 100 us) in almost
/// every step.
constexpr std::array<std::size_t, 4> piece_rows{128, 64, 32, 16};
constexpr std::size_t kernel_count = piece_rows.size() + piece_rows.back() - 1;

/// The rows of the next piece when `rows` (> 0) are left, and which kernel it takes.
std::pair<std::size_t, std::size_t> next_piece(std::size_t rows) {
  for (std::size_t i = 0; i < piece_rows.size(); ++i) {
    if (rows >= piece_rows[i]) return {piece_rows[i], i};
  }
  return {rows, piece_rows.size() + rows - 1};
}

/// Without AVX-512 oneDNN has no fast bf16 product, so bf16 values are then multiplied as fp32 (the same
/// sums).
bool has_fast_bf16() {
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
  return (isa & needed) == needed;
}

memory::dim dim(std::size_t n) {
  return static_cast<memory::dim>(n);
}

[[noreturn]] void fail(const std::string& what) {
  throw SystemError(fmt::format("oneDNN could not make or run a matrix product: {}", what));
}

/// One shape and number of rows.
struct Kernel {
  dnnl::matmul primitive;
  memory src;
  memory dst;
  memory scratchpad;
};

/// What all Linears of one shape share.
struct Shape {
  std::size_t in = 0;
  std::size_t out = 0;
  memory::desc weights;  ///< packed, for any number of rows
  std::array<std::optional<Kernel>, kernel_count> kernels;
};

}  // namespace

struct Products::State {
  explicit State(Precision wanted)
      : precision(wanted),
        source(wanted.is_bf16() && has_fast_bf16() ? memory::data_type::bf16 : memory::data_type::f32) {}

  dnnl::matmul::primitive_desc describe(const Shape& shape, std::size_t rows,
                                        const memory::desc& weights) const {
    const memory::desc src({dim(rows), dim(shape.in)}, source, memory::format_tag::ab);
    const memory::desc dst({dim(rows), dim(shape.out)}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    // oneDNN's own scratchpad belongs to the thread that made the primitive; a decoder may be used by another
    // one.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    return {{src, weights, dst}, attributes, engine};
  }

  Shape& shape(std::size_t in, std::size_t out) {
    const auto [at, is_new] = shapes.try_emplace({in, out});
    Shape& shape = at->second;
    if (is_new) {
      shape.in = in;
      shape.out = out;
      const memory::desc any({dim(in), dim(out)}, source, memory::format_tag::any);
      shape.weights = describe(shape, piece_rows.back(), any).weights_desc();
    }
    return shape;
  }

  Kernel& kernel(Shape& shape, std::size_t rows, std::size_t index) {
    std::optional<Kernel>& kernel = shape.kernels[index];
    if (!kernel) {
      const auto description = describe(shape, rows, shape.weights);
      kernel = Kernel{dnnl::matmul(description), memory(description.src_desc(), engine, DNNL_MEMORY_NONE),
                      memory(description.dst_desc(), engine, DNNL_MEMORY_NONE),
                      memory(description.scratchpad_desc(), engine)};
    }
    return *kernel;
  }

  Precision precision;
  memory::data_type source;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::map<std::pair<std::size_t, std::size_t>, Shape> shapes;
  std::vector<std::uint16_t> narrow;  ///< bf16 input of the running product
};

Products::Products(Precision precision) : state_(std::make_unique<State>(precision)) {}
Products::~Products() = default;

struct Linear::State {
  Products::State& products;
  Shape& shape;
  memory weights;
};

Linear::Linear(Products& products, const Matrix& weight) try {
  Products::State& shared = *products.state_;
  Shape& shape = shared.shape(weight.cols, weight.rows);
  // A [K, N] matrix stored column by column is the [N, K] one stored row by row.
  const memory::desc plain({dim(weight.cols), dim(weight.rows)}, memory::data_type::f32,
                           memory::format_tag::ba);
  memory from(plain, shared.engine, const_cast<float*>(weight.values.data()));
  memory packed(shape.weights, shared.engine);
  dnnl::reorder(from, packed).execute(shared.stream, from, packed);
  shared.stream.wait();
  state_.reset(new State{shared, shape, std::move(packed)});
} catch (const dnnl::error& error) {
  fail(error.what());
}

Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

std::size_t Linear::out_features() const {
  return state_->shape.out;
}

void Linear::operator()(std::span<const float> in, std::span<float> out) const try {
  auto& [products, shape, weights] = *state_;
  std::size_t rows = in.size() / shape.in;
  const bool narrow = products.source == memory::data_type::bf16;
  if (narrow) {
    if (products.narrow.size() < in.size()) products.narrow.resize(in.size());
    std::transform(in.begin(), in.end(), products.narrow.begin(), bf16_bits);
  }
  const auto* src = narrow ? reinterpret_cast<const std::byte*>(products.narrow.data())
                           : reinterpret_cast<const std::byte*>(in.data());
  const std::size_t src_row_bytes = shape.in * (narrow ? sizeof(std::uint16_t) : sizeof(float));
  float* dst = out.data();
  while (rows > 0) {
    const auto [piece, index] = next_piece(rows);
    Kernel& kernel = products.kernel(shape, piece, index);
    kernel.src.set_data_handle(const_cast<std::byte*>(src));
    kernel.dst.set_data_handle(dst);
    // The C call: the C++ one allocates a list of arguments each time.
    const std::array<dnnl_exec_arg_t, 4> arguments{{{DNNL_ARG_SRC, kernel.src.get()},
                                                    {DNNL_ARG_WEIGHTS, weights.get()},
                                                    {DNNL_ARG_DST, kernel.dst.get()},
                                                    {DNNL_ARG_SCRATCHPAD, kernel.scratchpad.get()}}};
    const auto status = dnnl_primitive_execute(kernel.primitive.get(), products.stream.get(),
                                               static_cast<int>(arguments.size()), arguments.data());
    if (status != dnnl_success) fail(fmt::format("status {}", static_cast<int>(status)));
    src += piece * src_row_bytes;
    dst += piece * shape.out;
    rows -= piece;
  }
  products.precision.round(out);
} catch (const dnnl::error& error) {
  fail(error.what());
}

SingleThreaded::SingleThreaded() : before_(omp_get_max_threads()) {
  omp_set_num_threads(1);
}
SingleThreaded::~SingleThreaded() {
  omp_set_num_threads(before_);
}

}  // namespace mixcomm::runner
