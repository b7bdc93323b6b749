// Epilogues: the residual, the norm and FP8 inside operations, and by themselves, against an independent
// oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/thread_count.hpp"
#include "epilogue/arithmetic.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/sanitized.hpp"
#include "support/spawn.hpp"
#include "verify/numbers.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

struct Setup {
  Ranks ranks;
  int tp;
  int dp;
  int threads = 1;
};

std::ostream& operator<<(std::ostream& out, const Setup& s) {
  return out << (s.ranks == Ranks::threads ? "threads" : "processes") << "_" << s.tp << "x" << s.dp << "_"
             << s.threads;
}

class Epilogues : public testing::TestWithParam<Setup> {};

TEST_P(Epilogues, EveryCaseIsExact) {
  const auto [ranks, tp, dp, threads] = GetParam();
  verify::Matrix matrix{
      .tp = tp, .dp = dp, .ops = {}, .algorithms = {}, .dtypes = {}, .large = !sanitized, .epilogues = true};
  if (ranks == Ranks::processes) matrix.dtypes = {DType::bf16};
  const auto cases = verify::cases_of(matrix);
  ASSERT_GT(cases.size(), 300U);
  const cpu::ThreadRule before = cpu::thread_rule();
  if (threads > 1) cpu::thread_rule() = {.least_bytes = 1, .bytes_each = 1};
  const auto results = spawn(ranks, tp * dp, [&](Bootstrap& bootstrap) {
    Communicator communicator(
        bootstrap,
        {.tp = tp, .dp = dp, .workspace_bytes = 2 * verify::workspace_bytes, .cpu = {.threads = threads}});
    verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
    for (const auto& each : cases)
      if (auto wrong = verifier.run(each); !wrong.empty()) return wrong;
    return std::string();
  });
  cpu::thread_rule() = before;
  EXPECT_EQ(failures(results), "");
}

std::vector<Setup> setups() {
  std::vector<Setup> all;
  for (const auto& [tp, dp] :
       {std::pair{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}, {3, 2}, {4, 2}, {2, 4}})
    all.push_back({Ranks::threads, tp, dp});
  all.push_back({Ranks::threads, 2, 2, 3});
#if !defined(__SANITIZE_THREAD__)
  for (const auto& [tp, dp] : {std::pair{2, 2}, {3, 2}}) all.push_back({Ranks::processes, tp, dp});
#endif
  return all;
}

INSTANTIATE_TEST_SUITE_P(Grids, Epilogues, testing::ValuesIn(setups()), testing::PrintToStringParamName());

using Row = std::vector<std::byte>;

Row random_row(DType dtype, std::size_t n, std::mt19937_64& random) {
  Row row(n * size_of(dtype) + 4);
  for (std::size_t i = 0; i < n; ++i) {
    const float x = static_cast<float>(static_cast<std::int32_t>(random())) * 0x1p-29F;
    verify::store(dtype, row.data(), i, verify::encode(dtype, x));
  }
  return row;
}

std::vector<float> decoded(DType dtype, const Row& row, std::size_t n) {
  std::vector<float> values;
  for (std::size_t i = 0; i < n; ++i)
    values.push_back(verify::decode(dtype, verify::load(dtype, row.data(), i)));
  return values;
}

float sum_of_squares(const std::vector<float>& r) {
  std::vector<float> accumulators(128, 0.0F);
  for (std::size_t g = 0; g * 8 < r.size(); ++g) {
    float columns[8] = {};
    for (std::size_t k = 0; k < 8 && g * 8 + k < r.size(); ++k) columns[k] = r[g * 8 + k];
    accumulators[g % 128] += epilogue::squares_of(columns);
  }
  for (std::size_t half = 64; half > 0; half /= 2)
    for (std::size_t i = 0; i < half; ++i) accumulators[i] += accumulators[i + half];
  return accumulators[0];
}

