#!/usr/bin/env bash
# Highway turns fp32 into bf16 by cutting 16 bits off.
#
# What processors (vcvtneps2bf16), CUDA and PyTorch do is rounding to the nearest, ties to even. In Highway 1.0.3, the
# release of Debian 12, both its scalar function and its vectors' DemoteTo drop the low half of the word: every result
# is nearer to zero, by up to a whole unit in the last place, and sums of many such numbers drift. The largest fp32 below
# 1 becomes 0.99609375, not 1; and a NaN whose set bits are all in the low half becomes infinity.
#
# Seen with libhwy-dev 1.0.3-3+deb12u1, g++ 12:
#   3f7fffff: BF16FromF32 3f7f, DemoteTo 3f7f       (0.99999994; to nearest it is 3f80)
#   7f800001: BF16FromF32 7f80, DemoteTo 7f80       (a NaN becomes infinity)
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for package in libhwy-dev=1.0.3-3+deb12u1 libhwy1=1.0.3-3+deb12u1; do apt-get download -q "$package" >/dev/null 2>&1; done
for archive in *.deb; do dpkg -x "$archive" root; done
cat >try.cpp <<'CPP'
#include <hwy/highway.h>

#include <cstdio>
#include <cstring>

namespace hn = hwy::HWY_NAMESPACE;

int main() {
  const hn::ScalableTag<float> floats;
  const hn::Rebind<hwy::bfloat16_t, decltype(floats)> halves;
  for (const unsigned word : {0x3F7FFFFFU, 0x7F800001U}) {
    float x;
    std::memcpy(&x, &word, 4);
    hwy::bfloat16_t of_vector[64];
    hn::StoreU(hn::DemoteTo(halves, hn::BitCast(floats, hn::Set(hn::RebindToUnsigned<decltype(floats)>(), word))), halves,
               of_vector);
    std::printf("%08x: BF16FromF32 %04x, DemoteTo %04x\n", word, hwy::BF16FromF32(x).bits, of_vector[0].bits);
  }
}
CPP
include=$(dirname "$(find root -path '*/hwy/highway.h')")/..
g++ -std=c++17 -O1 -march=x86-64-v3 -maes -mpclmul -I"$include" try.cpp $(find root -name 'libhwy.a') -o try
./try | tee seen
diff seen - <<'SEEN'
3f7fffff: BF16FromF32 3f7f, DemoteTo 3f7f
7f800001: BF16FromF32 7f80, DemoteTo 7f80
SEEN
