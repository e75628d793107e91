"""The CUDA text of kernels.py, compiled for float and for double.

It keeps to what C++ and CUDA share (no warp instructions, no libraries), so that tests can run the
same text on a CPU, thread by thread. Arrays are contiguous. Each trick is explained where it is.
"""

from ..layers import _FAR, _GELU_CUBIC, _GELU_SATURATED, _GELU_SCALE

THREADS = 256  # of every block
LANES = 32  # neighbouring columns that a block reads at once
SLICES = THREADS // LANES  # threads that share a column

_CONSTANTS = f"""
#define THREADS {THREADS}
#define LANES {LANES}
#define SLICES {SLICES}
#define FAR {float(_FAR)!r}
#define GELU_SCALE {_GELU_SCALE!r}
#define GELU_CUBIC {_GELU_CUBIC!r}
#define GELU_SATURATED {_GELU_SATURATED!r}

typedef long long Index;

#define FOR_EACH(i, n) \\
    for (Index i = (Index)blockIdx.x * THREADS + threadIdx.x; i < n; \\
         i += (Index)gridDim.x * THREADS)
"""

# Trick, *tree of sums*: half of the threads add what the other half holds, then a quarter, and so
# on. Stopping at `kept` = LANES instead of 1 leaves a sum for each lane: one function serves rows,
# where all threads share a sum, and columns, where the SLICES threads of a lane do.
_REDUCTIONS = """
__device__ REAL sum_over_block(REAL x, int kept)
{
    __shared__ REAL part[THREADS];
    int own = threadIdx.x;
    __syncthreads();  // what an earlier call left has been read
    part[own] = x;
    __syncthreads();
    for (int half = THREADS / 2; half >= kept; half /= 2) {
        if (own < half) part[own] += part[own + half];
        __syncthreads();
    }
    return part[own % kept];
}
"""

# Trick, *softmax in one pass* (Milakov & Gimelshein 2018): the sum is kept in units of exp(top) and
# rescaled where a larger top turns up, so that maximum and sum take one read of the numbers.
_ONE_PASS_SOFTMAX = """
// Adds `weight` exp(x) to sum exp(top); sum = 0 stands for no numbers so far.
__device__ void add_exp(REAL& top, REAL& sum, REAL x, REAL weight)
{
    if (weight == 0) return;
    if (sum == 0) {
        top = x;
        sum = weight;
    } else if (x == top) {  // also where both are -inf, whose difference is NaN
        sum += weight;
    } else if (x > top) {
        sum = sum * exp(top - x) + weight;
        top = x;
    } else {
        sum += weight * exp(x - top);
    }
}

// The tree of sums with add_exp. An infinite top makes the sum NaN, as x - max(x) does.
__device__ void add_exp_over_block(REAL& top, REAL& sum, int kept)
{
    __shared__ REAL tops[THREADS];
    __shared__ REAL sums[THREADS];
    int own = threadIdx.x;
    tops[own] = top;
    sums[own] = sum;
    __syncthreads();
    for (int half = THREADS / 2; half >= kept; half /= 2) {
        if (own < half) add_exp(tops[own], sums[own], tops[own + half], sums[own + half]);
        __syncthreads();
    }
    top = tops[own % kept];
    sum = sums[own % kept] + (top - top);
}
"""