/// Every instruction set, any hidden size, also in place; and what the shared header says, which GPUs use.
TEST(EpilogueKernels, AllGiveTheBitsOfTheDefinition) {
  std::mt19937_64 random(3);
  for (const cpu::Implementation& implementation : cpu::usable_implementations())
    for (const DType dtype : {DType::bf16, DType::fp16, DType::fp32})
      for (int round = 0; round < 60; ++round) {
        const std::size_t hidden = round % 3 == 0 ? 1 + random() % 40 : 1 + random() % 5000;
        const int inner = 1 + static_cast<int>(random() % 3);
        const int outer = 1 + static_cast<int>(random() % 2);
        const bool adds = random() % 4 != 0;
        const bool norms = random() % 4 != 0;
        const bool plus_one = norms && random() % 2 == 0;
        const auto quantize = static_cast<Quantize>(random() % 4);
        std::vector<Row> rows;
        std::vector<const void*> sources;
        for (int s = 0; s < inner * outer; ++s) rows.push_back(random_row(dtype, hidden, random));
        for (const Row& row : rows) sources.push_back(row.data());
        const Row residual = random_row(dtype, hidden, random);
        const Row weight = random_row(dtype, hidden, random);
        const float fixed_scale = 0.01F;
        Row kept = residual;
        std::vector<std::vector<std::byte>> out(2, std::vector<std::byte>(hidden * size_of(dtype)));
        std::vector<void*> destinations = {out[0].data(), out[1].data()};
        std::vector<float> scales(scales_per_row(quantize, hidden) + 1, -1.0F);
        void* const kept_at = kept.data();
        float* const scales_at = scales.data();
        std::vector<std::byte> scratch(2 * hidden * size_of(dtype));
        implementation.finish_row({.sum = {.dtype = dtype,
                                           .sources = sources.data(),
                                           .inner = inner,
                                           .outer = outer,
                                           .destinations = destinations.data(),
                                           .destination_count = 2,
                                           .size = hidden},
                                   .residual = adds ? kept_at : nullptr,  // in place
                                   .weight = norms ? weight.data() : nullptr,
                                   .eps = 1e-5F,
                                   .width = hidden,
                                   .weight_plus_one = plus_one,
                                   .quantize = quantize,
                                   .fixed_scale = &fixed_scale,
                                   .kept = {&kept_at, 1},
                                   .scales = {&scales_at, 1},
                                   .scratch = scratch.data()});
        std::vector<float> r;
        std::vector<std::vector<float>> values;
        for (const Row& row : rows) values.push_back(decoded(dtype, row, hidden));
        const auto added = decoded(dtype, residual, hidden);
        const auto w = decoded(dtype, weight, hidden);
        for (std::size_t i = 0; i < hidden; ++i) {
          float total = 0;
          for (int o = 0; o < outer; ++o) {
            float partial = values[static_cast<std::size_t>(o * inner)][i];
            for (int s = 1; s < inner; ++s) partial += values[static_cast<std::size_t>(o * inner + s)][i];
            total = o == 0 ? partial : total + partial;
          }
          if (adds) total += added[i];
          r.push_back(verify::decode(dtype, verify::encode(dtype, total)));
        }
        const float inverse = epilogue::inverse_rms(sum_of_squares(r), hidden, 1e-5F);
        std::vector<float> y = r;
        for (std::size_t i = 0; norms && i < hidden; ++i)
          y[i] = verify::decode(
              dtype,
              verify::encode(dtype, epilogue::normed(r[i], inverse, epilogue::factor(w[i], plus_one))));
        const std::string which = std::string(implementation.name) + ", " + std::string(name(dtype)) +
                                  ", hidden " + std::to_string(hidden) + ", " + std::string(name(quantize));
        ASSERT_EQ(decoded(dtype, kept, hidden), r) << which;
        const std::size_t columns = quantize == Quantize::per_128_columns ? 128 : hidden;
        for (std::size_t i = 0; i < hidden; ++i) {
          std::uint32_t expected = verify::encode(dtype, y[i]);
          DType out_dtype = dtype;
          if (quantize != Quantize::none) {
            float most = 0;
            const std::size_t begin = i / columns * columns;
            for (std::size_t k = begin; k < std::min(begin + columns, hidden); ++k)
              most = epilogue::larger(most, y[k]);
            const float scale = quantize == Quantize::fixed ? fixed_scale : epilogue::scale_of(most);
            if (quantize != Quantize::fixed) {
              ASSERT_EQ(scales[i / columns], scale) << which;
            }
            expected = epilogue::quantized(y[i], scale);
            out_dtype = DType::fp8_e4m3;
          }
          for (const auto& each : out) ASSERT_EQ(verify::load(out_dtype, each.data(), i), expected) << which;
        }
        ASSERT_EQ(scales.back(), -1.0F) << which;
      }
}

