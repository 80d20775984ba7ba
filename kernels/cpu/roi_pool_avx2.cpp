#if defined(__x86_64__)
#define SEG_ISA avx2
#include "roi_pool_isa.h"

const seg::RoiKernels& seg::roi_kernels_avx2(Type type) { return avx2::roi_kernels_of(type); }
#endif
