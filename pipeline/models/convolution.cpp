/* The weight gradient of a convolution in bfloat16: sums over the pixels of all images of
 * x[stride * row + i - pad][stride * column + j - pad] * dy[row][column], for each tap (i, j), input and output channel.
 * Kernels are 1x1 or 3x3, stride 1 or 2, padding 0 or 1 with zeros.
 *
 * AVX512_BF16 multiplies pairs of bfloat16 and adds both products to a float32. The pairs here are neighbours in a row of
 * dy, so images are packed first: of dy every second pair of neighbours, of x the pair of pixels that belongs to each,
 * wherever the tap starts. 24 sums stay in registers through all images of a chunk. At stride 1 one pair of x serves three
 * rows of dy. Channels lie in blocks, so that what one sum needs is read in the order in which it lies.
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

struct Shape {
    int64_t images, height, width, inputs, outputs, kernel, stride, out_height, out_width; /* of x and dy */
    int64_t pad, x_pad, y_pad; /* rows of zeros above and below each image as packed */
    int64_t block; /* input channels that lie together: LANES, or all if there are fewer */
    bool few;
    int64_t some; /* output channels that one thread computes */
    /* A row of packed x is, for each block, `starts` times `columns` times `words`. Taps of column j start at columns 2 *
     * stride * p + j of x; those with the same rest lie together. Of few channels, all taps of a row do. A row of packed dy
     * is, for each LANES channels, half its width times LANES. */
    int64_t starts, columns, words;
    int64_t x_block, y_block, x_row, y_row, x_image, y_image;

    Shape(const int64_t *n, int64_t splits)
        : images(n[0]), height(n[1]), width(n[2]), inputs(n[3]), outputs(n[4]), kernel(n[5]), stride(n[6]) {
        out_height = height / stride, out_width = width / stride;
        pad = kernel / 2, x_pad = stride == 1 ? 0 : pad, y_pad = stride == 1 ? pad : 0;
        few = inputs < LANES;
        block = few ? inputs : LANES;
        some = outputs / splits;
        words = few ? kernel * inputs : LANES;
        starts = few ? 1 : kernel < 2 * stride ? kernel : 2 * stride;
        columns = out_width / 2 + (few ? 0 : (kernel - 1) / (2 * stride));
        x_block = starts * columns * words, y_block = out_width / 2 * LANES;
        /* Rows at powers of two would share a cache's few ways. */
        x_row = inputs / block * x_block + LANES, y_row = some / LANES * y_block + LANES;
        x_image = (height + 2 * x_pad) * x_row, y_image = (out_height + 2 * y_pad) * y_row;
    }

    /* Words of a chunk of so many images. */
    int64_t packed(int64_t size) const { return (size * (x_image + y_image) + LANES - 1) / LANES * LANES; }
};

static inline __m512i pairs(__m256i left, __m256i right) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(left), _mm512_slli_epi32(_mm512_cvtepu16_epi32(right), 16));
}

static inline __m256i load(const bf16 *x) { return _mm256_loadu_si256((const __m256i *)x); }

/* A row of x [width, inputs]; a pixel outside is 0. Only where a tap is there is one: the last column of other starts than
 * the first may be left as it is. Not with masks, which take twice as long. */
static void pack_input_row(const bf16 *x, uint32_t *to, const Shape &s) {
    int64_t step = 2 * s.stride * s.inputs;
    for (int64_t c = 0; c < s.inputs; c += LANES, x += LANES, to += s.x_block)
        for (int64_t start = 0; start < s.starts; start++) {
            uint32_t *word = to + start * s.columns * LANES;
            const bf16 *left = x + (start - s.pad) * s.inputs, *right = left + s.stride * s.inputs;
            int64_t p = 0;
            if (start < s.pad) {
                _mm512_store_si512(word, pairs(_mm256_setzero_si256(), load(right)));
                left += step, right += step, word += LANES, p++;
            }
            for (; p < s.out_width / 2; p++, left += step, right += step, word += LANES)
                _mm512_store_si512(word, pairs(load(left), load(right)));
            if (start == 0 && p < s.columns) _mm512_store_si512(word, pairs(load(left), _mm256_setzero_si256()));
        }
}

/* So many lowest lanes; none for less than 0. */
static inline __mmask16 lowest(int64_t lanes) { return lanes < 0 ? 0 : lanes < LANES ? (1 << lanes) - 1 : 0xffff; }

