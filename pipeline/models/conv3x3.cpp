/* The weight gradient of a 3x3 convolution (stride 1, zero padding 1) in bfloat16: sums over the pixels of all images of
 * x[row + i - 1][column + j - 1] * dy[row][column], for each tap (i, j), input and output channel.
 *
 * AVX512_BF16 multiplies pairs of bfloat16 and adds both products to a float32. The pairs here are neighbours in a row, so
 * images are packed first: of x every pair of neighbours, since taps start at odd columns too, of dy every second one. One
 * broadcast pair of x then serves three rows of dy, and 24 sums stay in registers through all images of a chunk.
 *
 * Chunks have a size that depends on shapes only and are added in their order: the result does not depend on the number of
 * threads. As the instruction does, numbers below the normal ones count as 0. Built by pipeline/models/native.py.
 */
#include <stdint.h>
#include <string.h>

#ifdef __AVX512BF16__
#include <immintrin.h>
#include <omp.h>

typedef uint16_t bf16;

enum { LANES = 16, TAPS = 8 };

/* 16 channels of two pixels, each pair one 32-bit word; 0 for a pixel outside the image. */
static inline __m512i pairs(const bf16 *left, const bf16 *right) {
    __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
    if (left) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)left));
    if (right) high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)right)), 16);
    return _mm512_or_si512(low, high);
}

/* x [rows, width, channels] -> [rows, width + 1, channels] of pairs: the first is (outside, column 0). */
static void pack_input(const bf16 *x, uint32_t *to, int64_t rows, int64_t width, int64_t channels) {
    for (int64_t r = 0; r < rows; r++, x += width * channels)
        for (int64_t q = 0; q <= width; q++, to += channels)
            for (int64_t c = 0; c < channels; c += LANES) {
                const bf16 *right = x + q * channels + c;
                _mm512_store_si512(to + c, pairs(q > 0 ? right - channels : 0, q < width ? right : 0));
            }
}

/* dy [height, width, channels] -> [1 + height + 1, width / 2, channels] of pairs, the outer rows 0. */
static void pack_gradient(const bf16 *dy, uint32_t *to, int64_t height, int64_t width, int64_t channels) {
    int64_t row = width / 2 * channels;
    memset(to, 0, row * sizeof *to);
    to += row;
    for (int64_t p = 0; p < height * width / 2; p++, dy += 2 * channels, to += channels)
        for (int64_t c = 0; c < channels; c += LANES) _mm512_store_si512(to + c, pairs(dy + c, dy + channels + c));
    memset(to, 0, row * sizeof *to);
}

/* part[i][t][o..o+15] for i of 3 and TAPS values t of (column of the tap, input channel). */
static void chunk_sums(const uint32_t *x, const uint32_t *dy, float *part, int64_t images, int64_t height, int64_t width,
                       int64_t inputs, int64_t outputs, int64_t t, int64_t o) {
    int64_t x_row = (width + 1) * inputs, y_row = width / 2 * outputs;
    __m512 sums[3][TAPS];
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < TAPS; k++) sums[i][k] = _mm512_setzero_ps();
    for (int64_t image = 0; image < images; image++)
        for (int64_t r = 0; r < height; r++) {
            /* A row of x is row i of the tap for row r + 1 - i of dy, of which row -1 is packed as row 0. */
            const uint32_t *xs = x + (image * height + r) * x_row + t;
            const uint32_t *ys = dy + (image * (height + 2) + r) * y_row + o;
            for (int64_t p = 0; p < width / 2; p++, xs += 2 * inputs, ys += outputs) {
                __m512bh y0 = (__m512bh)_mm512_load_si512(ys + 2 * y_row), y1 = (__m512bh)_mm512_load_si512(ys + y_row);
                __m512bh y2 = (__m512bh)_mm512_load_si512(ys);
#pragma GCC unroll 8
                for (int k = 0; k < TAPS; k++) {
                    __m512bh v = (__m512bh)_mm512_set1_epi32((int)xs[k]);
                    sums[0][k] = _mm512_dpbf16_ps(sums[0][k], v, y0);
                    sums[1][k] = _mm512_dpbf16_ps(sums[1][k], v, y1);
                    sums[2][k] = _mm512_dpbf16_ps(sums[2][k], v, y2);
                }
            }
        }
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < TAPS; k++) _mm512_storeu_ps(part + (i * 3 * inputs + t + k) * outputs + o, sums[i][k]);
}

extern "C" {
int multiplies_bf16(void) { return 1; }

/* x [n, height, width, inputs] and dy [n, height, width, outputs], width even, channels multiples of 16; dw [outputs, 3, 3,
 * inputs]. parts [chunks, 9 * inputs, outputs]; packed [threads, chunk * height * (width + 1) * inputs + chunk * (height +
 * 2) * width / 2 * outputs] at an address that is a multiple of 64. */
void weight_gradient(const void *x, const void *dy, float *dw, int64_t n, int64_t height, int64_t width, int64_t inputs,
                     int64_t outputs, int64_t chunk, float *parts, uint32_t *packed, int threads) {
    int64_t chunks = (n + chunk - 1) / chunk, taps = 9 * inputs, pixels = height * width;
    int64_t x_size = chunk * height * (width + 1) * inputs, y_image = (height + 2) * (width / 2) * outputs;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t c = 0; c < chunks; c++) {
        uint32_t *xs = packed + omp_get_thread_num() * (x_size + chunk * y_image), *ys = xs + x_size;
        int64_t from = c * chunk, images = from + chunk < n ? chunk : n - from;
        pack_input((const bf16 *)x + from * pixels * inputs, xs, images * height, width, inputs);
        for (int64_t i = 0; i < images; i++)
            pack_gradient((const bf16 *)dy + (from + i) * pixels * outputs, ys + i * y_image, height, width, outputs);
        for (int64_t o = 0; o < outputs; o += LANES)
            for (int64_t t = 0; t < 3 * inputs; t += TAPS)
                chunk_sums(xs, ys, parts + c * taps * outputs, images, height, width, inputs, outputs, t, o);
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < taps; t++)
        for (int64_t o = 0; o < outputs; o += LANES) {
            float sums[LANES] = {0};
            for (int64_t c = 0; c < chunks; c++)
                for (int k = 0; k < LANES; k++) sums[k] += parts[(c * taps + t) * outputs + o + k];
            for (int k = 0; k < LANES; k++) dw[(o + k) * taps + t] = sums[k];
        }
}
}
#else
extern "C" {
int multiplies_bf16(void) { return 0; }
}
#endif
