#if defined(__x86_64__)
#define SEG_ISA avx512
#include "isa.h"

const seg::Kernels& seg::kernels_avx512(Type type) {
  return avx512::kernels_of<float, double, BF16, F16>(type);
}
#endif