/* The same of few channels, of which all taps of a row lie together, as in x itself. */
static void pack_few(const bf16 *x, uint32_t *to, const Shape &s) {
    int64_t n = s.inputs, step = s.stride * n;
    for (int64_t p = 0, left = -s.pad * n; p < s.columns; p++, left += 2 * step, to += s.words) {
        __mmask16 all = lowest(s.words), inside = all & ~lowest(-left);
        __m256i l = _mm256_maskz_loadu_epi16(inside & lowest(s.width * n - left), x + left);
        __m256i r = _mm256_maskz_loadu_epi16(all & lowest(s.width * n - left - step), x + left + step);
        _mm512_mask_storeu_epi32(to, all, pairs(l, r));
    }
}

/* A row of dy [out_width, outputs], of which `some` channels count. */
static void pack_gradient_row(const bf16 *dy, uint32_t *to, const Shape &s) {
    for (int64_t o = 0; o < s.some; o += LANES)
        for (int64_t p = 0; p < s.out_width; p += 2, to += LANES)
            _mm512_store_si512(to, pairs(load(dy + p * s.outputs + o), load(dy + (p + 1) * s.outputs + o)));
}

/* sums[i] of part for i of KERNEL: TAPS words of x at `xs`, a row of dy at `ys`. x and dy as packed. */
template <int KERNEL, int STRIDE>
static void chunk_sums(const uint32_t *x, const uint32_t *dy, __m512 sums[KERNEL][TAPS], int64_t images, const Shape &s) {
    int64_t x_row = s.x_row, y_row = s.y_row, words = s.words;
    __m512 sum[KERNEL][TAPS];
    for (int i = 0; i < KERNEL; i++)
        for (int k = 0; k < TAPS; k++) sum[i][k] = _mm512_setzero_ps();
    for (int64_t image = 0; image < images; image++)
        for (int64_t r = 0; r < s.out_height; r++) {
            const uint32_t *xs = x + image * s.x_image, *ys = dy + image * s.y_image;
            if (STRIDE == 1) /* a row of x, which is row i of the tap for row r + pad - i of dy */
                xs += r * x_row, ys += (r + 2 * s.pad) * y_row;
            else /* a row of dy, for which row stride * r + i - pad of x is row i of the tap */
                xs += STRIDE * r * x_row, ys += r * y_row;
            for (int64_t p = 0; p < s.out_width / 2; p++, xs += words, ys += LANES) {
                __m512bh y[KERNEL];
                for (int i = 0; i < KERNEL; i++) y[i] = (__m512bh)_mm512_load_si512(STRIDE == 1 ? ys - i * y_row : ys);
#pragma GCC unroll 8
                for (int k = 0; k < TAPS; k++)
#pragma GCC unroll 3
                    for (int i = 0; i < KERNEL; i++) {
                        __m512bh v = (__m512bh)_mm512_set1_epi32((int)xs[(STRIDE == 1 ? 0 : i * x_row) + k]);
                        sum[i][k] = _mm512_dpbf16_ps(sum[i][k], v, y[i]);
                    }
            }
        }
    for (int i = 0; i < KERNEL; i++)
        for (int k = 0; k < TAPS; k++) sums[i][k] = sum[i][k];
}

static void sums_of(const uint32_t *x, const uint32_t *dy, __m512 sums[3][TAPS], int64_t images, const Shape &s) {
    if (s.kernel == 3 && s.stride == 1) chunk_sums<3, 1>(x, dy, sums, images, s);
    if (s.kernel == 3 && s.stride == 2) chunk_sums<3, 2>(x, dy, sums, images, s);
    if (s.kernel == 1 && s.stride == 1) chunk_sums<1, 1>(x, dy, sums, images, s);
    if (s.kernel == 1 && s.stride == 2) chunk_sums<1, 2>(x, dy, sums, images, s);
}

