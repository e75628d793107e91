// Runs a CUDA kernel on one thread of a CPU, so that its text can be tested without a GPU.
//
// Blocks run one after another. The threads of a block are coroutines: each runs until it waits at
// __syncthreads() or ends, then the next; from last to first where `reversed` is set, which shows
// a barrier that is missing. A block whose threads do not all wait at the same line, or of which
// some end while others wait, is an error.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

using std::exp;
using std::fabs;
using std::log;
using std::sqrt;
using std::tanh;

#define __global__
#define __device__ static
#define __shared__ static  // one block at a time

struct Dimensions {
    unsigned x;
};
static Dimensions threadIdx, blockIdx, blockDim, gridDim;

namespace on_cpu {

const std::size_t STACK = 1 << 16;
const int DONE = -1;

struct Thread {
    ucontext_t start;
    jmp_buf here;
    bool started;
    int line;  // of the barrier it waits at, or DONE
    std::vector<char> stack = std::vector<char>(STACK);
};

static std::vector<Thread> threads;
static jmp_buf scheduler;
static std::function<void()> kernel;

static void wait_at(int line)
{
    threads[threadIdx.x].line = line;
    if (_setjmp(threads[threadIdx.x].here) == 0) _longjmp(scheduler, 1);
}

static void run_thread()
{
    kernel();
    threads[threadIdx.x].line = DONE;
    _longjmp(scheduler, 1);
}

// Runs thread i to its next barrier or its end.
static __attribute__((noinline)) void resume(unsigned i)
{
    threadIdx.x = i;
    if (_setjmp(scheduler) != 0) return;
    Thread& thread = threads[threadIdx.x];
    if (thread.started) _longjmp(thread.here, 1);
    thread.started = true;
    setcontext(&thread.start);
}

static bool run_block(unsigned size, bool reversed)
{
    for (Thread& thread : threads) {
        getcontext(&thread.start);
        thread.start.uc_stack.ss_sp = thread.stack.data();
        thread.start.uc_stack.ss_size = STACK;
        thread.start.uc_link = nullptr;
        makecontext(&thread.start, run_thread, 0);
        thread.started = false;
    }
    do {
        for (unsigned i = 0; i < size; ++i) resume(reversed ? size - 1 - i : i);
        for (const Thread& thread : threads)
            if (thread.line != threads[0].line) return false;
    } while (threads[0].line != DONE);
    return true;
}

template <class... Arguments, std::size_t... I>
static void call(void (*function)(Arguments...), void** arguments, std::index_sequence<I...>)
{
    function(*static_cast<Arguments*>(arguments[I])...);
}

// As cuLaunchKernel: arguments[i] points to the i-th argument. 0, or 1 for threads that part ways.
template <class... Arguments>
static int launch(void (*function)(Arguments...), unsigned grid, unsigned block, void** arguments,
                  int reversed)
{
    kernel = [=] { call(function, arguments, std::index_sequence_for<Arguments...>()); };
    threads.resize(block);
    blockDim.x = block;
    gridDim.x = grid;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        if (!run_block(block, reversed)) return 1;
    return 0;
}

}  // namespace on_cpu

#define __syncthreads() on_cpu::wait_at(__LINE__)
