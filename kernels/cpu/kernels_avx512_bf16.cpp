#if defined(__x86_64__)
#define SEG_ISA avx512_bf16
#include "isa.h"

const seg::Kernels& seg::kernels_avx512_bf16() {
  static constexpr Kernels kernels = avx512_bf16::make_kernels<BF16, avx512_bf16::Pairs>();
  return kernels;
}
#endif