# Trick, *one kernel*: each number is read and written once, where every operation of the plain form
# reads and writes them all.
_GELU = """
extern "C" __global__ void gelu_forward(const REAL* x, REAL* y, REAL* gate, Index n)
{
    const REAL cubic = GELU_CUBIC * GELU_SCALE, scale = GELU_SCALE, half = 0.5;
    FOR_EACH(i, n) {
        REAL u = x[i] * (x[i] * x[i] * cubic + scale);
        REAL g = half * tanh(u) + half;
        gate[i] = g;
        y[i] = x[i] * g;
    }
}

extern "C" __global__ void gelu_backward(
    const REAL* dy, const REAL* x, const REAL* gate, REAL* dx, Index n)
{
    const REAL cubic = 6 * GELU_CUBIC * GELU_SCALE, scale = 2 * GELU_SCALE;
    const REAL limit = GELU_SATURATED;
    FOR_EACH(i, n) {
        REAL clipped = x[i] > limit ? limit : (x[i] < -limit ? -limit : x[i]);  // NaN stays
        REAL slope = (clipped * clipped * cubic + scale) * clipped * (1 - gate[i]) + 1;
        dx[i] = slope * gate[i] * dy[i];
    }
}
"""

# Trick, *one block a row*: a row stays in the block's cache from the mean to the last line.
_LAYER_NORM = """
extern "C" __global__ void layer_norm_forward(
    const REAL* x, const REAL* weight, const REAL* bias, REAL* y, REAL* normed, REAL* rstd,
    Index width, double epsilon)
{
    Index row = blockIdx.x;
    x += row * width;
    REAL sum = 0, shift = 0;
    for (Index c = threadIdx.x; c < width; c += THREADS) sum += x[c];
    REAL mean = sum_over_block(sum, 1) / width;
    sum = 0;
    for (Index c = threadIdx.x; c < width; c += THREADS) sum += (x[c] - mean) * (x[c] - mean);
    REAL variance = sum_over_block(sum, 1) / width;
    if (fabs(mean) > (REAL)FAR * sqrt(variance + (REAL)epsilon)) {  // in all threads alike
        sum = 0;
        for (Index c = threadIdx.x; c < width; c += THREADS) sum += x[c] - mean;
        shift = sum_over_block(sum, 1) / width;
        sum = 0;
        for (Index c = threadIdx.x; c < width; c += THREADS) {
            REAL deviation = (x[c] - mean) - shift;
            sum += deviation * deviation;
        }
        variance = sum_over_block(sum, 1) / width;
    }
    REAL r = 1 / sqrt(variance + (REAL)epsilon);
    if (threadIdx.x == 0) rstd[row] = r;
    for (Index c = threadIdx.x; c < width; c += THREADS) {
        REAL n = ((x[c] - mean) - shift) * r;
        normed[row * width + c] = n;
        y[row * width + c] = n * weight[c] + bias[c];
    }
}

extern "C" __global__ void layer_norm_backward(
    const REAL* dy, const REAL* normed, const REAL* rstd, const REAL* weight, REAL* dx, Index width)
{
    Index row = blockIdx.x;
    dy += row * width;
    normed += row * width;
    REAL sum = 0, along = 0;
    for (Index c = threadIdx.x; c < width; c += THREADS) {
        sum += dy[c] * weight[c];
        along += dy[c] * weight[c] * normed[c];
    }
    sum = sum_over_block(sum, 1) / width;
    along = sum_over_block(along, 1) / width;
    for (Index c = threadIdx.x; c < width; c += THREADS)
        dx[row * width + c] = (dy[c] * weight[c] - sum - normed[c] * along) * rstd[row];
}
"""