/// All bits that round differently, and what is neither rounded nor finite.
TEST(EpilogueKernels, Fp8IsTheNearestNumber) {
  std::mt19937_64 random(4);
  for (std::uint32_t high = 0; high < 1U << 16U; ++high)
    for (const std::uint32_t low : {0U, 1U, 0x8000U, static_cast<std::uint32_t>(random()) & 0xFFFFU}) {
      const float x = epilogue::float_of(high << 16U | low);
      const std::uint32_t expected = std::isnan(x) ? 0x7FU : verify::encode(DType::fp8_e4m3, x);
      ASSERT_EQ(epilogue::to_fp8(x), expected) << x;
    }
  for (std::uint32_t code = 0; code < 256; ++code) {
    if ((code & 0x7FU) == 0x7FU) continue;
    ASSERT_EQ(epilogue::to_fp8(verify::decode(DType::fp8_e4m3, code)), code);
  }
  EXPECT_EQ(epilogue::to_fp8(std::numeric_limits<float>::infinity()), 0x7E);
  EXPECT_EQ(epilogue::to_fp8(464.1F), 0x7E);
  EXPECT_EQ(epilogue::to_fp8(-1e30F), 0xFE);
}

/// NaN and infinities stay visible; rows of zeros stay zeros, with the least scale.
TEST(Epilogue, SpecialValues) {
  constexpr std::size_t hidden = 130;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> in(2 * hidden, 0.0F);
  in[hidden + 3] = nan;
  in[hidden + 129] = std::numeric_limits<float>::infinity();
  std::vector<fp8_e4m3> out(2 * hidden);
  std::vector<float> scales(4);
  apply({.quantize = Quantize::per_128_columns, .scales = scales.data()}, tensor(in.data(), 2, hidden),
        tensor(out.data(), 2, hidden));
  EXPECT_EQ(scales[0], 1e-10F / 448.0F);
  EXPECT_EQ(out[0].bits, 0);
  EXPECT_EQ(out[hidden + 3].bits, 0x7F);
  EXPECT_EQ(out[hidden + 4].bits, 0);
  EXPECT_EQ(out[hidden + 129].bits, 0x7F);  // of infinity by infinity
  const float fixed = 2.0F;
  apply({.quantize = Quantize::fixed, .fixed_scale = &fixed}, tensor(in.data(), 2, hidden),
        tensor(out.data(), 2, hidden));
  EXPECT_EQ(out[hidden + 129].bits, 0x7E);
  std::vector<float> weight(hidden, 1.0F);
  std::vector<float> normed(2 * hidden);
  rms_norm(tensor(in.data(), 2, hidden), tensor(weight.data(), 1, hidden), tensor(normed.data(), 2, hidden));
  EXPECT_EQ(normed[0], 0.0F);
  EXPECT_TRUE(std::isnan(normed[hidden]));  // a NaN in a row is a NaN in all of it
}

