/* A convolution's weight gradient: sums over the pixels of all images of
 * x[stride * row + i - pad][stride * column + j - pad] * dy[row][column], for each tap (i, j), input and output channel,
 * padded with zeros by half the kernel. In bfloat16 the processor's instructions multiply pairs and add both products to a
 * float32: a vector of them (convolution_avx512.h) or, much faster, a tile (convolution_amx.h). A processor without such
 * instructions has torch's own.
 *
 * Each wants images packed in an order of its own, which is made for a chunk of images at a time, to stay in a core's cache.
 * Chunks have a size that depends on shapes only and are added in their order: the result does not depend on the number of
 * threads. The instructions for bfloat16 count numbers below the normal ones as 0. Built by pipeline/kernels/build_kernels.py.
 */
#include <stdint.h>
#include <string.h>

#ifdef __AVX512BF16__
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

/* By the Packed of a file below, which says how images are packed, and the function `chunk` beside it. */
template <class Packed>
static void weight_gradient_by(const bf16 *x, const bf16 *dy, float *dw, const Packed &s, float *parts, uint32_t *packed,
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

static inline __m512i pairs(__m256i left, __m256i right) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(left), _mm512_slli_epi32(_mm512_cvtepu16_epi32(right), 16));
}

static inline __m256i load(const bf16 *x) { return _mm256_loadu_si256((const __m256i *)x); }

#include "convolution_avx512.h"
#ifdef __AMX_BF16__
#define TILES
#include "convolution_amx.h"
#endif

extern "C" {
/* 0: nothing. 1: vectors of bfloat16. 2: tiles too. */
int multiplies(void) {
#ifdef TILES
    if (amx::permitted()) return 2;
#endif
    return 1;
}

/* What weight_gradient needs of `packed`, for each thread. */
int64_t packed_words(const int64_t *shape, int64_t size, int64_t splits, int64_t near, int tiles) {
#ifdef TILES
    if (tiles) return amx::Packed(shape, size, splits).in_all;
#endif
    return avx512::Packed(shape, size, splits, near).in_all;
}

/* x [n, height, width, inputs], dy [n, height / stride, width / stride, outputs], dw [outputs, kernel, kernel, inputs]; shape
 * holds n, height, width, inputs, outputs, kernel and stride. The stride divides height and width; outputs is a multiple of
 * 16 * splits. `size` images form a chunk, whose output channels are split among so many threads. parts [chunks, kernel *
 * kernel * inputs, outputs]; packed [threads, packed_words] at an address that is a multiple of 64.
 *
 * Kernels are 1x1 or 3x3, the stride 1 or 2, width / stride is even; inputs is a multiple of 16, or kernel * inputs is 8 to
 * 16. By vectors, `near` input channels are taken at a time; by `tiles` only where `multiplies` says so. */
void weight_gradient(const bf16 *x, const bf16 *dy, float *dw, const int64_t *shape, int64_t size, int64_t splits, int64_t near,
                     int tiles, float *parts, uint32_t *packed, int threads) {
#ifdef TILES
    if (tiles) return weight_gradient_by(x, dy, dw, amx::Packed(shape, size, splits), parts, packed, threads);
#endif
    weight_gradient_by(x, dy, dw, avx512::Packed(shape, size, splits, near), parts, packed, threads);
}
}
#else
extern "C" {
int multiplies(void) { return 0; }
}
#endif
