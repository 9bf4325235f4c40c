/* Batch normalisation by batch statistics, then ReLU: forward and backward, each in two passes over memory.
 *
 * Images are rows of channels (channels_last), float32 or bfloat16; all arithmetic is float32, sums across blocks double.
 * Where the ReLU was active is computed again in the backward pass from the input, so the output need not be read.
 * Blocks have a fixed size and are combined in their order: the result does not depend on the number of threads.
 *
 * Narrow images are folded: a row of `width` values, a multiple of PANEL, holds width/channels pixels. Per-channel values
 * are repeated to that width. Built by pipeline/kernels/build_kernels.py with torch's own libgomp, so that both share threads.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* A panel's accumulators and coefficients fit the vector registers; a panel of a block fits the L1 cache. Of vectors that
 * are longer than the processor's, comparisons would be done one number at a time. */
#ifdef __AVX512F__
enum { LANES = 16, VECTORS = 4 };
#else
enum { LANES = 8, VECTORS = 2 };
#endif
enum { PANEL = LANES * VECTORS, BLOCK = 256 };

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

#define INLINE static inline __attribute__((always_inline))
#define FOR_VECTORS for (int j = 0; j < VECTORS; j++)
#define BY_TYPE(function, ...) (bf16 ? function(__VA_ARGS__, 1) : function(__VA_ARGS__, 0)) /* each compiled for itself */

INLINE vec get(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void put(float *to, vec v) { memcpy(to, &v, sizeof v); }

INLINE vec load(const void *from, int64_t i, int bf16) {
    if (!bf16) return get((const float *)from + i);
    halves h;
    memcpy(&h, (const uint16_t *)from + i, sizeof h);
    return (vec)(__builtin_convertvector(h, words) << 16);
}

INLINE void store(void *to, int64_t i, vec v, int bf16) {
    if (!bf16) return put((float *)to + i, v);
    words w = (words)v;
    w += 0x7fff + ((w >> 16) & 1); /* to nearest, ties to even */
    halves h = __builtin_convertvector(w >> 16, halves);
    memcpy((uint16_t *)to + i, &h, sizeof h);
}

/* `v` where `z` is above 0 or no number, as torch's ReLU, else 0. */
INLINE vec active(vec z, vec v) { return (vec)(~(words)(z <= 0.0f) & (words)v); }

INLINE int64_t count(int64_t rows) { return (rows + BLOCK - 1) / BLOCK; }
INLINE int64_t last(int64_t rows, int64_t block) { return (block + 1) * BLOCK < rows ? (block + 1) * BLOCK : rows; }

/* Per block and column: mean, and sum of squared deviations from it. */
INLINE void block_statistics(const void *x, int64_t rows, int64_t width, float *means, float *squares, int threads, int bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < count(rows); b++)
        for (int64_t c = 0; c < width; c += PANEL) {
            vec first[VECTORS], mean[VECTORS] = {0}, square[VECTORS] = {0};
            FOR_VECTORS first[j] = load(x, b * BLOCK * width + c + j * LANES, bf16);
            for (int64_t r = b * BLOCK; r < last(rows, b); r++) /* differences: exact where the mean is far from 0 */
                FOR_VECTORS mean[j] += load(x, r * width + c + j * LANES, bf16) - first[j];
            FOR_VECTORS mean[j] = first[j] + mean[j] / (float)(last(rows, b) - b * BLOCK);
            for (int64_t r = b * BLOCK; r < last(rows, b); r++)
                FOR_VECTORS {
                    vec off = load(x, r * width + c + j * LANES, bf16) - mean[j];
                    square[j] += off * off;
                }
            FOR_VECTORS {
                put(means + b * width + c + j * LANES, mean[j]);
                put(squares + b * width + c + j * LANES, square[j]);
            }
        }
}

/* Mean and variance (biased) of one channel from those of blocks. */
INLINE void combine(const float *means, const float *squares, int64_t rows, int64_t width, int64_t channels, int64_t channel,
                    double *mean, double *variance) {
    double sum = 0, square = 0, n = (double)rows * (width / channels);
    for (int64_t b = 0; b < count(rows); b++)
        for (int64_t i = channel; i < width; i += channels) sum += (double)(last(rows, b) - b * BLOCK) * means[b * width + i];
    *mean = sum / n;
    for (int64_t b = 0; b < count(rows); b++)
        for (int64_t i = channel; i < width; i += channels) {
            double off = means[b * width + i] - *mean;
            square += squares[b * width + i] + (last(rows, b) - b * BLOCK) * off * off;
        }
    *variance = square / n;
}

INLINE void normalise(const void *x, void *y, int64_t rows, int64_t width, const float *scales, const float *shifts, int threads,
                      int bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < count(rows); b++)
        for (int64_t c = 0; c < width; c += PANEL) {
            vec scale[VECTORS], shift[VECTORS];
            FOR_VECTORS scale[j] = get(scales + c + j * LANES), shift[j] = get(shifts + c + j * LANES);
            for (int64_t r = b * BLOCK; r < last(rows, b); r++)
                FOR_VECTORS {
                    int64_t i = r * width + c + j * LANES;
                    vec z = load(x, i, bf16) * scale[j] + shift[j];
                    store(y, i, active(z, z), bf16);
                }
        }
}

