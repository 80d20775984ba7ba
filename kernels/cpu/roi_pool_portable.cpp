#define SEG_ISA portable
#include "roi_pool_isa.h"

const seg::RoiKernels& seg::roi_kernels_portable(Type type) { return portable::roi_kernels_of(type); }
