#if defined(__x86_64__)
#define SEG_ISA avx2
#include "isa.h"

const seg::Kernels& seg::kernels_avx2(Type type) {
  return avx2::kernels_of<float, double, BF16, F16>(type);
}
#endif
