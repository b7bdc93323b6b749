#include "verify/verify.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "verify/numbers.hpp"
#include "verify/oracle.hpp"

namespace mixcomm::verify {
namespace {

/// Written down again, so that a mistake in shape_of() is found.
bool gathers(Op op) {
  return op == Op::all_reduce || op == Op::all_gather || op == Op::all_reduce_all_gather;
}

constexpr std::size_t guard = 64;  // bytes around tensors that must stay as they are
constexpr std::byte poison{0xA5};
constexpr std::size_t most_weight_bytes = std::size_t{64} << 10U;  ///< a row may be larger than all tensors

/// The blocks [first, last) that this rank's output holds.
std::pair<int, int> blocks_of_output(const Case& c, const Grid& grid) {
  if (gathers(c.op) && c.op != Op::all_reduce) return {0, grid.dp.size};
  return {grid.dp.member, grid.dp.member + 1};
}

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
  const Steps& steps = c.steps;
  const std::string then = fmt::format(
      "{}{}{}{}{}{}", steps.adds ? " add" : "", steps.keeps ? " keep" : "", steps.in_place ? " in place" : "",
      steps.norms ? " norm" : "", steps.plus_one ? " 1 + w" : "",
      steps.quantize == Quantize::none ? "" : fmt::format(" fp8 {}", name(steps.quantize)));
  return fmt::format("{} {} {} rows [{}]{} hidden {} {} {} seed {}{}", name(c.op), name(c.algorithm),
                     name(c.dtype), fmt::join(c.rows, ", "),
                     c.most == 0 ? "" : fmt::format(" on the device (most {}, room {})", c.most, c.room),
                     c.hidden, name(c.buffers), c.values == Values::integers ? "integers" : "floats", c.seed,
                     then);
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
  Region residual;
  Region kept;
  Region weight;  ///< and behind it the fixed scale
  Region scales;
  Epilogue epilogue;
  std::vector<std::vector<Oracle::Row>> finished;  ///< by block that is looked at, then by row
  bool in_place = false;                           ///< both tensors are in `out`
  std::size_t in_begin = 0;                        ///< bytes from the region's begin to the tensor
  std::size_t out_begin = 0;
  std::size_t out_elements = 0;  ///< that the call must write
  DType out_dtype = DType::fp32;
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
      plain_residual_(device_->allocate(region_bytes_ * static_cast<std::size_t>(slots))),
      plain_kept_(device_->allocate(region_bytes_ * static_cast<std::size_t>(slots))),
      plain_scales_(device_->allocate(region_bytes_ * static_cast<std::size_t>(slots))),
      plain_weight_(device_->allocate((region_bytes_ + most_weight_bytes) * static_cast<std::size_t>(slots))),
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
  const auto begin_of = [&](bool symmetric, std::size_t element) {
    return guard + element * (symmetric ? (c.seed % 5 == 4 ? 1 : 0) : 1 + c.seed % 7);
  };
  const auto prepare_region = [&](Region& region, std::byte* memory, std::size_t elements,
                                  std::size_t element) {
    region.data = memory + region_bytes_ * static_cast<std::size_t>(slot);
    region.image.assign(bytes_for(elements * element, element), poison);
  };
  s.out_dtype = c.steps.quantize == Quantize::none ? c.dtype : DType::fp8_e4m3;
  const std::size_t out_esize = size_of(s.out_dtype);
  prepare_region(s.out, out_symmetric ? symmetric_out_.data() : plain_out_.get(),
                 (s.in_place ? std::max(in_room, out_room) : out_room) * c.hidden, out_esize);
  s.out_begin = begin_of(out_symmetric, out_esize);
  if (s.in_place) {
    // The smaller tensor is this rank's block of the larger one.
    const std::size_t block = s.out_begin + (one_block ? 0 : oracle.offset(grid.dp.member) * esize);
    s.in_begin = gather ? block : s.out_begin;
    if (!gather) s.out_begin = block;
  } else {
    prepare_region(s.in, in_symmetric ? symmetric_in_.data() : plain_in_.get(), in_room * c.hidden, esize);
    s.in_begin = begin_of(in_symmetric, esize);
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
  s.out_view = {pointer(s.out, s.out_begin, out_room), out_room, c.hidden, s.out_dtype};

  if (!s.in_place) device_->write(s.in.data, s.in.image.data(), s.in.image.size());
  device_->write(s.out.data, s.out.image.data(), s.out.image.size());
  prepare_epilogue(s, slot, {own_rows, one_room, out_room});
  if (c.most != 0) {
    const std::vector<std::int64_t> counts(c.rows.begin(), c.rows.end());
    s.counts = reinterpret_cast<std::int64_t*>(counts_.get()) + static_cast<std::ptrdiff_t>(slot) * max_ranks;
    device_->write(reinterpret_cast<std::byte*>(s.counts), reinterpret_cast<const std::byte*>(counts.data()),
                   counts.size() * sizeof(std::int64_t));
  }
}

void Verifier::prepare_epilogue(Slot& s, int slot, const EpilogueRows& rows) {
  const Case& c = s.c;
  const Steps& steps = c.steps;
  const Oracle oracle(c, communicator_.grid());
  const int own = communicator_.grid().dp.member;
  const auto at = [&](const std::shared_ptr<std::byte>& memory, std::size_t more = 0) {
    return memory.get() + (region_bytes_ + more) * static_cast<std::size_t>(slot);
  };
  s.epilogue = {};
  s.finished.clear();
  s.residual = s.kept = s.weight = s.scales = {};
  const std::size_t esize = size_of(c.dtype);
  const auto tensor_at = [&](Region& region, std::byte* memory, std::size_t rows_of_it) {
    region.data = memory;
    region.image.assign(bytes_for(rows_of_it * c.hidden * esize, esize), poison);
    return Tensor{region.data + guard, rows_of_it, c.hidden, c.dtype};
  };
  if (steps.adds) {
    s.epilogue.residual = tensor_at(s.residual, at(plain_residual_), rows.room);
    for (std::size_t i = 0; i < rows.own * c.hidden; ++i)
      store(c.dtype, s.residual.image.data() + guard, i, encode(c.dtype, oracle.residual(own, i)));
  }
  if (steps.keeps) {
    s.epilogue.residual_out = tensor_at(s.kept, at(plain_kept_), rows.room);
    if (steps.in_place) {
      s.epilogue.residual_out.data = const_cast<void*>(s.epilogue.residual.data);
      s.kept = {};
    }
  }
  if (steps.norms) {
    s.epilogue.weight = tensor_at(s.weight, at(plain_weight_, most_weight_bytes), 1);
    for (std::size_t i = 0; i < c.hidden; ++i)
      store(c.dtype, s.weight.image.data() + guard, i, encode(c.dtype, oracle.weight(i)));
    s.epilogue.eps = steps.eps;
    s.epilogue.weight_plus_one = steps.plus_one;
  }
  s.epilogue.quantize = steps.quantize;
  if (!s.epilogue.any()) return;
  s.finished.resize(c.rows.size());
  const auto [first, last] = blocks_of_output(c, communicator_.grid());
  for (int d = first; d < last; ++d)
    for (std::size_t row = 0; row < c.rows[static_cast<std::size_t>(d)]; ++row)
      s.finished[static_cast<std::size_t>(d)].push_back(oracle.finished(d, row));
  const std::size_t scales = rows.out * scales_per_row(steps.quantize, c.hidden);
  if (steps.quantize != Quantize::none) {
    // Of the fixed scale there is one, which is read.
    s.scales.data = at(plain_scales_);
    s.scales.image.assign(bytes_for(std::max<std::size_t>(scales, 1) * sizeof(float), sizeof(float)), poison);
    auto* const scale = reinterpret_cast<float*>(s.scales.data + guard);
    const float fixed = oracle.fixed_scale();
    if (steps.quantize == Quantize::fixed) {
      std::memcpy(s.scales.image.data() + guard, &fixed, sizeof(fixed));
      s.epilogue.fixed_scale = scale;
    } else {
      s.epilogue.scales = scale;
    }
  }
  for (const Region* each : {&s.residual, &s.kept, &s.weight, &s.scales})
    if (each->data != nullptr) device_->write(each->data, each->image.data(), each->image.size());
}

void Verifier::launch_on(void* stream, int slot) {
  const Slot& s = slots_[static_cast<std::size_t>(slot)];
  const RowCounts rows = s.c.most == 0 ? RowCounts(s.c.rows) : RowCounts::on_device(s.counts, s.c.most);
  communicator_.run(s.c.op, s.in_view, s.out_view, rows,
                    {.algorithm = s.c.algorithm, .stream = stream, .epilogue = s.epilogue});
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
  const std::size_t out_end = s.out_begin + s.out_elements * size_of(s.out_dtype);
  if (const auto at = first_change(s.out, out_end, s.out.image.size()); at != s.out.image.size())
    return overwritten("out", s.out_begin, at);
  if (std::string wrong = compare_finished(s); !wrong.empty()) return wrong;
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
  const auto [first, last] = blocks_of_output(c, grid);
  std::size_t i = 0;
  if (slot.epilogue.any()) {
    for (int d = first; d < last; ++d)
      for (std::size_t row = 0; row < c.rows[static_cast<std::size_t>(d)]; ++row) {
        const Oracle::Row& finished = slot.finished[static_cast<std::size_t>(d)][row];
        for (std::size_t k = 0; k < c.hidden; ++k, ++i) {
          const std::uint32_t got = load(slot.out_dtype, out, i);
          const std::uint32_t want =
              finished.codes.empty() ? encode(c.dtype, finished.out[k]) : finished.codes[k];
          if (got != want)
            return fmt::format(
                "rank {} (t {}, d {}): {}: column {} of row {} of block {} is {} (bits {:x}), "
                "expected {} (bits {:x})",
                grid.rank(), grid.tp.member, grid.dp.member, describe(c), k, row, d,
                decode(slot.out_dtype, got), got, decode(slot.out_dtype, want), want);
        }
      }
    return "";
  }
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

/// What an epilogue leaves beside the output, and what it must leave alone: the expected contents, by bytes.
std::string Verifier::compare_finished(const Slot& slot) {
  const Case& c = slot.c;
  const Grid& grid = communicator_.grid();
  const auto compare = [&](std::string_view which, const Region& region,
                           const std::vector<std::byte>& wanted) -> std::string {
    if (region.data == nullptr) return "";
    read_back_.resize(wanted.size());
    device_->read(read_back_.data(), region.data, read_back_.size());
    const auto [want, got] = std::mismatch(wanted.begin(), wanted.end(), read_back_.begin());
    if (want == wanted.end()) return "";
    return fmt::format(
        "rank {} (t {}, d {}): {}: the byte at {} from the begin of '{}' is {:x}, expected {:x}", grid.rank(),
        grid.tp.member, grid.dp.member, describe(c),
        want - wanted.begin() - static_cast<std::ptrdiff_t>(guard), which, static_cast<unsigned>(*got),
        static_cast<unsigned>(*want));
  };
  const Region& kept = c.steps.in_place ? slot.residual : slot.kept;
  std::vector<std::byte> rows = kept.image;
  std::vector<std::byte> scales = slot.scales.image;
  if (slot.epilogue.keeps())
    for (std::size_t row = 0; row < c.rows[static_cast<std::size_t>(grid.dp.member)]; ++row) {
      const Oracle::Row& finished = slot.finished[static_cast<std::size_t>(grid.dp.member)][row];
      for (std::size_t k = 0; k < c.hidden; ++k)
        store(c.dtype, rows.data() + guard, row * c.hidden + k, encode(c.dtype, finished.kept[k]));
    }
  std::size_t i = 0;
  const auto [first, last] = blocks_of_output(c, grid);
  if (slot.epilogue.scales != nullptr)
    for (int d = first; d < last; ++d)
      for (std::size_t row = 0; row < c.rows[static_cast<std::size_t>(d)]; ++row)
        for (const float scale : slot.finished[static_cast<std::size_t>(d)][row].scales)
          store(DType::fp32, scales.data() + guard, i++, encode(DType::fp32, scale));
  for (std::string wrong : {compare("residual_out", kept, rows), compare("scales", slot.scales, scales),
                            compare("residual", slot.residual, c.steps.in_place ? rows : slot.residual.image),
                            compare("weight", slot.weight, slot.weight.image)})
    if (!wrong.empty()) return wrong;
  return "";
}

}  // namespace mixcomm::verify
