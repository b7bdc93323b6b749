#include "runner/boundary.hpp"

#include <algorithm>
#include <cstdint>

namespace mixcomm::runner {

BoundaryBuffers::BoundaryBuffers(Communicator& communicator, std::size_t max_rows, std::size_t hidden,
                                 const DecoderOptions& options)
    : hidden_(hidden),
      precision_(options.dtype),
      algorithm_(options.algorithm),
      hold_(options.hold),
      in_(communicator.allocate(max_rows * hidden * size_of(options.dtype))),
      out_(communicator.allocate(max_rows * hidden * size_of(options.dtype))) {}

void BoundaryBuffers::cross(LayerCommunicator& layers, const Boundary& boundary, const Crossing& crossing,
                            std::vector<CommInterval>& times) {
  const auto& [in, out, rows] = crossing;
  if (precision_.is_bf16()) {
    std::transform(in.begin(), in.end(), in_.as<std::uint16_t>(), bf16_bits);
  } else {
    std::copy(in.begin(), in.end(), in_.as<float>());
  }
  const Tensor from{in_.data(), in.size() / hidden_, hidden_, precision_.dtype()};
  const Tensor to{out_.data(), out.size() / hidden_, hidden_, precision_.dtype()};
  if (hold_) hold_();
  const auto begin = Clock::now();
  layers.cross(boundary, from, to, rows, {algorithm_});
  times.push_back({begin, Clock::now()});
  if (hold_) hold_();
  if (precision_.is_bf16()) {
    std::transform(out_.as<std::uint16_t>(), out_.as<std::uint16_t>() + out.size(), out.begin(),
                   from_bf16_bits);
  } else {
    std::copy_n(out_.as<float>(), out.size(), out.begin());
  }
}

}  // namespace mixcomm::runner
