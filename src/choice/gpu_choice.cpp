#include "choice/gpu_choice.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mixcomm {
namespace {

/// one_shot waits once, but the ranks of a TP team all sum the same rows. What it may send more than two_shot
/// over NVLink, and sum at a fifth of what that costs, goes in the time of a second hop.
double worth_a_hop(const Circumstances& c) {
  return c.link == Link::nvlink ? 300e3 : 192 * 1024;
}
double dearer_by(const Circumstances& c) {
  const GpuTraffic traffic(c);
  if (c.link != Link::nvlink) return traffic.all * traffic.tp;
  return traffic.one_shot_bytes() - traffic.two_shot_bytes() + (traffic.tp - 1) * traffic.all / 5;
}

}  // namespace

GpuTraffic::GpuTraffic(const Circumstances& c) : body(shape_of(c.op).body) {
  const Grid team = grid_of(Grid::of(c.tp, c.dp, 0), shape_of(c.op).team);
  tp = team.tp.size;
  const double dp = team.dp.size;
  ranks = team.world.size;
  all = static_cast<double>(c.bytes);
  largest = std::max(all / dp, static_cast<double>(c.largest_block_bytes));
}

Algorithm choose_on_gpus(const Circumstances& c) {
  return dearer_by(c) <= worth_a_hop(c) ? Algorithm::one_shot : Algorithm::two_shot;
}

LaunchShape shape_on_gpus(const Circumstances& c, Algorithm algorithm) {
  LaunchShape shape;
  if (c.link == Link::nvlink) {
    // Of few bytes, a packet is less to do for each thread, and twice the bytes take no longer.
    const bool few = algorithm == Algorithm::one_shot && GpuTraffic(c).largest <= 8 * 1024;
    shape.protocol = few ? Protocol::packets : Protocol::lines;
    shape.threads = few ? 64 : 0;
    // In place, what many bytes lose to the numbers of lines is more than two barriers.
    if (c.symmetric && algorithm == Algorithm::two_shot && c.bytes > std::size_t{6} << 20U)
      shape.protocol = Protocol::barriers;
    return shape;
  }
  if (algorithm == Algorithm::one_shot) {
    shape.protocol = Protocol::packets;
    return shape;
  }
  // In place, barriers move half the bytes of packets and copy nothing; elsewhere packets save a copy.
  const OpShape of_op = shape_of(c.op);
  const bool gathers_blocks = of_op.body == Body::gather && of_op.team != TeamKind::tp && c.dp > 1;
  const std::size_t most_kib = !c.symmetric ? 256 : gathers_blocks ? 128 : 64;
  shape.protocol = c.bytes <= most_kib << 10U ? Protocol::packets : Protocol::barriers;
  return shape;
}

std::string why_on_gpus(const Circumstances& c) {
  if (c.link != Link::nvlink)
    return fmt::format(
        "one_shot would read {} bytes per rank to save a wait: worth it up to {} bytes on CUDA, where "
        "a wait is a hop between GPUs",
        dearer_by(c), worth_a_hop(c));
  return fmt::format(
      "one_shot would send and sum {:.0f} bytes more at the busiest rank to save a hop: worth it up to "
      "{:.0f} "
      "over NVLink",
      std::max(dearer_by(c), 0.0), worth_a_hop(c));
}

}  // namespace mixcomm