/// What engines do in two steps today, and may go on doing beside: the same bits.
TEST(Epilogue, FusedIsTheOperationFollowedByTheNorm) {
  const auto results = spawn(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 2});
    constexpr std::size_t hidden = 1000;
    const std::vector<std::size_t> rows = {3, 5};
    const auto d = static_cast<std::size_t>(communicator.grid().dp.member);
    std::mt19937_64 random(static_cast<unsigned>(bootstrap.rank()));
    std::mt19937_64 shared(100 + d);
    std::mt19937_64 of_all(200);
    const Row in = random_row(DType::bf16, 5 * hidden, random);
    const Row residual = random_row(DType::bf16, 5 * hidden, shared);
    const Row weight = random_row(DType::bf16, hidden, of_all);
    const auto view = [&](const Row& row, std::size_t n) {
      return ConstTensor{row.data(), n, hidden, DType::bf16};
    };
    for (const Algorithm algorithm : {Algorithm::one_shot, Algorithm::two_shot, Algorithm::composed}) {
      Row added(8 * hidden * 2);
      Row normed(8 * hidden * 2);
      Row fused(8 * hidden * 2);
      const auto to = [&](Row& row) { return Tensor{row.data(), 8, hidden, DType::bf16}; };
      communicator.all_reduce_all_gather(
          view(in, rows[d]), to(added), rows,
          {.algorithm = algorithm, .epilogue = {.residual = view(residual, rows[d])}});
      rms_norm(to(added), view(weight, 1), to(normed), 1e-5F);
      communicator.all_reduce_all_gather(
          view(in, rows[d]), to(fused), rows,
          {.algorithm = algorithm,
           .epilogue = {.residual = view(residual, rows[d]), .weight = view(weight, 1), .eps = 1e-5F}});
      if (fused != normed) return "the bits differ with " + std::string(name(algorithm));
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(Epilogue, WhatBreaksARuleIsRefused) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, {.tp = 2, .dp = 1});
    std::vector<bf16> memory(16 * 64);
    const auto at = [&](std::size_t row, std::size_t rows, std::size_t hidden = 64) {
      return tensor(memory.data() + row * 64, rows, hidden);
    };
    std::vector<fp8_e4m3> codes(4 * 64);
    const Tensor to_codes = tensor(codes.data(), 4, 64);
    std::vector<float> scales(4);
    const float scale = 1;
    const Tensor in = at(0, 4);
    const Tensor out = at(4, 4);
    const auto refused = [&](const std::string& part, const Tensor& to, const Epilogue& epilogue) {
      const auto error = error_of<InvalidArgument>(
          [&] { communicator.all_reduce(in, to, {.algorithm = Algorithm::one_shot, .epilogue = epilogue}); });
      const auto alone = error_of<InvalidArgument>([&] { apply(epilogue, in, to); });
      return error.find(part) != std::string::npos && alone.find(part) != std::string::npos
                 ? std::string()
                 : "not refused for '" + part + "': " + error + " | " + alone + "\n";
    };
    std::string wrong = refused("'residual' is 3 x 64", out, {.residual = at(8, 3)});
    wrong += refused("'residual' is 4 x 32", out, {.residual = at(8, 4, 32)});
    wrong += refused("'residual_out' is 2 x 64", out, {.residual_out = at(8, 2)});
    wrong += refused("'weight' is 2 x 64", out, {.weight = at(8, 2)});
    wrong += refused("'residual' is null", out, {.residual = {nullptr, 4, 64, DType::bf16}});
    wrong += refused("eps is -1", out, {.weight = at(12, 1), .eps = -1});
    wrong += refused("'weight_plus_one' is set", out, {.residual = at(8, 4), .weight_plus_one = true});
    wrong += refused("'residual_out' and 'residual' overlap", out,
                     {.residual = at(8, 4), .residual_out = at(9, 4)});
    wrong += refused("'out' and 'residual' overlap", out, {.residual = at(4, 4)});
    wrong += refused("'out' and 'residual_out' overlap", out, {.residual_out = at(7, 4)});
    wrong += refused("'residual_out' and 'in' overlap", out, {.residual_out = at(0, 4)});
    wrong += refused("'out' and 'weight' overlap", out, {.weight = at(5, 1)});
    wrong += refused("fp8_e4m3", out, {.quantize = Quantize::per_token, .scales = scales.data()});
    wrong += refused("'scales' is null", to_codes, {.quantize = Quantize::per_token});
    wrong += refused("'fixed_scale' is null", to_codes, {.quantize = Quantize::fixed});
    wrong += refused("'scales' is given", out, {.residual = at(8, 4), .scales = scales.data()});
    wrong += refused("'fixed_scale' is given", out, {.residual = at(8, 4), .fixed_scale = &scale});
    const auto fp8_in = error_of<InvalidArgument>([&] { communicator.all_reduce(to_codes, to_codes); });
    if (fp8_in.find("of which no sums are made") == std::string::npos) wrong += fp8_in;
    communicator.all_reduce(in, out);  // still usable
    return wrong;
  });
  EXPECT_EQ(failures(results), "");
}

