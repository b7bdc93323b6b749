// The steps behind a sum, for whole rows that are in memory: the norm, and FP8. A row has 128 threads next to
// each other, one for each accumulator of its squares, so that most of the fixed order of that sum is what a
// thread adds by itself.
#pragma once

#include "cuda/packs.cuh"
#include "cuda/finish_arguments.hpp"
#include "epilogue/arithmetic.hpp"

namespace mixcomm::cuda {

/// One row, and where what comes of it goes.
template <class T>
struct FinishRow {
  const T* in;
  const T* residual;  ///< null: none is added
  T* kept;            ///< null: the rounded sum is kept nowhere
  void* out;          ///< of T or FP8; may be `in`
  float* scales;
  bool there;  ///< or else the team only keeps step with the others of its block
};

/// What threads tell each other of their rows; for rows in turns.
struct FinishShared {
  float sums[2][most_finish_threads];
  float largest[2][most_finish_threads / 32];
};

/// All threads of a block go in step, each team of 128 with a row of its own. `adds`: rows may have a residual
/// that is not in their sums yet. `aligned`: all rows begin at multiples of 16 bytes (of FP8: 8), and are whole
/// groups of columns. A kernel of so few bytes takes as long as its code takes to come, so what can do without
/// the rest has none of it.
template <class T, bool adds, bool aligned>
class Finish {
  static constexpr Place group = epilogue::group;
  static constexpr int words = static_cast<int>(group * sizeof(T) / 4);
  /// Groups of columns that a thread holds: of rows of up to 4096 columns of 16 bits it holds all. Of longer
  /// ones it reads them again, from the L1 cache.
  static constexpr int held = sizeof(T) == 2 ? 4 : 2;
  static constexpr Place stride = finish_threads * group;
  static constexpr Place span = held * stride;
  static_assert(finish_threads == epilogue::accumulators);
  using Group = Words<words>;

 public:
  __device__ Finish(const FinishArguments& a, FinishShared& shared)
      : a_(a), e_(a.epilogue), shared_(shared) {}

  /// The weight's columns that this thread needs first: they may be loaded before the rows are there.
  __device__ void load_weight() {
    if (e_.norms()) load(static_cast<const T*>(e_.weight), 0, weight_);
  }

  __device__ void operator()(const FinishRow<T>& row, int turn) {
    Group x[held] = {};
    const bool is_long = a_.hidden > span;
    float inverse = 1;
    bool first = true;  // nothing of the row has been looked at
    if (e_.norms()) {
      inverse = inverse_of(row, x, turn);
      first = false;
    } else if (!is_long) {
      take(row, 0, x, true);
    }
    if (e_.quantize != Quantize::none) return quantize(row, x, inverse, turn, first);
    MIXCOMM_ROLLED
    for (Place begin = 0; begin < a_.hidden; begin += span) {
      if (is_long) take(row, begin, x, first);
      norm(begin, x, inverse);
      if (!row.there) continue;
#pragma unroll
      for (int k = 0; k < held; ++k) store(static_cast<T*>(row.out), column(begin, k), x[k]);
    }
  }

 private:
  [[nodiscard]] __device__ static Place thread() { return threadIdx.x % finish_threads; }
  [[nodiscard]] __device__ static Place column(Place begin, int k) {
    return begin + (static_cast<Place>(k) * finish_threads + thread()) * group;
  }

  /// Of a row of hidden columns, this thread's groups of those from `begin` on; 0 behind its end.
  __device__ void load(const T* row, Place begin, Group (&x)[held]) const {
#pragma unroll
    for (int k = 0; k < held; ++k) {
      const Place at = column(begin, k);
      if constexpr (aligned) {
        x[k] = {};
        if (at < a_.hidden)
#pragma unroll
          for (int p = 0; p < words / 4; ++p) {
            std::uint32_t some[4];
            load_pack(row + at + p * (4 * Numbers<T>::per_word), some);
#pragma unroll
            for (int w = 0; w < 4; ++w) x[k].word[p * 4 + w] = some[w];
          }
      } else {
        load_words(row, a_.hidden, at, x[k]);
      }
    }
  }
  __device__ void store(T* row, Place at, const Group& x) const {
    if (at >= a_.hidden) return;
    if constexpr (aligned) {
#pragma unroll
      for (int p = 0; p < words / 4; ++p) {
        const std::uint32_t some[4] = {x.word[p * 4], x.word[p * 4 + 1], x.word[p * 4 + 2],
                                       x.word[p * 4 + 3]};
        store_pack(row + at + p * (4 * Numbers<T>::per_word), some);
      }
    } else {
      float value[group];
      to_floats<T>(x, value);
      store_floats(row, a_.hidden, at, value);
    }
  }