/* part[tap][input][output] of `images` images, all input channels and `some` output channels. */
static void chunk(const bf16 *x, const bf16 *dy, float *part, uint32_t *packed, int64_t images, int64_t near,
                  const Shape &s) {
    uint32_t *ys = packed, *xs = packed + images * s.y_image;
    for (int64_t i = 0; i < images; i++) {
        uint32_t *to = xs + i * s.x_image;
        memset(to, 0, s.x_pad * s.x_row * sizeof *to);
        to += s.x_pad * s.x_row;
        for (int64_t r = 0; r < s.height; r++, x += s.width * s.inputs, to += s.x_row)
            if (s.few)
                pack_few(x, to, s);
            else
                pack_input_row(x, to, s);
        memset(to, 0, s.x_pad * s.x_row * sizeof *to);
        to = ys + i * s.y_image;
        memset(to, 0, s.y_pad * s.y_row * sizeof *to);
        to += s.y_pad * s.y_row;
        for (int64_t r = 0; r < s.out_height; r++, dy += s.out_width * s.outputs, to += s.y_row)
            pack_gradient_row(dy, to, s);
        memset(to, 0, s.y_pad * s.y_row * sizeof *to);
    }
    int64_t taps = s.kernel * s.block;
    __m512 sums[3][TAPS];
    for (int64_t from = 0; from < s.inputs; from += near) /* as much of x as stays near */
        for (int64_t o = 0; o < s.some; o += LANES)
            for (int64_t c = from; c < s.inputs && c < from + near; c += s.block)
                for (int64_t t = 0; t < taps; t += TAPS) {
                    int64_t first = t + TAPS <= taps ? t : taps - TAPS; /* some twice, where they do not come out even */
                    int64_t j = first / s.block, start = 2 * s.stride;
                    int64_t at = s.few ? first : (j % start * s.columns + j / start) * LANES + first % LANES;
                    sums_of(xs + c / s.block * s.x_block + at, ys + o / LANES * s.y_block, sums, images, s);
                    for (int64_t i = 0; i < s.kernel; i++)
                        for (int k = 0; k < TAPS; k++) {
                            int64_t tap = i * s.kernel + (first + k) / s.block, channel = c + (first + k) % s.block;
                            _mm512_storeu_ps(part + (tap * s.inputs + channel) * s.outputs + o, sums[i][k]);
                        }
                }
}

extern "C" {
int multiplies_bf16(void) { return 1; }

/* What weight_gradient needs of `packed`, for each thread. */
int64_t packed_words(const int64_t *shape, int64_t size, int64_t splits) {
    return Shape(shape, splits).packed(size);
}

/* x [n, height, width, inputs], dy [n, height / stride, width / stride, outputs], dw [outputs, kernel, kernel, inputs]; shape
 * holds n, height, width, inputs, outputs, kernel and stride. The stride divides height and width, width / stride is even;
 * inputs is a multiple of 16, or kernel * inputs is 8 to 16; outputs is a multiple of 16 * splits. `size` images form a
 * chunk, whose output channels are split among so many threads; `near` input channels are taken at a time. parts [chunks,
 * kernel * kernel * inputs, outputs]; packed [threads, packed_words] at an address that is a multiple of 64. */
void weight_gradient(const void *x, const void *dy, float *dw, const int64_t *shape, int64_t size, int64_t splits, int64_t near,
                     float *parts, uint32_t *packed, int threads) {
    const Shape s(shape, splits);
    int64_t chunks = (s.images + size - 1) / size, taps = s.kernel * s.kernel * s.inputs, words = s.packed(size);
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t c = 0; c < chunks; c++)
        for (int64_t k = 0; k < splits; k++) {
            int64_t from = c * size, images = from + size < s.images ? size : s.images - from;
            chunk((const bf16 *)x + from * s.height * s.width * s.inputs,
                  (const bf16 *)dy + from * s.out_height * s.out_width * s.outputs + k * s.some,
                  parts + c * taps * s.outputs + k * s.some, packed + omp_get_thread_num() * words, images, near, s);
        }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < taps; t += LANES) {
        int64_t rows = t + LANES < taps ? LANES : taps - t;
        float *sum = parts + t * s.outputs;
        for (int64_t c = 1; c < chunks; c++)
            for (int64_t i = 0; i < rows * s.outputs; i++) sum[i] += sum[c * taps * s.outputs + i];
        for (int64_t o = 0; o < s.outputs; o++)
            for (int64_t r = 0; r < rows; r++) dw[o * taps + t + r] = sum[r * s.outputs + o];
    }
}
}
#else
extern "C" {
int multiplies_bf16(void) { return 0; }
}
#endif