/// Each of these would leave rows of one rank different from another's.
TEST(Epilogue, RanksMustAgreeOnIt) {
  for (int which = 0; which < 6; ++which) {
    const auto results = spawn(Ranks::threads, 2, [&](Bootstrap& bootstrap) {
      Communicator communicator(bootstrap, {.tp = 2, .dp = 1, .timeout = std::chrono::milliseconds(3000)});
      std::vector<bf16> memory(16 * 64);
      std::vector<fp8_e4m3> codes(64);
      std::vector<float> scales(1);
      const auto at = [&](std::size_t row) { return tensor(memory.data() + row * 64, 1, 64); };
      Epilogue epilogue{.residual = at(2), .residual_out = at(3), .weight = at(4)};
      Tensor out = at(1);
      if (bootstrap.rank() == 1) {
        if (which == 0) epilogue.residual = {};
        if (which == 1) epilogue.residual_out = {};
        if (which == 2) epilogue.weight = {};
        if (which == 3) epilogue.eps = 1e-5F;
        if (which == 4) epilogue.weight_plus_one = true;
        if (which == 5) {
          epilogue.quantize = Quantize::per_token;
          epilogue.scales = scales.data();
          out = tensor(codes.data(), 1, 64);
        }
      }
      return error_of<Disagreement>([&] {
        communicator.all_reduce(at(0), out, {.algorithm = Algorithm::two_shot, .epilogue = epilogue});
      });
    });
    for (const std::string& error : results) {
      EXPECT_NE(error.find("add, residual_out, rms_norm (eps 1e-06)"), std::string::npos) << which << error;
    }
  }
}

/// A row that does not fit a pass is no silent truncation.
TEST(Epilogue, ARowHasToFitTheWorkspace) {
  const auto results = spawn(Ranks::threads, 2, [](Bootstrap& bootstrap) {
    Communicator communicator(bootstrap, {.tp = 1, .dp = 2, .workspace_bytes = std::size_t{64} << 10U});
    constexpr std::size_t hidden = 16384;
    std::vector<float> in(hidden);
    std::vector<float> weight(hidden);
    std::vector<float> out(2 * hidden);
    return error_of<InvalidArgument>([&] {
      communicator.all_gather(
          tensor(in.data(), 1, hidden), tensor(out.data(), 2, hidden), 1,
          {.algorithm = Algorithm::one_shot, .epilogue = {.weight = tensor(weight.data(), 1, hidden)}});
    });
  });
  for (const std::string& error : results)
    EXPECT_NE(error.find("workspace_bytes of 131072 or more"), std::string::npos) << error;
}

