// The CPU backend as the oracle: the same inputs, with every kind of number in them, give the same bits on
// CUDA.
#include <cstring>
#include <optional>
#include <vector>

#include "cuda/support.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

/// Numbers of ordinary size, and among them -0.0, infinities, NaN, subnormals and the largest ones.
std::uint32_t any_number(DType dtype, std::uint64_t h) {
  const unsigned exponent_bits = dtype == DType::fp16 ? 5 : 8;
  const unsigned bits = static_cast<unsigned>(size_of(dtype)) * 8;
  const unsigned mantissa_bits = bits - 1 - exponent_bits;
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 1U) << (bits - 1);
  const std::uint32_t mantissa = static_cast<std::uint32_t>(h >> 32U) & ((1U << mantissa_bits) - 1);
  const std::uint32_t most = (1U << exponent_bits) - 1;
  const auto with_exponent = [&](std::uint32_t e) { return sign | e << mantissa_bits | mantissa; };
  switch (h >> 1U & 31U) {
    case 0:
      return sign;  // 0.0 or -0.0
    case 1:
      return sign | most << mantissa_bits;  // an infinity
    case 2:
      return with_exponent(most) | 1U;  // NaN
    case 3:
    case 4:
      return with_exponent(0);  // subnormal
    case 5:
      return with_exponent(most - 1);
    case 6:
      return with_exponent(1);
    default:
      return with_exponent(most / 2 - 3 + static_cast<std::uint32_t>(h >> 8U & 7U));
  }
}

bool is_nan(DType dtype, std::uint32_t bits) {
  const float value = verify::decode(dtype, bits);
  return value != value;
}

struct Shape {
  std::vector<std::size_t> rows;
  std::size_t hidden;
};

/// One operation on both backends. Says what differs.
class Comparison {
 public:
  Comparison(Communicator& cpu, Communicator& cuda, verify::Device& device, std::size_t most_bytes)
      : cpu_(cpu),
        cuda_(cuda),
        device_(device),
        in_(device.allocate(most_bytes)),
        out_(device.allocate(most_bytes)) {}

  std::string run(Op op, Algorithm algorithm, DType dtype, const Shape& shape, std::uint64_t seed) {
    const Grid& grid = cpu_.grid();
    const RowCounts counts(shape.rows);
    const std::size_t own = counts[grid.dp.member];
    const std::size_t all = op == Op::all_reduce ? own : counts.total(grid.dp.size);
    const bool scatters = op == Op::reduce_scatter || op == Op::reduce_scatter_all_reduce;
    const std::size_t in_rows = scatters ? all : own;
    const std::size_t out_rows = scatters ? own : all;
    const std::size_t in_elements = in_rows * shape.hidden;
    std::vector<std::byte> in(in_elements * size_of(dtype));
    for (std::size_t i = 0; i < in_elements; ++i)
      verify::store(
          dtype, in.data(), i,
          any_number(dtype,
                     verify::mix(verify::mix(seed * 64 + static_cast<std::uint64_t>(grid.rank())) + i)));
    const auto view = [&](auto* data, std::size_t rows) {
      return BasicTensor<std::remove_pointer_t<decltype(data)>>{data, rows, shape.hidden, dtype};
    };

    std::vector<std::byte> expected(out_rows * shape.hidden * size_of(dtype));
    const Algorithm on_cpu = algorithm == Algorithm::composed ? algorithm : Algorithm::automatic;
    cpu_.run(op, view(static_cast<const void*>(in.data()), in_rows),
             view(static_cast<void*>(expected.data()), out_rows), counts, {.algorithm = on_cpu});

    device_.write(in_.get(), in.data(), in.size());
    cuda_.run(op, view(static_cast<const void*>(in_.get()), in_rows),
              view(static_cast<void*>(out_.get()), out_rows), counts,
              {.algorithm = algorithm, .stream = device_.stream()});
    device_.synchronize();
    cuda_.check();
    std::vector<std::byte> got(expected.size());
    device_.read(got.data(), out_.get(), got.size());
    if (std::memcmp(got.data(), expected.data(), got.size()) == 0) return "";
    for (std::size_t i = 0; i < out_rows * shape.hidden; ++i) {
      const std::uint32_t a = verify::load(dtype, got.data(), i);
      const std::uint32_t b = verify::load(dtype, expected.data(), i);
      if (a == b || (is_nan(dtype, a) && is_nan(dtype, b))) continue;
      return std::string(name(op)) + " " + std::string(name(algorithm)) + " " + std::string(name(dtype)) +
             ": element " + std::to_string(i) + " has bits " + std::to_string(a) + " on CUDA and " +
             std::to_string(b) + " on CPU";
    }
    return "";
  }

 private:
  Communicator& cpu_;
  Communicator& cuda_;
  verify::Device& device_;
  std::shared_ptr<std::byte> in_;
  std::shared_ptr<std::byte> out_;
};

class AgainstCpu : public CudaTest, public testing::WithParamInterface<GridSize> {};

TEST_P(AgainstCpu, TheSameBits) {
  const GridSize grid = GetParam();
  const auto dp = static_cast<std::size_t>(grid.dp);
  std::vector<Shape> shapes(3);
  for (std::size_t d = 0; d < dp; ++d) {
    shapes[0].rows.push_back(1 + (d * 2) % 5);
    shapes[1].rows.push_back(3);
    shapes[2].rows.push_back(d == 0 ? 0 : 2);
  }
  shapes[0].hidden = 333;
  shapes[1].hidden = 1024;
  shapes[2].hidden = 7;
  const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) -> std::string {
    const auto device = verify::make_device(BackendKind::cuda);
    Communicator cpu(bootstrap, {.tp = grid.tp, .dp = grid.dp, .timeout = patience()});
    Communicator packets(bootstrap, cuda_options(grid.tp, grid.dp, Protocol::packets));
    std::optional<Communicator> lines;
    if (has_lines(bootstrap)) lines.emplace(bootstrap, cuda_options(grid.tp, grid.dp, Protocol::lines));
    Communicator barriers(bootstrap, cuda_options(grid.tp, grid.dp, Protocol::barriers));
    const std::size_t most_bytes = std::size_t{4} * 1024 * 5 * dp;
    Comparison over_packets(cpu, packets, *device, most_bytes);
    Comparison over_barriers(cpu, barriers, *device, most_bytes);
    std::optional<Comparison> over_lines;
    if (lines) over_lines.emplace(cpu, *lines, *device, most_bytes);
    std::vector<std::pair<const char*, Comparison*>> comparisons{{"packets: ", &over_packets},
                                                                 {"barriers: ", &over_barriers}};
    if (over_lines) comparisons.emplace_back("lines: ", &*over_lines);
    const Departure departure(bootstrap);
    std::uint64_t seed = 0;
    for (int round = 0; round < 3; ++round)
      for (const Shape& shape : shapes)
        for (const Op op : {Op::all_reduce, Op::all_gather, Op::reduce_scatter, Op::all_reduce_all_gather,
                            Op::reduce_scatter_all_reduce})
          for (const DType dtype : {DType::bf16, DType::fp16, DType::fp32})
            for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed})
              for (const auto& [name, comparison] : comparisons)
                if (auto wrong = comparison->run(op, algorithm, dtype, shape, ++seed); !wrong.empty())
                  return name + wrong;
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(Grids, AgainstCpu,
                         testing::Values(GridSize{1, 1}, GridSize{2, 2}, GridSize{3, 2}, GridSize{4, 2},
                                         GridSize{2, 4}),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace mixcomm::test
