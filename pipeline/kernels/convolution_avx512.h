/* By vectors (AVX512_BF16). The pairs are neighbours in a row of dy, so images are packed first: of dy every second pair of
 * neighbours, of x the pair of pixels that belongs to each, wherever the tap starts. 24 sums stay in registers through all
 * images of a chunk. At stride 1 one pair of x serves three rows of dy. Channels lie in blocks, so that what one sum needs
 * is read in the order in which it lies. Part of convolution.cpp.
 */
namespace avx512 {
enum { TAPS = 8 };

struct Packed : Layer {
    int64_t near; /* so many input channels of packed x stay in a core's cache */
    int64_t x_pad, y_pad; /* rows of zeros above and below each image as packed */
    /* A row of packed x is, for each block, `starts` times `columns` times `words`. Taps of column j start at columns 2 *
     * stride * p + j of x; those with the same rest lie together. Of few channels, all taps of a row do. A row of packed dy
     * is, for each LANES channels, half its width times LANES. */
    int64_t starts, columns, words;
    int64_t x_block, y_block, x_row, y_row, x_image, y_image;
    int64_t in_all; /* words of a chunk */

    Packed(const int64_t *n, int64_t size, int64_t splits, int64_t near) : Layer(n, size, splits), near(near) {
        x_pad = stride == 1 ? 0 : pad, y_pad = stride == 1 ? pad : 0;
        words = few ? kernel * inputs : (int64_t)LANES;
        starts = few ? 1 : kernel < 2 * stride ? kernel : 2 * stride;
        columns = out_width / 2 + (few ? 0 : (kernel - 1) / (2 * stride));
        x_block = starts * columns * words, y_block = out_width / 2 * LANES;
        /* Rows at powers of two would share a cache's few ways. */
        x_row = inputs / block * x_block + LANES, y_row = some / LANES * y_block + LANES;
        x_image = (height + 2 * x_pad) * x_row, y_image = (out_height + 2 * y_pad) * y_row;
        in_all = (size * (x_image + y_image) + LANES - 1) / LANES * LANES;
    }

    void begin(uint32_t *) const {}
    void end() const {}
};

/* A row of x [width, inputs]; a pixel outside is 0. Only where a tap is there is one: the last column of other starts than
 * the first may be left as it is. Not with masks, which take twice as long. */
static void pack_input_row(const bf16 *x, uint32_t *to, const Packed &s) {
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
static void pack_few(const bf16 *x, uint32_t *to, const Packed &s) {
    int64_t n = s.inputs, step = s.stride * n;
    for (int64_t p = 0, left = -s.pad * n; p < s.columns; p++, left += 2 * step, to += s.words) {
        __mmask16 all = lowest(s.words), inside = all & ~lowest(-left);
        __m256i l = _mm256_maskz_loadu_epi16(inside & lowest(s.width * n - left), x + left);
        __m256i r = _mm256_maskz_loadu_epi16(all & lowest(s.width * n - left - step), x + left + step);
        _mm512_mask_storeu_epi32(to, all, pairs(l, r));
    }
}

/* A row of dy [out_width, outputs], of which `some` channels count. */
static void pack_gradient_row(const bf16 *dy, uint32_t *to, const Packed &s) {
    for (int64_t o = 0; o < s.some; o += LANES)
        for (int64_t p = 0; p < s.out_width; p += 2, to += LANES)
            _mm512_store_si512(to, pairs(load(dy + p * s.outputs + o), load(dy + (p + 1) * s.outputs + o)));
}

/* sums[i] of part for i of KERNEL: TAPS words of x at `xs`, a row of dy at `ys`. x and dy as packed. */
template <int KERNEL, int STRIDE>
static void chunk_sums(const uint32_t *x, const uint32_t *dy, __m512 sums[KERNEL][TAPS], int64_t images, const Packed &s) {
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

static void sums_of(const uint32_t *x, const uint32_t *dy, __m512 sums[3][TAPS], int64_t images, const Packed &s) {
    if (s.kernel == 3 && s.stride == 1) chunk_sums<3, 1>(x, dy, sums, images, s);
    if (s.kernel == 3 && s.stride == 2) chunk_sums<3, 2>(x, dy, sums, images, s);
    if (s.kernel == 1 && s.stride == 1) chunk_sums<1, 1>(x, dy, sums, images, s);
    if (s.kernel == 1 && s.stride == 2) chunk_sums<1, 2>(x, dy, sums, images, s);
}

/* part[tap][input][output] of `images` images, all input channels and `some` output channels. */
static void chunk(const bf16 *x, const bf16 *dy, float *part, uint32_t *packed, int64_t images,
                  const Packed &s) {
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
    for (int64_t from = 0; from < s.inputs; from += s.near)
        for (int64_t o = 0; o < s.some; o += LANES)
            for (int64_t c = from; c < s.inputs && c < from + s.near; c += s.block)
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
} // namespace avx512
