/* A convolution's weight gradient: sums over the pixels of all images of
 * x[stride * row + i - pad][stride * column + j - pad] * dy[row][column], for each tap (i, j), input and output channel,
 * padded with zeros by half the kernel. In bfloat16 the processor's instructions multiply pairs and add both products to a
 * float32: a vector of them (convolution_avx512.h) or, much faster, a tile (convolution_amx.h). For a processor that has
 * AVX2 and no AVX512, convolution_avx2.h computes it in float32, and the other two convolutions of a training step as well;
 * with AVX512 but not its instructions for bfloat16, torch's own are not as slow, and nothing here has been measured.
 *
 * Each wants images packed in an order of its own, which is made for a chunk of images at a time, to stay in a core's cache.
 * Chunks have a size that depends on shapes only and are added in their order: the result does not depend on the number of
 * threads. The instructions for bfloat16 count numbers below the normal ones as 0. Built by pipeline/kernels/build_kernels.py.
 */
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__) || (defined(__AVX2__) && defined(__FMA__) && !defined(__AVX512F__))
#include <immintrin.h>
#include <omp.h>

typedef uint16_t bf16;

enum { LANES = 16 };

struct Layer {
    int64_t images, height, width, inputs, outputs, kernel, stride, out_height, out_width, pad; /* of x and dy */
    int64_t block; /* input channels that lie together: LANES, or all if there are fewer */
    bool few;
    int64_t size; /* images of a chunk; the last one may have fewer */
    int64_t some; /* output channels that one thread computes */

    Layer(const int64_t *n, int64_t size, int64_t splits)
        : images(n[0]), height(n[1]), width(n[2]), inputs(n[3]), outputs(n[4]), kernel(n[5]), stride(n[6]),
          size(size), some(outputs / splits) {
        out_height = height / stride, out_width = width / stride;
        pad = kernel / 2;
        few = inputs < LANES;
        block = few ? inputs : (int64_t)LANES;
    }
};

/* By the Packed of a file below, which says how images are packed, and the function `chunk` beside it. T: float or bf16. */
template <class Packed, class T>
static void weight_gradient_by(const T *x, const T *dy, float *dw, const Packed &s, float *parts, uint32_t *packed,
                               int threads) {
    int64_t chunks = (s.images + s.size - 1) / s.size, splits = s.outputs / s.some, taps = s.kernel * s.kernel * s.inputs;
#pragma omp parallel num_threads(threads)
    {
        uint32_t *own = packed + omp_get_thread_num() * s.in_all;
        s.begin(own);
#pragma omp for collapse(2) schedule(static) nowait
        for (int64_t c = 0; c < chunks; c++)
            for (int64_t k = 0; k < splits; k++) {
                int64_t from = c * s.size, images = from + s.size < s.images ? s.size : s.images - from;
                chunk(x + from * s.height * s.width * s.inputs, dy + from * s.out_height * s.out_width * s.outputs + k * s.some,
                      parts + c * taps * s.outputs + k * s.some, own, images, s);
            }
        s.end(); /* before it waits, since the system saves what is in tiles each time another thread runs */
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t t = 0; t < taps; t += LANES) {
            int64_t rows = t + LANES < taps ? (int64_t)LANES : taps - t;
            float *sum = parts + t * s.outputs;
            for (int64_t c = 1; c < chunks; c++)
                for (int64_t i = 0; i < rows * s.outputs; i++) sum[i] += sum[c * taps * s.outputs + i];
            for (int64_t o = 0; o < s.outputs; o++)
                for (int64_t r = 0; r < rows; r++) dw[o * taps + t + r] = sum[r * s.outputs + o];
        }
    }
}

#ifdef __AVX512BF16__
static inline __m512i pairs(__m256i left, __m256i right) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(left), _mm512_slli_epi32(_mm512_cvtepu16_epi32(right), 16));
}

