// One layer of an engine on attention TP 2 x DP 2: the residual and the norms at its two boundaries are part
// of the operations. Compared with the same in separate steps.
#include <cstdio>
#include <cstring>
#include <vector>

#include "mixcomm/mixcomm.hpp"

using mixcomm::bf16;

namespace {

constexpr std::size_t hidden = 256;

/// Some numbers, others for each `seed`: bf16 of 1.0 to 1.99.
std::vector<bf16> numbers(std::size_t rows, std::size_t seed) {
  std::vector<bf16> made(rows * hidden);
  for (std::size_t i = 0; i < made.size(); ++i)
    made[i] = {static_cast<std::uint16_t>(0x3F80U + (i * 37 + seed * 11) % 128)};
  return made;
}

mixcomm::Tensor view(std::vector<bf16>& rows) {
  return mixcomm::tensor(rows.data(), rows.size() / hidden, hidden);
}

bool same(const std::vector<bf16>& a, const std::vector<bf16>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)) == 0;
}

}  // namespace

int main() {
  mixcomm::run_threads(4, [](mixcomm::Bootstrap& bootstrap) {
    mixcomm::Communicator communicator(bootstrap, {.tp = 2, .dp = 2});
    const std::vector<std::size_t> rows = {3, 1};
    const auto d = static_cast<std::size_t>(communicator.grid().dp.member);
    const auto rank = static_cast<std::size_t>(bootstrap.rank());

    std::vector<bf16> weight = numbers(1, 100);            // of the norm in front of the experts
    std::vector<bf16> residual = numbers(rows[d], 5 + d);  // of this DP rank's rows, on both of its TP ranks
    std::vector<bf16> attention = numbers(rows[d], rank);  // a part of the sum over TP
    std::vector<bf16> experts_in(4 * hidden);              // all rows, normed

    // In front of the experts: r = sum + residual, which becomes the residual; all ranks get norm(r) of all
    // rows.
    std::vector<bf16> kept(residual.size());
    communicator.all_reduce_all_gather(
        view(attention), view(experts_in), rows,
        {.epilogue = {.residual = view(residual),
                      .residual_out = view(kept),
                      .weight = view(weight),
                      .eps = 1e-6F,
                      .weight_plus_one = true}});  // as Qwen3.5 and Gemma have it

    // With FP8 experts, the gathered rows travel as FP8, with a scale for each 128 columns.
    std::vector<mixcomm::fp8_e4m3> codes(4 * hidden);
    std::vector<float> scales(4 * mixcomm::scales_per_row(mixcomm::Quantize::per_128_columns, hidden));
    communicator.all_reduce_all_gather(view(attention), mixcomm::tensor(codes.data(), 4, hidden), rows,
                                       {.epilogue = {.residual = view(residual),
                                                     .weight = view(weight),
                                                     .weight_plus_one = true,
                                                     .quantize = mixcomm::Quantize::per_128_columns,
                                                     .scales = scales.data()}});

    // Behind the experts: the own rows, added to the residual in place, and normed for the next layer.
    std::vector<bf16> experts_out = numbers(4, 20 + rank);
    std::vector<bf16> next(rows[d] * hidden);
    std::vector<bf16> carried = kept;
    communicator.reduce_scatter_all_reduce(
        view(experts_out), view(next), rows,
        {.epilogue = {.residual = view(carried), .residual_out = view(carried), .weight = view(weight)}});

    // The same in separate steps: the operation with the residual alone, then the norm. Bit for bit.
    std::vector<bf16> added(4 * hidden);
    std::vector<bf16> normed(4 * hidden);
    communicator.all_reduce_all_gather(view(attention), view(added), rows,
                                       {.epilogue = {.residual = view(residual)}});
    mixcomm::apply({.weight = view(weight), .weight_plus_one = true}, view(added), view(normed));
    std::vector<bf16> added_next(next.size());
    std::vector<bf16> normed_next(next.size());
    communicator.reduce_scatter_all_reduce(view(experts_out), view(added_next), rows,
                                           {.epilogue = {.residual = view(kept)}});
    mixcomm::rms_norm(view(added_next), view(weight), view(normed_next));
    std::printf("rank %zu: %s\n", rank,
                same(experts_in, normed) && same(next, normed_next) && same(carried, added_next)
                    ? "fused and separate steps agree"
                    : "WRONG");
  });
}