  /// The rounded sums of a row from `begin` on. `first`: they are kept, if that is wanted; from then on they
  /// are read from there, which may be where the residual was.
  __device__ void take(const FinishRow<T>& row, Place begin, Group (&x)[held], bool first) const {
    if (!row.there) return;
    if constexpr (adds)
      if (!first && row.kept != nullptr) return load(row.kept, begin, x);
    load(row.in, begin, x);
    if constexpr (adds) {
      if (row.residual != nullptr) {
        Group late[held];
        load(row.residual, begin, late);
#pragma unroll
        for (int k = 0; k < held; ++k) {
          OrderedSum<T, words, false> sum(2);
          sum.add(x[k]);
          sum.add_last(late[k]);
          x[k] = sum.rounded();
        }
      }
      if (first && row.kept != nullptr)
#pragma unroll
        for (int k = 0; k < held; ++k) store(row.kept, column(begin, k), x[k]);
    }
  }

  /// 1 / sqrt(...) of a row; its first columns are left in x, if it has no more.
  __device__ float inverse_of(const FinishRow<T>& row, Group (&x)[held], int turn) const {
    float mine = 0;
    MIXCOMM_ROLLED
    for (Place begin = 0; begin < a_.hidden; begin += span) {
      take(row, begin, x, true);
#pragma unroll
      for (int k = 0; k < held; ++k) {
        float value[group];
        to_floats<T>(x[k], value);
        mine = epilogue::plus(mine, epilogue::squares_of(value));
      }
    }
    shared_.sums[turn][threadIdx.x] = mine;
    __syncthreads();
    const float* const sums = shared_.sums[turn] + (threadIdx.x - thread()) + threadIdx.x % 32;
    float all = epilogue::plus(epilogue::plus(sums[0], sums[64]), epilogue::plus(sums[32], sums[96]));
#pragma unroll
    for (int other = 16; other > 0; other /= 2) all = epilogue::plus(all, __shfl_xor_sync(~0U, all, other));
    const bool padded = a_.mutant.is(Mutant::mean_over_padded_width);
    const Place width = padded ? 1U << (32 - __clz(a_.hidden - 1)) : a_.hidden;
    return epilogue::inverse_rms_of_mean(a_.one_over_hidden > 0
                                             ? epilogue::times(all, a_.one_over_hidden)
                                             : epilogue::over(all, static_cast<float>(width)),
                                         e_.eps);
  }

  /// From rounded sums to what the norm makes of them, rounded.
  __device__ void norm(Place begin, Group (&x)[held], float inverse) {
    if (!e_.norms()) return;
    if (a_.hidden > span) load(static_cast<const T*>(e_.weight), begin, weight_);
#pragma unroll
    for (int k = 0; k < held; ++k) {
      float value[group];
      float weight[group];
      to_floats<T>(x[k], value);
      to_floats<T>(weight_[k], weight);
#pragma unroll
      for (int j = 0; j < static_cast<int>(group); ++j)
        value[j] = epilogue::normed(value[j], inverse, epilogue::factor(weight[j], e_.weight_plus_one));
      constexpr int per_word = Numbers<T>::per_word;
#pragma unroll
      for (int w = 0; w < words; ++w) {
        float some[per_word];
#pragma unroll
        for (int i = 0; i < per_word; ++i) some[i] = value[w * per_word + i];
        x[k].word[w] = Numbers<T>::pack(some);
      }
    }
  }