# Trick, *sums in two rounds*: the rows are dealt out to as many blocks as fill the GPU, each leaves
# a row of sums, and the same kernel adds those. Always in the same order, so that runs repeat.
_SUMS_OVER_ROWS = """
extern "C" __global__ void sum_rows(
    const REAL* x, REAL* sums, Index rows, Index width, Index tiles)
{
    Index column = blockIdx.x % tiles * LANES + threadIdx.x % LANES;
    Index chunk = blockIdx.x / tiles, step = gridDim.x / tiles * SLICES;
    REAL sum = 0;
    if (column < width)
        for (Index row = chunk * SLICES + threadIdx.x / LANES; row < rows; row += step)
            sum += x[row * width + column];
    sum = sum_over_block(sum, LANES);
    if (threadIdx.x < LANES && column < width) sums[chunk * width + column] = sum;
}

// Row by row of sums: those of dy times normed, then those of dy.
extern "C" __global__ void layer_norm_sums(
    const REAL* dy, const REAL* normed, REAL* sums, Index rows, Index width, Index tiles)
{
    Index column = blockIdx.x % tiles * LANES + threadIdx.x % LANES;
    Index chunk = blockIdx.x / tiles, step = gridDim.x / tiles * SLICES;
    REAL dweight = 0, dbias = 0;
    if (column < width)
        for (Index row = chunk * SLICES + threadIdx.x / LANES; row < rows; row += step) {
            dweight += dy[row * width + column] * normed[row * width + column];
            dbias += dy[row * width + column];
        }
    dweight = sum_over_block(dweight, LANES);
    dbias = sum_over_block(dbias, LANES);
    if (threadIdx.x < LANES && column < width) {
        sums[chunk * 2 * width + column] = dweight;
        sums[(chunk * 2 + 1) * width + column] = dbias;
    }
}
"""

# Trick, *no mask*: query i sees the first i + 1 + keys - queries keys, so what comes later is
# neither read nor compared, only set to 0. A block takes LANES neighbouring queries (columns) of
# one matrix, so that its reads are next to each other in memory.
_MASKED_SOFTMAX = """
extern "C" __global__ void masked_softmax_forward(
    REAL* scores, Index keys, Index queries, Index tiles, double scale)
{
    Index query = blockIdx.x % tiles * LANES + threadIdx.x % LANES;
    Index seen = query < queries ? query + 1 + keys - queries : 0;
    scores += blockIdx.x / tiles * keys * queries + query;
    REAL factor = scale, top = 0, sum = 0;
    for (Index key = threadIdx.x / LANES; key < seen; key += SLICES)
        add_exp(top, sum, factor * scores[key * queries], 1);
    add_exp_over_block(top, sum, LANES);
    if (query >= queries) return;
    for (Index key = threadIdx.x / LANES; key < keys; key += SLICES) {
        REAL& score = scores[key * queries];
        score = key < seen ? exp(factor * score - top) / sum : 0;
    }
}

extern "C" __global__ void masked_softmax_backward(
    const REAL* probs, REAL* dprobs, Index keys, Index queries, Index tiles, double scale)
{
    Index query = blockIdx.x % tiles * LANES + threadIdx.x % LANES;
    Index seen = query < queries ? query + 1 + keys - queries : 0;
    Index start = blockIdx.x / tiles * keys * queries + query;
    probs += start;
    dprobs += start;
    REAL factor = scale, along = 0;
    for (Index key = threadIdx.x / LANES; key < seen; key += SLICES)
        along += probs[key * queries] * dprobs[key * queries];
    along = sum_over_block(along, LANES);
    if (query >= queries) return;
    for (Index key = threadIdx.x / LANES; key < keys; key += SLICES) {
        REAL& d = dprobs[key * queries];
        d = key < seen ? factor * probs[key * queries] * (d - along) : 0;
    }
}
"""

# Trick, *three passes*: the head needs of a row only log q of its target before it knows the weight
# of the row, so softmax is never stored: two passes read the logits and one writes dlogits.
_LOSS_HEAD = """
extern "C" __global__ void target_log_q(
    const REAL* logits, const Index* targets, REAL* log_q, REAL* tops, REAL* sums, Index width)
{
    Index row = blockIdx.x, target = targets[row];
    logits += row * width;
    REAL top = 0, sum = 0;
    for (Index c = threadIdx.x; c < width; c += THREADS) add_exp(top, sum, logits[c], 1);
    add_exp_over_block(top, sum, 1);
    if (threadIdx.x != 0) return;
    tops[row] = top;
    sums[row] = sum;
    if (target < 0) target = 0;  // ignored: any number will do
    REAL zero = 0;
    log_q[row] = target < width ? logits[target] - top - log(sum) : zero / zero;
}

extern "C" __global__ void weighted_softmax(
    const REAL* logits, const Index* targets, const REAL* weights, const REAL* tops,
    const REAL* sums, REAL* dlogits, Index width)
{
    Index row = blockIdx.x, target = targets[row];
    for (Index c = threadIdx.x; c < width; c += THREADS) {
        REAL prob = exp(logits[row * width + c] - tops[row]) / sums[row];
        REAL slope = weights[row] * (c == target ? prob - 1 : prob);
        dlogits[row * width + c] = target < 0 ? 0 : slope;
    }
}
"""

