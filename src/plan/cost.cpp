// What an operation costs. Every constant says where it is from.
#include "mixcomm/cost.hpp"

#include <fmt/format.h>

#include <array>

#include "mixcomm/choice.hpp"
#include "mixcomm/error.hpp"
#include "plan/across_nodes.hpp"

namespace mixcomm {
namespace {

/// How long a wait is: what a packet takes until a peer on the same device has seen it (measured, 0.6 us),
/// and what the link adds.
constexpr const char* wait_source =
    "a wait: 0.6 us until peers see a packet (docs/history.md, one H200) and the link's latency "
    "(NCCL, src/graph/tuning.cc, hwLat of LL); a call: an empty kernel in a graph (docs/performance.md)";

std::vector<LinkConstants> make_links() {
  const auto gpu = [](std::string name, double latency_us, double gbps, std::string_view bandwidth) {
    const Link joined = name.starts_with("nvlink") ? Link::nvlink : Link::pcie;
    return LinkConstants{.name = std::move(name),
                         .call_us = 1.5,
                         .wait_us = 0.6 + latency_us,
                         .gbps = gbps,
                         .joined = joined,
                         .source = fmt::format("{}; {}", bandwidth, wait_source)};
  };
  constexpr double nvlink_us = 0.5;
  constexpr double pci_us = 1.0;
  constexpr double network_us = 5.0;
  std::vector<LinkConstants> links = {
      gpu("nvlink3", nvlink_us, 300, "NVIDIA A100 datasheet: 600 GB/s NVLink, half of it in each direction"),
      gpu("nvlink4", nvlink_us, 450,
          "NVIDIA H100 and H200 datasheets: 900 GB/s NVLink, half of it in each direction"),
      gpu("nvlink5", nvlink_us, 900,
          "NVIDIA DGX B200 datasheet: 1.8 TB/s NVLink per GPU, half of it in each direction"),
      gpu("pcie4", pci_us, 31.5, "PCI Express 4.0 x16: 16 GT/s, 128b/130b"),
      gpu("pcie5", pci_us, 63, "PCI Express 5.0 x16: 32 GT/s, 128b/130b"),
  };
  links.push_back({.name = "network400",
                   .call_us = 0,
                   .wait_us = network_us,
                   .gbps = 50,
                   .source =
                       "NVIDIA ConnectX-7 datasheet: 400 Gb/s in each direction; latency: NCCL, "
                       "src/graph/tuning.cc, hwLat of LL between nodes; a message costs its rank nothing"});
  links.push_back(
      {.name = "one-h200",
       .call_us = 1.5,
       .wait_us = 1.5,
       .gbps = 320,
       .joined = Link::shared,
       .source = "docs/performance.md, eight ranks as streams of one H200: an empty kernel takes 1.5 us, "
                 "all_reduce_all_gather of 4x2 2.98 us at T=1 and 15.5 us at T=256"});
  links.push_back(
      {.name = "shm",
       .call_us = 1,
       .wait_us = 4,
       .gbps = 10,
       .backend = BackendKind::cpu,
       .crowded = true,
       .source =
           "docs/performance.md, four ranks on two cores: all_reduce_all_gather of 2x2 9.5 us at T=1 and "
           "103 us at T=64"});
  return links;
}

/// What a rank receives in one_shot: the blocks that it needs, once per rank that has a part of their sum. A
/// rank that scatters needs one block alone.
double one_shot_bytes(const Operation& o) {
  const double per_block = static_cast<double>(o.bytes) / o.dp;
  const double sources = o.tp * o.dp;
  return per_block * (sources - 1);
}

}  // namespace

std::span<const LinkConstants> known_links() {
  static const std::vector<LinkConstants> links = make_links();
  return links;
}

const LinkConstants& link_from_name(std::string_view name) {
  std::string names;
  for (const LinkConstants& each : known_links()) {
    if (each.name == name) return each;
    names += (names.empty() ? "" : ", ") + each.name;
  }
  throw InvalidArgument(fmt::format("no link is named '{}'; there are: {}", name, names));
}

double wire_bytes(Op op, int tp, int dp, std::size_t bytes) {
  const Grid team = grid_of(Grid::of(tp, dp, 0), shape_of(op).team);
  const double t = team.tp.size;
  const double d = team.dp.size;
  const auto all = static_cast<double>(bytes);
  return (t - 1) / t * all / d + (t * d - 1) / (t * d) * all;
}

Prediction predict_on_one_node(const Operation& operation, const CostModel& model, Algorithm algorithm) {
  const LinkConstants& link = model.link;
  Operation o = operation;
  const Grid team = grid_of(Grid::of(o.tp, o.dp, 0), shape_of(o.op).team);
  o.tp = team.tp.size;
  o.dp = team.dp.size;
  if (o.tp * o.dp == 1 || o.bytes == 0)
    return {algorithm == Algorithm::automatic ? Algorithm::one_shot : algorithm};
  const TuningTable* tuning = model.tuning;
  if (tuning != nullptr && (tuning->tp != operation.tp || tuning->dp != operation.dp)) tuning = nullptr;
  if (algorithm == Algorithm::automatic)
    algorithm = choose({.op = o.op,
                        .tp = o.tp,
                        .dp = o.dp,
                        .bytes = o.bytes,
                        .symmetric = true,
                        .crowded = link.crowded,
                        .backend = link.backend,
                        .link = link.joined,
                        .tuning = tuning});
  const bool once = algorithm == Algorithm::one_shot;
  Prediction p{algorithm, once ? 1 : 2, once ? one_shot_bytes(o) : wire_bytes(o.op, o.tp, o.dp, o.bytes)};
  p.us = link.call_us + p.waits * link.wait_us + p.bytes_per_rank / (link.gbps * 1000);
  return p;
}

Prediction predict(const Operation& operation, const CostModel& model, Algorithm algorithm) {
  return lies_on_one_node(operation, model) ? predict_on_one_node(operation, model, algorithm)
                                            : predict_across_nodes(operation, model, algorithm);
}

}  // namespace mixcomm
