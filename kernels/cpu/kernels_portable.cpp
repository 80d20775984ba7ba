#define SEG_ISA portable
#include "isa.h"

const seg::Kernels& seg::kernels_portable(Type type) {
  return portable::kernels_of<float, double, BF16, F16>(type);
}
