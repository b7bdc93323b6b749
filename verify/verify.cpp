#include "verify/verify.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "verify/numbers.hpp"
#include "verify/oracle.hpp"

namespace mixcomm::verify {
namespace {

bool gathers(Op op) {
  return op == Op::all_reduce || op == Op::all_gather || op == Op::all_reduce_all_gather;
}

constexpr std::size_t guard = 64;  // bytes around tensors that must stay as they are
constexpr std::byte poison{0xA5};

/// Room for a tensor, guards on both sides, and an odd start.
std::size_t bytes_for(std::size_t tensor_bytes, std::size_t element_bytes) {
  return tensor_bytes + 2 * guard + 8 * element_bytes;
}

}  // namespace

std::string_view name(Buffers buffers) {
  switch (buffers) {
    case Buffers::plain:
      return "plain";
    case Buffers::symmetric:
      return "symmetric";
    case Buffers::mixed:
      return "mixed";
    case Buffers::in_place:
      return "in_place";
    case Buffers::symmetric_in_place:
      break;
  }
  return "symmetric_in_place";
}

std::string describe(const Case& c) {
  return fmt::format("{} {} {} rows [{}]{} hidden {} {} {} seed {}", name(c.op), name(c.algorithm),
                     name(c.dtype), fmt::join(c.rows, ", "),
                     c.most == 0 ? "" : fmt::format(" on the device (most {}, room {})", c.most, c.room),
                     c.hidden, name(c.buffers), c.values == Values::integers ? "integers" : "floats", c.seed);
}

/// Memory that a case uses, and what was written to it.
struct Verifier::Region {
  std::byte* data = nullptr;
  std::vector<std::byte> image;
};

struct Verifier::Slot {
  Case c;
  Region in;
  Region out;
  bool in_place = false;     ///< both tensors are in `out`
  std::size_t in_begin = 0;  ///< bytes from the region's begin to the tensor
  std::size_t out_begin = 0;
  std::size_t out_elements = 0;  ///< that the call must write
  ConstTensor in_view;
  Tensor out_view;
  std::int64_t* counts = nullptr;
};

Verifier::Verifier(Communicator& communicator, std::size_t most_elements, int slots)
    : Verifier(communicator, make_device(communicator.options().backend, communicator.options().cuda.device),
               most_elements, slots) {}

// Plain memory first: after the allocations of symmetric memory, which are collective, all ranks have theirs.
Verifier::Verifier(Communicator& communicator, std::shared_ptr<Device> device, std::size_t most_elements,
                   int slots)
    : communicator_(communicator),
      device_(std::move(device)),
      region_bytes_((bytes_for(most_elements * 4, 4) + 255) / 256 * 256),
      plain_in_(device_->allocate(region_bytes_ * static_cast<std::size_t>(slots))),
      plain_out_(device_->allocate(region_bytes_ * static_cast<std::size_t>(slots))),
      counts_(device_->allocate(sizeof(std::int64_t) * max_ranks * static_cast<std::size_t>(slots))),
      slots_(static_cast<std::size_t>(slots)) {
  symmetric_in_ = communicator.allocate(region_bytes_ * static_cast<std::size_t>(slots));
  symmetric_out_ = communicator.allocate(region_bytes_ * static_cast<std::size_t>(slots));
}

Verifier::~Verifier() = default;

std::string Verifier::run(const Case& c) {
  prepare(c);
  launch();
  device_->synchronize();
  return check();
}

void Verifier::prepare(const Case& c, int slot) {
  Slot& s = slots_[static_cast<std::size_t>(slot)];
  s.c = c;
  const Grid& grid = communicator_.grid();
  const Oracle oracle(s.c, grid);
  const std::size_t esize = size_of(c.dtype);
  const bool gather = gathers(c.op);
  const bool one_block = c.op == Op::all_reduce;  // both tensors are the own block
  const std::size_t own_rows = c.rows[static_cast<std::size_t>(grid.dp.member)];
  const std::size_t all_rows =
      one_block ? own_rows : std::accumulate(c.rows.begin(), c.rows.end(), std::size_t{0});
  // What the tensors have room for.
  const std::size_t one_room = c.most == 0 ? own_rows : c.most;
  const std::size_t all_room = c.most == 0   ? all_rows
                               : one_block   ? c.most
                               : c.room != 0 ? c.room
                                             : c.most * static_cast<std::size_t>(grid.dp.size);
  const std::size_t in_room = gather ? one_room : all_room;
  const std::size_t out_room = gather ? all_room : one_room;
  const std::size_t in_elements = (gather ? own_rows : all_rows) * c.hidden;
  s.out_elements = (gather ? all_rows : own_rows) * c.hidden;

  const bool all_symmetric = c.buffers == Buffers::symmetric || c.buffers == Buffers::symmetric_in_place;
  const bool in_symmetric = all_symmetric || (c.buffers == Buffers::mixed && c.seed % 2 == 0);
  const bool out_symmetric = all_symmetric || (c.buffers == Buffers::mixed && c.seed % 2 == 1);
  s.in_place = c.buffers == Buffers::in_place || c.buffers == Buffers::symmetric_in_place;
  // Plain buffers start at an odd place, so that unaligned data is the normal case; symmetric ones now and
  // then.
  const auto begin_of = [&](bool symmetric) {
    return guard + esize * (symmetric ? (c.seed % 5 == 4 ? 1 : 0) : 1 + c.seed % 7);
  };
  const auto prepare_region = [&](Region& region, std::byte* memory, std::size_t room) {
    region.data = memory + region_bytes_ * static_cast<std::size_t>(slot);
    region.image.assign(bytes_for(room * c.hidden * esize, esize), poison);
  };
  prepare_region(s.out, out_symmetric ? symmetric_out_.data() : plain_out_.get(),
                 s.in_place ? std::max(in_room, out_room) : out_room);
  s.out_begin = begin_of(out_symmetric);
  if (s.in_place) {
    // The smaller tensor is this rank's block of the larger one.
    const std::size_t block = s.out_begin + (one_block ? 0 : oracle.offset(grid.dp.member) * esize);
    s.in_begin = gather ? block : s.out_begin;
    if (!gather) s.out_begin = block;
  } else {
    prepare_region(s.in, in_symmetric ? symmetric_in_.data() : plain_in_.get(), in_room);
    s.in_begin = begin_of(in_symmetric);
  }
  Region& in = s.in_place ? s.out : s.in;
  for (std::size_t i = 0; i < in_elements; ++i)
    store(c.dtype, in.image.data() + s.in_begin, i, encode(c.dtype, oracle.input(i)));

  // Ranks without rows pass null as often as not.
  const bool null = c.seed % 2 == 0 && !s.in_place;
  const auto pointer = [&](const Region& region, std::size_t begin, std::size_t room) {
    return null && room * c.hidden == 0 ? nullptr : region.data + begin;
  };
  s.in_view = {pointer(in, s.in_begin, in_room), in_room, c.hidden, c.dtype};
  s.out_view = {pointer(s.out, s.out_begin, out_room), out_room, c.hidden, c.dtype};

  if (!s.in_place) device_->write(s.in.data, s.in.image.data(), s.in.image.size());
  device_->write(s.out.data, s.out.image.data(), s.out.image.size());
  if (c.most != 0) {
    const std::vector<std::int64_t> counts(c.rows.begin(), c.rows.end());
    s.counts = reinterpret_cast<std::int64_t*>(counts_.get()) + static_cast<std::ptrdiff_t>(slot) * max_ranks;
    device_->write(reinterpret_cast<std::byte*>(s.counts), reinterpret_cast<const std::byte*>(counts.data()),
                   counts.size() * sizeof(std::int64_t));
  }
}

void Verifier::launch_on(void* stream, int slot) {
  const Slot& s = slots_[static_cast<std::size_t>(slot)];
  const RowCounts rows = s.c.most == 0 ? RowCounts(s.c.rows) : RowCounts::on_device(s.counts, s.c.most);
  communicator_.run(s.c.op, s.in_view, s.out_view, rows, {.algorithm = s.c.algorithm, .stream = stream});
}

std::string Verifier::check(int slot) {
  communicator_.check();
  const Slot& s = slots_[static_cast<std::size_t>(slot)];
  const auto read = [&](const Region& region) {
    read_back_.resize(region.image.size());
    device_->read(read_back_.data(), region.data, read_back_.size());
  };
  const auto first_change = [&](const Region& region, std::size_t begin, std::size_t end) {
    const auto [image, now] = std::mismatch(region.image.begin() + static_cast<std::ptrdiff_t>(begin),
                                            region.image.begin() + static_cast<std::ptrdiff_t>(end),
                                            read_back_.begin() + static_cast<std::ptrdiff_t>(begin));
    return static_cast<std::size_t>(image - region.image.begin());
  };
  const auto overwritten = [&](std::string_view which, std::size_t begin, std::size_t at) {
    return fmt::format("rank {}: {}: the byte at {} from the begin of '{}' was overwritten",
                       communicator_.grid().rank(), describe(s.c),
                       static_cast<std::ptrdiff_t>(at) - static_cast<std::ptrdiff_t>(begin), which);
  };
  read(s.out);
  if (std::string wrong = compare_output(s, read_back_); !wrong.empty()) return wrong;
  // All but the output is as it was: guards, rows beyond the counts, other blocks of a tensor written in
  // place.
  if (const auto at = first_change(s.out, 0, s.out_begin); at != s.out_begin)
    return overwritten("out", s.out_begin, at);
  const std::size_t out_end = s.out_begin + s.out_elements * size_of(s.c.dtype);
  if (const auto at = first_change(s.out, out_end, s.out.image.size()); at != s.out.image.size())
    return overwritten("out", s.out_begin, at);
  if (s.in_place) return "";
  read(s.in);
  if (const auto at = first_change(s.in, 0, s.in.image.size()); at != s.in.image.size())
    return overwritten("in", s.in_begin, at);
  return "";
}

std::string Verifier::compare_output(const Slot& slot, const std::vector<std::byte>& got_bytes) const {
  const Case& c = slot.c;
  const Grid& grid = communicator_.grid();
  const Oracle oracle(c, grid);
  const std::byte* out = got_bytes.data() + slot.out_begin;
  const bool all_blocks = gathers(c.op) && c.op != Op::all_reduce;
  const int first = all_blocks ? 0 : grid.dp.member;
  const int last = all_blocks ? grid.dp.size : first + 1;
  std::size_t i = 0;
  for (int d = first; d < last; ++d) {
    const std::size_t n = c.rows[static_cast<std::size_t>(d)] * c.hidden;
    for (std::size_t k = 0; k < n; ++k, ++i) {
      const std::uint32_t got = load(c.dtype, out, i);
      const float expected = oracle.expected(d, k);
      const std::uint32_t want = encode(c.dtype, expected);
      const bool equal = c.values == Values::integers ? decode(c.dtype, got) == expected : got == want;
      if (!equal)
        return fmt::format("rank {} (t {}, d {}): {}: element {} is {} (bits {:x}), expected {} (bits {:x})",
                           grid.rank(), grid.tp.member, grid.dp.member, describe(c), i, decode(c.dtype, got),
                           got, decode(c.dtype, want), want);
    }
  }
  return "";
}

}  // namespace mixcomm::verify
