// The names of the device layer (include/mixcomm/device/) that the library's own kernels use as theirs.
#pragma once

#include "mixcomm/device/barriers.cuh"
#include "mixcomm/device/lane.cuh"
#include "mixcomm/device/line_wire.cuh"
#include "mixcomm/device/messages.cuh"
#include "mixcomm/device/numbers.cuh"
#include "mixcomm/device/packet_wire.cuh"
#include "mixcomm/device/ptx.cuh"
#include "mixcomm/device/user_tile.cuh"

namespace mixcomm::cuda {

namespace ptx = device::ptx;
using device::LineWire;
using device::load_elements;
using device::load_pack;
using device::load_state;
using device::Numbers;
using device::OrderedSum;
using device::PacketWire;
using device::Place;
using device::store_elements;
using device::store_pack;
using device::UserTile;
using device::Words;

}  // namespace mixcomm::cuda
