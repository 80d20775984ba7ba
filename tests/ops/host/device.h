// Runs the CUDA kernels on the host, thread by thread, so that their results can be tested without a GPU. Read before a
// kernel's source (-include). The threads of a block are fibers that hand over at barriers and at what a warp does
// together; shared memory starts as NaN, and a barrier that not all threads reach ends the program. A warp runs ahead of
// the others until a barrier stops it. Blocks and threads come first to last and asynchronous copies arrive only when they
// are waited for; or, `backwards`, last to first, and copies arrive at once. A kernel without races gives the same.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <ucontext.h>
#include <utility>
#include <vector>

#undef __global__
#undef __device__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __forceinline__ inline
#undef __grid_constant__
#define __launch_bounds__(...)
#define __grid_constant__

namespace host {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  ucontext_t start;
  jmp_buf place;
  std::unique_ptr<char[]> stack;
  bool started = false, done = true;
  Index thread;
  std::vector<Copy> copies;
};

struct Barrier {
  unsigned arrived = 0, turn = 0;
};

constexpr size_t kStack = 256 << 10;

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  jmp_buf scheduler;
  Fiber* self = nullptr;
  std::function<void()> body;
  Index block, grid, size;
  Barrier all;
  std::map<std::pair<unsigned, unsigned>, Barrier> teams;  // by warp and by the threads that take part
  std::vector<uint64_t> slots;                             // 16 words for each thread
  std::vector<unsigned char> shared;
  uint64_t progress = 0;
  bool backwards = false;
};

inline Machine machine;

inline void yield() {
  if (_setjmp(machine.self->place) == 0) _longjmp(machine.scheduler, 1);
}

inline void fiber_main() {
  while (true) {
    machine.body();
    machine.self->done = true;
    ++machine.progress;
    yield();
  }
}

inline void resume(Fiber& fiber) {
  machine.self = &fiber;
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.stack.reset(new char[kStack]);
  fiber.start.uc_stack.ss_sp = fiber.stack.get();
  fiber.start.uc_stack.ss_size = kStack;
  fiber.start.uc_link = nullptr;
  makecontext(&fiber.start, fiber_main, 0);
  setcontext(&fiber.start);
}

inline void wait(Barrier& barrier, unsigned count) {
  const unsigned turn = barrier.turn;
  ++machine.progress;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    ++barrier.turn;
    return;
  }
  while (barrier.turn == turn) yield();
}

// Runs the 32 threads from `first` on until all wait for other warps or are done; gives how many are not.
inline unsigned run_warp(unsigned first, unsigned threads) {
  while (true) {
    const uint64_t before = machine.progress;
    unsigned left = 0;
    for (unsigned i = first; i < first + 32 && i < threads; ++i) {
      Fiber& fiber = *machine.fibers[machine.backwards ? threads - 1 - i : i];
      if (!fiber.done) resume(fiber);
      left += !fiber.done;
    }
    if (left == 0 || machine.progress == before) return left;
  }
}

inline void run_block(unsigned threads) {
  while (machine.fibers.size() < threads) machine.fibers.push_back(std::make_unique<Fiber>());
  machine.slots.assign(threads * 16, 0);
  machine.all = Barrier{};
  machine.teams.clear();
  std::memset(machine.shared.data(), 0xff, machine.shared.size());
  for (unsigned i = 0; i < threads; ++i) {
    machine.fibers[i]->done = false;
    machine.fibers[i]->thread.x = i;
    machine.fibers[i]->copies.clear();
  }
  for (unsigned left = threads; left > 0;) {
    const uint64_t before = machine.progress;
    left = 0;
    for (unsigned first = 0; first < threads; first += 32) left += run_warp(first, threads);
    if (left > 0 && machine.progress == before) {
      std::fprintf(stderr, "%u threads of a block wait for others at a barrier\n", left);
      std::abort();
    }
  }
}

inline unsigned lane() { return machine.self->thread.x % 32; }
inline unsigned warp() { return machine.self->thread.x / 32; }
inline uint64_t* slots_of(unsigned lane_index) { return &machine.slots[(warp() * 32 + lane_index) * 16]; }
inline void team_barrier(unsigned team) { wait(machine.teams[{warp(), team}], __builtin_popcount(team)); }

// Gives every thread of a team what the others brought: read(lane, words) runs between two barriers.
template <typename T, typename F>
void together(unsigned team, const T& mine, const F& read) {
  static_assert(sizeof(T) <= 128);
  std::memcpy(slots_of(lane()), &mine, sizeof mine);
  team_barrier(team);
  read([](unsigned of) {
    T value;
    std::memcpy(&value, slots_of(of), sizeof value);
    return value;
  });
  team_barrier(team);
}

}  // namespace host

#define threadIdx (host::machine.self->thread)
#define blockIdx (host::machine.block)
#define blockDim (host::machine.size)
#define gridDim (host::machine.grid)