  template <int threads>
  [[nodiscard]] __device__ static float largest_of(float mine) {
#pragma unroll
    for (int other = threads / 2; other > 0; other /= 2)
      mine = epilogue::larger(mine, __shfl_xor_sync(~0U, mine, other));
    return mine;
  }
  [[nodiscard]] __device__ static float largest_in(const float (&y)[group]) {
    float most = 0;
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); ++j) most = epilogue::larger(most, y[j]);
    return most;
  }

  /// A row as FP8.
  __device__ void quantize(const FinishRow<T>& row, Group (&x)[held], float inverse, int turn, bool first) {
    const bool is_long = a_.hidden > span;
    float scale = 1;
    if (e_.quantize == Quantize::fixed) scale = *e_.fixed_scale;
    if (!is_long) norm(0, x, inverse);
    if (e_.quantize == Quantize::per_token) {
      float largest = 0;
      MIXCOMM_ROLLED
      for (Place begin = 0; begin < a_.hidden; begin += span) {
        if (is_long) {
          take(row, begin, x, first);
          norm(begin, x, inverse);
        }
#pragma unroll
        for (int k = 0; k < held; ++k) {
          float value[group];
          to_floats<T>(x[k], value);
          if (column(begin, k) < a_.hidden) largest = epilogue::larger(largest, largest_in(value));
        }
      }
      first = false;
      scale = scale_of_row(largest, turn);
      if (row.there && thread() == 0) row.scales[0] = scale;
    }
    MIXCOMM_ROLLED
    for (Place begin = 0; begin < a_.hidden; begin += span) {
      if (is_long) {
        take(row, begin, x, first);
        norm(begin, x, inverse);
      }
#pragma unroll
      for (int k = 0; k < held; ++k) put_fp8(row, column(begin, k), x[k], scale);
    }
  }
  [[nodiscard]] __device__ float scale_of_row(float largest, int turn) const {
    largest = largest_of<32>(largest);
    if (threadIdx.x % 32 == 0) shared_.largest[turn][threadIdx.x / 32] = largest;
    __syncthreads();
    const float* const warps = shared_.largest[turn] + (threadIdx.x - thread()) / 32;
    return epilogue::scale_of(epilogue::larger(epilogue::larger(warps[0], warps[1]),
                                               epilogue::larger(warps[2], warps[3])));
  }
  /// One group of a finished row. Called by whole warps.
  __device__ void put_fp8(const FinishRow<T>& row, Place at, const Group& y, float scale) const {
    float value[group];
    to_floats<T>(y, value);
    const bool filled = row.there && at < a_.hidden;
    if (e_.quantize == Quantize::per_128_columns) {
      scale = epilogue::scale_of(largest_of<scale_columns / group>(at < a_.hidden ? largest_in(value) : 0));
      if (filled && at % scale_columns == 0) row.scales[at / scale_columns] = scale;
    }
    if (!filled) return;
    Words<2> codes{};
#pragma unroll
    for (int j = 0; j < static_cast<int>(group); j += 2)
      codes.word[j / 4] |= fp8_pair(epilogue::over(value[j], scale), epilogue::over(value[j + 1], scale))
                           << (j % 4 * 8);
    auto* const out = static_cast<fp8_e4m3*>(row.out);
    if constexpr (aligned)
      store_pack(out + at, codes.word);
    else
      UserTile<fp8_e4m3, 2>(out, a_.hidden, at).store(codes);
  }

  const FinishArguments& a_;
  const EpilogueArguments& e_;
  FinishShared& shared_;
  Group weight_[held] = {};
};

/// Row r of all that there are to finish, and whether it is there.
template <class T>
[[nodiscard]] __device__ inline FinishRow<T> finish_row(const FinishArguments& a, std::size_t r, bool there) {
  const EpilogueArguments& e = a.epilogue;
  const std::size_t at = r * a.hidden;
  const std::size_t out_bytes = e.quantizes() ? 1 : sizeof(T);
  return {static_cast<const T*>(a.in) + at,
          e.residual != nullptr ? static_cast<const T*>(e.residual) + at : nullptr,
          e.residual_out != nullptr ? static_cast<T*>(e.residual_out) + at : nullptr,
          static_cast<std::byte*>(a.out) + at * out_bytes,
          e.scales != nullptr
              ? e.scales + r * static_cast<std::size_t>(scales_per_row(e.quantize, a.hidden))
              : nullptr,
          there};
}

}  // namespace mixcomm::cuda