/// A boundary hands the epilogue to its operation, and where it has none does the steps by itself.
TEST(Epilogue, BoundariesTakeThem) {
  for (const Parallelism& parallelism :
       {Parallelism{.attn_tp = 2, .attn_dp = 2, .moe_tp = 4}, Parallelism{.attn_tp = 1, .attn_dp = 1}}) {
    const auto results = spawn(Ranks::threads, parallelism.world(), [&](Bootstrap& bootstrap) -> std::string {
      constexpr std::size_t hidden = 96;
      Communicators communicators(bootstrap, {});
      const ModelModules modules{
          .embedding = modules::embedding(),
          .layers = std::vector<LayerModules>(1, {modules::attention(), modules::experts()}),
          .head = modules::head(),
          .logits = {Rows::by_dp_rank}};
      LayerCommunicator boundaries(LayerPlan(modules, parallelism), communicators,
                                   {.max_rows = 8, .hidden = hidden, .dtype = DType::bf16});
      std::vector<std::size_t> counts = {3, 1};
      counts.resize(static_cast<std::size_t>(parallelism.attn_dp));
      const RowPlan rows = boundaries.rows(counts);
      const RowRange own = boundaries.range(Rows::by_dp_rank, rows);
      std::mt19937_64 random(static_cast<unsigned>(bootstrap.rank()));
      std::mt19937_64 shared(own.first + 100);
      Row in = random_row(DType::bf16, own.count * hidden, random);
      const Row residual = random_row(DType::bf16, own.count * hidden, shared);
      const std::size_t total = rows.total();
      Row crossed(total * hidden * 2);
      Row added(total * hidden * 2);
      Row normed(total * hidden * 2);
      const auto view = [&](auto& row, std::size_t n) {
        return ConstTensor{row.data(), n, hidden, DType::bf16};
      };
      const auto to = [&](Row& row, std::size_t n) { return Tensor{row.data(), n, hidden, DType::bf16}; };
      const Row same_weight(hidden * 2 + 4, std::byte{0x3F});
      boundaries.cross(boundaries.before_mlp(0), to(in, own.count), to(crossed, total), rows,
                       {.epilogue = {.residual = view(residual, own.count), .weight = view(same_weight, 1)}});
      boundaries.cross(boundaries.before_mlp(0), to(in, own.count), to(added, total), rows,
                       {.epilogue = {.residual = view(residual, own.count)}});
      rms_norm(to(added, total), view(same_weight, 1), to(normed, total));
      return crossed == normed ? "" : "the boundary's rows are not the normed ones";
    });
    EXPECT_EQ(failures(results), "");
  }
}

/// Columns are put side by side before anything is done with them: an FP8 result is half as large as they
/// are.
TEST(Epilogue, BoundariesOfColumnsQuantizeWholeRows) {
  const Parallelism parallelism{.attn_tp = 2, .attn_dp = 1, .moe_tp = 2};
  const auto results = spawn(Ranks::threads, parallelism.world(), [&](Bootstrap& bootstrap) -> std::string {
    constexpr std::size_t hidden = 48;
    constexpr std::size_t width = 2 * hidden;
    constexpr std::size_t count = 3;
    Communicators communicators(bootstrap, {});
    const ModelModules modules{
        .embedding = modules::embedding(),
        .layers = std::vector<LayerModules>(1, {modules::attention(), modules::experts()}),
        .head = modules::sharded_head(),
        .logits = {Rows::by_dp_rank}};
    LayerCommunicator boundaries(LayerPlan(modules, parallelism), communicators,
                                 {.max_rows = 8, .hidden = width, .dtype = DType::bf16});
    const RowPlan rows = boundaries.rows(std::vector<std::size_t>{count});
    std::mt19937_64 random(static_cast<unsigned>(bootstrap.rank()));
    Row in = random_row(DType::bf16, count * hidden, random);
    Row plain(count * width * 2);
    Row right(count * width);
    Row quantized(count * width + 64, std::byte{0x5A});
    std::array<float, count> right_scales{};
    std::array<float, count> scales{};
    const Tensor columns{in.data(), count, hidden, DType::bf16};
    boundaries.cross(boundaries.logits(), columns, {plain.data(), count, width, DType::bf16}, rows);
    boundaries.cross(boundaries.logits(), columns, {quantized.data(), count, width, DType::fp8_e4m3}, rows,
                     {.epilogue = {.quantize = Quantize::per_token, .scales = scales.data()}});
    apply({.quantize = Quantize::per_token, .scales = right_scales.data()},
          {plain.data(), count, width, DType::bf16}, {right.data(), count, width, DType::fp8_e4m3});
    if (scales != right_scales) return "other scales";
    if (!std::equal(right.begin(), right.end(), quantized.begin())) return "other numbers";
    const bool kept = std::all_of(quantized.begin() + count * width, quantized.end(),
                                  [](std::byte each) { return each == std::byte{0x5A}; });
    return kept ? "" : "what is behind `out` was written to";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