/* Per block and column: sum of the gradient behind the ReLU, and of its product with x - mean. */
INLINE void block_gradients(const void *x, const void *dy, int64_t rows, int64_t width, const float *scales, const float *shifts,
                            const float *means, float *sums, float *products, int threads, int bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < count(rows); b++)
        for (int64_t c = 0; c < width; c += PANEL) {
            vec scale[VECTORS], shift[VECTORS], mean[VECTORS], sum[VECTORS] = {0}, product[VECTORS] = {0};
            FOR_VECTORS {
                scale[j] = get(scales + c + j * LANES), shift[j] = get(shifts + c + j * LANES);
                mean[j] = get(means + c + j * LANES);
            }
            for (int64_t r = b * BLOCK; r < last(rows, b); r++)
                FOR_VECTORS {
                    int64_t i = r * width + c + j * LANES;
                    vec v = load(x, i, bf16), g = active(v * scale[j] + shift[j], load(dy, i, bf16));
                    sum[j] += g;
                    product[j] += g * (v - mean[j]);
                }
            FOR_VECTORS {
                put(sums + b * width + c + j * LANES, sum[j]);
                put(products + b * width + c + j * LANES, product[j]);
            }
        }
}

/* dx = scale * gradient behind the ReLU - (slope * (x - mean) + level), plus the shortcut's gradient where there is one. */
INLINE void input_gradient(const void *x, const void *dy, const void *shortcut, void *dx, int64_t rows, int64_t width,
                           const float *scales, const float *shifts, const float *means, const float *slopes, const float *levels,
                           int threads, int with_shortcut, int bf16) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < count(rows); b++)
        for (int64_t c = 0; c < width; c += PANEL) {
            vec scale[VECTORS], shift[VECTORS], mean[VECTORS], slope[VECTORS], level[VECTORS];
            FOR_VECTORS {
                scale[j] = get(scales + c + j * LANES), shift[j] = get(shifts + c + j * LANES);
                mean[j] = get(means + c + j * LANES), slope[j] = get(slopes + c + j * LANES);
                level[j] = get(levels + c + j * LANES);
            }
            for (int64_t r = b * BLOCK; r < last(rows, b); r++)
                FOR_VECTORS {
                    int64_t i = r * width + c + j * LANES;
                    vec v = load(x, i, bf16), g = active(v * scale[j] + shift[j], load(dy, i, bf16));
                    vec d = scale[j] * g - ((v - mean[j]) * slope[j] + level[j]);
                    store(dx, i, with_shortcut ? d + load(shortcut, i, bf16) : d, bf16);
                }
        }
}

extern "C" {
/* kept [4, width]: scale, shift, mean, 1/std for the backward pass. work [2, blocks, width]. */
void bn_relu_forward(const void *x, void *y, int64_t rows, int64_t width, int64_t channels, const float *weight, const float *bias,
                     float *running_mean, float *running_var, double momentum, double eps, float *kept, float *work, int threads,
                     int bf16) {
    float *means = work, *squares = work + count(rows) * width;
    double n = (double)rows * (width / channels);
    BY_TYPE(block_statistics, x, rows, width, means, squares, threads);
    for (int64_t c = 0; c < channels; c++) {
        double mean, variance;
        combine(means, squares, rows, width, channels, c, &mean, &variance);
        double inverse = 1 / sqrt(variance + eps), scale = weight[c] * inverse;
        running_mean[c] = (float)((1 - momentum) * running_mean[c] + momentum * mean);
        running_var[c] = (float)((1 - momentum) * running_var[c] + momentum * variance * n / (n - 1)); /* unbiased */
        for (int64_t i = c; i < width; i += channels) {
            kept[i] = (float)scale;
            kept[width + i] = (float)(bias[c] - mean * scale);
            kept[2 * width + i] = (float)mean;
            kept[3 * width + i] = (float)inverse;
        }
    }
    BY_TYPE(normalise, x, y, rows, width, kept, kept + width, threads);
}

/* shortcut may be null. work [2, blocks + 1, width]. */
void bn_relu_backward(const void *x, const void *dy, const void *shortcut, void *dx, int64_t rows, int64_t width, int64_t channels,
                      const float *kept, float *dweight, float *dbias, float *work, int threads, int bf16) {
    const float *scale = kept, *shift = kept + width, *mean = kept + 2 * width, *inverse = kept + 3 * width;
    float *sums = work, *products = work + count(rows) * width, *slope = products + count(rows) * width, *level = slope + width;
    double n = (double)rows * (width / channels);
    BY_TYPE(block_gradients, x, dy, rows, width, scale, shift, mean, sums, products, threads);
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, product = 0;
        for (int64_t b = 0; b < count(rows); b++)
            for (int64_t i = c; i < width; i += channels) sum += sums[b * width + i], product += products[b * width + i];
        dbias[c] = (float)sum;
        dweight[c] = (float)(product * inverse[c]);
        for (int64_t i = c; i < width; i += channels) {
            slope[i] = (float)(scale[c] * product * inverse[c] * inverse[c] / n);
            level[i] = (float)(scale[c] * sum / n);
        }
    }
    if (shortcut)
        BY_TYPE(input_gradient, x, dy, shortcut, dx, rows, width, scale, shift, mean, slope, level, threads, 1);
    else
        BY_TYPE(input_gradient, x, dy, shortcut, dx, rows, width, scale, shift, mean, slope, level, threads, 0);
}
}