static inline __m256i load(const bf16 *x) { return _mm256_loadu_si256((const __m256i *)x); }

#include "convolution_avx512.h"
#ifdef __AMX_BF16__
#define TILES
#include "convolution_amx.h"
#endif
#else
#include "convolution_avx2.h"
#endif

extern "C" {
/* 0: nothing. 1: float32. 2: vectors of bfloat16. 3: tiles too. */
int multiplies(void) {
#ifdef TILES
    if (amx::permitted()) return 3;
#endif
#ifdef __AVX512BF16__
    return 2;
#else
    return 1;
#endif
}

/* What weight_gradient needs of `packed`, for each thread. */
int64_t packed_words(const int64_t *shape, int64_t size, int64_t splits, int64_t near, int tiles) {
#ifdef TILES
    if (tiles) return amx::Packed(shape, size, splits).in_all;
#endif
#ifdef __AVX512BF16__
    return avx512::Packed(shape, size, splits, near).in_all;
#else
    return avx2::Packed(shape, size, splits).in_all;
#endif
}

/* x [n, height, width, inputs], dy [n, height / stride, width / stride, outputs], dw [outputs, kernel, kernel, inputs]; shape
 * holds n, height, width, inputs, outputs, kernel and stride. The stride divides height and width; outputs is a multiple of
 * 16 * splits. `size` images form a chunk, whose output channels are split among so many threads. parts [chunks, kernel *
 * kernel * inputs, outputs]; packed [threads, packed_words] at an address that is a multiple of 64.
 *
 * By instructions for bfloat16: kernels are 1x1 or 3x3, the stride 1 or 2, width / stride is even; inputs is a multiple of 16, or kernel *
 * inputs is 8 to 16. By vectors, `near` input channels are taken at a time; by `tiles` only where `multiplies` says so.
 * By AVX2: any kernel of an odd size, and kernel * inputs at least 6; x and dy hold float32 unless `halves`. */
void weight_gradient(const void *x, const void *dy, float *dw, const int64_t *shape, int64_t size, int64_t splits, int64_t near,
                     int tiles, int halves, float *parts, uint32_t *packed, int threads) {
    const bf16 *xs = (const bf16 *)x, *ys = (const bf16 *)dy;
#ifdef TILES
    if (tiles) return weight_gradient_by(xs, ys, dw, amx::Packed(shape, size, splits), parts, packed, threads);
#endif
#ifdef __AVX512BF16__
    weight_gradient_by(xs, ys, dw, avx512::Packed(shape, size, splits, near), parts, packed, threads);
#else
    avx2::Packed s(shape, size, splits);
    if (halves)
        weight_gradient_by(xs, ys, dw, s, parts, packed, threads);
    else
        weight_gradient_by((const float *)x, (const float *)dy, dw, s, parts, packed, threads);
#endif
}

#ifndef __AVX512BF16__
/* What `convolution` needs of `packed`, for each thread. */
int64_t convolution_floats(const int64_t *shape, int gradient) { return avx2::Direct(shape, gradient).room; }

/* y of x by w [outputs, kernel, kernel, inputs], or in the `gradient` dx, named y, of dy, named x; shapes and limits as
 * above, but for any kernel * inputs. What is written has a multiple of 16 channels. Weights are rounded to bfloat16 too if
 * `halves`. weights [kernel * kernel * inputs * outputs] at an address that is a multiple of 64, packed [threads,
 * convolution_floats]. */
void convolution(const void *x, const float *w, void *y, const int64_t *shape, int gradient, int halves, float *weights,
                 float *packed, int threads) {
    avx2::Direct s(shape, gradient);
    if (halves)
        avx2::direct((const bf16 *)x, w, (bf16 *)y, s, weights, packed, threads);
    else
        avx2::direct((const float *)x, w, (float *)y, s, weights, packed, threads);
}
#endif
}
#else
extern "C" {
int multiplies(void) { return 0; }
}
#endif
