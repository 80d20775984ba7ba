// Which instruction set this processor, and the environment variable SEG_ISA, allow.
#include <cstring>
#include <string>

#include "tensors.h"

namespace seg {

namespace {

enum class Isa : int { portable, avx2, avx512, avx512_bf16 };
constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();  // the library may be loaded before the compiler's own constructors have run
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512;
  }
  // every processor with AVX2 and FMA has F16C, which older compilers cannot ask for
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa chosen_isa() {
  const Isa best = best_isa();
  const char* wanted = std::getenv("SEG_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (int i = 0; i <= static_cast<int>(best); ++i) {
    if (std::strcmp(wanted, kNames[i]) == 0) return static_cast<Isa>(i);
  }
  STD_TORCH_CHECK(false, "SEG_ISA=", wanted, " is not available; this processor allows up to ",
                  kNames[static_cast<int>(best)], " of portable, avx2, avx512, avx512_bf16");
}

// Read once: what was packed for one instruction set must not be read by another.
Isa current_isa() {
  static const Isa isa = chosen_isa();
  return isa;
}

}  // namespace

const Kernels& kernels_for(Type type, [[maybe_unused]] const Conv& conv) {
  switch (current_isa()) {
#if defined(__x86_64__)
    case Isa::avx512_bf16:
      // its words are pairs of channels
      if (type == Type::bf16 && conv.group_channels() % 2 == 0) return kernels_avx512_bf16();
      return kernels_avx512(type);
    case Isa::avx512: return kernels_avx512(type);
    case Isa::avx2: return kernels_avx2(type);
#endif
    default: return kernels_portable(type);
  }
}

std::string isa() { return kNames[static_cast<int>(current_isa())]; }

}  // namespace seg