# Trick, *one kernel for all parameters*: a table says where each array lies and which numbers of
# the flat vector are its own, so that neither gradients nor parameters are brought together first.
# Rows of the table: addresses of parameters, addresses of gradients, first number of each and, at
# the end, how many there are in all; whether each decays.
_ALL_PARAMETERS = """
__device__ Index array_of(const Index* starts, Index count, Index i)  // starts[k] <= i, the last k
{
    Index low = 0, high = count;
    while (high - low > 1) {
        Index middle = (low + high) / 2;
        if (starts[middle] <= i) low = middle; else high = middle;
    }
    return low;
}

extern "C" __global__ void adamw_update(
    const Index* table, Index count, REAL* mean, REAL* square, double beta1, double beta2,
    double step_size, double root_scale, double epsilon, double keep)
{
    const Index* starts = table + 2 * (count + 1);
    const REAL share1 = 1 - beta1, share2 = 1 - beta2;
    FOR_EACH(i, starts[count]) {
        Index k = array_of(starts, count, i), own = i - starts[k];
        REAL* p = (REAL*)table[k];
        REAL g = ((const REAL*)table[count + 1 + k])[own];
        REAL m = mean[i] + share1 * (g - mean[i]);
        REAL v = square[i] + share2 * (g * g - square[i]);
        mean[i] = m;
        square[i] = v;
        REAL kept = table[3 * (count + 1) + k] ? p[own] * (REAL)keep : p[own];
        p[own] = kept - (REAL)step_size * m / (sqrt(v) * (REAL)root_scale + (REAL)epsilon);
    }
}

extern "C" __global__ void sum_squares(const Index* table, Index count, REAL* sums)
{
    const Index* starts = table + 2 * (count + 1);
    REAL sum = 0;
    FOR_EACH(i, starts[count]) {
        Index k = array_of(starts, count, i);
        REAL g = ((const REAL*)table[count + 1 + k])[i - starts[k]];
        sum += g * g;
    }
    sum = sum_over_block(sum, 1);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// result: the norm, and what gradients are to be multiplied with; NaN makes both NaN.
extern "C" __global__ void norm_and_scale(
    const REAL* sums, Index count, double max_norm, REAL* result)
{
    REAL sum = 0;
    for (Index i = threadIdx.x; i < count; i += THREADS) sum += sums[i];
    REAL norm = sqrt(sum_over_block(sum, 1)), most = max_norm;
    if (threadIdx.x != 0) return;
    result[0] = norm;
    result[1] = most / (norm <= most ? most : norm);
}

extern "C" __global__ void scale_gradients(const Index* table, Index count, const REAL* result)
{
    const Index* starts = table + 2 * (count + 1);
    REAL scale = result[1];
    if (scale == 1) return;
    FOR_EACH(i, starts[count]) {
        Index k = array_of(starts, count, i);
        ((REAL*)table[count + 1 + k])[i - starts[k]] *= scale;
    }
}
"""

SOURCE = "".join(
    [
        _CONSTANTS,
        _REDUCTIONS,
        _ONE_PASS_SOFTMAX,
        _GELU,
        _LAYER_NORM,
        _SUMS_OVER_ROWS,
        _MASKED_SOFTMAX,
        _LOSS_HEAD,
        _ALL_PARAMETERS,
    ]
)
