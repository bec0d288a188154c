// What compiled kernels (device.h) and the emulated cuBLASLt ask of the emulated driver. All of it is exported by libcuda.so.1.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct uint3 {
    unsigned int x, y, z;
};

// Where the running CUDA thread is: threadIdx, blockIdx, blockDim, gridDim.
struct KtView {
    uint3 thread, block, block_size, grid_size;
};

// One extern "C" __global__ function of a compiled program; the program exports kt_entries, kt_entry_count, kt_shared_begin and
// kt_shared_end.
struct KtEntry {
    const char* name;
    void (*call)(void** arguments);  // runs the calling CUDA thread through the kernel
    unsigned int count;              // of arguments
    const unsigned int* sizes;       // in bytes
    unsigned int max_threads;        // __launch_bounds__, or 1024
};

enum KtCollective { KtShuffle, KtVote, KtSyncWarp, KtReduce, KtMatch, KtLoadMatrix, KtLoadMatrixTransposed, KtMma, KtWarpgroup };

extern "C" {
// Copied at every switch of threads, so that a kernel reads it without asking. Kernels are loaded at run time and use the loader's static
// space of this library.
extern __thread KtView kt_view __attribute__((tls_model("initial-exec")));

// __syncthreads; returns the sum of predicate over the threads (of which _count, _or and _and follow).
int kt_barrier(int predicate);

// All lanes of mask meet; the last one calls complete with everybody's payload (null: an exited lane), then all go on.
void kt_collective(KtCollective kind, unsigned int mask, void* payload, void (*complete)(unsigned int mask, void** payloads));

unsigned char* kt_dynamic_shared();
unsigned int kt_lane();
void kt_copy_async(void* shared, const void* global, bool valid);
void kt_copy_commit();
void kt_copy_wait(int groups);
// Products of a warpgroup: see GroupedKernelsHopper.cu. Queued, and done at once or when they are waited for.
unsigned int kt_shared_address(const void* p);
void kt_warpgroup_multiply(float* d, int columns, unsigned long long a, unsigned long long b, bool b_by_k);
void kt_warpgroup_commit();
void kt_warpgroup_wait(int groups);
[[noreturn]] void kt_fail(const char* what);  // ends the launch with an error that names kernel, block and thread

void kt_complete_load_matrix(unsigned int mask, void** payloads);
void kt_complete_load_matrix_trans(unsigned int mask, void** payloads);
void kt_complete_mma(unsigned int mask, void** payloads);

// For the emulated cuBLASLt: run(argument) in the stream's order, as often as it is replayed, release(argument) in the end; 0: done.
int kt_enqueue(void* stream, void (*run)(void*), void* argument, void (*release)(void*));
// body(argument, i) for i in [0, count) on all workers; only from inside such a run.
void kt_parallel(int count, void (*body)(void*, int), void* argument);
// Where the emulator itself may read and write `bytes` bytes at a device address; null: not inside one allocation.
void* kt_reach(const void* device, size_t bytes);
}

struct KtLoadMatrixPayload {
    const void* row;
    unsigned int* registers;
};
struct KtMmaPayload {
    float* c;
    const unsigned int* a;
    unsigned int b[2];
};
