#if defined(__x86_64__)
#define SEG_ISA avx512
#include "roi_pool_isa.h"

const seg::RoiKernels& seg::roi_kernels_avx512(Type type) { return avx512::roi_kernels_of(type); }
#endif
