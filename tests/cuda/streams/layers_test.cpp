// A model's boundaries in a CUDA graph: captured once, replayed with other row counts in device memory.
#include <fmt/format.h>
#include <array>
#include <vector>

#include "cuda/graph.hpp"
#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

constexpr std::size_t hidden = 96;
constexpr std::size_t most = 5;
constexpr float untouched = -1;

/// Memory of the device, and what the host last put there or found.
template <class T>
class Mirror {
 public:
  Mirror(verify::Device& device, std::size_t size)
      : device_(device), memory_(device.allocate(size * sizeof(T))), host(size) {}
  void write() { device_.write(memory_.get(), reinterpret_cast<const std::byte*>(host.data()), bytes()); }
  void read() { device_.read(reinterpret_cast<std::byte*>(host.data()), memory_.get(), bytes()); }
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.get()); }

 private:
  [[nodiscard]] std::size_t bytes() const { return host.size() * sizeof(T); }
  verify::Device& device_;
  std::shared_ptr<std::byte> memory_;

 public:
  std::vector<T> host;
};

/// Whole numbers, so that sums are exact.
float value(int rank, std::size_t row, std::size_t column, int replay) {
  return static_cast<float>((rank + 1) * 8 + static_cast<int>(row + column % 7) + replay % 5);
}

class Layers : public CudaTest {};

TEST_F(Layers, AGraphReplaysWithOtherCounts) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Communicators communicators(bootstrap, cuda_options(2, 2));
    LayerCommunicator layers(LayerPlan({.embedding = modules::embedding(),
                                        .layers = {{modules::attention(), modules::experts()}},
                                        .head = modules::head(),
                                        .logits = {}},
                                       {.attn_tp = 2, .attn_dp = 2, .moe_tp = 1, .moe_ep = 4}),
                             communicators, {.max_rows = 2 * most, .hidden = hidden, .dtype = DType::fp32});
    Mirror<std::int64_t> counts(*device, 2);
    Mirror<float> in(*device, most * hidden);
    Mirror<float> all(*device, 2 * most * hidden);
    Mirror<float> out(*device, most * hidden);
    const RowPlan rows = layers.rows_on_device(counts.data(), most);
    counts.host = {1, 1};
    counts.write();

    const CallOptions on_stream{.stream = device->stream()};
    const Graph graph(device->stream(), [&] {
      layers.cross(layers.before_mlp(0), tensor(in.data(), most, hidden),
                   tensor(all.data(), 2 * most, hidden), rows, on_stream);
      layers.cross(layers.after_mlp(0), tensor(all.data(), 2 * most, hidden),
                   tensor(out.data(), most, hidden), rows, on_stream);
    });
    const Departure departure(bootstrap);
    (void)bootstrap.exchange("testing layers", "");

    const std::array<std::array<std::int64_t, 2>, 5> steps{{{1, 1}, {5, 5}, {0, 3}, {4, 1}, {0, 0}}};
    const auto d = static_cast<std::size_t>(bootstrap.rank() / 2);
    for (int replay = 0; replay < 50; ++replay) {
      const auto& now = steps[static_cast<std::size_t>(replay) % steps.size()];
      counts.host.assign(now.begin(), now.end());
      counts.write();
      for (std::size_t i = 0; i < most; ++i)
        for (std::size_t h = 0; h < hidden; ++h)
          in.host[i * hidden + h] = value(bootstrap.rank(), i, h, replay);
      in.write();
      all.host.assign(all.host.size(), untouched);
      all.write();
      out.host.assign(out.host.size(), untouched);
      out.write();
      graph.launch();
      device->synchronize();
      communicators.on({1, 2, 2}).check();
      all.read();
      out.read();
      const auto sum = [&](std::size_t block, std::size_t row, std::size_t h) {
        const int first = static_cast<int>(block) * 2;
        return value(first, row, h, replay) + value(first + 1, row, h, replay);
      };
      std::size_t at = 0;  // row of `all`
      for (std::size_t block = 0; block < 2; ++block)
        for (std::size_t i = 0; i < static_cast<std::size_t>(now[block]); ++i, ++at)
          for (std::size_t h = 0; h < hidden; ++h)
            if (all.host[at * hidden + h] != sum(block, i, h))
              return fmt::format("replay {}: all has {} in row {}, for row {} of block {}", replay,
                                 all.host[at * hidden + h], at, i, block);
      for (std::size_t i = at * hidden; i < all.host.size(); ++i)
        if (all.host[i] != untouched)
          return fmt::format("replay {}: all was written behind its rows", replay);
      for (std::size_t i = 0; i < most; ++i)
        for (std::size_t h = 0; h < hidden; ++h) {
          const bool there = i < static_cast<std::size_t>(now[d]);
          const float expected = there ? 4 * sum(d, i, h) : untouched;  // every rank brings all that it has
          if (out.host[i * hidden + h] != expected)
            return fmt::format("replay {}: out has {} in row {}, not {}", replay, out.host[i * hidden + h], i,
                               expected);
        }
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