namespace seg::cuda {

template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), int64_t blocks, int threads, size_t shared_bytes, cudaStream_t, A... arguments) {
  host::Machine& machine = host::machine;
  machine.body = [=] { kernel(arguments...); };
  machine.size.x = threads;
  machine.grid.x = static_cast<unsigned>(blocks);
  machine.shared.assign(shared_bytes + 128, 0);
  for (int64_t i = 0; i < blocks; ++i) {
    machine.block.x = static_cast<unsigned>(machine.backwards ? blocks - 1 - i : i);
    host::run_block(threads);
  }
  return cudaSuccess;
}

template <typename T>
T* shared_memory() {
  const uintptr_t start = reinterpret_cast<uintptr_t>(host::machine.shared.data());
  return reinterpret_cast<T*>((start + 127) / 128 * 128);
}

inline void synchronize() { host::wait(host::machine.all, host::machine.size.x); }

template <typename T>
T exchange(unsigned team, T value, int distance) {
  T found;
  host::together(team, value, [&](auto of) { found = of(host::lane() ^ distance); });
  return found;
}

template <typename T>
void atomic_add(T* to, T value) {
  *to += value;
}

struct Device {
  int multiprocessors, shared_bytes, major;
};

inline Device device{8, 227 << 10, 9};

inline cudaError_t read_device(Device& found) {
  found = device;
  return cudaSuccess;
}

inline void atomic_add_four(float* to, float a, float b, float c, float d) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) std::abort();
  to[0] += a, to[1] += b, to[2] += c, to[3] += d;
}

inline void copy_vector(void* to, const void* from, bool exists = true) {
  static const unsigned char zeros[16] = {};
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) std::abort();
  if (host::machine.backwards) {
    std::memcpy(to, exists ? from : zeros, 16);
  } else {
    host::machine.self->copies.push_back({to, exists ? from : zeros, 16});
  }
}

inline void wait_for_copies() {
  for (const host::Copy& copy : host::machine.self->copies) std::memcpy(copy.to, copy.from, copy.bytes);
  host::machine.self->copies.clear();
}

constexpr unsigned kAllLanes = 0xffffffffu;

// PTX ISA, ldmatrix: lane 8 i + r names row r of matrix i; lane l receives of each its row l / 4, elements l % 4 * 2 + {0, 1}.
inline void load_matrices(uint32_t (&to)[4], const void* row) {
  const unsigned lane = host::lane();
  host::together(kAllLanes, row, [&](auto of) {
    for (unsigned i = 0; i < 4; ++i) {
      std::memcpy(to + i, static_cast<const char*>(of(i * 8 + lane / 4)) + lane % 4 * 4, 4);
    }
  });
}

// The same with rows and columns exchanged.
inline void load_transposed(uint32_t (&to)[4], const void* row) {
  const unsigned lane = host::lane();
  host::together(kAllLanes, row, [&](auto of) {
    for (unsigned i = 0; i < 4; ++i) {
      for (unsigned j = 0; j < 2; ++j) {
        const char* from = static_cast<const char*>(of(i * 8 + lane % 4 * 2 + j)) + lane / 4 * 2;
        std::memcpy(reinterpret_cast<char*>(to + i) + 2 * j, from, 2);
      }
    }
  });
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct Fragments {
  uint32_t a[4], b[2];
};

// PTX ISA, mma.m16n8k16 and m16n8k8: with g = lane / 4 and t = lane % 4, register i of the left factor holds row
// g + 8 (i % 2), bytes 4 t + 16 (i / 2) of the 32 of a row; register i of the right one column g, bytes 4 t + 16 i. The
// sums are of rows g + 8 (i / 2) and columns 2 t + i % 2. `product` multiplies four bytes of each.
template <typename F>
void multiply_fragments(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const F& product) {
  const unsigned g = host::lane() / 4, t = host::lane() % 4;
  host::together(kAllLanes, Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](auto of) {
    for (unsigned i = 0; i < 4; ++i) {
      for (unsigned k = 0; k < 8; ++k) {
        const Fragments left = of(g * 4 + k % 4), right = of((2 * t + i % 2) * 4 + k % 4);
        sum[i] += product(left.a[i / 2 + k / 4 * 2], right.b[k / 4]);
      }
    }
  });
}

template <typename T>
float product_of_pairs(uint32_t a, uint32_t b) {
  T left[2], right[2];
  std::memcpy(left, &a, 4);
  std::memcpy(right, &b, 4);
  return float(left[0]) * float(right[0]) + float(left[1]) * float(right[1]);
}

inline void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_fragments(sum, a, b0, b1, product_of_pairs<__nv_bfloat16>);
}

inline void mma_f16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_fragments(sum, a, b0, b1, product_of_pairs<__half>);
}

// Takes no notice of the lower 13 bits.
inline void mma_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply_fragments(sum, a, b0, b1, [](uint32_t left, uint32_t right) {
    return float_of(left & ~0x1fffu) * float_of(right & ~0x1fffu);
  });
}

// To the nearest number of 10 bits behind the point; ties away from zero.
inline float round_to_tf32(float value) {
  const uint32_t bits = bits_of(value);
  return (bits & 0x7f800000) == 0x7f800000 ? value : float_of((bits + 0x1000) & ~0x1fffu);
}

}  // namespace seg::cuda
